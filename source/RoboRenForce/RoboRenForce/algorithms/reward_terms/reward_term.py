"""Learned rewards that a config lists: each adds to the environment's reward and trains beside the policy."""

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
    """One learned reward, of whole transitions. Built by `RewardTermCfg.build(context=RunContext)`."""

    name: str
    """Metric name: the loss is logged as `Loss/<name>`."""
    groups: list[str]
    """Observation groups that it reads."""
    needs_successors: bool = False
    """Whether `next_obs`, the true successors, must be there in transitions and batches."""

    @abstractmethod
    def reward(self, transition: Transition) -> Tensor:
        """The weighted reward `(N,)` of a step; called once per environment step.

        Where the transition's `mask` is False a row did not act, and its reward is not learned from.
        """

    @abstractmethod
    def train_step(self, batch: RolloutBatch, expert: RolloutBatch | None = None) -> Tensor:
        """One gradient step on a mini-batch of transitions `(B,)` or sequences `(T, B)`; returns the loss, 0-dim.

        Args:
            batch: Rows where its `mask` is False did not act: use `masked_mean`.
            expert: A batch of demonstrations, if there are any.
        """

    @abstractmethod
    def update_normalizer(self, obs: Observations, mask: Tensor | None = None) -> None:
        """Take in observations `(...)` where `mask` `(...)` is True; all of them if it is None."""

    @abstractmethod
    def metrics(self) -> dict[str, Tensor]:
        """0-dim metrics of the steps since the last call, by their logged name."""

    @abstractmethod
    def state_dict(self) -> dict[str, Any]:
        """Networks, optimizer, normalizers, counters."""

    @abstractmethod
    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore `state_dict`."""


@configclass
class RewardTermCfg(Cfg):
    """Base of the entries of `reward_terms`."""

    class_type: type = RewardTerm
