"""Action chunks: rewards, discounts and log-probabilities at the level of tokens, actions or chunks. Pure functions.

Shape letters: B decisions, H actions of a chunk, A dimensions of an action. A decision is followed by `executed`
actions, fewer than H where the episode ended inside the chunk, or where the environment executes only some of them.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

Level = Literal["token", "action", "chunk"]
"""What one probability ratio is about: a dimension of an action, an action, or the whole chunk."""


def executed_mask(executed: Tensor, length: int) -> Tensor:
    """bool `(..., length)`: the actions of a chunk that were executed, of which there are `executed`, int64 `(...)`."""
    return torch.arange(length, device=executed.device) < executed.unsqueeze(-1)


def chunk_reward(rewards: Tensor, gamma: float) -> Tensor:
    """Discount the rewards of the actions of a chunk `(..., H)` to its first action, `(...)`.

    Rewards are 0 where an action was not executed, so the sum ends with the episode.
    """
    return (rewards * gamma ** torch.arange(rewards.shape[-1], device=rewards.device)).sum(-1)


def chunk_discount(executed: Tensor, gamma: float) -> Tensor:
    """Discount `(...)` of what follows a chunk: gamma to the number of executed actions, not of planned ones."""
    return gamma ** executed.to(torch.get_default_dtype())


def at_level(values: Tensor, mask: Tensor, level: Level) -> tuple[Tensor, Tensor]:
    """Sum log-probabilities (or entropies, divergences) over what one ratio is about.

    Args:
        values: `(B, H, A)`.
        mask: bool `(B, H)`, False for actions that were not executed: they are in no sum.
        level: `token` keeps dimensions apart, `action` adds them up, `chunk` adds up actions too.

    Returns:
        Values and mask `(B, K)`, with K = H * A, H or 1; a value is 0 where the mask is False.
    """
    values = torch.where(mask.unsqueeze(-1), values, 0.0)
    if level == "token":
        return values.flatten(1), mask.repeat_interleave(values.shape[-1], 1)
    if level == "action":
        return values.sum(-1), mask
    return values.sum((1, 2)).unsqueeze(1), mask.any(1, keepdim=True)


def advantage_at_level(advantage: Tensor, shape: tuple[int, int, int], level: Level) -> Tensor:
    """Spread advantages over the ratios of `at_level`.

    Args:
        advantage: `(B,)` of chunks, or `(B, E)` of the E <= H actions that an environment executes.
        shape: B, H and A.
        level: As in `at_level`; actions with advantages of their own can't share the ratio of a chunk.

    Returns:
        `(B, K)`.

    Raises:
        ValueError: Advantages of actions for ratios of chunks.
    """
    rows, length, dims = shape
    width = {"token": length * dims, "action": length, "chunk": 1}[level]
    if advantage.dim() == 1:
        return advantage.unsqueeze(1).expand(rows, width)
    if level == "chunk":
        raise ValueError("Advantages of actions need ratios of actions or tokens, got level 'chunk'.")
    advantage = torch.nn.functional.pad(advantage, (0, length - advantage.shape[1]))
    return advantage if level == "action" else advantage.repeat_interleave(dims, 1)


def relative_rewards(rewards: Tensor, executed: Tensor, before: Tensor) -> tuple[Tensor, Tensor]:
    """Replace rewards by their change, so that what is paid at every step after a success counts once.

    Args:
        rewards: `(N, H)` of the actions of a chunk.
        executed: int64 `(N,)`.
        before: `(N,)` reward of the action before the chunk, 0 at the start of an episode.

    Returns:
        `(N, H)`, 0 where nothing was executed, and the reward of the last executed action `(N,)`.
    """
    earlier = torch.cat([before.unsqueeze(1), rewards[:, :-1]], 1)
    mask = executed_mask(executed, rewards.shape[1])
    last = rewards.gather(1, (executed - 1).clamp(min=0).unsqueeze(1)).squeeze(1)
    return torch.where(mask, rewards - earlier, 0.0), torch.where(executed > 0, last, before)
