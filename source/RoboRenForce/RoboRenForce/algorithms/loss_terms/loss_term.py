"""Regularizers listed in a configuration and added to the loss of any actor-critic algorithm."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from typing import TypeVar

from torch import Tensor, nn

from ...buffer.replay_batch import ReplayBatch
from ...buffer.rollout import RolloutBatch
from ...configclass import Cfg, configclass
from ...utils.compile import compile_own

Batch = TypeVar("Batch", RolloutBatch, ReplayBatch)
AnyBatch = RolloutBatch | ReplayBatch


class LossTerm(ABC):
    """Additional term of the loss, over whole transitions."""

    name: str
    """Metric name; the value is logged as `Loss/<name>`."""
    groups: Sequence[str] = ()
    """Observation groups that the term reads beside those of actor and critic; on-policy algorithms store them."""
    needs_successors: bool = False
    """True if the term reads `batch.next_obs`, the true successors."""
    masks_ends: bool = False
    """True if it ignores successors where an episode ended, so that environments without `final_observations` do."""
    compiles: bool = False
    """True if its losses may be compiled with those of the algorithm; off-policy algorithms always do so."""

    def check_fit(self, *, sequences: bool, actor: nn.Module, n_step: int = 1) -> None:  # noqa: B027 - most fit
        """Raise a ConfigError if the term does not support this algorithm.

        Args:
            sequences: True if batches are `(T, B)`: of a recurrent policy, or of a sequence replay.
            actor: Actor that it will regularize.
            n_step: Environment steps between `obs` and `next_obs`.
        """

    def augment(self, batch: Batch) -> Batch:
        """Append samples to the mini-batch along its last leading dimension; the default appends none.

        Original samples stay first, and a rollout's `dist_params` stay theirs alone. Observations are TensorDicts.
        """
        return batch

    @abstractmethod
    def loss(
        self,
        actor: nn.Module,
        critic: nn.Module,
        batch: AnyBatch,
        num_original: int,
        expert: AnyBatch | None = None,
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

    def critic_loss(self, critic: nn.Module, batch: ReplayBatch) -> Tensor | None:
        """Return the weighted term of an off-policy critic, 0-dim, or None: there, actor and critic learn apart.

        Args:
            critic: `QNetwork` that learns.
            batch: Mini-batch after `augment`.
        """
        return None


@configclass
class LossTermCfg(Cfg):
    """Base of the entries of `loss_terms`; built with `build()`."""

    class_type: type = LossTerm


def build_loss_terms(
    cfgs: Iterable[LossTermCfg], *, sequences: bool, actor: nn.Module, n_step: int = 1
) -> list[LossTerm]:
    """Build the terms of an algorithm and check that they support it; see `LossTerm.check_fit`."""
    terms = [cfg.build() for cfg in cfgs]
    for term in terms:
        term.check_fit(sequences=sequences, actor=actor, n_step=n_step)
    return terms


def compiled_losses(terms: Iterable[LossTerm], compiled: bool) -> list[tuple[str, Callable[..., Tensor]]]:
    """Return metric name and `LossTerm.loss` of each, compiled if asked for and possible."""
    return [
        (f"Loss/{term.name}", compile_own(term.loss) if compiled and term.compiles else term.loss) for term in terms
    ]
