"""What actor-critic algorithms own: an actor, an ensemble of action values, optimizers, and slow copies of both."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Literal

from tensordict import TensorDict
from torch import Tensor

from ...buffer.replay_batch import Observations, ReplayBatch
from ...buffer.sequence import SequenceReplayBuffer
from ...components.actor import Actor
from ...components.critic import QNetwork
from ...components.target import make_target, soft_update
from ...configclass import Cfg, ConfigError, Range, configclass
from ...utils.stateful import Stateful
from ..loss_terms import LossTermCfg

if TYPE_CHECKING:
    from .off_policy_algorithm import OffPolicyAlgorithm


class ActorCritic:
    """Networks, targets, optimizers and regularizers, and the order in which they learn."""

    def __init__(self, learner: OffPolicyAlgorithm, cfg: ActorCriticCfg, actor_type: type[Actor], advice: str) -> None:
        """Take the learner's networks.

        Args:
            learner: whose optimizers, replay and compilation are used.
            cfg: the configuration.
            actor_type: the actor that the losses are written for.
            advice: what to use if the actor is another one.
        """
        self.cfg, self.batch_size = cfg, learner.cfg.batch_size
        self.actor = learner.actor
        self.critic: QNetwork = learner.networks.critic
        if not isinstance(self.actor, actor_type):
            raise ConfigError(
                f"{type(learner).__name__} learns a {actor_type.__name__}, but policy.actor_cfg builds a "
                f"{type(self.actor).__name__}: {advice}."
            )
        self.loss_terms = [term.build() for term in cfg.loss_terms]
        for term in self.loss_terms:
            term.check_fit(sequences=isinstance(learner.experience.buffer, SequenceReplayBuffer))
        self.critic_optimizer = learner.make_optimizer({"critic": self.critic}, cfg.critic_learning_rate)
        self.actor_optimizer = learner.make_optimizer({"actor": self.actor}, cfg.actor_learning_rate)
        self.target_critic = make_target(self.critic)
        self.target_actor = make_target(self.actor) if cfg.target_actor else self.actor
        self.experience = learner.experience
        self._soft_update = learner.compiled(self.soft_update)

    def train_step(
        self,
        batch: ReplayBatch,
        update_actor: bool,
        critic_loss: Callable[[ReplayBatch], tuple[Tensor, Tensor, dict[str, Tensor]]],
        update_policy: Callable[[ReplayBatch], dict[str, Tensor]],
    ) -> dict[str, Tensor]:
        """One gradient step of the critics, at its turn of the policy, and of the targets.

        Args:
            batch: as it was drawn.
            update_actor: whether it is the policy's turn.
            critic_loss: returns L_Q, the error of each sample, and metrics.
            update_policy: takes the policy's gradient steps and returns metrics.
        """
        batch = self.augment(batch)
        # The critics learn; how far off they were on each sample becomes its priority.
        loss, errors, metrics = critic_loss(batch)
        metrics |= self.critic_optimizer.step(loss)
        if batch.index is not None:
            self.experience.buffer.update_priorities(batch.index, errors)
        # The policy learns from the critics as they are now.
        if update_actor:
            metrics |= update_policy(batch)
        # The targets follow slowly.
        if update_actor or not self.cfg.delay_targets:
            self._soft_update()
        return metrics

    def soft_update(self) -> None:
        """Move the targets towards the networks that they are copies of."""
        soft_update(self.target_critic, self.critic, self.cfg.tau)
        if self.cfg.target_actor:
            soft_update(self.target_actor, self.actor, self.cfg.tau)

    def augment(self, batch: ReplayBatch) -> ReplayBatch:
        """The batch with what the loss terms append to it, behind its own samples."""
        if self.loss_terms:
            next_obs = None if batch.next_obs is None else _as_tensordict(batch.next_obs, batch)
            batch = replace(batch, obs=_as_tensordict(batch.obs, batch), next_obs=next_obs)
        for term in self.loss_terms:
            batch = term.augment(batch)
        return batch

    def regularize(
        self, loss: Tensor, batch: ReplayBatch, metrics: dict[str, Tensor]
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The policy's loss, 0-dim, with the regularizers added, and all metrics without gradient."""
        for term in self.loss_terms:
            metrics[f"Loss/{term.name}"] = term.loss(self.actor, self.critic, batch, self.batch_size)
            loss = loss + metrics[f"Loss/{term.name}"]
        metrics["Loss/actor"] = loss
        return loss, {name: metric.detach() for name, metric in metrics.items()}

    def parts(self) -> dict[str, Stateful]:
        """Targets and optimizers, for the checkpoint."""
        parts: dict[str, Stateful] = {
            "target_critic": self.target_critic,
            "critic_optimizer": self.critic_optimizer,
            "actor_optimizer": self.actor_optimizer,
        }
        return parts | ({"target_actor": self.target_actor} if self.cfg.target_actor else {})


def _as_tensordict(obs: Observations, batch: ReplayBatch) -> TensorDict:
    """Observations with the leading dimensions of the batch; a sequence has one more of them."""
    shape = batch.reward.shape
    return TensorDict(dict(obs.items()), [shape[0] + 1, *shape[1:]] if batch.is_sequence else shape)


@configclass
class ActorCriticCfg(Cfg):
    """What the configurations of actor-critic algorithms share, beside `OffPolicyAlgorithmCfg`."""

    actor_learning_rate: Annotated[float, Range(gt=0)] = 3.0e-4
    """Learning rate of the actor."""
    critic_learning_rate: Annotated[float, Range(gt=0)] = 3.0e-4
    """Learning rate of the critics."""
    tau: Annotated[float, Range(gt=0, le=1)] = 0.005
    """Share of the online networks that goes into their targets when those follow."""
    delay_targets: bool = False
    """Let the targets follow at the policy's turn only (TD3, DSAC)."""
    target_actor: bool = False
    """Let a slow copy of the policy choose a' (TD3, DSAC)."""
    aggregate: Literal["min", "mean", "own"] = "min"
    """Which critic the target comes from: the most pessimistic of each sample; the mean of all; each its own."""
    loss_terms: list[LossTermCfg] = []
    """Augmentations of the batch and regularizers of the policy, as for PPO."""
