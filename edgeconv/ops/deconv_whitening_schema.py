"""ONNX schema of `DeconvWhitening`: what it takes, and the types and shapes of what it gives.

The equations are in `edgeconv.ops.deconv_whitening`; attributes of the window, and checks, in
`edgeconv.ops.window_schema`.
"""

from __future__ import annotations

import math

from onnx import TensorProto
from onnx.defs import OpSchema

from edgeconv.ops.deconv_whitening import EPS, N_ITER, OPERATOR, SAMPLING_STRIDE, WhiteningShape, sampling_steps
from edgeconv.ops.window_schema import Dimension, OperatorNode, make_schema, schema_attribute


def schemas() -> list[OpSchema]:
    """Return a new schema, with type and shape inference, in a list of one."""
    doc = (
        "Whitening for network deconvolution: over the patches of the zero-padded input, cut into samples of "
        "F = block·kH·kW values, the mean and (Cov + eps·I)^(-1/2) by n_iter coupled Newton–Schulz steps, computed in "
        "float32. Patches are those of every sampling_stride-th output position of the convolution that follows; with "
        "a window of one tap, every (sampling_stride²·strides)-th pixel. Source: Ye et al., ICLR 2020, "
        "arXiv 1905.11926."
    )
    kinds = OpSchema.AttrType
    attributes = [
        OpSchema.Attribute("block", kinds.INT, "Channels of a block: divides C; with groups C/group.", required=True),
        OpSchema.Attribute("kernel_shape", kinds.INTS, "[kH, kW].", required=True),
        schema_attribute("eps", EPS, "Added to the covariance's diagonal; > 0."),
        schema_attribute("n_iter", N_ITER, "Newton–Schulz steps, at least 0."),
        schema_attribute("sampling_stride", SAMPLING_STRIDE, "Step between sampled output positions, at least 1."),
        schema_attribute("centered", 1, "1: the mean is subtracted before the covariance; 0: it is not."),
    ]
    return [
        make_schema(
            OPERATOR,
            doc,
            [("T", "Input, (N, C, H, W).")],
            [("F", "Mean of the samples, (G, F), of the G = group groups."), ("F", "Cov^(-1/2), (G, F, F).")],
            [("T", ["tensor(float)", "tensor(float16)"], "Input."), ("F", ["tensor(float)"], "Results.")],
            _WhiteningNode,
            attributes,
        )
    ]


class _WhiteningNode(OperatorNode):
    """One node during inference: results are float32, and their shapes follow from the attributes."""

    def check_types(self) -> None:
        if "X" in self.types and self.types["X"].elem_type not in (TensorProto.FLOAT, TensorProto.FLOAT16):
            self.fail(f"X is {self.type_name('X')}; it must be FLOAT or FLOAT16")

    def infer_outputs(self) -> list[tuple[int, list[Dimension]]]:
        _, channels, height, width = self.rank4("X")
        block, group = self.integer("block", 0), self.integer("group", 1)
        kernel = self.integers("kernel_shape", 2, 1)
        if kernel is None:
            self.fail("kernel_shape is absent; it must be 2 integers of at least 1")
        strides, pads, dilations = self.window()
        self._check_settings()
        steps = sampling_steps(self.integer("sampling_stride", SAMPLING_STRIDE), strides)
        taps = math.prod(kernel)
        if isinstance(channels, int):
            try:
                WhiteningShape(channels, block, taps, group)
            except ValueError as error:
                self.fail(str(error))
        if taps > 1:  # a window of one tap takes every pixel as it is
            for i, (axis, size) in enumerate((("height", height), ("width", width))):
                self.output_size(axis, size, kernel[i], steps[i], dilations[i], pads[i], pads[i + 2])
        features = block * taps
        return [(TensorProto.FLOAT, [group, features]), (TensorProto.FLOAT, [group, features, features])]

    def _check_settings(self) -> None:
        self.integer("n_iter", N_ITER, 0)
        eps = self.context.get_attribute("eps")
        if eps is not None and not (eps.f > 0 and math.isfinite(eps.f)):
            self.fail(f"eps is {eps.f:g}; it must be positive and finite")
        centered = self.context.get_attribute("centered")
        if centered is not None and centered.i not in (0, 1):
            self.fail(f"centered is {centered.i}; it must be 0 or 1")
