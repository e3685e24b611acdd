"""What SAC and TD3 share: the order of a gradient step, targets, optimizers, regularizers of the policy."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import replace
from typing import Annotated, Any, Literal

import torch
from tensordict import TensorDict
from torch import Tensor

from ...buffer.replay_batch import ReplayBatch
from ...buffer.sequence import SequenceReplayBufferCfg
from ...components.actor_q import ActorQPackCfg
from ...components.critic import QNetwork
from ...components.target import polyak_, target_of
from ...configclass import ConfigError, Range, configclass
from ..algorithm import RunContext
from ..loss_terms import LossTermCfg
from .passes import features_of
from .replay_learner import Part, ReplayLearner, ReplayLearnerCfg


class ReplayActorCritic(ReplayLearner):
    """An actor and an ensemble of action values, each with an optimizer, and slow copies of them.

    A subclass writes the two losses and, in `learn_policy`, what happens at the policy's turn.
    """

    cfg: ReplayActorCriticCfg
    policy_cfg = ActorQPackCfg
    sets_priorities = True

    def __init__(self, cfg: ReplayActorCriticCfg, *, policy: ActorQPackCfg, context: RunContext) -> None:
        super().__init__(cfg, policy=policy, context=context)
        self.critic: QNetwork = self.networks.critic
        self.loss_terms = [term.build() for term in cfg.loss_terms]
        if self.loss_terms and isinstance(cfg.replay, SequenceReplayBufferCfg):
            raise ConfigError("loss_terms are not available for sequences, got a SequenceReplayBufferCfg: drop one.")
        self.critic_optimizer = self.gradient_step({"critic": self.critic}, cfg.critic_learning_rate)
        self.actor_optimizer = self.gradient_step({"actor": self.actor}, cfg.actor_learning_rate)
        self.target_critic = target_of(self.critic)
        self.target_actor = target_of(self.actor) if cfg.target_actor else self.actor
        self._critic_loss = self.compiled(self.critic_loss)
        self._policy_loss = self.compiled(self.policy_loss)
        self._follow = self.compiled(self.follow)

    def learn(self, batch: ReplayBatch, policy_turn: bool) -> dict[str, Tensor]:
        """The critics learn; at its turn the policy does; the targets follow."""
        batch = self.augmented(batch)
        loss, errors, metrics = self._critic_loss(batch)
        metrics |= self.take_step(self.critic_optimizer, loss)
        if batch.index is not None:
            self.replay.update_priorities(batch.index, errors)
        if policy_turn:
            metrics |= self.learn_policy(batch)
        if policy_turn or not self.cfg.delay_targets:
            self._follow()
        return metrics

    def follow(self) -> None:
        """The targets move towards what they are copies of."""
        polyak_(self.target_critic, self.critic, self.cfg.tau)
        if self.cfg.target_actor:
            polyak_(self.target_actor, self.actor, self.cfg.tau)

    def augmented(self, batch: ReplayBatch) -> ReplayBatch:
        """The batch with what the loss terms append to it, behind its own `batch_size` samples."""
        if self.loss_terms:

            def as_tensordict(obs: Any) -> TensorDict:
                return TensorDict(dict(obs.items()), batch_size=batch.reward.shape)

            batch = replace(batch, obs=as_tensordict(batch.obs), next_obs=as_tensordict(batch.next_obs))
        for term in self.loss_terms:
            batch = term.augment(batch)
        return batch

    @abstractmethod
    def critic_loss(self, batch: ReplayBatch) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        """Returns L_Q; the error of each sample, for priorities; 0-dim metrics. The last two carry no gradient."""

    @abstractmethod
    def policy_loss(self, batch: ReplayBatch) -> Any:
        """What `learn_policy` steps on, as `_policy_loss` compiled where the configuration asks for it."""

    @abstractmethod
    def learn_policy(self, batch: ReplayBatch) -> dict[str, Tensor]:
        """The policy's turn; returns 0-dim metrics, detached."""

    def values_of(self, batch: ReplayBatch, action: Tensor) -> Tensor:
        """Values `(E, ...)` of `action` `(..., A)` in the states, with a gradient for the action."""
        with torch.no_grad():
            features = batch.at_states(features_of(self.critic))
        return self.critic.head.mean(self.critic.outputs(features, action))

    def regularized(
        self, loss: Tensor, batch: ReplayBatch, metrics: dict[str, Tensor]
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The policy's loss with the regularizers added, and all metrics without gradient."""
        for term in self.loss_terms:
            metrics[f"Loss/{term.name}"] = term.loss(self.actor, self.critic, batch, self.cfg.batch_size)
            loss = loss + metrics[f"Loss/{term.name}"]
        metrics["Loss/actor"] = loss
        return loss, {name: metric.detach() for name, metric in metrics.items()}

    def parts(self) -> dict[str, Part]:
        """Targets and optimizers."""
        parts: dict[str, Part] = {
            "target_critic": self.target_critic,
            "critic_optimizer": self.critic_optimizer,
            "actor_optimizer": self.actor_optimizer,
        }
        return parts | ({"target_actor": self.target_actor} if self.cfg.target_actor else {})


@configclass
class ReplayActorCriticCfg(ReplayLearnerCfg):
    """What the configurations of SAC and TD3 share."""

    class_type: type = ReplayActorCritic

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
