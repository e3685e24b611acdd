"""Masking: invalid elements stay out of losses, values and gradients."""

from __future__ import annotations

import torch
from torch import Tensor

from .action_head import LossSum


def valid_actions(actions: Tensor, mask: Tensor) -> Tensor:
    """Return float32 actions with zeros where the mask is False, whatever stood there."""
    return torch.where(mask, actions.float(), 0.0)


def masked_loss(error: Tensor, mask: Tensor, metrics: dict[str, Tensor] | None = None) -> LossSum:
    """Sum a loss over its valid elements; both `(B, H, A)`. The others get no gradient."""
    total = torch.where(mask, error.float(), 0.0).sum()
    return LossSum(total, mask.sum().float(), metrics or {})


def share(condition: Tensor, mask: Tensor) -> Tensor:
    """Return the share of valid elements where a condition holds, 0-dim."""
    return (condition & mask).sum() / mask.sum().clamp(min=1)


def held_actions(actions: Tensor, mask: Tensor) -> Tensor:
    """Return float32 actions that repeat the last valid one where the mask is False; 0 before the first."""
    step = torch.arange(actions.shape[1], device=actions.device).view(1, -1, 1)
    last = torch.where(mask, step, -1).cummax(1).values
    return torch.where(last >= 0, actions.gather(1, last.clamp(min=0)).float(), 0.0)
