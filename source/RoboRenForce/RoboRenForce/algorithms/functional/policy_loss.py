"""Policy-gradient objectives. Pure functions, every argument of one shape, scalar out."""

from __future__ import annotations

import torch
from torch import Tensor

from .masked import masked_mean


def same_shape(**tensors: Tensor) -> None:
    """Refuse silent broadcasting: (B,) against (B, 1) would average B x B combinations.

    Raises:
        ValueError: The shapes differ; the message names them all.
    """
    if len({tensor.shape for tensor in tensors.values()}) > 1:
        shapes = ", ".join(f"{name} {tuple(tensor.shape)}" for name, tensor in tensors.items())
        raise ValueError(f"These tensors must have one shape, got {shapes}. Squeeze or expand them before the loss.")


def clipped_surrogate(
    log_prob: Tensor, old_log_prob: Tensor, advantage: Tensor, clip: float, mask: Tensor | None = None
) -> Tensor:
    """Return PPO's clipped surrogate loss (Schulman et al. 2017, arXiv 1707.06347, eq. 7).

    Args:
        log_prob: log pi(a|s) under the current policy, any shape.
        old_log_prob: log pi(a|s) under the policy that acted.
        advantage: Advantage estimate.
        clip: epsilon, half-width of the interval around ratio 1.
        mask: Rows that count, see `masked_mean`.

    Returns:
        Mean of max(-A r, -A clip(r, 1 - clip, 1 + clip)).
    """
    same_shape(log_prob=log_prob, old_log_prob=old_log_prob, advantage=advantage)
    ratio = torch.exp(log_prob - old_log_prob)
    return masked_mean(torch.maximum(-advantage * ratio, -advantage * ratio.clamp(1.0 - clip, 1.0 + clip)), mask)
