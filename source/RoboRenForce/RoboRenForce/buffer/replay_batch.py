"""Batches of a replay: transitions, or sequences of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeAlias

import torch
from tensordict import TensorDict
from torch import Tensor

from .rollout import mapped

Observations: TypeAlias = TensorDict | Mapping[str, Tensor]


@dataclass
class ReplayBatch:
    """Samples of a replay. Leading dimensions are `(B,)`, or `(T, B)` of sequences.

    The target of a value is always `reward + discount * value(successor)`: `discount` accounts for the number of summed
    rewards, and for the end of the episode.
    """

    obs: Observations
    """Groups `(B, ...)`, or `(T + 1, B, ...)` of sequences.

    Row `k + 1` of a sequence is the true successor of row `k` wherever step `k` is valid.
    """
    action: Tensor
    """`(B, A)` or `(T, B, A)`, within [-1, 1]."""
    reward: Tensor
    """Discounted sum over the steps that a transition spans."""
    discount: Tensor
    """`gamma^m (1 - terminated)`: time-outs bootstrap, terminations don't."""
    next_obs: Observations | None = None
    """True successors `(B, ...)`; None for sequences, whose `obs` has them."""
    weight: Tensor | None = None
    """Importance weights `(B,)` in (0, 1]; None: all 1."""
    valid: Tensor | None = None
    """1 at valid steps, 0 at padding, burn-in and waiting rows; None: all are valid."""
    start: Tensor | None = None
    """bool `(T + 1, B)` of sequences: True where the recurrent state is reset."""
    index: Tensor | None = None
    """Slots of the samples, `(B,)`, for priorities."""
    next_action: Tensor | None = None
    """`(B, A)`: recorded action in the successor state."""
    group_id: Tensor | None = None
    """int64 `(B,)`: block or group of the environment; None: there are none."""

    def map(self, function: Callable[[Tensor], Tensor]) -> ReplayBatch:
        """Apply `function` to every tensor."""
        return mapped(self, function)

    def joined(self, other: ReplayBatch) -> ReplayBatch:
        """Append transitions of another source; what only one of both has (weights, slots, groups) is left out."""

        def both(first: Observations | None, second: Observations | None) -> Observations | None:
            if first is None or second is None:
                return None
            return {name: torch.cat([first[name], second[name]]) for name, _ in first.items()}

        mine, its = self.valid, other.valid
        return ReplayBatch(
            obs=both(self.obs, other.obs) or {},
            action=torch.cat([self.action, other.action]),
            reward=torch.cat([self.reward, other.reward]),
            discount=torch.cat([self.discount, other.discount]),
            next_obs=both(self.next_obs, other.next_obs),
            valid=torch.cat(
                [
                    torch.ones_like(self.reward) if mine is None else mine,
                    torch.ones_like(other.reward) if its is None else its,
                ]
            ),
        )

    @property
    def is_sequence(self) -> bool:
        """True if the leading dimensions are `(T, B)`."""
        return self.next_obs is None

    def forward_obs(self, network: Callable[[Observations, Tensor | None], Tensor]) -> Tensor:
        """Run `network(obs, start)` at `obs`, with the leading dimensions of the batch."""
        return network(self.obs, self.start)[:-1] if self.is_sequence else network(self.obs, None)

    def forward_next_obs(self, network: Callable[[Observations, Tensor | None], Tensor]) -> Tensor:
        """Run `network` at the successors; a recurrent network sees the whole sequence, as when acting."""
        if self.next_obs is None:
            return network(self.obs, self.start)[1:]
        return network(self.next_obs, None)

    def mean(self, loss: Tensor) -> Tensor:
        """Return the mean of a loss `(..., *leading)` over valid steps, 0-dim."""
        if self.valid is None:
            return loss.mean()
        members = loss.numel() // self.valid.numel()
        return (loss * self.valid).sum() / (self.valid.sum() * members).clamp(min=1.0)

    def weighted_mean(self, loss: Tensor) -> Tensor:
        """Return `mean` of a critic's loss times the importance weights, which are at most 1.

        For critics only: values are means over possible outcomes, which prioritized drawing shifts. Policy and
        temperature learn from states whatever the outcome, and take `mean`.
        """
        return self.mean(loss if self.weight is None else loss * self.weight)
