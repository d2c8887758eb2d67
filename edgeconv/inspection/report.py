"""The result of an inspection: plain data, to JSON and to tables."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console

Shape = tuple[int | str | None, ...] | None
"""Sizes, symbols, None for an unknown size; None for an unknown rank."""


@dataclass(frozen=True)
class Tensor:
    """An input or output.

    Attributes:
        name: Its name.
        dtype: Element type (`float32` is `float` in ONNX), or the kind of a value that is not a tensor.
        declared: Shape in the file; a dynamic size is its symbol, or None.
        shape: Shape that the figures are for.
    """

    name: str
    dtype: str
    declared: Shape
    shape: Shape


@dataclass(frozen=True)
class OperatorCount:
    """How often an operator occurs in the graph and its subgraphs (bodies of functions do not count)."""

    domain: str
    op_type: str
    count: int


@dataclass(frozen=True)
class CustomOperator:
    """An operator outside the ONNX standard.

    Attributes:
        domain: Its domain.
        op_type: Its name.
        count: Calls, those from other functions included.
        function: Whether a local function for it travels in the file.
        native: Whether edgeconv's native libraries implement it.
    """

    domain: str
    op_type: str
    count: int
    function: bool
    native: bool


@dataclass(frozen=True)
class Layer:
    """One node of the graph.

    Attributes:
        name: The node's name, or its first output's.
        op: Operator, with its domain unless it is standard.
        dtype: Element type of the first output.
        output_shape: Shape of the first output.
        parameters: Parameters that this node is the first to use.
        macs: Multiply-accumulates of one inference (a kervolution's are those of the convolution of its shape).
        absolute_differences: Absolute differences, of the Manhattan (in 8 bits too) and Chebyshev kervolutions.
        complete: False where the two counts are lower bounds.
        precision: How a kervolution on x·w asks for its products (`edgeconv.ops.kervolution.Precision`); None for every
            other operator.
        operand_type: Element type of the weights that the operations are on (`float`, `float16`, `int8`), of a
            whitening that of its results; None where none are counted, or where they are inside a function or a
            subgraph.
    """

    name: str
    op: str
    dtype: str
    output_shape: Shape
    parameters: int
    macs: int
    absolute_differences: int
    complete: bool
    precision: str | None = None
    operand_type: str | None = None

    @property
    def operations_8bit(self) -> int:
        """Multiply-accumulates and absolute differences on 8-bit integers."""
        return self.macs + self.absolute_differences if self.operand_type in ("int8", "uint8") else 0


@dataclass(frozen=True)
class RuntimePath:
    """How one runtime takes the file.

    Attributes:
        runtime: The runtime, with what is loaded in it.
        path: `native kernel`, `function body`, `standard operators`, `will not load`, or `not known`.
        reason: What in the file leads to that path.
        remedy: What to do where the path is not the best one; empty where it is.
    """

    runtime: str
    path: str
    reason: str
    remedy: str = ""


@dataclass(frozen=True)
class ModelReport:
    """What is in an ONNX file.

    Attributes:
        path: The file, as it was given.
        file_bytes: Size of the file itself.
        external_files: Size of each file of external data, by name.
        ir_version: Version of the ONNX format.
        producer: Name and version of the program that wrote the file.
        opsets: Version of each operator set, by domain (empty for the standard one).
        metadata: Metadata properties; lists and objects under `edgeconv.` are decoded.
        inputs: Inputs to feed.
        outputs: Outputs.
        operators: Operators by falling count.
        custom_operators: Operators outside the standard.
        layers: The nodes in order.
        parameters: Number of parameters (see `edgeconv.inspection.parameters`).
        weights_bytes: Bytes of all stored tensors.
        macs: Multiply-accumulates of one inference (see `edgeconv.inspection.costs`).
        absolute_differences: Absolute differences of one inference.
        complete: False where the two counts are lower bounds; `notes` then say why.
        runtimes: The path of each runtime.
        kervolution_precisions: How many kervolutions on x·w ask for each precision.
        notes: What was assumed, and what is not known.
    """

    path: str
    file_bytes: int
    external_files: dict[str, int]
    ir_version: int
    producer: str
    opsets: dict[str, int]
    metadata: dict[str, Any]
    inputs: list[Tensor]
    outputs: list[Tensor]
    operators: list[OperatorCount]
    custom_operators: list[CustomOperator]
    layers: list[Layer]
    parameters: int
    weights_bytes: int
    macs: int
    absolute_differences: int
    complete: bool
    runtimes: list[RuntimePath]
    kervolution_precisions: dict[str, int]
    notes: list[str] = field(default_factory=list)

    @property
    def size_bytes(self) -> int:
        """Size of the file with its external data."""
        return self.file_bytes + sum(self.external_files.values())

    @property
    def operations_8bit(self) -> int:
        """How many of the multiply-accumulates and absolute differences are on 8-bit integers."""
        return sum(layer.operations_8bit for layer in self.layers)

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values: the attributes, `size_bytes` and `operations_8bit`."""
        return {**asdict(self), "size_bytes": self.size_bytes, "operations_8bit": self.operations_8bit}

    def render(self, console: Console, *, all_layers: bool = False) -> None:
        """Print the report as tables.

        Args:
            console: Where to print.
            all_layers: Also print layers that have neither parameters nor operations to count.
        """
        from edgeconv.inspection.render import render_report

        render_report(self, console, all_layers=all_layers)
