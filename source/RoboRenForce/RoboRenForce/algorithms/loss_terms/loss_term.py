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
    """One additional term of the loss, over whole transitions."""

    name: str
    """Metric name: the value is logged as `Loss/<name>`."""
    needs_successors: bool = False
    """Whether `batch.next_obs`, the true successors, must be there."""

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
    def loss(
        self,
        actor: nn.Module,
        critic: nn.Module,
        batch: RolloutBatch | ReplayBatch,
        num_original: int,
        expert: RolloutBatch | ReplayBatch | None = None,
    ) -> Tensor:
        """The weighted term, 0-dim.

        Args:
            actor: `actor(obs, state, starts) -> (Distribution, state)`; a rollout holds the recurrent state and the
                starts of episodes, `batch.states.get("actor")` and `batch.start`.
            critic: PPO's `critic(obs, state, starts) -> (values, state)`, or the `QNetwork` of other learners.
            batch: The mini-batch after `augment`. Rows where its `mask` is False did not act: use `masked_mean`.
            num_original: How many samples at its front are not augmented.
            expert: A batch of demonstrations, if there are any.
        """


@configclass
class LossTermCfg(Cfg):
    """Base of the entries of `loss_terms`; built with `build()`."""

    class_type: type = LossTerm
