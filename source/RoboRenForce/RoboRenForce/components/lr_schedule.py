"""Learning-rate schedules that live on the device, so that a captured update can follow them."""

from __future__ import annotations

import math

import torch
from torch import Tensor


@torch.no_grad()
def adapt_to_kl_(lr: Tensor, kl: Tensor, desired_kl: float, *, lowest: float = 1e-5, highest: float = 1e-2) -> None:
    """Steer the learning rate by the measured KL divergence, in place (Schulman et al. 2017, section 4).

    Divides by 1.5 above twice the target, multiplies by 1.5 below half of it, as rsl_rl does; a KL of exactly 0 (the
    first mini-batch, where the policy has not moved yet) changes nothing.

    Args:
        lr: 0-dim learning rate.
        kl: 0-dim mean KL(old || new).
        desired_kl: The target.
        lowest: Lower bound of the learning rate.
        highest: Upper bound of the learning rate.
    """
    slower = (lr / 1.5).clamp(min=lowest)
    faster = (lr * 1.5).clamp(max=highest)
    lr.copy_(torch.where(kl > 2.0 * desired_kl, slower, torch.where((kl < 0.5 * desired_kl) & (kl > 0.0), faster, lr)))


@torch.no_grad()
def linear_(value: Tensor, start: float, end: float, iteration: Tensor, total: int) -> None:
    """Set `value` to the point between `start` and `end` that `iteration` of `total` has reached, in place."""
    progress = (iteration / max(total, 1)).clamp(0.0, 1.0)
    value.copy_(start + (end - start) * progress)


@torch.no_grad()
def cosine_(value: Tensor, start: float, end: float, step: Tensor, total: int) -> None:
    """Set `value` to where a half cosine from `start` to `end` is at `step` of `total`, in place."""
    progress = (step / max(total, 1)).clamp(0.0, 1.0)
    value.copy_(end + (start - end) * 0.5 * (1.0 + (math.pi * progress).cos()))
