"""Regression objectives for state values. Pure functions, every argument of one shape, scalar out."""

from __future__ import annotations

import torch
from torch import Tensor

from .masked import masked_mean
from .policy_loss import same_shape


def value_loss(value: Tensor, target: Tensor, mask: Tensor | None = None) -> Tensor:
    """Return the mean squared error without the factor 1/2, as rsl_rl scales it; `mask` selects the rows."""
    same_shape(value=value, target=target)
    return masked_mean((target - value).square(), mask)


def clipped_value_loss(
    value: Tensor, old_value: Tensor, target: Tensor, clip: float, mask: Tensor | None = None
) -> Tensor:
    """Return the squared error of the value or of its clipped change, whichever is larger.

    `clip` is in units of the value: with returns far from 1 it can freeze the critic, so normalize rewards or values
    then.

    Args:
        value: V(s) of the current critic, any shape.
        old_value: V(s) when the data was collected.
        target: Return estimate.
        clip: Largest change of the value that is not penalized further.
        mask: Rows that count, see `masked_mean`.
    """
    same_shape(value=value, old_value=old_value, target=target)
    clipped = old_value + (value - old_value).clamp(-clip, clip)
    return masked_mean(torch.maximum((value - target).square(), (clipped - target).square()), mask)


def value_terms(
    value: Tensor, old_value: Tensor, target: Tensor, *, clip: float | None = None, huber: float | None = None
) -> tuple[Tensor, Tensor]:
    """Return the regression loss of each value, for a caller that masks and weighs them.

    Args:
        value: V(s) of the current critic, any shape.
        old_value: V(s) when the data was collected.
        target: Return estimate.
        clip: Largest change of the value that is not penalized further; None: no clip.
        huber: Error above which the loss is linear; None: half the square everywhere.

    Returns:
        Loss, and 1 where the clip cut off the gradient, 0 elsewhere.
    """
    same_shape(value=value, old_value=old_value, target=target)

    def error(estimate: Tensor) -> Tensor:
        if huber is None:
            return 0.5 * (estimate - target).square()
        return torch.nn.functional.huber_loss(estimate, target, reduction="none", delta=huber)

    plain = error(value)
    if clip is None:
        return plain, torch.zeros_like(plain)
    clipped = error(old_value + (value - old_value).clamp(-clip, clip))
    return torch.maximum(plain, clipped), (clipped > plain).to(plain.dtype)
