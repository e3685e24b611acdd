"""Advantages from the scores of whole episodes, without a value function. Pure functions."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from .masked import Total, alone, masked_mean, masked_var


def group_advantage(score: Tensor, *, scale: Literal["std", "none"] = "std", eps: float = 1e-6) -> Tensor:
    """Compare each episode with the others of its group (GRPO: Shao et al. 2024, arXiv 2402.03300, section 4.1).

    Args:
        score: Scores of episodes `(..., G)`: the last axis is a group of G episodes from the same start.
        scale: Divide by the unbiased standard deviation of the group, or don't (Liu et al. 2025, arXiv 2503.20783:
            dividing favors starts that nearly always or nearly never succeed).
        eps: Added to the deviation.

    Returns:
        `(..., G)`; exactly 0 in groups whose scores are all equal.
    """
    deviation = score - score.mean(-1, keepdim=True)
    if scale == "std":
        deviation = deviation / (score.std(-1, keepdim=True) + eps)
    # The mean of equal numbers may miss them by a rounding error, which the division would blow up.
    return torch.where(informative_groups(score).unsqueeze(-1), deviation, 0.0)


def informative_groups(
    score: Tensor, lowest: float | None = None, highest: float | None = None, *, rate: Tensor | None = None
) -> Tensor:
    """Tell the groups from which something can be learned (dynamic sampling: Yu et al. 2025, arXiv 2503.14476).

    Args:
        score: Scores of episodes `(..., G)`.
        lowest: Groups of a smaller mean are too hard.
        highest: Groups of a larger mean are too easy.
        rate: What the bounds are about instead of the score, `(..., G)`: success, 0 or 1, for example.

    Returns:
        bool `(...)`: not all scores of the group are equal, and its mean lies within the bounds.
    """
    mean = (score if rate is None else rate.to(score.dtype)).mean(-1)
    useful = score.amax(-1) > score.amin(-1)
    if lowest is not None:
        useful = useful & (mean >= lowest)
    if highest is not None:
        useful = useful & (mean <= highest)
    return useful


def globally_normalized(returns: Tensor, mask: Tensor, eps: float = 1e-8, *, total: Total = alone) -> Tensor:
    """Shift to mean 0 and scale to deviation 1 over all decisions of a batch (REINFORCE++: Hu 2025, arXiv 2501.03262).

    Args:
        returns: Return of each decision, any shape.
        mask: bool, False where there was no decision; the result is 0 there.
        eps: Added to the deviation.
        total: Adds up over processes, for the batch of all of them.
    """
    deviation = masked_var(returns, mask, total).sqrt()
    normalized = (returns - masked_mean(returns, mask, total)) / (deviation + eps)
    return torch.where(mask, normalized, 0.0)


def episode_weights(episode: Tensor, elements: Tensor, num_episodes: int, *, total: Total = alone) -> Tensor:
    """Weigh decisions so that every episode counts alike, however long it was.

    Without, a loss is the mean over decisions, and long episodes (the failures) dominate. The weights of all elements
    add up to their number, so that learning rates keep their meaning.

    Args:
        episode: int64 `(S,)`: which episode each decision belongs to, from 0.
        elements: `(S,)`: number of elements of the loss in each decision, executed actions for example.
        num_episodes: Number of episodes.
        total: Adds up over processes, for the episodes of all of them.

    Returns:
        `(S,)`: weight of each element of the decision.
    """
    elements = elements.to(torch.get_default_dtype())
    totals = torch.zeros(num_episodes, device=elements.device).index_add(0, episode, elements)
    mean = total(totals.sum()) / total((totals > 0).sum()).clamp(min=1)
    return mean / totals[episode].clamp(min=1)
