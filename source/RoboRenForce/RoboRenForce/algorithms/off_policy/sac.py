"""Soft actor-critic: off-policy learning of a stochastic policy that maximizes return and entropy.

Haarnoja et al. 2018 (arXiv 1801.01290, 1812.05905): twin critics, a Gaussian policy squashed to [-1, 1], a temperature
that keeps the entropy near a target.

    y      = r + gamma (1 - terminated) [ min_j Qbar_j(s', a') - alpha log pi(a'|s') ],   a' ~ pi(.|s')
    L_Q    = sum_j (Q_j(s, a) - y)^2
    L_pi   = alpha log pi(a~|s) - min_j Q_j(s, a~),                                       a~ ~ pi(.|s), reparameterized
    L_alpha = -g(alpha) (log pi(a~|s) + H*)

The critics' return head decides what they predict, a value or a distribution of returns, so DSAC, DSAC-T and FastSAC
(C51) are this class with another head.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Any, ClassVar

import torch
from torch import Tensor

from ...buffer.replay_batch import ReplayBatch
from ...components.actor_q import ActorQPackCfg
from ...components.gaussian_actor import TanhGaussianActor
from ...components.return_heads import ReturnHead
from ...components.temperature import TemperatureCfg
from ...configclass import ConfigError, Range, configclass
from ...utils.precision import autocast
from ...utils.stateful import Stateful
from ..algorithm import RunContext
from .actor_critic import ActorCritic, ActorCriticCfg
from .off_policy_algorithm import OffPolicyAlgorithm, OffPolicyAlgorithmCfg
from .q_losses import action_values, actor_at_next_obs, actor_at_obs, td_loss


class SAC(OffPolicyAlgorithm):
    """Actor, critics, their targets and the temperature, with one gradient step of each."""

    cfg: SACCfg
    networks_cfg = ActorQPackCfg
    sets_priorities = True

    def __init__(self, cfg: SACCfg, *, policy: ActorQPackCfg, context: RunContext) -> None:
        super().__init__(cfg, policy=policy, context=context)
        advice = "use TanhGaussianActorCfg, or TD3Cfg with a deterministic policy"
        nets = self.actor_critic = ActorCritic(self, cfg, TanhGaussianActor, advice)
        self.critic, self.target_critic, self.target_actor = nets.critic, nets.target_critic, nets.target_actor
        head = self.critic.head
        if not isinstance(head, cfg.head_type):
            raise ConfigError(
                f"{type(cfg).__name__} learns with a {cfg.head_type.__name__}, but policy.critic_cfg.head_cfg builds a "
                f"{type(head).__name__}: use {cfg.head_type.__name__}Cfg."
            )
        self.temperature = cfg.temperature.build(context.spec.action.dim).to(self.device)
        if cfg.temperature.learned:
            rate = cfg.temperature.learning_rate
            # A single scalar: neither clipping nor weight decay makes sense for it.
            self.temperature_optimizer = self.make_optimizer(
                {"temperature": self.temperature}, rate, max_grad_norm=None, weight_decay=0.0
            )
        self.critic_source: Any = None
        """Gives the critics what they learn instead of the TD target; see `NoiseAlias` of DSRL."""
        self.critic_term: Any = None if cfg.critic_term is None else cfg.critic_term(self)
        self._critic_loss = self.compiled(self.critic_loss)
        self._policy_loss = self.compiled(self.policy_loss)

    def train_step(self, batch: ReplayBatch, update_actor: bool) -> dict[str, Tensor]:
        """Update the critics and, if it is their turn, policy, temperature and targets."""
        known = {} if self.critic_source is None else self.critic_source.train_step(batch)
        metrics = self.actor_critic.train_step(batch, update_actor, self._critic_loss, self.update_policy) | known
        if self.critic_term is not None:
            self.critic_term.train_step(metrics)
        return metrics

    def critic_loss(self, batch: ReplayBatch) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        """Return L_Q; the error of each sample, for priorities; 0-dim metrics. The last two carry no gradient."""
        cfg = self.cfg
        if self.critic_source is not None:
            return self.critic_source.loss(batch)
        with autocast(cfg.precision, self.device):
            # a' is the policy's, not the replay's (off-policy); its entropy is part of the value of s'.
            with torch.no_grad():
                next_action, next_log_prob = self.sample(actor_at_next_obs(self.target_actor, batch))
                bonus = -self.temperature() * next_log_prob if cfg.backup_entropy else torch.zeros_like(next_log_prob)
            # By default the smaller target value counts (twin critics), against overestimation.
            loss, errors, metrics = td_loss(
                self.critic, self.target_critic, batch, next_action, bonus, cfg.aggregate, cfg.target_members
            )
        if self.critic_term is not None:
            # CQL adds its conservative term to the same loss.
            term, more = self.critic_term.loss(batch)
            loss, metrics = loss + term, metrics | more
        return loss, errors, metrics

    def policy_loss(self, batch: ReplayBatch) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        """Return L_pi; log pi of the sampled actions, without gradient; 0-dim metrics without gradient."""
        # Reparameterized a~: the gradient reaches the policy through the critics' values.
        with autocast(self.cfg.precision, self.device):
            action, log_prob = self.sample(actor_at_obs(self.actor, batch))
            values = action_values(self.critic, batch, action)
        pessimistic = self.cfg.aggregate == "min" and self.cfg.target_members is None
        value = values.amin(0) if pessimistic else values.mean(0)
        # Maximize value plus entropy.
        loss = batch.mean(self.temperature() * log_prob - value)
        metrics = {"Policy/entropy": -batch.mean(log_prob), "Policy/alpha": self.temperature()}
        loss, metrics = self.actor_critic.regularize(loss, batch, metrics)
        return loss, log_prob.detach(), metrics

    def update_policy(self, batch: ReplayBatch) -> dict[str, Tensor]:
        """Take the gradient steps of actor and temperature; returns metrics."""
        metrics: dict[str, Tensor] = {}
        for _ in range(self.cfg.policy_updates):
            loss, log_prob, metrics = self._policy_loss(batch)
            metrics |= self.actor_critic.actor_optimizer.step(loss)
            # The temperature moves towards the entropy target, with the log-probabilities of the same samples.
            if self.cfg.temperature.learned:
                self.temperature_optimizer.step(batch.mean(self.temperature.loss(log_prob)))
        return metrics

    def sample(self, output: Tensor) -> tuple[Tensor, Tensor]:
        """Draw reparameterized actions with their log-probabilities from the actor's output."""
        distribution: Any = self.actor.distribution(output)
        return distribution.rsample_with_log_prob()

    def parts(self) -> dict[str, Stateful]:
        """Return targets, temperature and optimizers."""
        parts = self.actor_critic.parts() | {"temperature": self.temperature}
        if self.cfg.temperature.learned:
            parts["temperature_optimizer"] = self.temperature_optimizer
        sources = [part for part in (self.critic_term, self.critic_source) if part is not None]
        return parts | {name: part for source in sources for name, part in source.parts().items()}


@configclass
class SACCfg(ActorCriticCfg, OffPolicyAlgorithmCfg):
    """Configuration of SAC. Defaults are those of Stable-Baselines3.

    With `aggregate="min"` the policy also maximizes the smallest of the critics' values, otherwise their mean.
    """

    class_type: type = SAC
    head_type: ClassVar[type[ReturnHead]] = ReturnHead
    """Return head class that the critics must have."""
    critic_term: ClassVar[type | None] = None
    """Additional term of the critics' loss; see `ConservativeTerm` of CQL."""

    temperature: TemperatureCfg = TemperatureCfg()
    """Temperature, the weight of the entropy."""
    backup_entropy: bool = True
    """True to include the entropy of a' in the target."""
    target_members: Annotated[int, Range(ge=1)] | None = None
    """Target critics drawn for each batch, among which `aggregate` chooses, while the policy maximizes the mean of all
    critics (REDQ, RLPD); None: all of them."""
    policy_updates: Annotated[int, Range(ge=1)] = 1
    """Gradient steps of the policy per turn; CleanRL takes `policy_delay` of them."""

    def check(self) -> Iterable[str]:
        """Check that drawn critics have one target in common."""
        if self.target_members is not None and self.aggregate == "own":
            yield "target_members: draws critics that all learn from, and with aggregate=own each has its own target"
