"""Returns and advantages of rollouts. Pure functions over `(T, N)` tensors, time first."""

from __future__ import annotations

import torch
from torch import Tensor

from .masked import Total, alone, masked_mean, masked_var


def gae(
    reward: Tensor,
    value: Tensor,
    done: Tensor,
    last_value: Tensor,
    *,
    gamma: float | Tensor,
    lam: float,
    mask: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Estimate advantages by GAE (Schulman et al. 2016, arXiv 1506.02438, eq. 16).

    A time-out counts as an end here: its bootstrap has to be part of `reward` already (see `bootstrap_time_outs`).
    The trace never crosses a reset.

    Args:
        reward: `(T, N)`.
        value: `(T, N)`, V(s_t).
        done: `(T, N)`, 1 where the episode ended at step t, terminated or truncated.
        last_value: `(N,)`, V(s_T) of the observation after the last step.
        gamma: Discount per step, or of each step, `(T, N)`, where steps last differently long (action chunks).
        lam: Trace decay.
        mask: bool `(T, N)`, False at steps in which a row waited: they are skipped, and their advantage is 0.

    Returns:
        Advantages and returns (advantage + value), both `(T, N)`.
    """
    discount = gamma * (1.0 - done.to(value.dtype))
    if mask is not None:
        return _gae_over_waits(reward, value, discount, last_value, lam, mask)
    next_value = torch.cat([value[1:], last_value.unsqueeze(0)])
    # TD errors: an end stops the bootstrap ...
    delta = reward + discount * next_value - value
    # ... and the trace, so nothing leaks into the previous episode.
    decay = lam * discount
    trace = torch.zeros_like(last_value)
    advantages = []
    # A_t = delta_t + gamma lam A_{t+1}, backwards in time.
    for delta_t, decay_t in zip(reversed(delta.unbind(0)), reversed(decay.unbind(0)), strict=True):
        trace = delta_t + decay_t * trace
        advantages.append(trace)
    advantage = torch.stack(advantages[::-1])
    return advantage, advantage + value


def _gae_over_waits(
    reward: Tensor, value: Tensor, discount: Tensor, last_value: Tensor, lam: float, mask: Tensor
) -> tuple[Tensor, Tensor]:
    """Compute `gae` where a row's next step is the next one in which it acted."""
    trace, next_value = torch.zeros_like(last_value), last_value
    advantages = []
    for t in reversed(range(len(reward))):
        delta = reward[t] + discount[t] * next_value - value[t]
        # A row that waited keeps trace and next value for its previous step.
        trace = torch.where(mask[t], delta + lam * discount[t] * trace, trace)
        next_value = torch.where(mask[t], value[t], next_value)
        advantages.append(torch.where(mask[t], trace, 0.0))
    advantage = torch.stack(advantages[::-1])
    return advantage, advantage + value


def discounted_returns(reward: Tensor, done: Tensor, discount: Tensor, mask: Tensor) -> Tensor:
    """Sum up what follows each step until the end of its episode, without any value: R_t = r_t + discount_t R_{t+1}.

    Args:
        reward: `(T, N)`.
        done: `(T, N)`, nonzero where the episode ended.
        discount: `(T, N)` of what follows a step.
        mask: bool `(T, N)`, False at steps in which a row waited: they are skipped, and their return is 0.
    """
    following = torch.zeros_like(reward[0])
    returns = []
    for t in reversed(range(len(reward))):
        total = reward[t] + discount[t] * (1.0 - done[t].to(reward.dtype)) * following
        following = torch.where(mask[t], total, following)
        returns.append(torch.where(mask[t], total, 0.0))
    return torch.stack(returns[::-1])


def bootstrap_time_outs(reward: Tensor, time_outs: Tensor, bootstrap_value: Tensor, *, gamma: float | Tensor) -> Tensor:
    """Add the discounted value of the cut-off future to the reward of steps that ended by a time limit.

    With `bootstrap_value` = V(final observation) this is exact; rsl_rl uses V(s_t), the value before the step.

    Args:
        reward: `(N,)` or `(T, N)`; not modified, because the same tensor feeds the episode statistics.
        time_outs: same shape, True where the episode was truncated.
        bootstrap_value: same shape.
        gamma: Discount per step, or of each step, of the same shape.
    """
    return reward + gamma * bootstrap_value * time_outs.to(reward.dtype)


def normalize_advantage(
    advantage: Tensor, eps: float = 1e-8, *, mask: Tensor | None = None, total: Total = alone
) -> Tensor:
    """Shift to mean 0 and scale by the unbiased standard deviation, over the elements that `mask` keeps.

    With a mask, `total` makes it mean and deviation over all processes.
    """
    if mask is None:
        return (advantage - advantage.mean()) / (advantage.std() + eps)
    deviation = masked_var(advantage, mask, total).sqrt()
    normalized = (advantage - masked_mean(advantage, mask, total)) / (deviation + eps)
    return torch.where(mask, normalized, 0.0)
