"""Soft actor-critic: off-policy learning of a stochastic policy that maximizes return and entropy.

Haarnoja et al. 2018 (arXiv 1801.01290, 1812.05905): twin critics, a Gaussian policy squashed to [-1, 1], a temperature
that keeps the entropy near a target.

    y      = r + gamma (1 - terminated) [ min_j Qbar_j(s', a') - alpha log pi(a'|s') ],   a' ~ pi(.|s')
    L_Q    = sum_j (Q_j(s, a) - y)^2
    L_pi   = alpha log pi(a~|s) - min_j Q_j(s, a~),                                       a~ ~ pi(.|s), reparameterized
    L_alpha = -g(alpha) (log pi(a~|s) + H*)

What the critics predict, a value or a distribution of returns, is their return head's business, so that DSAC, DSAC-T
and the C51 critics of FastSAC are this class with another head.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

import torch
from torch import Tensor

from ...buffer.replay_batch import ReplayBatch
from ...buffer.sequence import SequenceReplayBufferCfg
from ...components.actor_q import ActorQPackCfg
from ...components.critic import QNetwork
from ...components.target import polyak_, target_of
from ...components.temperature import TemperatureCfg
from ...configclass import Range, configclass
from ...utils.precision import autocast
from ..algorithm import RunContext
from ..loss_terms import LossTermCfg
from .passes import actor_at_states, actor_at_successors, features_of, td_loss
from .replay_learner import Part, ReplayLearner, ReplayLearnerCfg


class SAC(ReplayLearner):
    """Actor, critics, their targets, the temperature, and one gradient step of each."""

    cfg: SACCfg

    def __init__(self, cfg: SACCfg, *, policy: ActorQPackCfg, context: RunContext) -> None:
        super().__init__(cfg, policy=policy, context=context)
        self.critic: QNetwork = self.networks.critic
        self.temperature = cfg.temperature.build(context.spec.action.dim).to(self.device)
        self.loss_terms = [term.build() for term in cfg.loss_terms]
        if self.loss_terms and isinstance(cfg.replay, SequenceReplayBufferCfg):
            raise ValueError("loss_terms are not available for sequences, got a SequenceReplayBufferCfg: drop one.")
        self.critic_optimizer = self.gradient_step({"critic": self.critic}, cfg.critic_learning_rate)
        self.actor_optimizer = self.gradient_step({"actor": self.actor}, cfg.actor_learning_rate)
        if cfg.temperature.learned:
            self.temperature_optimizer = self.gradient_step(
                {"temperature": self.temperature},
                cfg.temperature.learning_rate,
                max_grad_norm=None,
                weight_decay=0.0,
            )
        self.target_critic = target_of(self.critic)
        self.target_actor = target_of(self.actor) if cfg.target_actor else self.actor
        self._critic_loss = self.compiled(self.critic_loss)
        self._policy_loss = self.compiled(self.policy_loss)

    # -- one gradient step --------------------------------------------------------------------------------------------

    def learn(self, batch: ReplayBatch, policy_turn: bool) -> dict[str, Tensor]:
        """The critics learn; at its turn the policy does; the targets follow."""
        loss, errors, metrics = self._critic_loss(batch)
        metrics |= self.take_step(self.critic_optimizer, loss)
        if batch.index is not None:
            self.replay.update_priorities(batch.index, errors)
        if policy_turn:
            for _ in range(self.cfg.policy_updates):
                metrics |= self.learn_policy(batch)
        if policy_turn or not self.cfg.delay_targets:
            polyak_(self.target_critic, self.critic, self.cfg.tau)
            if self.cfg.target_actor:
                polyak_(self.target_actor, self.actor, self.cfg.tau)
        return metrics

    def learn_policy(self, batch: ReplayBatch) -> dict[str, Tensor]:
        """A step of the actor, and one of the temperature on the log-probabilities that the actor's step found."""
        loss, log_prob, metrics = self._policy_loss(batch)
        metrics |= self.take_step(self.actor_optimizer, loss)
        if self.cfg.temperature.learned:
            self.take_step(self.temperature_optimizer, batch.mean(self.temperature.loss(log_prob)))
        return metrics

    def critic_loss(self, batch: ReplayBatch) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        """Returns L_Q; the error of each sample, for priorities; 0-dim metrics. The last two carry no gradient."""
        cfg = self.cfg
        with autocast(cfg.precision, self.device):
            with torch.no_grad():
                next_action, next_log_prob = self._sample(actor_at_successors(self.target_actor, batch))
                bonus = -self.temperature() * next_log_prob if cfg.backup_entropy else torch.zeros_like(next_log_prob)
            return td_loss(self.critic, self.target_critic, batch, next_action, bonus, cfg.aggregate)

    def policy_loss(self, batch: ReplayBatch) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        """Returns L_pi; log pi of the actions drawn, without gradient; 0-dim metrics without gradient."""
        with autocast(self.cfg.precision, self.device):
            action, log_prob = self._sample(actor_at_states(self.actor, batch))
            with torch.no_grad():
                features = batch.at_states(features_of(self.critic))
            values = self.critic.head.mean(self.critic.outputs(features, action))
        value = values.min(0).values if self.cfg.aggregate == "min" else values.mean(0)
        loss = batch.mean(self.temperature() * log_prob - value)
        metrics = {"Policy/entropy": -batch.mean(log_prob), "Policy/alpha": self.temperature()}
        for term in self.loss_terms:
            metrics[f"Loss/{term.name}"] = term.loss(self.actor, self.critic, batch, batch.action.shape[0])
            loss = loss + metrics[f"Loss/{term.name}"]
        metrics["Loss/actor"] = loss
        return loss, log_prob.detach(), {name: metric.detach() for name, metric in metrics.items()}

    # -- parts --------------------------------------------------------------------------------------------------------

    def _sample(self, output: Tensor) -> tuple[Tensor, Tensor]:
        distribution: Any = self.actor.distribution(output)
        return distribution.rsample_with_log_prob()

    def parts(self) -> dict[str, Part]:
        """Targets, temperature and optimizers."""
        parts: dict[str, Part] = {
            "target_critic": self.target_critic,
            "temperature": self.temperature,
            "critic_optimizer": self.critic_optimizer,
            "actor_optimizer": self.actor_optimizer,
        }
        if self.cfg.target_actor:
            parts["target_actor"] = self.target_actor
        if self.cfg.temperature.learned:
            parts["temperature_optimizer"] = self.temperature_optimizer
        return parts


@configclass
class SACCfg(ReplayLearnerCfg):
    """SAC. Defaults are those of Stable-Baselines3."""

    class_type: type = SAC

    actor_learning_rate: Annotated[float, Range(gt=0)] = 3.0e-4
    """Learning rate of the actor."""
    critic_learning_rate: Annotated[float, Range(gt=0)] = 3.0e-4
    """Learning rate of the critics."""
    tau: Annotated[float, Range(gt=0, le=1)] = 0.005
    """Share of the online networks that goes into their targets at each gradient step."""
    temperature: TemperatureCfg = TemperatureCfg()
    """The weight of the entropy."""
    backup_entropy: bool = True
    """Whether the entropy of the successor's policy is part of the target."""
    aggregate: Literal["min", "mean", "own"] = "min"
    """Which critic the target comes from: the most pessimistic of each sample; the mean of all; each its own. The
    policy climbs the smallest value with `min` and the mean of all otherwise."""
    target_actor: bool = False
    """Let a slow copy of the policy choose a' (DSAC)."""
    delay_targets: bool = False
    """Let the targets follow at the policy's turn only (TD3, DSAC)."""
    policy_updates: Annotated[int, Range(ge=1)] = 1
    """Steps of the policy at its turn; CleanRL takes `policy_delay` of them."""
    loss_terms: list[LossTermCfg] = []
    """Regularizers of the policy, as for PPO."""
