"""Implicit Q-learning: the value of the best actions in the data, without ever asking about others.

Kostrikov, Nair, Levine 2022 (arXiv 2110.06169): V is a high expectile of the values of the data's actions, so it nears
their maximum; the policy imitates those actions, the better ones more.

    u      = min_j Qbar_j(s, a) - V(s)
    L_V    = |tau - 1(u < 0)| u^2
    L_Q    = mean_j (r + gamma (1 - terminated) V(s') - Q_j(s, a))^2
    L_pi   = -min(exp(beta u), 100) log pi(a|s)

All three read the networks as they were before this gradient step: V(s') and u don't know the new V.
"""

from __future__ import annotations

from typing import Annotated

import torch
from torch import Tensor

from ...buffer.replay_batch import Observations, ReplayBatch
from ...components.actor_q import ActorQVPackCfg
from ...components.return_heads import ScalarHead
from ...components.target import polyak_, target_of
from ...configclass import ConfigError, Range, configclass
from ...networks.batch_norm import uses_batch_statistics
from ...utils.precision import autocast
from ..algorithm import RunContext
from ..functional.expectile import advantage_weight, expectile_loss
from ..off_policy.passes import actor_at_states, features_of
from ..off_policy.replay_learner import Part, ReplayLearner, ReplayLearnerCfg
from .bc import imitation_loss


class IQL(ReplayLearner):
    """Actor, twin critics with targets, a state value, and one gradient step of each."""

    cfg: IQLCfg
    policy_cfg = ActorQVPackCfg

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
        self.target_critic = target_of(self.critic)
        self.critic_optimizer = self.gradient_step(
            {"value": self.value, "critic": self.critic}, cfg.critic_learning_rate
        )
        self.actor_optimizer = self.gradient_step(
            {"actor": self.actor}, cfg.actor_learning_rate, final=cfg.actor_final_learning_rate
        )
        self._critic_loss = self.compiled(self.critic_loss)
        self._policy_loss = self.compiled(self.policy_loss)
        self._follow = self.compiled(self.follow)

    def learn(self, batch: ReplayBatch, policy_turn: bool) -> dict[str, Tensor]:
        """Value and critics learn; at its turn the policy does, from the advantage before that; the targets follow."""
        loss, advantage, metrics = self._critic_loss(batch)
        metrics |= self.take_step(self.critic_optimizer, loss)
        if policy_turn:
            loss, more = self._policy_loss(batch, advantage)
            metrics |= more | self.take_step(self.actor_optimizer, loss)
        self._follow()
        return metrics

    def follow(self) -> None:
        """The target critics move towards the critics."""
        polyak_(self.target_critic, self.critic, self.cfg.tau)

    def critic_loss(self, batch: ReplayBatch) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        """Returns L_V + L_Q, whose parameters are disjoint; u of each sample; 0-dim metrics. The last two detached."""
        head = self.critic.head
        with autocast(self.cfg.precision, self.device):
            with torch.no_grad():
                features = batch.at_states(features_of(self.target_critic))
                best_known = head.mean(self.target_critic.outputs(features, batch.action)).amin(0)
                # V(s') takes the place of what a single critic would say; nothing is added to it.
                next_value = batch.at_successors(self._value_of)
            value = batch.at_states(self._value_of)
            output = self.critic.outputs(batch.at_states(features_of(self.critic)), batch.action)
        target = batch.reward + batch.discount * next_value
        value_loss = batch.mean(expectile_loss(value, best_known, self.cfg.expectile))
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
        """Returns L_pi, and 0-dim metrics without gradient; `advantage` is u of each sample."""
        cfg = self.cfg
        weight = advantage_weight(advantage, cfg.beta, cfg.max_weight)
        with autocast(cfg.precision, self.device):
            output = actor_at_states(self.actor, batch)
        loss = batch.mean(weight * imitation_loss(self.actor.distribution(output), batch.action))
        metrics = {"Loss/actor": loss.detach(), "Policy/advantage_weight": batch.mean(weight)}
        return loss, metrics

    def _value_of(self, obs: Observations, start: Tensor | None) -> Tensor:
        return self.value(obs, None, start)[0]

    def parts(self) -> dict[str, Part]:
        """Target and optimizers."""
        return {
            "target_critic": self.target_critic,
            "critic_optimizer": self.critic_optimizer,
            "actor_optimizer": self.actor_optimizer,
        }


@configclass
class IQLCfg(ReplayLearnerCfg):
    """IQL. Defaults are those of CORL for locomotion; its policy is `ActorQVPackCfg`.

    The published actor is a normal distribution that is not squashed, around the tanh of a network, with a std that
    doesn't depend on the state: `StateIndStdActorCfg(use_log_std=True)` with a backbone that ends in `Tanh`. The
    likelihood of a squashed one is infinite at actions of -1 and 1, which data is full of.
    """

    class_type: type = IQL

    learning_starts = 0
    expectile: Annotated[float, Range(gt=0, lt=1)] = 0.7
    """tau: 1/2 is the value of the behavior, towards 1 that of the best actions in the data."""
    beta: Annotated[float, Range(ge=0)] = 3.0
    """Inverse temperature of the advantage weights; 0 is behavior cloning."""
    max_weight: Annotated[float, Range(gt=0)] = 100.0
    """Bound of the advantage weights."""
    actor_learning_rate: Annotated[float, Range(gt=0)] = 3.0e-4
    """Learning rate of the actor at the start."""
    actor_final_learning_rate: Annotated[float, Range(ge=0, le=1)] = 0.0
    """Share of it that is left at the end of the run, on a half cosine; 1: it is constant."""
    critic_learning_rate: Annotated[float, Range(gt=0)] = 3.0e-4
    """Learning rate of critics and value."""
    tau: Annotated[float, Range(gt=0, le=1)] = 0.005
    """Share of the critics that goes into their targets at each gradient step."""
