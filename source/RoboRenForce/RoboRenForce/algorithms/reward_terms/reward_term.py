"""Learned rewards that a config lists: each adds to the environment's reward and trains beside the policy."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any

from tensordict import TensorDict
from torch import Tensor

from ...configclass import Cfg, configclass


class RewardTerm(ABC):
    """One learned reward. Built by `RewardTermCfg.build(context=RunContext)`."""

    name: str
    """Metric name: the loss is logged as `Loss/<name>`."""
    groups: list[str]
    """Observation groups that it reads."""

    @abstractmethod
    def reward(self, obs: TensorDict) -> Tensor:
        """The weighted reward `(N,)` for having reached `obs` `[N]`; called once per environment step."""

    @abstractmethod
    def train_step(self, obs: TensorDict) -> Tensor:
        """One gradient step on a mini-batch of observations `[B]`; returns the loss, 0-dim."""

    @abstractmethod
    def update_normalizer(self, obs: TensorDict) -> None:
        """Take in observations, batch `[...]`."""

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
