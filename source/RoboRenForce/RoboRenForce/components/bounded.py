"""Clamp whose gradient pulls values back into range."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


class _Bounded(torch.autograd.Function):
    @staticmethod
    def forward(x: Tensor, low: float, high: float) -> Tensor:
        return torch.nan_to_num(x, nan=low).clamp(low, high)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, float, float], output: Tensor) -> None:
        # Apart from `forward`, so that torch.func can differentiate through it.
        x, *ctx.bounds = inputs
        ctx.save_for_backward(x)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor, None, None]:
        (x,) = ctx.saved_tensors
        low, high = ctx.bounds
        (grad,) = grad_outputs
        outward = ((x < low) & (grad > 0)) | ((x > high) & (grad < 0))
        return grad.masked_fill(outward, 0.0), None, None


def bounded(x: Tensor, low: float, high: float) -> Tensor:
    """Clamp `x` to `[low, high]` with a gradient that leads back inside; NaN becomes `low`.

    Outside the bounds the gradient is zero only where a descent step would lead further out. A plain clamp has no
    gradient there at all: a std that left its range once could never come back.
    """
    return _Bounded.apply(x, low, high)  # pyright: ignore[reportReturnType]
