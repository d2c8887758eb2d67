"""What is in an ONNX file: operators, shapes, parameters, MACs, sizes, and the path each runtime takes through it."""

from edgeconv.inspection.api import inspect_model
from edgeconv.inspection.report import ModelReport

__all__ = ["ModelReport", "inspect_model"]
