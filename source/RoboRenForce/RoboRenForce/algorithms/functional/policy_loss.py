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


def surrogate_terms(
    log_prob: Tensor,
    old_log_prob: Tensor,
    advantage: Tensor,
    *,
    clip_low: float,
    clip_high: float,
    dual_clip: float | None = None,
    max_log_ratio: float | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the clipped surrogate loss of each element, for a caller that masks and weighs them.

    Args:
        log_prob: log pi(a|s) under the current policy, any shape.
        old_log_prob: log pi(a|s) under the policy that acted.
        advantage: Advantage estimate.
        clip_low: Largest decrease of the ratio that is rewarded.
        clip_high: Largest increase that is rewarded; above `clip_low` it lets rare actions become likelier
            ("clip-higher", Yu et al. 2025, arXiv 2503.14476).
        dual_clip: Bound c > 1 of the loss of bad actions that became likely, at c times the advantage
            (Ye et al. 2020, arXiv 1912.09729); None: no bound.
        max_log_ratio: Clamp of the log-ratio, beyond which it gets no gradient; None: none.

    Returns:
        Loss; ratio; 1 where the clip cut off the gradient, 0 elsewhere; the latter two without gradient.
    """
    same_shape(log_prob=log_prob, old_log_prob=old_log_prob, advantage=advantage)
    log_ratio = log_prob - old_log_prob
    if max_log_ratio is not None:
        log_ratio = log_ratio.clamp(-max_log_ratio, max_log_ratio)
    ratio = log_ratio.exp()
    plain, clipped = -advantage * ratio, -advantage * ratio.clamp(1.0 - clip_low, 1.0 + clip_high)
    loss = torch.maximum(plain, clipped)
    cut = clipped > plain
    if dual_clip is not None:
        bound = -advantage * dual_clip
        bounded = (advantage < 0) & (bound < loss)
        loss, cut = torch.where(bounded, bound, loss), cut | bounded
    return loss, ratio.detach(), cut.to(loss.dtype)


def approximate_kl(log_ratio: Tensor) -> Tensor:
    """Estimate KL(old || new) from samples of the old policy: r - 1 - log r, unbiased and never negative (k3).

    Schulman, "Approximating KL divergence", 2020.

    Args:
        log_ratio: log pi_new(a|s) - log pi_old(a|s), any shape.
    """
    return torch.expm1(log_ratio) - log_ratio
