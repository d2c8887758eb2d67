"""Reading `.pt2` files (`torch.export.ExportedProgram`) without running code that a stranger put into them.

`torch.export.load` may run code from three places of an archive: pickled weights, constants and sample inputs, and
symbolic sizes, which go through sympy's evaluating parser. Unless the caller trusts the file, all three are checked
before it is loaded, and torch's weights-only unpickler is forced on what remains. Needs torch.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch.export import ExportedProgram

from edgeconv.errors import CheckpointError

# Symbolic sizes are written as sympy's srepr: symbols such as s0, u3 and s77, numbers, and these names.
_NAMES = frozenset(
    # sympy: structure and assumptions
    "Symbol Integer Rational Float Add Mul Pow Abs Max Min Mod And Or Not Piecewise Eq Ne Ge Gt Le Lt Equality "
    "Unequality GreaterThan StrictGreaterThan LessThan StrictLessThan Infinity NegativeInfinity One Zero NegativeOne "
    "Half ceiling floor oo zoo true false True False integer positive nonnegative negative real finite nonzero "
    "precision evaluate "
    # torch.utils._sympy.functions
    "CeilToInt CleanDiv FloatPow FloatTrueDiv FloorDiv FloorToInt IntTrueDiv LShift ModularIndexing PowByNatural "
    "PythonMod RShift RoundDecimal RoundToInt ToFloat TruncToFloat TruncToInt Where int_oo IntInfinity "
    "NegativeIntInfinity CeilDiv".split()
)
_SYMBOL = re.compile(r"[a-z]{1,4}\d+")
_QUOTED = re.compile(r"'(?:[a-z]{1,4}\d+|-?\d+(?:\.\d+)?(?:e[+-]?\d+)?)'")
_REST = re.compile(r"[\w\s+\-*/%(),<>=!&|~]*")

def load_exported_program(path: Path, *, trust_pickle: bool = False) -> ExportedProgram:
    """Load a `.pt2` file.

    Args:
        path: An archive that `torch.export.save` wrote.
        trust_pickle: Skip the checks.

    Raises:
        CheckpointError: The archive is damaged, or loading it would run code from it.
    """
    # The program may call edgeconv's operators, which exist once this module is imported.
    import edgeconv.ops.kervolution_torch  # noqa: F401

    try:
        if trust_pickle:
            return torch.export.load(path)
        _refuse_code(path)
        with _weights_only():
            return torch.export.load(path)
    except CheckpointError:
        raise
    except Exception as error:  # the deserialiser raises whatever it meets in a damaged archive
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise CheckpointError(
            f"{path} cannot be loaded as an ExportedProgram: {reason}",
            "Export it again with the installed PyTorch "
            f"({torch.__version__}); .pt2 files do not always survive a change of version.",
        ) from error


def _refuse_code(path: Path) -> None:
    with zipfile.ZipFile(path) as archive:
        for name in archive.namelist():
            if not name.endswith(".json"):
                continue
            for key, value in _items(json.loads(archive.read(name))):
                if key == "use_pickle" and value:
                    raise CheckpointError(
                        f"{path} holds pickled objects ({name}); loading them would run code from the file.",
                        "Only if you trust its author, add --trust-pickle.",
                    )
                if key == "expr_str" and not _harmless(str(value)):
                    raise CheckpointError(
                        f"{path} holds a symbolic size that is not arithmetic: {str(value)[:60]!r}.",
                        "Do not load it; if you made it yourself, add --trust-pickle.",
                    )


def _items(tree: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(tree, dict):
        for key, value in tree.items():
            yield key, value
            yield from _items(value)
    elif isinstance(tree, list):
        for value in tree:
            yield from _items(value)


def _harmless(expression: str) -> bool:
    rest = _QUOTED.sub("", expression)
    names = re.findall(r"[A-Za-z_]\w*", rest)
    known = all(name in _NAMES or _SYMBOL.fullmatch(name) for name in names)
    return known and _REST.fullmatch(rest) is not None


@contextlib.contextmanager
def _weights_only() -> Iterator[None]:
    """Force torch's weights-only unpickler: the deserialiser would otherwise fall back to the unsafe one."""
    name = "TORCH_FORCE_WEIGHTS_ONLY_LOAD"
    before = os.environ.get(name)
    os.environ[name] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before
