"""Registers the operators' schemas with onnx, whose checker and shape inference then know the domain `edgeconv`."""

from __future__ import annotations

import atexit

import onnx
from onnx import defs

from edgeconv.errors import MissingDependencyError
from edgeconv.ops import deconv_whitening_schema, kervolution_schema, qlinear_manhattan_schema, qlinear_mobile_schema
from edgeconv.ops.kervolution import DOMAIN

FAMILIES = (
    kervolution_schema.schemas,
    qlinear_manhattan_schema.schemas,
    deconv_whitening_schema.schemas,
    qlinear_mobile_schema.schemas,
)
"""One function for each family of operators, which returns its schemas."""


def register_schemas() -> None:
    """Register the schema of every edgeconv operator with onnx; those that are there already are left alone.

    The registry belongs to the process. Schemas go out of it when the interpreter ends: onnx up to 1.21 would free
    their Python functions after the interpreter, and hang or crash.

    Raises:
        MissingDependencyError: onnx is older than 1.19, the first in which Python can infer shapes for a schema.
    """
    if not hasattr(defs.OpSchema, "set_type_and_shape_inference_function"):
        raise MissingDependencyError(
            f"onnx {onnx.__version__} cannot infer the shapes of custom operators.", "pip install 'onnx>=1.19'"
        )
    for family in FAMILIES:
        for schema in family():
            if not defs.has(schema.name, schema.since_version, schema.domain):
                defs.register_schema(schema)
                atexit.register(_deregister, schema.name, schema.since_version)


def _deregister(name: str, version: int) -> None:
    if defs.has(name, version, DOMAIN):
        defs.deregister_schema(name, version, DOMAIN)
