"""Twin delayed deep deterministic policy gradient: off-policy learning of a deterministic policy.

Fujimoto et al. 2018 (arXiv 1802.09477). Against the overestimation of DDPG it takes the smaller of two critics,
smooths the target over nearby actions, and lets policy and targets follow at every second step only.

    a'   = clip(mubar(s') + clip(eps, -c, c), -1, 1),   eps ~ N(0, sigma^2)
    y    = r + gamma (1 - terminated) min_j Qbar_j(s', a')
    L_Q  = sum_j (Q_j(s, a) - y)^2
    L_mu = -Q_1(s, mu(s))

With another return head the critics are distributional; FastTD3 is this class with C51 critics (`FastTD3Cfg`).
"""

from __future__ import annotations

from typing import Annotated, Literal

import torch
from torch import Tensor

from ...buffer.replay_batch import ReplayBatch
from ...components.actor_q import ActorQPackCfg
from ...components.critic import QNetwork
from ...components.deterministic_actor import DeterministicActor
from ...components.exploration import ExplorationCfg, GaussianNoiseCfg
from ...components.target import polyak_, target_of
from ...configclass import Range, configclass
from ...utils.precision import autocast
from ..algorithm import RunContext
from ..loss_terms import LossTermCfg
from .passes import actor_at_states, actor_at_successors, features_of, td_loss
from .replay_learner import Part, ReplayLearner, ReplayLearnerCfg


class TD3(ReplayLearner):
    """Actor, critics, their targets, and one gradient step of each."""

    cfg: TD3Cfg

    def __init__(self, cfg: TD3Cfg, *, policy: ActorQPackCfg, context: RunContext) -> None:
        super().__init__(cfg, policy=policy, context=context)
        self.critic: QNetwork = self.networks.critic
        if not isinstance(self.actor, DeterministicActor):
            raise ValueError(
                f"TD3 learns a deterministic policy, but policy.actor_cfg builds a {type(self.actor).__name__}: "
                "use DeterministicActorCfg, or SACCfg with a stochastic policy."
            )
        self.loss_terms = [term.build() for term in cfg.loss_terms]
        self.critic_optimizer = self.gradient_step({"critic": self.critic}, cfg.critic_learning_rate)
        self.actor_optimizer = self.gradient_step({"actor": self.actor}, cfg.actor_learning_rate)
        self.target_critic = target_of(self.critic)
        self.target_actor = target_of(self.actor) if cfg.target_actor else self.actor
        self._critic_loss = self.compiled(self.critic_loss)
        self._policy_loss = self.compiled(self.policy_loss)

    def learn(self, batch: ReplayBatch, policy_turn: bool) -> dict[str, Tensor]:
        """The critics learn; at its turn the policy does; the targets follow."""
        loss, errors, metrics = self._critic_loss(batch)
        metrics |= self.take_step(self.critic_optimizer, loss)
        if batch.index is not None:
            self.replay.update_priorities(batch.index, errors)
        if policy_turn:
            loss, policy_metrics = self._policy_loss(batch)
            metrics |= policy_metrics | self.take_step(self.actor_optimizer, loss)
        if policy_turn or not self.cfg.delay_targets:
            polyak_(self.target_critic, self.critic, self.cfg.tau)
            if self.cfg.target_actor:
                polyak_(self.target_actor, self.actor, self.cfg.tau)
        return metrics

    def critic_loss(self, batch: ReplayBatch) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        """Returns L_Q; the error of each sample, for priorities; 0-dim metrics. The last two carry no gradient."""
        with autocast(self.cfg.precision, self.device):
            next_action = self.next_action(batch)
            nothing = torch.zeros_like(batch.reward)
            return td_loss(self.critic, self.target_critic, batch, next_action, nothing, self.cfg.aggregate)

    @torch.no_grad()
    def next_action(self, batch: ReplayBatch) -> Tensor:
        """a' `(..., A)`: the target policy's action with clipped noise, so that sharp peaks of a critic don't pay."""
        cfg = self.cfg
        action = self.actor.distribution(actor_at_successors(self.target_actor, batch)).mode
        noise = (cfg.target_noise * torch.randn_like(action)).clamp(-cfg.target_noise_clip, cfg.target_noise_clip)
        return (action + noise).clamp(-1.0, 1.0)

    def policy_loss(self, batch: ReplayBatch) -> tuple[Tensor, dict[str, Tensor]]:
        """Returns L_mu, and 0-dim metrics without gradient."""
        with autocast(self.cfg.precision, self.device):
            action = self.actor.distribution(actor_at_states(self.actor, batch)).mode
            with torch.no_grad():
                features = batch.at_states(features_of(self.critic))
            value = self.policy_value(self.critic.head.mean(self.critic.outputs(features, action)))
        loss = self.objective(batch, action, value)
        metrics = {"Policy/mean_abs_action": batch.mean(action.abs().mean(-1))}
        for term in self.loss_terms:
            metrics[f"Loss/{term.name}"] = term.loss(self.actor, self.critic, batch, batch.action.shape[0])
            loss = loss + metrics[f"Loss/{term.name}"]
        metrics["Loss/actor"] = loss
        return loss, {name: metric.detach() for name, metric in metrics.items()}

    def objective(self, batch: ReplayBatch, action: Tensor, value: Tensor) -> Tensor:
        """L_mu, 0-dim, of actions `(..., A)` of the policy that are worth `value` `(...)`."""
        return -batch.mean(value)

    def policy_value(self, values: Tensor) -> Tensor:
        """What the policy climbs, `(...)`, of the critics' values `(E, ...)`."""
        if self.cfg.policy_value == "first":
            return values[0]
        return values.amin(0) if self.cfg.policy_value == "min" else values.mean(0)

    def parts(self) -> dict[str, Part]:
        """Targets and optimizers."""
        parts: dict[str, Part] = {
            "target_critic": self.target_critic,
            "critic_optimizer": self.critic_optimizer,
            "actor_optimizer": self.actor_optimizer,
        }
        return parts | ({"target_actor": self.target_actor} if self.cfg.target_actor else {})


@configclass
class TD3Cfg(ReplayLearnerCfg):
    """TD3. Defaults are those of the paper; its actor is a `DeterministicActorCfg`."""

    class_type: type = TD3

    exploration: ExplorationCfg = GaussianNoiseCfg(std=0.1)
    policy_delay = 2
    actor_learning_rate: Annotated[float, Range(gt=0)] = 3.0e-4
    """Learning rate of the actor."""
    critic_learning_rate: Annotated[float, Range(gt=0)] = 3.0e-4
    """Learning rate of the critics."""
    tau: Annotated[float, Range(gt=0, le=1)] = 0.005
    """Share of the online networks that goes into their targets when those follow."""
    delay_targets: bool = True
    """Let the targets follow at the policy's turn only."""
    target_actor: bool = True
    """Let a slow copy of the policy choose a'; FastTD3 asks the policy itself."""
    target_noise: Annotated[float, Range(ge=0)] = 0.2
    """sigma: standard deviation of the noise on a'."""
    target_noise_clip: Annotated[float, Range(ge=0)] = 0.5
    """c: bound of that noise."""
    aggregate: Literal["min", "mean", "own"] = "min"
    """Which critic the target comes from: the most pessimistic of each sample; the mean of all; each its own."""
    policy_value: Literal["first", "min", "mean"] = "first"
    """Which critic the policy climbs."""
    loss_terms: list[LossTermCfg] = []
    """Regularizers of the policy, as for PPO."""
