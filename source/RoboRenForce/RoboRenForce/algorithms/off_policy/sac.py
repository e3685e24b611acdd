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

from typing import Annotated, Any

import torch
from torch import Tensor

from ...buffer.replay_batch import ReplayBatch
from ...components.actor_q import ActorQPackCfg
from ...components.gaussian_actor import TanhGaussianActor
from ...components.temperature import TemperatureCfg
from ...configclass import ConfigError, Range, configclass
from ...utils.precision import autocast
from ..algorithm import RunContext
from .actor_critic import ReplayActorCritic, ReplayActorCriticCfg
from .passes import actor_at_states, actor_at_successors, td_loss
from .replay_learner import Part


class SAC(ReplayActorCritic):
    """Actor, critics, their targets, the temperature, and one gradient step of each."""

    cfg: SACCfg

    def __init__(self, cfg: SACCfg, *, policy: ActorQPackCfg, context: RunContext) -> None:
        super().__init__(cfg, policy=policy, context=context)
        if not isinstance(self.actor, TanhGaussianActor):
            raise ConfigError(
                f"{type(self).__name__} learns a squashed normal policy, but policy.actor_cfg builds a "
                f"{type(self.actor).__name__}: use TanhGaussianActorCfg, or TD3Cfg with a deterministic policy."
            )
        self.temperature = cfg.temperature.build(context.spec.action.dim).to(self.device)
        if cfg.temperature.learned:
            self.temperature_optimizer = self.gradient_step(
                {"temperature": self.temperature},
                cfg.temperature.learning_rate,
                max_grad_norm=None,
                weight_decay=0.0,
            )

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
            values = self.values_of(batch, action)
        value = values.amin(0) if self.cfg.aggregate == "min" else values.mean(0)
        loss = batch.mean(self.temperature() * log_prob - value)
        metrics = {"Policy/entropy": -batch.mean(log_prob), "Policy/alpha": self.temperature()}
        loss, metrics = self.regularized(loss, batch, metrics)
        return loss, log_prob.detach(), metrics

    def learn_policy(self, batch: ReplayBatch) -> dict[str, Tensor]:
        """Steps of the actor, and of the temperature on the log-probabilities that the actor's step found."""
        metrics: dict[str, Tensor] = {}
        for _ in range(self.cfg.policy_updates):
            loss, log_prob, metrics = self._policy_loss(batch)
            metrics |= self.take_step(self.actor_optimizer, loss)
            if self.cfg.temperature.learned:
                self.take_step(self.temperature_optimizer, batch.mean(self.temperature.loss(log_prob)))
        return metrics

    def _sample(self, output: Tensor) -> tuple[Tensor, Tensor]:
        distribution: Any = self.actor.distribution(output)
        return distribution.rsample_with_log_prob()

    def parts(self) -> dict[str, Part]:
        """Targets, temperature and optimizers."""
        parts = super().parts() | {"temperature": self.temperature}
        if self.cfg.temperature.learned:
            parts["temperature_optimizer"] = self.temperature_optimizer
        return parts


@configclass
class SACCfg(ReplayActorCriticCfg):
    """SAC. Defaults are those of Stable-Baselines3.

    With `aggregate="min"` the policy climbs the smallest of the critics' values too, otherwise their mean.
    """

    class_type: type = SAC

    temperature: TemperatureCfg = TemperatureCfg()
    """The weight of the entropy."""
    backup_entropy: bool = True
    """Whether the entropy of the successor's policy is part of the target."""
    policy_updates: Annotated[int, Range(ge=1)] = 1
    """Steps of the policy at its turn; CleanRL takes `policy_delay` of them."""
