"""Regularizers listed in a configuration and added to the loss of any actor-critic algorithm."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TypeVar

from torch import Tensor, nn

from ...buffer.replay_batch import ReplayBatch
from ...buffer.rollout import RolloutBatch
from ...configclass import Cfg, configclass

Batch = TypeVar("Batch", RolloutBatch, ReplayBatch)


class LossTerm(ABC):
    """Additional term of the loss, over whole transitions."""

    name: str
    """Metric name; the value is logged as `Loss/<name>`."""
    needs_successors: bool = False
    """True if the term reads `batch.next_obs`, the true successors."""

    def check_fit(self, *, sequences: bool) -> None:  # noqa: B027 - most fit everywhere
        """Raise a ConfigError if the term does not support this algorithm.

        Args:
            sequences: True if batches are `(T, B)`: of a recurrent policy, or of a sequence replay.
        """

    def augment(self, batch: Batch) -> Batch:
        """Append samples to the mini-batch along its last leading dimension; the default appends none.

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
        """Return the weighted term, 0-dim.

        Args:
            actor: `actor(obs, state, starts) -> (Distribution, state)`; a rollout batch holds the recurrent state and
                the episode starts, `batch.states.get("actor")` and `batch.start`.
            critic: PPO's `critic(obs, state, starts) -> (values, state)`, or the `QNetwork` of other algorithms.
            batch: Mini-batch after `augment`. Rows where its `mask` is False did not act: use `masked_mean`.
            num_original: Number of samples at the front that are not augmented.
            expert: Batch of demonstrations, if there are any.
        """


@configclass
class LossTermCfg(Cfg):
    """Base of the entries of `loss_terms`; built with `build()`."""

    class_type: type = LossTerm
