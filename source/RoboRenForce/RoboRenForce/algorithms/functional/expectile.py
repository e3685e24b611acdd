"""Expectile regression and advantage weights of implicit Q-learning (Kostrikov et al. 2022, arXiv 2110.06169).

Pure functions over tensors of one shape; losses come per element, because replays weight them.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .policy_loss import same_shape


def expectile_loss(value: Tensor, target: Tensor, expectile: float) -> Tensor:
    """Return the asymmetric squared error `|tau - 1(u < 0)| u^2` with `u = target - value` (eq. 5 and 6).

    Its minimizer over `value` is the expectile of the targets: their mean for 1/2, towards their maximum for 1.

    Args:
        value: V(s), any shape.
        target: Q(s, a) of the data's action, same shape, without gradient.
        expectile: tau in (0, 1).

    Returns:
        The losses, same shape.
    """
    same_shape(value=value, target=target)
    error = target - value
    return torch.where(error < 0.0, 1.0 - expectile, expectile) * error.square()


def advantage_weight(advantage: Tensor, beta: float, max_weight: float = 100.0) -> Tensor:
    """Return the weights `min(exp(beta A), max_weight)` of advantage-weighted regression (eq. 7), without gradient.

    Args:
        advantage: Q(s, a) - V(s), any shape.
        beta: Inverse temperature.
        max_weight: Bound of the weights.
    """
    return torch.exp(beta * advantage.detach()).clamp(max=max_weight)
