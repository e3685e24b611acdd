"""Learned rewards listed in a configuration: each adds to the environment's reward and trains beside the policy."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from ...buffer.rollout import RolloutBatch
from ...buffer.transition import Transition
from ...components.observation import Observations
from ...configclass import Cfg, configclass


class RewardTerm(ABC):
    """Learned reward of whole transitions, built by `RewardTermCfg.build(context=RunContext)`."""

    name: str
    """Metric name; the loss is logged as `Loss/<name>`."""
    groups: list[str]
    """Observation groups that the term reads."""
    needs_successors: bool = False
    """True if the term reads `next_obs`, the true successors."""

    @abstractmethod
    def reward(self, transition: Transition) -> Tensor:
        """Return the weighted reward `(N,)` of a step; called once per environment step.

        A row did not act where the transition's `mask` is False; its reward is not used.
        """

    @abstractmethod
    def train_step(self, batch: RolloutBatch, expert: RolloutBatch | None = None) -> Tensor:
        """Take one gradient step on a mini-batch of transitions `(B,)` or sequences `(T, B)`; returns the 0-dim loss.

        Args:
            batch: Mini-batch. Rows where its `mask` is False did not act: use `masked_mean`.
            expert: Batch of demonstrations, if there are any.
        """

    @abstractmethod
    def update_normalizer(self, obs: Observations, mask: Tensor | None = None) -> None:
        """Update observation statistics from `obs` `(...)` where `mask` `(...)` is True; everywhere if it is None."""

    @abstractmethod
    def metrics(self) -> dict[str, Tensor]:
        """Return 0-dim metrics of the steps since the last call, by their logged name."""

    @abstractmethod
    def state_dict(self) -> dict[str, Any]:
        """Return networks, optimizer, normalizers and counters."""

    @abstractmethod
    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore `state_dict`."""


@configclass
class RewardTermCfg(Cfg):
    """Base of the entries of `reward_terms`."""

    class_type: type = RewardTerm
