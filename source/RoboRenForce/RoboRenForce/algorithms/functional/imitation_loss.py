"""Distances between a policy and the actions of another. Pure functions."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from ...components.distributions import Distribution

ImitationLoss = Literal["mse", "huber", "nll"]
"""Squared error or Huber loss of the mode, or negative log-likelihood, the only one for discrete actions."""


def imitation_loss(distribution: Distribution, action: Tensor, kind: ImitationLoss) -> Tensor:
    """Return the loss of each row, `(...)`, averaged over action dimensions (`nll`: summed).

    Args:
        distribution: Policy at observations `(...)`.
        action: Actions of the teacher, `(..., *action.shape)`.
        kind: Distance.
    """
    if kind == "nll":
        return -distribution.log_prob(action)
    if not action.is_floating_point():
        raise ValueError(f"Discrete actions have no distance, got loss='{kind}': use loss='nll'.")
    if kind == "mse":
        return (distribution.mode - action).square().mean(-1)
    return torch.nn.functional.huber_loss(distribution.mode, action, reduction="none").mean(-1)
