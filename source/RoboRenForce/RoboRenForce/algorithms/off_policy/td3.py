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
from ...components.deterministic_actor import DeterministicActor
from ...components.exploration import ExplorationCfg, GaussianNoiseCfg
from ...configclass import ConfigError, Range, configclass
from ...utils.precision import autocast
from ..algorithm import RunContext
from .actor_critic import ReplayActorCritic, ReplayActorCriticCfg
from .passes import actor_at_states, actor_at_successors, td_loss


class TD3(ReplayActorCritic):
    """Actor, critics, their targets, and one gradient step of each."""

    cfg: TD3Cfg

    def __init__(self, cfg: TD3Cfg, *, policy: ActorQPackCfg, context: RunContext) -> None:
        super().__init__(cfg, policy=policy, context=context)
        if not isinstance(self.actor, DeterministicActor):
            raise ConfigError(
                f"TD3 learns a deterministic policy, but policy.actor_cfg builds a {type(self.actor).__name__}: "
                "use DeterministicActorCfg, or SACCfg with a stochastic policy."
            )

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
            value = self.policy_value(self.values_of(batch, action))
        loss = self.objective(batch, action, value)
        return self.regularized(loss, batch, {"Policy/mean_abs_action": batch.mean(action.abs().mean(-1))})

    def objective(self, batch: ReplayBatch, action: Tensor, value: Tensor) -> Tensor:
        """L_mu, 0-dim, of actions `(..., A)` of the policy that are worth `value` `(...)`."""
        return -batch.mean(value)

    def policy_value(self, values: Tensor) -> Tensor:
        """What the policy climbs, `(...)`, of the critics' values `(E, ...)`."""
        if self.cfg.policy_value == "first":
            return values[0]
        return values.amin(0) if self.cfg.policy_value == "min" else values.mean(0)

    def learn_policy(self, batch: ReplayBatch) -> dict[str, Tensor]:
        """A step of the actor."""
        loss, metrics = self._policy_loss(batch)
        return metrics | self.take_step(self.actor_optimizer, loss)


@configclass
class TD3Cfg(ReplayActorCriticCfg):
    """TD3. Defaults are those of the paper; its actor is a `DeterministicActorCfg`."""

    class_type: type = TD3

    exploration: ExplorationCfg = GaussianNoiseCfg(std=0.1)
    policy_delay = 2
    delay_targets = True
    target_actor = True
    target_noise: Annotated[float, Range(ge=0)] = 0.2
    """sigma: standard deviation of the noise on a'."""
    target_noise_clip: Annotated[float, Range(ge=0)] = 0.5
    """c: bound of that noise."""
    policy_value: Literal["first", "min", "mean"] = "first"
    """Which critic the policy climbs."""
