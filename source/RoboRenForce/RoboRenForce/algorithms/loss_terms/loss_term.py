"""Regularizers that a config lists and any actor-critic objective adds: a combination needs no class of its own."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TypeVar

from torch import Tensor, nn

from ...buffer.replay_batch import ReplayBatch
from ...buffer.rollout import RolloutBatch
from ...configclass import Cfg, configclass

Batch = TypeVar("Batch", RolloutBatch, ReplayBatch)


class LossTerm(ABC):
    """One additional term of the loss."""

    name: str
    """Metric name: the value is logged as `Loss/<name>`."""
    needs_successors: bool = False
    """Whether `batch.next_obs` must be there."""

    def check_fit(self, *, sequences: bool) -> None:  # noqa: B027 - most fit everywhere
        """Raise a ConfigError if the term can't work here.

        Args:
            sequences: Batches are `(T, B)`: of a recurrent policy, or of a replay of sequences.
        """

    def augment(self, batch: Batch) -> Batch:
        """Extend the mini-batch before the loss, in its last leading dimension; the default changes nothing.

        Original samples stay first. Observations are TensorDicts.
        """
        return batch

    @abstractmethod
    def loss(self, actor: nn.Module, critic: nn.Module, batch: RolloutBatch | ReplayBatch, num_original: int) -> Tensor:
        """The weighted term, 0-dim.

        Args:
            actor: `actor(obs) -> (Distribution, state)`.
            critic: PPO's `critic(obs) -> (values, state)`, or the `QNetwork` of other learners.
            batch: The mini-batch after `augment`.
            num_original: How many samples at its front are not augmented.
        """


@configclass
class LossTermCfg(Cfg):
    """Base of the entries of `loss_terms`; built with `build()`."""

    class_type: type = LossTerm
