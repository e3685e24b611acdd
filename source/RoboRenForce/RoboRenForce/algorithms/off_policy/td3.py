"""Twin delayed deep deterministic policy gradient (TD3): off-policy learning of a deterministic policy.

Fujimoto et al. 2018 (arXiv 1802.09477). Against the overestimation of DDPG it takes the smaller of two critics,
smooths the target over nearby actions, and updates policy and targets at every second step only.

    a'   = clip(mubar(s') + clip(eps, -c, c), -1, 1),   eps ~ N(0, sigma^2)
    y    = r + gamma (1 - terminated) min_j Qbar_j(s', a')
    L_Q  = sum_j (Q_j(s, a) - y)^2
    L_mu = -Q_1(s, mu(s))

With another return head the critics are distributional; FastTD3 is this class with C51 critics (`FastTD3Cfg`).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, ClassVar, Literal

import torch
from torch import Tensor

from ...buffer.replay_batch import ReplayBatch
from ...components.actor_q import ActorQPackCfg
from ...components.deterministic_actor import DeterministicActor
from ...components.exploration import ExplorationCfg, GaussianNoiseCfg
from ...configclass import Range, configclass
from ...utils.precision import autocast
from ...utils.stateful import Stateful
from ..algorithm import RunContext
from .actor_critic import ActorCritic, ActorCriticCfg
from .off_policy_algorithm import OffPolicyAlgorithm, OffPolicyAlgorithmCfg
from .q_losses import action_values, actor_at_next_obs, actor_at_obs, td_loss


class TD3(OffPolicyAlgorithm):
    """Actor, critics and their targets, with one gradient step of each."""

    cfg: TD3Cfg
    networks_cfg = ActorQPackCfg
    sets_priorities = True

    def __init__(self, cfg: TD3Cfg, *, policy: ActorQPackCfg, context: RunContext) -> None:
        super().__init__(cfg, policy=policy, context=context)
        advice = "use DeterministicActorCfg, or SACCfg with a stochastic policy"
        nets = self.actor_critic = ActorCritic(self, cfg, DeterministicActor, advice)
        self.critic, self.target_critic, self.target_actor = nets.critic, nets.target_critic, nets.target_actor
        self._critic_loss = self.compiled(self.critic_loss)
        self._policy_loss = self.compiled(self.policy_loss)

    def train_step(self, batch: ReplayBatch, update_actor: bool) -> dict[str, Tensor]:
        """Update the critics and, at every `policy_delay`-th step, policy and targets."""
        return self.actor_critic.train_step(batch, update_actor, self._critic_loss, self.update_policy)

    def critic_loss(self, batch: ReplayBatch) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        """Return L_Q; the error of each sample, for priorities; 0-dim metrics. The last two carry no gradient."""
        with autocast(self.cfg.precision, self.device):
            next_action = self.next_action(batch)
            bonus = self.cfg.bonus(self.cfg, batch, next_action)
            return td_loss(self.critic, self.target_critic, batch, next_action, bonus, self.cfg.aggregate)

    @torch.no_grad()
    def next_action(self, batch: ReplayBatch) -> Tensor:
        """Return a' `(..., A)`: the target policy's action with clipped noise, which smooths peaks of the critic."""
        cfg = self.cfg
        action = self.actor.distribution(actor_at_next_obs(self.target_actor, batch)).mode
        # Target policy smoothing: similar actions get similar values. The clip keeps a' near the policy's action.
        noise = (cfg.target_noise * torch.randn_like(action)).clamp(-cfg.target_noise_clip, cfg.target_noise_clip)
        return (action + noise).clamp(-1.0, 1.0)

    def policy_loss(self, batch: ReplayBatch) -> tuple[Tensor, dict[str, Tensor]]:
        """Return L_mu, and 0-dim metrics without gradient."""
        # Deterministic policy gradient: through the critic's value into the action.
        with autocast(self.cfg.precision, self.device):
            action = self.actor.distribution(actor_at_obs(self.actor, batch)).mode
            values = action_values(self.critic, batch, action)
        # The paper maximizes the first critic; the smaller of both is more conservative.
        if self.cfg.policy_value == "first":
            value = values[0]
        else:
            value = values.amin(0) if self.cfg.policy_value == "min" else values.mean(0)
        loss = self.cfg.objective(self.cfg, batch, action, value)
        return self.actor_critic.regularize(loss, batch, {"Policy/mean_abs_action": batch.mean(action.abs().mean(-1))})

    def update_policy(self, batch: ReplayBatch) -> dict[str, Tensor]:
        """Take a gradient step of the actor; returns metrics."""
        loss, metrics = self._policy_loss(batch)
        return metrics | self.actor_critic.actor_optimizer.step(loss)

    def parts(self) -> dict[str, Stateful]:
        """Return targets and optimizers."""
        return self.actor_critic.parts()


def no_bonus(cfg: TD3Cfg, batch: ReplayBatch, next_action: Tensor) -> Tensor:
    """Return zeros `(...)`: the target adds nothing to the value of `next_action` `(..., A)`."""
    return torch.zeros_like(batch.reward)


def negative_value(cfg: TD3Cfg, batch: ReplayBatch, action: Tensor, value: Tensor) -> Tensor:
    """Return L_mu = -mean Q, 0-dim, for the policy's actions `(..., A)` with values `(...)`."""
    return -batch.mean(value)


@configclass
class TD3Cfg(ActorCriticCfg, OffPolicyAlgorithmCfg):
    """Configuration of TD3. Defaults are those of the paper; its actor is a `DeterministicActorCfg`."""

    class_type: type = TD3
    bonus: ClassVar[Callable[..., Tensor]] = staticmethod(no_bonus)
    """Term added to the value of a'; see `no_bonus`."""
    objective: ClassVar[Callable[..., Tensor]] = staticmethod(negative_value)
    """Loss of the policy; see `negative_value`."""

    exploration: ExplorationCfg = GaussianNoiseCfg(std=0.1)
    policy_delay = 2
    delay_targets = True
    target_actor = True
    target_noise: Annotated[float, Range(ge=0)] = 0.2
    """sigma: standard deviation of the noise on a'."""
    target_noise_clip: Annotated[float, Range(ge=0)] = 0.5
    """c: bound of the noise on a'."""
    policy_value: Literal["first", "min", "mean"] = "first"
    """Critic value that the policy maximizes: of the first critic, the smallest, or the mean."""
