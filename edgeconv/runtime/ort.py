"""Load and run a model with ONNX Runtime, with or without edgeconv's native operators.

onnxruntime is imported when the first session is made, never before: `import edgeconv.runtime.ort` works without it.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import tempfile
import time
import weakref
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import numpy.typing as npt

from edgeconv.errors import EdgeconvError, InputError, MissingDependencyError
from edgeconv.onnx_file import check_onnx_file
from edgeconv.runtime.providers import (
    PROVIDERS,
    check_threads,
    cuda_creation_error,
    cuda_load_error,
    require_onnxruntime,
    require_provider,
)

if TYPE_CHECKING:
    from edgeconv.runtime.ort_cuda import CudaContext, CudaRun

__all__ = [
    "PROVIDERS",
    "STOP_SPINNING",
    "Array",
    "OrtSession",
    "TensorInfo",
    "find_op_library",
    "require_onnxruntime",
    "require_provider",
]

Array = npt.NDArray[Any]

STOP_SPINNING = {"session.force_spinning_stop": "1"}
"""Session configuration under which a session's threads sleep as soon as its run has ended.

By default they spin for tens of milliseconds, and so take the cores from any other session of the process.
"""

_NUMPY_TYPES = {
    "float": np.float32,
    "double": np.float64,
    "float16": np.float16,
    "int8": np.int8,
    "int16": np.int16,
    "int32": np.int32,
    "int64": np.int64,
    "uint8": np.uint8,
    "uint16": np.uint16,
    "uint32": np.uint32,
    "uint64": np.uint64,
    "bool": np.bool_,
}
# Only ONNX Runtime's fatal messages reach stderr: each error is raised anyway, and would be shown twice.
_LOG_FATAL = 4


@dataclass(frozen=True)
class TensorInfo:
    """An input or output of a model.

    Attributes:
        name: The name in the graph.
        type: ONNX Runtime's name of the type, such as ``tensor(float)``.
        shape: One entry a dimension: its size, the name of a symbolic one, or None for an unnamed unknown one.
    """

    name: str
    type: str
    shape: tuple[int | str | None, ...]

    @property
    def dtype(self) -> np.dtype[Any] | None:
        """The numpy type, or None where numpy has none (strings, sequences, bfloat16 and the like)."""
        match = re.fullmatch(r"tensor\((\w+)\)", self.type)
        found = _NUMPY_TYPES.get(match.group(1)) if match else None
        return None if found is None else np.dtype(found)


class OrtSession:
    """A model loaded into ONNX Runtime.

    Args:
        model: Path of an ``.onnx`` file, or the serialised model.
        provider: ``"cpu"`` or ``"cuda"``. Nodes that CUDA has no kernel for run on the CPU: `profile_events`, read with
            `edgeconv.runtime.placement.read_placement`, says which.
        threads: Threads that one operator may use; by default ONNX Runtime's choice, one a physical core.
        op_library: True registers edgeconv's native operators if they are installed (`native` says whether they were;
            without them the functions inside the file run). False never registers them. A path registers that library.
        profile: Record each operator's time; `profile_events` hands the record over.
        options: Further session configuration entries, such as `STOP_SPINNING`.
        device: Number of the GPU (cuda).
        tf32: Let products of float32 values drop to TF32 (cuda); without it they are float32.
        cuda_graph: Launch what `bind` returns as one CUDA graph (cuda).

    Attributes:
        name: File name of the model for messages.
        inputs: The inputs that a caller has to feed.
        outputs: The outputs.
        metadata: The file's metadata properties.
        provider: As asked for.
        native: Whether edgeconv's native operators are registered.
        op_library_path: The registered library, or None.
        missing_library: Why no library was registered although one was asked for; otherwise empty.
        creation_seconds: Time that creating the session took: reading the file, optimising the graph, packing weights.
        gpu: The GPU, None on the CPU.

    Raises:
        InputError: The file is missing, damaged, or needs operators that are not there; the op library does not load.
        MissingDependencyError: onnxruntime, the provider, a GPU or its driver is missing.
    """

    def __init__(
        self,
        model: str | os.PathLike[str] | bytes,
        *,
        provider: str = "cpu",
        threads: int | None = None,
        op_library: bool | str | os.PathLike[str] = True,
        profile: bool = False,
        options: Mapping[str, str] | None = None,
        device: int = 0,
        tf32: bool = False,
        cuda_graph: bool = False,
    ) -> None:
        onnxruntime = require_onnxruntime()
        require_provider(provider, device)
        check_threads(threads)
        self.provider = provider
        self.name = "the model" if isinstance(model, bytes) else os.fspath(model)
        if not isinstance(model, bytes):
            check_onnx_file(model)
        source = model if isinstance(model, bytes) else os.fspath(model)

        session_options = onnxruntime.SessionOptions()
        session_options.log_severity_level = _LOG_FATAL
        session_options.intra_op_num_threads = threads or 0
        session_options.inter_op_num_threads = 1
        for key, value in (options or {}).items():
            session_options.add_session_config_entry(key, value)
        self._remove_profile: Callable[[], object] | None = None
        if profile:
            directory = tempfile.mkdtemp(prefix="edgeconv-profile-")
            # Also when the session is given up without asking for the record, or the process is interrupted.
            self._remove_profile = weakref.finalize(self, shutil.rmtree, directory, ignore_errors=True)
            session_options.enable_profiling = True
            session_options.profile_file_prefix = os.path.join(directory, "ort")

        self.op_library_path, self.missing_library = find_op_library(op_library)
        self._cuda: CudaContext | None = None
        if provider == "cuda":
            from edgeconv.runtime.ort_cuda import TF32_ENTRY, CudaContext

            self._cuda = CudaContext(device, tf32=tf32, cuda_graph=cuda_graph)
            session_options.add_session_config_entry(TF32_ENTRY, str(int(tf32)))
        self.gpu = None if self._cuda is None else self._cuda.gpu
        start = time.perf_counter_ns()
        if self.op_library_path is not None:
            _register(session_options, self.op_library_path, onnxruntime.__version__)
        try:
            self._session = _create(onnxruntime, source, session_options, self._cuda)
        except Exception as error:
            machine = cuda_creation_error(self.name, _cause(error)) if self._cuda else None
            raise machine or _load_error(self.name, error, self.op_library_path, self.missing_library) from error
        if PROVIDERS[provider] not in self._session.get_providers():
            raise cuda_load_error(onnxruntime, self.name)
        self.creation_seconds = (time.perf_counter_ns() - start) * 1e-9
        self.native = self.op_library_path is not None
        self.inputs = tuple(_tensor_info(value) for value in self._session.get_inputs())
        self.outputs = tuple(_tensor_info(value) for value in self._session.get_outputs())
        self.metadata: dict[str, str] = dict(self._session.get_modelmeta().custom_metadata_map)

    def run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        """Run the model once.

        Args:
            feeds: An array for every input, by name, of the input's type and shape.

        Returns:
            The outputs by name.

        Raises:
            InputError: An input is missing, unknown, or of another type or shape, or an operator rejects its operands.
        """
        self._check(feeds)
        names = [output.name for output in self.outputs]
        try:
            options = None if self._cuda is None else self._cuda.run_options(require_onnxruntime())
            values = self._session.run(names, dict(feeds), options)
        except Exception as error:
            raise InputError(f"{self.name} fails while running: {_cause(error)}") from error
        return dict(zip(names, values, strict=True))

    def bind(self, feeds: Mapping[str, Array], *, copies: bool = False) -> Callable[[], None] | CudaRun:
        """Place the inputs and the output buffers once, and return a call that runs the model on them.

        The call copies nothing and allocates no outputs, so its duration is the model's own. The model is run once
        here, because only a run tells the output shapes. On a GPU the buffers lie there, and what is returned also
        tells the time on the device.

        Args:
            feeds: As for `run`.
            copies: On a GPU: copy the inputs there and the outputs back in every call, through page-locked memory.

        Returns:
            A function without arguments that returns when the outputs are complete.

        Raises:
            InputError: As for `run`.
        """
        onnxruntime = require_onnxruntime()
        first = self.run(feeds)
        if self._cuda is not None:
            try:
                return self._cuda.bind(onnxruntime, self._session, feeds, self.outputs, first, copies=copies)
            except EdgeconvError:
                raise
            except Exception as error:
                hint = "It cannot be captured: leave --cuda-graph out." if self._cuda.cuda_graph else ""
                raise InputError(f"{self.name} fails on bound memory: {_cause(error)}", hint) from error
        binding = self._session.io_binding()
        # The binding refers to the arrays' memory; the list keeps them alive for as long as the function lives.
        held: list[Any] = []
        for name, array in feeds.items():
            value = onnxruntime.OrtValue.ortvalue_from_numpy(np.ascontiguousarray(array))
            held.append(value)
            binding.bind_ortvalue_input(name, value)
        for output in self.outputs:
            if output.dtype is None:
                binding.bind_output(output.name)
                continue
            value = onnxruntime.OrtValue.ortvalue_from_numpy(np.ascontiguousarray(first[output.name]))
            held.append(value)
            binding.bind_ortvalue_output(output.name, value)
        session = self._session

        def run_bound(_held: list[Any] = held) -> None:
            session.run_with_iobinding(binding)

        return run_bound

    def profile_events(self) -> list[dict[str, Any]]:
        """End profiling and return the recorded events (Chrome trace format, microseconds).

        Raises:
            EdgeconvError: The session was not created with ``profile=True``, or the record cannot be read.
        """
        if self._remove_profile is None:
            raise EdgeconvError("The session records no profile.", "Create it with profile=True.")
        try:
            text = Path(self._session.end_profiling()).read_text(encoding="utf-8")
            return cast("list[dict[str, Any]]", json.loads(text))
        except (OSError, ValueError) as error:
            raise EdgeconvError(
                f"ONNX Runtime's profile of {self.name} cannot be read: {error}.",
                "Make room in the directory for temporary files (TMPDIR).",
            ) from error
        finally:
            self._remove_profile()
            self._remove_profile = None

    def _check(self, feeds: Mapping[str, Array]) -> None:
        names = [info.name for info in self.inputs]
        if set(feeds) != set(names):
            raise InputError(f"{self.name} has the inputs {', '.join(names)}; got {', '.join(feeds) or 'none'}.")
        for info in self.inputs:
            array = feeds[info.name]
            if info.dtype is not None and array.dtype != info.dtype:
                raise InputError(f"input {info.name} of {self.name} takes {info.dtype}, got {array.dtype}.")
            known = [size for size in info.shape if isinstance(size, int)]
            fits = len(info.shape) == array.ndim or not info.shape
            if not fits or any(
                isinstance(size, int) and size != actual for size, actual in zip(info.shape, array.shape, strict=False)
            ):
                expected = "x".join("?" if size is None else str(size) for size in info.shape)
                hint = "" if len(known) == len(info.shape) else " (a name or ? stands for any size)"
                raise InputError(
                    f"input {info.name} of {self.name} has the shape {expected}{hint}, "
                    f"got {'x'.join(map(str, array.shape))}."
                )


def find_op_library(wanted: bool | str | os.PathLike[str]) -> tuple[str | None, str]:
    """Find the library of native operators.

    Args:
        wanted: False for none, True for the installed one if there is one, or a path.

    Returns:
        The path, or None, and why the installed library was not found (empty if it was, or was not wanted).

    Raises:
        InputError: A library named by `wanted` or by EDGECONV_OP_LIBRARY does not exist.
    """
    if wanted is False:
        return None, ""
    if wanted is True:
        from edgeconv.runtime.op_library import op_library

        try:
            wanted = op_library()
        except MissingDependencyError as error:
            return None, str(error)
    path = Path(wanted)
    if not path.is_file():
        raise InputError(
            f"op library {path} does not exist.",
            "edgeconv.op_library() gives the installed one's path, unless EDGECONV_OP_LIBRARY names another.",
        )
    return str(path), ""


def _create(onnxruntime: Any, source: str | bytes, session_options: Any, cuda: CudaContext | None) -> Any:
    if cuda is None:
        return onnxruntime.InferenceSession(source, session_options, providers=[PROVIDERS["cpu"]])
    from edgeconv.runtime.ort_cuda import loading_cuda

    with loading_cuda(onnxruntime):
        return onnxruntime.InferenceSession(
            source,
            session_options,
            providers=[(PROVIDERS["cuda"], cuda.provider_options()), PROVIDERS["cpu"]],
            enable_fallback=0,
        )


def _register(session_options: Any, library: str, version: str) -> None:
    try:
        session_options.register_custom_ops_library(library)
    except Exception as error:
        raise InputError(
            f"op library {library} cannot be used with ONNX Runtime {version}: {_cause(error)}",
            "Reinstall edgeconv in this environment, or unset EDGECONV_OP_LIBRARY if it names a library of another "
            "version or machine.",
        ) from error


def _load_error(name: str, error: Exception, library: str | None, missing_library: str) -> InputError:
    cause = _cause(error)
    kind = type(error).__name__
    # The second and third are of an empty file, in newer and older versions.
    if kind == "InvalidProtobuf" or "No graph was found" in cause or "does not have a graph" in cause:
        return InputError(
            f"{name} is not an ONNX model, or is damaged: {cause}", "Export it again, or copy it again in binary mode."
        )
    operator = re.search(r"(?:error:|registered for) ?([\w.]+(?::\w+)?)", cause)
    if operator and ("is not a registered function/op" in cause or "No Op registered" in cause):
        message = f"{name} uses the operator {operator.group(1)}, which is neither native nor a function in the file."
        if operator.group(1).startswith("edgeconv:"):
            remedy = (
                "The op library does not have it: reinstall edgeconv, or export without --no-functions."
                if library
                else missing_library or "Run it with the op library, or export it without --no-functions."
            )
        else:
            remedy = "Register the custom op library that holds it: only edgeconv's own operators are known here."
        return InputError(message, remedy)
    return InputError(f"ONNX Runtime cannot load {name}: {cause}")


def _cause(error: Exception) -> str:
    """ONNX Runtime's message without its error code, source file and C++ signature, on one line."""
    text = re.sub(r"^\[ONNXRuntimeError\] : \d+ : \w+ : ", "", str(error))
    text = re.sub(r"^Load model from .*? failed: ?", "", text)
    text = re.sub(r"^\S*\.(?:cc|h):\d+ .*\) (?=[A-Z])", "", text)
    return " ".join(text.split())


def _tensor_info(value: Any) -> TensorInfo:
    return TensorInfo(value.name, value.type, tuple(value.shape or ()))
