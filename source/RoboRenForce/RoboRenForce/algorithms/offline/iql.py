"""Implicit Q-learning: estimate the value of the best actions in the data without querying other actions.

Kostrikov, Nair, Levine 2022 (arXiv 2110.06169): V is a high expectile of the values of the data's actions, which
approaches their maximum; the policy imitates those actions, weighted by their advantage.

    u      = min_j Qbar_j(s, a) - V(s)
    L_V    = |tau - 1(u < 0)| u^2
    L_Q    = mean_j (r + gamma (1 - terminated) V(s') - Q_j(s, a))^2
    L_pi   = -min(exp(beta u), 100) log pi(a|s)

All three use the networks from before this gradient step: V(s') and u are not those of the new V.
"""

from __future__ import annotations

from typing import Annotated

import torch
from torch import Tensor

from ...buffer.replay_batch import Observations, ReplayBatch
from ...components.actor_q import ActorQVPackCfg
from ...components.return_heads import ScalarHead
from ...components.target import make_target, soft_update
from ...configclass import ConfigError, Range, configclass
from ...networks.batch_norm import uses_batch_statistics
from ...utils.precision import autocast
from ...utils.stateful import Stateful
from ..algorithm import RunContext
from ..functional.expectile import advantage_weight, expectile_loss
from ..off_policy.off_policy_algorithm import OffPolicyAlgorithm, OffPolicyAlgorithmCfg
from ..off_policy.q_losses import actor_at_obs, features_of
from .bc import imitation_loss


class IQL(OffPolicyAlgorithm):
    """Actor, twin critics with targets and a state value, with one gradient step of each."""

    cfg: IQLCfg
    networks_cfg = ActorQVPackCfg

    def __init__(self, cfg: IQLCfg, *, policy: ActorQVPackCfg, context: RunContext) -> None:
        super().__init__(cfg, policy=policy, context=context)
        self.critic, self.value = self.networks.critic, self.networks.value
        if not isinstance(self.critic.head, ScalarHead):
            raise ConfigError(
                f"IQL learns values, but policy.critic_cfg.head_cfg builds a {type(self.critic.head).__name__}: "
                "use ScalarHeadCfg."
            )
        if uses_batch_statistics(self.critic, self.value):
            raise ConfigError(
                "IQL never asks its critics about a', which batch normalization needs for its statistics: use MLPCfg "
                "instead of FlashNetCfg in policy.critic_cfg and policy.value_cfg."
            )
        self.target_critic = make_target(self.critic)
        critics = {"value": self.value, "critic": self.critic}
        self.critic_optimizer = self.make_optimizer(critics, cfg.critic_learning_rate)
        self.actor_optimizer = self.make_optimizer(
            {"actor": self.actor}, cfg.actor_learning_rate, final=cfg.actor_final_learning_rate
        )
        self._critic_loss = self.compiled(self.critic_loss)
        self._policy_loss = self.compiled(self.policy_loss)
        self._soft_update = self.compiled(self.soft_update)

    def train_step(self, batch: ReplayBatch, update_actor: bool) -> dict[str, Tensor]:
        """Update value, critics and targets and, if `update_actor`, the policy with the advantage from before."""
        # Value and critics learn in one step, since their parameters are disjoint.
        loss, advantage, metrics = self._critic_loss(batch)
        metrics |= self.critic_optimizer.step(loss)
        # Advantage-weighted regression, with the advantage from before this step.
        if update_actor:
            loss, more = self._policy_loss(batch, advantage)
            metrics |= more | self.actor_optimizer.step(loss)
        self._soft_update()
        return metrics

    def soft_update(self) -> None:
        """Soft-update the target critics."""
        soft_update(self.target_critic, self.critic, self.cfg.tau)

    def critic_loss(self, batch: ReplayBatch) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        """Return L_V + L_Q, whose parameters are disjoint; u of each sample and 0-dim metrics, both detached."""
        head = self.critic.head
        with autocast(self.cfg.precision, self.device):
            # Only actions of the data are evaluated: V(s') takes the place of max_a Q(s', a).
            with torch.no_grad():
                features = batch.forward_obs(features_of(self.target_critic))
                best_known = head.mean(self.target_critic.outputs(features, batch.action)).amin(0)
                next_value = batch.forward_next_obs(self._value_of)
            value = batch.forward_obs(self._value_of)
            output = self.critic.outputs(batch.forward_obs(features_of(self.critic)), batch.action)
        # Expectile regression pushes V towards the best actions of the data.
        value_loss = batch.mean(expectile_loss(value, best_known, self.cfg.expectile))
        # A plain mean, so that luck in the dynamics is not mistaken for a good action.
        target = batch.reward + batch.discount * next_value
        critic_loss = batch.mean((head.mean(output) - target).square())
        metrics = {
            "Loss/value": value_loss,
            "Loss/critic": critic_loss,
            "Policy/value": batch.mean(value),
            "Policy/q_value": batch.mean(head.mean(output)),
        }
        detached = {name: metric.detach() for name, metric in metrics.items()}
        return value_loss + critic_loss, (best_known - value).detach(), detached

    def policy_loss(self, batch: ReplayBatch, advantage: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Return L_pi, and 0-dim metrics without gradient; `advantage` is u of each sample."""
        cfg = self.cfg
        weight = advantage_weight(advantage, cfg.beta, cfg.max_weight)
        with autocast(cfg.precision, self.device):
            output = actor_at_obs(self.actor, batch)
        loss = batch.mean(weight * imitation_loss(self.actor.distribution(output), batch.action))
        metrics = {"Loss/actor": loss.detach(), "Policy/advantage_weight": batch.mean(weight)}
        return loss, metrics

    def _value_of(self, obs: Observations, start: Tensor | None) -> Tensor:
        return self.value(obs, None, start)[0]

    def parts(self) -> dict[str, Stateful]:
        """Return target critics and optimizers."""
        return {
            "target_critic": self.target_critic,
            "critic_optimizer": self.critic_optimizer,
            "actor_optimizer": self.actor_optimizer,
        }


@configclass
class IQLCfg(OffPolicyAlgorithmCfg):
    """Configuration of IQL. Defaults are those of CORL for locomotion; its policy is `ActorQVPackCfg`.

    The actor of the paper is a normal distribution that is not squashed, around the tanh of a network, with a
    state-independent std: `StateIndStdActorCfg(use_log_std=True)` with a backbone that ends in `Tanh`. The likelihood
    of a squashed one is infinite at actions of -1 and 1, which are common in data.
    """

    class_type: type = IQL

    learning_starts = 0
    expectile: Annotated[float, Range(gt=0, lt=1)] = 0.7
    """tau: 1/2 gives the value of the behavior policy, values near 1 that of the best actions in the data."""
    beta: Annotated[float, Range(ge=0)] = 3.0
    """Inverse temperature of the advantage weights; 0 is behavior cloning."""
    max_weight: Annotated[float, Range(gt=0)] = 100.0
    """Maximum advantage weight."""
    actor_learning_rate: Annotated[float, Range(gt=0)] = 3.0e-4
    """Learning rate of the actor at the start."""
    actor_final_learning_rate: Annotated[float, Range(ge=0, le=1)] = 0.0
    """Share of the actor's learning rate that is left at the end of the run, on a half cosine; 1: constant."""
    critic_learning_rate: Annotated[float, Range(gt=0)] = 3.0e-4
    """Learning rate of critics and value."""
    tau: Annotated[float, Range(gt=0, le=1)] = 0.005
    """Soft-update rate of the target critics."""
