"""TensorRT's log, and the one message that a failure comes to."""

from __future__ import annotations

import re
import threading
import weakref
from collections.abc import Callable
from typing import Any

from edgeconv.errors import InputError

_LEVELS = {"INTERNAL_ERROR": 0, "ERROR": 0, "WARNING": 1, "INFO": 2, "VERBOSE": 3}
_NO_DRIVER = re.compile(r"CUDA driver version is insufficient|no CUDA-capable device|cudaError (?:35|100)\b")


class Log:
    """What TensorRT says: errors are kept, everything is passed on if somebody wants it.

    Args:
        tell: Is called with each line that is not more detailed than `level`.
        level: 0 errors, 1 warnings, 2 information, 3 everything.
    """

    def __init__(self, tell: Callable[[str], None] | None = None, level: int = 1) -> None:
        self.errors: list[str] = []
        self._tell, self._level = tell, level
        self._lock = threading.Lock()

    def take(self, severity: str, text: str) -> None:
        """Take a message; never raises, since a C++ library calls it."""
        level = _LEVELS.get(severity, 2)
        with self._lock:
            if level == 0:
                self.errors.append(text)
        if self._tell is not None and level <= self._level:
            try:
                self._tell(f"{severity.lower()}: {text}")
            except Exception:
                self._tell = None

    def cause(self) -> str:
        """The first error that explains the others, on one line; empty if there was none.

        Where there is no GPU, builders complain of that beside every other error: such lines are left out.
        """
        with self._lock:
            errors = list(self.errors)
        explaining = [text for text in errors if not _NO_DRIVER.search(text)] or errors
        return tidy(explaining[0]) if explaining else ""

    def forget(self) -> None:
        """Drop the errors so far."""
        with self._lock:
            self.errors.clear()


_LOGGERS: dict[Any, Any] = {}
_LISTENING: weakref.WeakSet[Log] = weakref.WeakSet()


def make_logger(trt: Any, log: Log) -> Any:
    """Return a logger of TensorRT's kind that hands everything to `log`.

    A process has one logger for each library, which hands its messages to all logs: parts of the library that belong to
    nobody, such as the plugin registry, keep to the first logger that they saw.
    """
    _LISTENING.add(log)
    if trt in _LOGGERS:
        return _LOGGERS[trt]

    class Logger(trt.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)

        def log(self, severity: Any, message: str) -> None:
            for listener in list(_LISTENING):
                listener.take(getattr(severity, "name", str(severity).rpartition(".")[2]), message)

    _LOGGERS[trt] = Logger()
    return _LOGGERS[trt]


def tidy(text: str) -> str:
    """Reduce a message of TensorRT to its sense: no C++ names, no positions in its sources, one line."""
    lines = [line for line in text.splitlines() if line.strip() and not _NO_DRIVER.search(line)]
    text = " ".join(" ".join(lines or text.splitlines()).split())
    # A failed assertion's C++ condition says nothing where a sentence follows it.
    text = re.sub(r"Assertion failed: \S[^:]*(?:::[^:]+)*: (?=\S+ \S+)", "", text)
    text = re.sub(r"\b\w+(?:::\w+)+: ", "", text)
    text = re.sub(r"Error Code \d+: ", "", text)
    text = re.sub(r"\[\w+\.(?:cpp|h|cu):\d+: \w+\] ?", "", text)
    text = re.sub(r"\[?\w+\.(?:cpp|h|cu)(?:::\w+::|:)\d+\]?: ?", "", text)
    text = re.sub(r"\.? ?In \w+ at [^\s:)]+:\d+", "", text)
    return text.strip()


def parser_failure(trt: Any, parser: Any, log: Log, model: str, title: str) -> InputError:
    """Turn a parser's errors into one message that names the node."""
    errors = [parser.get_error(index) for index in range(parser.num_errors)]
    if not errors:
        return InputError(f"{title} cannot read {model}: {log.cause() or 'it does not say why'}.")
    first = errors[0]
    code = getattr(first.code(), "name", str(first.code()))
    operator, name = _text(first, "node_operator"), _text(first, "node_name")
    where = f"the node {name!r} ({operator})" if name else f"a node of type {operator}" if operator else "it"
    reason = tidy(first.desc())
    more = len({_text(error, "node_name") for error in errors} - {name})
    others = f" ({more} more {'node fails' if more == 1 else 'nodes fail'} too)" if more else ""
    if "Plugin not found" in reason or "was not found in plugin registry" in reason:
        message = f"{title} cannot take {where} of {model}: it has no layer for the operator, and there is no plugin."
        return InputError(message.removesuffix(".") + others + ".", _UNSUPPORTED)
    if "zero point" in reason.lower():
        sentence = reason.partition(". ")[0].removesuffix(".")
        return InputError(
            f"{title} cannot take {where} of {model}: {sentence}{others}.",
            "Quantise symmetrically: int8 inputs, weights and outputs with zero-points of 0.",
        )
    if code.startswith("UNSUPPORTED"):
        detail = f" ({reason})" if " " in reason else ""
        return InputError(
            f"{title} cannot take {where} of {model}: it does not support the operator with these types and "
            f"attributes{detail}{others}.",
            _UNSUPPORTED,
        )
    return InputError(f"{title} cannot take {where} of {model}: {reason.removesuffix('.')}{others}.")


_UNSUPPORTED = "Replace the operator in the network, or run the file in ONNX Runtime (--provider cuda or cpu)."


def build_failure(log: Log, model: str, title: str, workspace: bool) -> InputError:
    """Turn what a builder logged into one message; its text names the node where the builder does."""
    cause = log.cause() or "it does not say why"
    remedy = "With --verbose it says more."
    if "implementation for node" in cause or "memory" in cause.lower():
        remedy = f"{'Raise --workspace, or free' if workspace else 'Free'} memory of the GPU. {remedy}"
    elif "for Turing" in cause:
        remedy = "Leave 7.5 out of --compute-capability, or export with --fp16."
    return InputError(f"{title} cannot build an engine of {model}: {cause.removesuffix('.')}.", remedy)


def _text(error: Any, name: str) -> str:
    method = getattr(error, name, None)
    return str(method() or "") if method is not None else ""
