"""Reports as JSON that every parser takes: NaN and infinities, which JSON does not have, become null."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any


def json_text(value: Any, indent: int = 2) -> str:
    """Return JSON text of a JSON-able value, in ASCII.

    Args:
        value: Mappings, lists, tuples, strings, numbers, booleans, None.
        indent: Spaces a level.
    """
    return json.dumps(_finite(value), indent=indent, allow_nan=False)


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return value
