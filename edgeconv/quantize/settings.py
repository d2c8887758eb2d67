"""What a user asks of the quantiser, checked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, cast, get_args

from edgeconv.errors import InputError
from edgeconv.quantize.ranges import METHODS, PERCENTILE, Method
from edgeconv.quantize.targets import target_named

Rounding = Literal["nearest", "covariance", "learned"]
ROUNDINGS: tuple[str, ...] = get_args(Rounding)
"""nearest: each weight by itself. covariance: so that errors cancel (`edgeconv.quantize.rounding`), without torch.
learned: block by block, with torch."""


@dataclass(frozen=True)
class Settings:
    """As `edgeconv.quantize_model` takes them."""

    target: str = "ort"
    method: Method = "minmax"
    percentile: float = PERCENTILE
    equalize: bool = True
    relax_relu6: bool = False
    bias_correction: bool = True
    rounding: Rounding = "covariance"
    exclude: tuple[str, ...] = ()
    int8_io: bool = False
    batch: int = 16

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return asdict(self)


def check_settings(*, method: str, rounding: str, exclude: Sequence[str] | None, **others: Any) -> Settings:
    """Return the settings.

    Raises:
        InputError: One of them is not known or not possible.
    """
    for name, value, known in (("method", method, METHODS), ("rounding", rounding, ROUNDINGS)):
        if value not in known:
            raise InputError(f"unknown {name} {value!r}.", f"Choose one of: {', '.join(known)}.")
    settings = Settings(
        method=cast("Method", method), rounding=cast("Rounding", rounding), exclude=tuple(exclude or ()), **others
    )
    target_named(settings.target)
    if not 50 < settings.percentile <= 100:
        raise InputError(f"the percentile must lie between 50 and 100, got {settings.percentile:g}.")
    if settings.relax_relu6 and not settings.equalize:
        raise InputError("--relax-relu6 is a part of --equalize.", "Drop --no-equalize.")
    if settings.batch < 1:
        raise InputError(f"--batch must be 1 or more, got {settings.batch}.")
    return settings


def parse_numbers(option: str, text: str) -> tuple[float, ...]:
    """Read "0.485,0.456,0.406".

    Raises:
        InputError: It is no list of numbers.
    """
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError as error:
        raise InputError(f"cannot read {option} {text!r}.", f"Write numbers: {option} 0.485,0.456,0.406") from error


def parse_size(text: str) -> tuple[int, int]:
    """Read "224x224": height and width.

    Raises:
        InputError: It is no pair of positive numbers.
    """
    parts = text.lower().split("x")
    if len(parts) != 2 or not all(part.isdigit() and int(part) for part in parts):
        raise InputError(f"cannot read --size {text!r}.", "Write height and width: --size 224x224")
    return int(parts[0]), int(parts[1])
