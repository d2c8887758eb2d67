"""What a model file is: its digest, its size, and which of edgeconv's operators it uses."""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgeconv.errors import InputError
from edgeconv.onnx_file import read_onnx
from edgeconv.ops.kervolution import DOMAIN

if TYPE_CHECKING:
    import onnx


@dataclass(frozen=True)
class ModelFile:
    """A model file as it was measured.

    Attributes:
        path: As the user gave it.
        sha256: Digest of the file, followed by that of its external data files in the order of their names.
        size: Bytes, external data included.
        inputs: Names of the inputs to feed; none for an engine that nothing is known of.
        operators: Nodes in edgeconv's domain by operator type, each call of a function counted; none for an engine.
    """

    path: str
    sha256: str
    size: int
    inputs: list[str]
    operators: dict[str, int]

    @property
    def name(self) -> str:
        """File name without its directory."""
        return Path(self.path).name

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return asdict(self)


def read_model_file(path: str | os.PathLike[str]) -> ModelFile:
    """Read and identify a model file.

    Raises:
        InputError: It does not exist, cannot be read, or is not an ONNX model.
    """
    file = Path(path)
    model, content = read_onnx(file)
    digest = hashlib.sha256(content)
    size = len(content)
    for location in sorted(_external_files(model)):
        data = file.parent / location
        if not data.is_file():
            raise InputError(f"{file} needs its weights in {data}, which does not exist.", "Keep both files together.")
        digest.update(bytes.fromhex(file_sha256(data)))
        size += data.stat().st_size
    constants = {tensor.name for tensor in model.graph.initializer}
    inputs = [value.name for value in model.graph.input if value.name not in constants]
    return ModelFile(os.fspath(path), digest.hexdigest(), size, inputs, _count_operators(model))


def read_engine_file(path: str | os.PathLike[str], *, trusted: bool = False) -> ModelFile:
    """Identify an engine.

    Args:
        path: The engine.
        trusted: See `edgeconv.runtime.engine_stamp.read_stamp`.

    Raises:
        InputError: It does not exist or cannot be read; or the stamp, of one that is not trusted.
    """
    from edgeconv.runtime.engine_stamp import read_stamp

    stamp = read_stamp(path, trusted=trusted)
    inputs = [] if stamp is None else [info.name for info in stamp.inputs]
    return ModelFile(os.fspath(path), file_sha256(path), Path(path).stat().st_size, inputs, {})


def file_sha256(path: str | os.PathLike[str]) -> str:
    """Return the SHA-256 digest of a file."""
    digest = hashlib.sha256()
    with open(path, "rb") as stream:
        while chunk := stream.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


def _external_files(model: onnx.ModelProto) -> set[str]:
    return {
        entry.value
        for tensor in model.graph.initializer
        for entry in tensor.external_data
        if entry.key == "location" and tensor.data_location == tensor.EXTERNAL
    }


def _count_operators(model: onnx.ModelProto) -> dict[str, int]:
    """Count calls of edgeconv's operators, through the file's other functions (which may call them) too."""
    from edgeconv.inspection.nodes import walk

    bodies = {(function.domain, function.name): function.node for function in model.functions}
    known: dict[tuple[str, str], Counter[str]] = {}

    def count(nodes: Iterable[onnx.NodeProto]) -> Counter[str]:
        total: Counter[str] = Counter()
        for node in walk(nodes):
            key = (node.domain, node.op_type)
            if node.domain == DOMAIN:
                total[node.op_type] += 1
            elif key in bodies:
                if key not in known:
                    known[key] = Counter()  # a function that calls itself is invalid; this only ends the recursion
                    known[key] = count(bodies[key])
                total += known[key]
        return total

    return dict(sorted(count(model.graph.node).items()))
