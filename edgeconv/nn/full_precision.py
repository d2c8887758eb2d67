"""Tensors of a layer that stay in float32 when the layer is cast to half precision."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import torch
from torch import Tensor, nn

_Self = TypeVar("_Self", bound="FullPrecision")


class FullPrecision(nn.Module):
    """A layer some of whose parameters and buffers `.half()` and `.bfloat16()` leave in float32."""

    def _full_precision(self) -> tuple[str, ...]:
        """Return the names of those tensors."""
        raise NotImplementedError

    def _apply(self: _Self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> _Self:
        before = {name: getattr(self, name).detach().clone() for name in self._full_precision()}
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        for name, value in before.items():
            tensor = getattr(self, name)
            if tensor.dtype in (torch.float16, torch.bfloat16):
                tensor.data = value.to(tensor.device, torch.float32)
        return self
