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

from dataclasses import dataclass

DOMAIN = "edgeconv"
"""ONNX domain of every edgeconv operator; also the namespace of the torch operators and of the TensorRT plugins."""

VERSION = 1
"""Version of the operator set `DOMAIN`."""

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
    """

    name: str
    kernel: str
    parameters: tuple[str, ...]
    formula: str
    has_degree: bool = False

    @property
    def inputs(self) -> tuple[str, ...]:
        """Names of the inputs in order; the last, `B`, is optional."""
        return ("X", "W", *self.parameters, "B")


OPERATORS = {
    operator.name: operator
    for operator in (
        KervolutionOperator(
            "PolynomialKervolution", "polynomial", ("balance",), "(x·w + balance)^degree", has_degree=True
        ),
        KervolutionOperator("GaussianKervolution", "gaussian", ("gamma",), "exp(-gamma · ‖x - w‖²)"),
        KervolutionOperator("SigmoidKervolution", "sigmoid", ("scale", "balance"), "tanh(scale · x·w + balance)"),
        KervolutionOperator("EuclideanKervolution", "euclidean", (), "-‖x - w‖²"),
        KervolutionOperator("ManhattanKervolution", "manhattan", (), "-‖x - w‖₁"),
        KervolutionOperator("ChebyshevKervolution", "chebyshev", (), "-max|x - w|"),
    )
}
"""Operator name -> its description."""

OPERATOR_OF_KERNEL = {operator.kernel: operator for operator in OPERATORS.values()}
"""Kernel name -> its operator. The linear kernel is not in it: it is ONNX `Conv`."""

KERNELS = ("linear", *OPERATOR_OF_KERNEL)
"""Every value that a layer's `kernel` argument takes."""
