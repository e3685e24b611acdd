"""Moments over the rows that acted; rows that waited for their group are masked out."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

Total = Callable[[Tensor], Tensor]
"""Adds a tensor up over the processes of a run, such as `DistributedContext.sum_`."""


def alone(x: Tensor) -> Tensor:
    """Return the total of a single process."""
    return x


def masked_mean(x: Tensor, mask: Tensor | None, total: Total = alone) -> Tensor:
    """Return the mean of `x` `(*mask.shape, ...)` where `mask` is True (0 if nowhere), or of all if it is None.

    With a mask, `total` makes it the mean over all processes.
    """
    if mask is None:
        return x.mean()
    rows = mask.reshape(*mask.shape, *[1] * (x.dim() - mask.dim()))
    width = x.numel() // mask.numel()
    return total(torch.where(rows, x, 0.0).sum()) / (total(mask.sum()) * width).clamp(min=1)


def masked_mse(x: Tensor, target: Tensor, mask: Tensor | None) -> Tensor:
    """Return the mean squared difference of two tensors of equal shape, masked as in `masked_mean`."""
    return nn.functional.mse_loss(x, target) if mask is None else masked_mean((x - target).square(), mask)


def masked_var(x: Tensor, mask: Tensor | None, total: Total = alone) -> Tensor:
    """Return the unbiased variance of `x` where `mask`, of the same shape, is True; of all if it is None.

    With a mask, `total` makes it the variance over all processes.
    """
    if mask is None:
        return x.var()
    squares = torch.where(mask, (x - masked_mean(x, mask, total)).square(), 0.0)
    return total(squares.sum()) / (total(mask.sum()) - 1).clamp(min=1)
