"""The part that actor-critic algorithms share: networks, targets, optimizers and regularizers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Literal

from tensordict import TensorDict
from torch import Tensor

from ...buffer.dataset_sequences import SequenceDatasetBuffer
from ...buffer.replay import ReplayBuffer
from ...buffer.replay_batch import Observations, ReplayBatch
from ...buffer.sequence import SequenceReplayBuffer
from ...components.actor import Actor
from ...components.critic import QNetwork
from ...components.target import make_target, soft_update
from ...configclass import Cfg, ConfigError, Range, configclass
from ...utils.stateful import Stateful
from ..loss_terms import LossTermCfg, build_loss_terms

if TYPE_CHECKING:
    from .off_policy_algorithm import OffPolicyAlgorithm


class ActorCritic:
    """Actor, critics, their targets, optimizers and regularizers, and the order in which they learn."""

    def __init__(self, learner: OffPolicyAlgorithm, cfg: ActorCriticCfg, actor_type: type[Actor], advice: str) -> None:
        """Take over the networks of a learner.

        Args:
            learner: Learner whose networks, replay and compilation are used.
            cfg: Configuration.
            actor_type: Actor class that the losses support.
            advice: Fix to suggest if the actor is of another class.
        """
        self.cfg, self.batch_size = cfg, learner.cfg.batch_size
        self.actor = learner.actor
        self.critic: QNetwork = learner.networks.critic
        if not isinstance(self.actor, actor_type):
            raise ConfigError(
                f"{type(learner).__name__} learns a {actor_type.__name__}, but policy.actor_cfg builds a "
                f"{type(self.actor).__name__}: {advice}."
            )
        buffer = learner.experience.buffer
        self.loss_terms = build_loss_terms(
            cfg.loss_terms,
            sequences=isinstance(buffer, SequenceReplayBuffer | SequenceDatasetBuffer),
            actor=self.actor,
            n_step=learner.cfg.replay.n_step if isinstance(buffer, ReplayBuffer) else 1,
        )
        self.critic_optimizer = learner.make_optimizer({"critic": self.critic}, cfg.critic_learning_rate)
        self.actor_optimizer = learner.make_optimizer({"actor": self.actor}, cfg.actor_learning_rate)
        # Targets are made after the weights were broadcast, so they are equal in all processes.
        self.target_critic = make_target(self.critic)
        self.target_actor = make_target(self.actor) if cfg.target_actor else self.actor
        self.experience = learner.experience
        self._soft_update = learner.compiled(self.soft_update)
        regularize = self.regularize_critic
        self._regularize_critic = learner.compiled(regularize) if self.loss_terms else regularize

    def train_step(
        self,
        batch: ReplayBatch,
        update_actor: bool,
        critic_loss: Callable[[ReplayBatch], tuple[Tensor, Tensor, dict[str, Tensor]]],
        update_policy: Callable[[ReplayBatch], dict[str, Tensor]],
    ) -> dict[str, Tensor]:
        """Take one gradient step of the critics, then of policy and targets if it is their turn.

        Args:
            batch: Batch as drawn from the replay.
            update_actor: True if the policy learns in this step.
            critic_loss: Returns L_Q, the error of each sample, and metrics.
            update_policy: Takes the policy's gradient steps and returns metrics.
        """
        batch = self.augment(batch)
        # Critics first; the TD error of each sample becomes its replay priority.
        loss, errors, metrics = critic_loss(batch)
        loss, metrics = self._regularize_critic(loss, batch, metrics)
        metrics |= self.critic_optimizer.step(loss)
        if batch.index is not None:
            self.experience.buffer.update_priorities(batch.index, errors)
        # The policy maximizes the critics that were just updated.
        if update_actor:
            metrics |= update_policy(batch)
        # Slow targets keep the regression from chasing its own output; TD3 delays them like the policy.
        if update_actor or not self.cfg.delay_targets:
            self._soft_update()
        return metrics

    def soft_update(self) -> None:
        """Soft-update the target networks."""
        soft_update(self.target_critic, self.critic, self.cfg.tau)
        if self.cfg.target_actor:
            soft_update(self.target_actor, self.actor, self.cfg.tau)

    def augment(self, batch: ReplayBatch) -> ReplayBatch:
        """Return the batch with the samples that the loss terms append."""
        # Loss terms get TensorDicts, as in PPO.
        if self.loss_terms:
            next_obs = None if batch.next_obs is None else _as_tensordict(batch.next_obs, batch)
            batch = replace(batch, obs=_as_tensordict(batch.obs, batch), next_obs=next_obs)
        for term in self.loss_terms:
            batch = term.augment(batch)
        return batch

    def regularize(
        self, loss: Tensor, batch: ReplayBatch, metrics: dict[str, Tensor]
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Add the regularizers to the policy's loss; returns the 0-dim sum, and all metrics without gradient."""
        for term in self.loss_terms:
            name, added = f"Loss/{term.name}", term.loss(self.actor, self.critic, batch, self.batch_size)
            loss = loss + added
            metrics[name] = metrics[name] + added if name in metrics else added
        metrics["Loss/actor"] = loss
        return loss, {name: metric.detach() for name, metric in metrics.items()}

    def regularize_critic(
        self, loss: Tensor, batch: ReplayBatch, metrics: dict[str, Tensor]
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Add the regularizers of the critics to their loss; returns the 0-dim sum, and all metrics."""
        for term in self.loss_terms:
            added = term.critic_loss(self.critic, batch)
            if added is not None:
                metrics[f"Loss/{term.name}_critic"] = added.detach()
                loss = loss + added
        return loss, metrics

    def parts(self) -> dict[str, Stateful]:
        """Return targets and optimizers, for the checkpoint."""
        parts: dict[str, Stateful] = {
            "target_critic": self.target_critic,
            "critic_optimizer": self.critic_optimizer,
            "actor_optimizer": self.actor_optimizer,
        }
        return parts | ({"target_actor": self.target_actor} if self.cfg.target_actor else {})


def _as_tensordict(obs: Observations, batch: ReplayBatch) -> TensorDict:
    """Return observations as a TensorDict with the batch's leading dimensions; a sequence has one step more."""
    shape = batch.reward.shape
    return TensorDict(dict(obs.items()), [shape[0] + 1, *shape[1:]] if batch.is_sequence else shape)


@configclass
class ActorCriticCfg(Cfg):
    """Settings that actor-critic algorithms share, beside `OffPolicyAlgorithmCfg`."""

    actor_learning_rate: Annotated[float, Range(gt=0)] = 3.0e-4
    """Learning rate of the actor."""
    critic_learning_rate: Annotated[float, Range(gt=0)] = 3.0e-4
    """Learning rate of the critics."""
    tau: Annotated[float, Range(gt=0, le=1)] = 0.005
    """Soft-update rate of the targets."""
    delay_targets: bool = False
    """Soft-update the targets only in steps in which the policy learns (TD3, DSAC)."""
    target_actor: bool = False
    """Choose a' with a target copy of the policy (TD3, DSAC)."""
    aggregate: Literal["min", "mean", "own"] = "min"
    """Critic that the target comes from: the smallest for each sample, the mean of all, or each its own."""
    loss_terms: list[LossTermCfg] = []
    """Batch augmentations and policy regularizers, as in PPO."""
