"""Reading `.pt2` files (`torch.export.ExportedProgram`) without running code that a stranger put into them.

`torch.export.load` runs what it finds in many parts of an archive: pickled weights, constants and sample inputs;
compiled libraries; guards, which are Python source; symbolic sizes, which go through sympy's evaluating parser; the
names of nodes, of which torch writes Python source; and descriptions of inputs, which import modules.

So, unless the caller trusts the file, torch is not given the file. Its parts are read, checked and written into a new
archive, which torch gets. Only raw weights, sample inputs (which torch's weights-only unpickler reads) and the graph
pass, and every string of the graph must be a plain name, arithmetic, or a known kind of container. What is not needed
to run the graph (guards, stack traces) is left out. Needs torch.
"""

from __future__ import annotations

import contextlib
import io
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
from edgeconv.ops.registry import register_torch_operators

_ENTRY = re.compile(
    r"archive_format|archive_version|byteorder|\.data/(version|serialization_id)"
    r"|models/model\.json|data/sample_inputs/model\.pt"
    r"|data/weights/(model_weights_config\.json|weight_\d+)|data/constants/(model_constants_config\.json|tensor_\d+)"
)
"""The parts of an archive that are needed, below its root folder."""

_NAME = re.compile(r"[\w.+:-]*")  # of a node, parameter, module, device, dialect; as Python source it calls nothing
_TEXT = re.compile(r"[^'\"\\\r\n]*")
_OPERATOR = re.compile(
    r"torch\.ops\.[a-z]\w*\.[A-Za-z_]\w*(\.[A-Za-z]\w*)?|torch\.(_sym_|sym_)[a-z]+"
    r"|_operator\.(getitem|add|mul|sub|truediv|floordiv|mod|pow|neg|abs|[gl][et]|eq|ne|and_|or_|not_|[lr]shift)"
    r"|math\.(ceil|floor|trunc)"
)
_STRINGS = {
    "target": _OPERATOR,
    "as_operator": _OPERATOR,
    "path_name": re.compile(r"(weight|tensor)_\d+"),
    "as_string": re.compile(r"[\w.,>+ -]*"),  # arguments such as "tanh", "bilinear", "bchw,oc->bohw"
    "as_strings": re.compile(r"[\w.,>+ -]*"),
}
"""What a string under one of these keys must match; under any other, `_NAME`."""

_CONTAINERS = (None, "builtins.tuple", "builtins.list", "builtins.dict", "collections.OrderedDict", "torch.Size")

# Symbolic sizes are written as sympy's srepr: calls of these names on symbols such as s0, u3 and s77, and numbers.
_EXPRESSIONS = re.compile(
    # sympy: structure and assumptions
    "Symbol|Integer|Rational|Float|Add|Mul|Pow|Abs|Max|Min|Mod|And|Or|Not|Piecewise|Eq|Ne|Ge|Gt|Le|Lt|Equality"
    "|Unequality|GreaterThan|StrictGreaterThan|LessThan|StrictLessThan|Infinity|NegativeInfinity|One|Zero|NegativeOne"
    "|Half|ceiling|floor|oo|zoo|true|false|True|False|integer|positive|nonnegative|negative|real|finite|nonzero"
    "|precision|evaluate"
    # torch.utils._sympy.functions
    "|CeilToInt|CleanDiv|FloatPow|FloatTrueDiv|FloorDiv|FloorToInt|IntTrueDiv|LShift|ModularIndexing|PowByNatural"
    "|PythonMod|RShift|RoundDecimal|RoundToInt|ToFloat|TruncToFloat|TruncToInt|Where|int_oo|IntInfinity"
    "|NegativeIntInfinity|CeilDiv|Identity|IsNonOverlappingAndDenseIndicator"
)
_SYMBOL = re.compile(r"[a-z]{1,4}\d+")
_QUOTED = re.compile(r"'(?:[a-z]{1,4}\d+|-?\d+(?:\.\d+)?(?:e[+-]?\d+)?)'")
_CALLS = re.compile(r"[\w\s(),=-]*", re.ASCII)


def load_exported_program(path: Path, *, trust_pickle: bool = False) -> ExportedProgram:
    """Load a `.pt2` file.

    Args:
        path: An archive that `torch.export.save` wrote.
        trust_pickle: Skip the checks.

    Raises:
        CheckpointError: The archive is damaged, or loading it would run code from it.
    """
    from torch.export.pt2_archive._package import load_pt2

    register_torch_operators()  # the program may call them
    try:
        if trust_pickle:
            program = torch.export.load(path)
        else:
            with _weights_only():
                # Not torch.export.load: it would log a traceback, then try a format of older versions.
                program = load_pt2(_harmless_archive(path)).exported_programs["model"]
            _check_container(program.example_inputs, path)
        program.module()  # a damaged graph may show only now
        return program
    except CheckpointError:
        raise
    except Exception as error:  # the deserialiser raises whatever it meets in a damaged archive
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise CheckpointError(
            f"{path} cannot be loaded as an ExportedProgram: {reason}",
            "Export it again with the installed PyTorch "
            f"({torch.__version__}); .pt2 files do not always survive a change of version.",
        ) from error


def _harmless_archive(path: Path) -> io.BytesIO:
    """Copy what is needed of the archive into a new one, if nothing in it would run."""
    result = io.BytesIO()
    with zipfile.ZipFile(path) as source, zipfile.ZipFile(result, "w") as target:
        entries = {name.partition("/")[2]: name for name in source.namelist()}
        if "models/model.json" not in entries:
            raise CheckpointError(
                f"{path} holds no exported program named 'model'.", "Write it with torch.export.save(program, path)."
            )
        for entry, name in entries.items():
            if _ENTRY.fullmatch(entry):
                data = source.read(name)
                if entry.endswith(".json"):
                    data = json.dumps(_checked(json.loads(data), "", path)).encode()
                target.writestr(f"archive/{entry}", data)
    result.seek(0)
    return result


def _checked(tree: Any, key: str, path: Path) -> Any:
    """Return the JSON tree found under `key` without what is not needed; raise if a part of it could run."""
    if isinstance(tree, dict):
        if key == "metadata" and all(isinstance(value, str) for value in tree.values()):
            return {k: v for k, v in tree.items() if k in ("nn_module_stack", "torch_fn") and _TEXT.fullmatch(v)}
        for name in tree:
            _require(_NAME.fullmatch(name), "a name that is not plain", name, path)
        return {name: _checked(value, name, path) for name, value in tree.items()}
    if isinstance(tree, list):
        return [] if key == "guards_code" else [_checked(value, key, path) for value in tree]
    if isinstance(tree, str):
        if key == "expr_str":
            _require(_is_arithmetic(tree), "a symbolic size that is not arithmetic", tree, path)
        elif key in ("in_spec", "out_spec"):
            _require(_is_plain_container(json.loads(tree)[1]), "inputs or outputs of an unusual type", tree, path)
        else:
            pattern = _STRINGS.get(key, _NAME)
            _require(pattern.fullmatch(tree), f"an unusual {key.replace('_', ' ') or 'string'}", tree, path)
    elif key == "use_pickle":
        _require(not tree, "pickled objects", key, path)
    return tree


def _require(harmless: object, what: str, text: str, path: Path) -> None:
    if not harmless:
        shown = repr(text if len(text) <= 60 else f"{text[:60]}…")
        raise CheckpointError(
            f"{path} holds {what} ({shown}), and loading it could run code from the file.",
            "Do not load it; only if you trust its author, add --trust-pickle.",
        )


def _is_arithmetic(expression: str) -> bool:
    rest = _QUOTED.sub("", expression)
    names = re.findall(r"[A-Za-z_]\w*", rest)
    known = all(_EXPRESSIONS.fullmatch(name) or _SYMBOL.fullmatch(name) for name in names)
    return known and _CALLS.fullmatch(rest) is not None


def _is_plain_container(spec: dict[str, Any]) -> bool:
    """Whether a serialised pytree is made of tuples, lists and dictionaries with plain keys."""
    context = json.loads(spec["context"]) if isinstance(spec["context"], str) else spec["context"]
    keys = context if isinstance(context, list) else [context]
    plain = all(key is None or isinstance(key, int) or (isinstance(key, str) and _NAME.fullmatch(key)) for key in keys)
    return spec["type"] in _CONTAINERS and plain and all(map(_is_plain_container, spec["children_spec"]))


def _check_container(value: Any, path: Path) -> None:
    """Refuse sample inputs with keys that are not plain: torch writes Python source with them."""
    if isinstance(value, dict):
        for key in value:
            _require(isinstance(key, int) or _NAME.fullmatch(str(key)), "an unusual input name", str(key), path)
    if isinstance(value, dict | list | tuple):
        for item in value.values() if isinstance(value, dict) else value:
            _check_container(item, path)


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
