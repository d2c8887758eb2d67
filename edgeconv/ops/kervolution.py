"""Kervolution: convolution with a kernel function in place of the inner product.

Source: Wang et al., "Kervolutional Neural Networks", CVPR 2019 (arXiv 1904.03955), section 3.

For each patch x of the (zero-padded) input and each filter w, before the bias is added:

    PolynomialKervolution   (x·w + balance)^degree
    GaussianKervolution     exp(-gamma · ‖x - w‖²)
    SigmoidKervolution      tanh(scale · x·w + balance)
    EuclideanKervolution    -‖x - w‖²
    ManhattanKervolution    -‖x - w‖₁
    ChebyshevKervolution    -max|x - w|

The linear kernel, x·w, is the standard convolution. This module holds what every form of the operators shares: their
names, their parameters and their attributes. It needs nothing but the standard library.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, get_args

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    import onnx

DOMAIN = "edgeconv"
"""ONNX domain of every edgeconv operator; also the namespace of the torch operators and of the TensorRT plugins."""

VERSION = 1
"""Version of the operator set `DOMAIN`."""

Precision = Literal["float32", "bf16x3"]
"""How the products of x·w are computed: the attribute `precision` of the operators that are built on it.

float32: in float32; the default.
bf16x3: each factor is split into the sum of two bfloat16 numbers, and three of the four products of the halves are
    summed in float32 (the fourth, of the two small halves, is left out). For CPUs with AMX tile units. The largest
    error is 3e-5 of the output's root mean square on ResNet's layers.

It is a permission, not a demand: a CPU without AMX, the function body and PyTorch compute in float32, so no file fails
to load for it. Exported nodes carry the attribute only where it is not the default: a file of float32 is one that every
reader takes, those included that are older than the attribute.
"""

PRECISIONS: tuple[str, ...] = get_args(Precision)
"""Every value of the attribute `precision`; the first is the default."""

PLUGIN_ATTRIBUTES = {"plugin_version": "1", "plugin_namespace": DOMAIN}
"""Attributes by which TensorRT's parser finds the plugin before it looks at the local function."""


@dataclass(frozen=True)
class KervolutionOperator:
    """One member of the family.

    Attributes:
        name: The operator's name, the same in ONNX, in torch, in the native libraries and as a TensorRT plugin.
        kernel: The name by which layers choose it (`Kerv2d(kernel=...)`).
        parameters: Its tensor parameters in input order, after X and W. Each is float32, a scalar or one per channel.
        formula: What it computes, before the bias.
        has_degree: Whether it takes the integer attribute `degree`.
        has_precision: Whether it takes the string attribute `precision`: the operators that are built on x·w do.
    """

    name: str
    kernel: str
    parameters: tuple[str, ...]
    formula: str
    has_degree: bool = False
    has_precision: bool = False

    @property
    def inputs(self) -> tuple[str, ...]:
        """Names of the inputs in order; the last, `B`, is optional."""
        return ("X", "W", *self.parameters, "B")

    @property
    def outputs(self) -> tuple[str, ...]:
        """`Y` alone."""
        return ("Y",)

    @property
    def weights(self) -> int:
        """Position of W among the inputs."""
        return self.inputs.index("W")

    @property
    def is_quantized(self) -> bool:
        """Whether X, W and Y are 8-bit integers with a scale and a zero-point; the bias is then float32."""
        return False


OPERATORS = {
    operator.name: operator
    for operator in (
        KervolutionOperator(
            "PolynomialKervolution",
            "polynomial",
            ("balance",),
            "(x·w + balance)^degree",
            has_degree=True,
            has_precision=True,
        ),
        KervolutionOperator(
            "GaussianKervolution", "gaussian", ("gamma",), "exp(-gamma · ‖x - w‖²)", has_precision=True
        ),
        KervolutionOperator(
            "SigmoidKervolution", "sigmoid", ("scale", "balance"), "tanh(scale · x·w + balance)", has_precision=True
        ),
        KervolutionOperator("EuclideanKervolution", "euclidean", (), "-‖x - w‖²", has_precision=True),
        KervolutionOperator("ManhattanKervolution", "manhattan", (), "-‖x - w‖₁"),
        KervolutionOperator("ChebyshevKervolution", "chebyshev", (), "-max|x - w|"),
    )
}
"""Operator name -> its description."""

OPERATOR_OF_KERNEL = {operator.kernel: operator for operator in OPERATORS.values()}
"""Kernel name -> its operator. The linear kernel is not in it: it is ONNX `Conv`."""

KERNELS = ("linear", *OPERATOR_OF_KERNEL)
"""Every value that a layer's `kernel` argument takes."""


def check_precision(precision: str, kernel: str | None = None) -> None:
    """Check a value of `precision`, and, if a kernel is given, that the kernel takes it.

    Raises:
        ValueError: There is no such precision, or the kernel computes in float32 only.
    """
    if precision not in PRECISIONS:
        raise ValueError(f"precision must be one of {', '.join(PRECISIONS)}; got {precision!r}")
    if kernel is None or precision == PRECISIONS[0]:
        return
    if kernel not in OPERATOR_OF_KERNEL or not OPERATOR_OF_KERNEL[kernel].has_precision:
        able = ", ".join(operator.kernel for operator in OPERATORS.values() if operator.has_precision)
        raise ValueError(f"precision {precision} is for the kernels {able}; the {kernel} kernel takes float32 only")


def precision_of(node: onnx.NodeProto) -> str | None:
    """Return the precision that an ONNX node asks for, or None if its operator does not take the attribute."""
    operator = OPERATORS.get(node.op_type) if node.domain == DOMAIN else None
    if operator is None or not operator.has_precision:
        return None
    given = (attribute.s.decode(errors="replace") for attribute in node.attribute if attribute.name == "precision")
    return next(given, PRECISIONS[0])


def count_precisions(nodes: Iterable[onnx.NodeProto]) -> dict[str, int]:
    """Return how many operators ask for each precision; those that do not take the attribute do not count."""
    return dict(sorted(Counter(found for found in map(precision_of, nodes) if found is not None).items()))


def describe_precisions(counts: Mapping[str, int]) -> str:
    """Say in one line what `count_precisions` found, and where it holds."""
    where = {"bf16x3": " (by the op library on a CPU with AMX; elsewhere in float32)"}
    parts = [f"{count} in {name}{where.get(name, '')}" for name, count in counts.items()]
    return f"kervolutions on x·w: {', '.join(parts) or 'none'}"
