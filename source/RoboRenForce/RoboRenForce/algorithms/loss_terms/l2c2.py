"""Locally Lipschitz continuous constraint (L2C2): within a transition, policy and value change little.

Kobayashi 2022 (arXiv 2202.07152). A state is moved along its own transition, so the local scale needs no tuning:

    s~ = s + u (s' - s),   u ~ U(-1, 1)
    L  = L_policy + lambda_pi mean ||mu(s) - mu(s~)||^2 + lambda_V mean (V(s) - V(s~))^2

u is one number for each state, as legged robots are trained, or one for each of its dimensions, as in the paper; u < 0
extrapolates backwards, on purpose. Actor and V critic see the same s~. Off-policy critics have Q(s, a) in place of
V(s), and their own s~, because they take gradient steps of their own.
"""

from __future__ import annotations

from typing import Annotated, Any

import torch
from torch import Tensor, nn

from ...buffer.replay_batch import ReplayBatch
from ...buffer.rollout import RolloutBatch
from ...configclass import Range, configclass
from ..functional import masked_mean
from .loss_term import AnyBatch, LossTerm, LossTermCfg
from .samples import Samples, require_continuous, require_single_steps, squared_distance


class L2C2(LossTerm):
    """Penalty on the change of actions and values between a state and a random point of its transition."""

    name, needs_successors, masks_ends, compiles = "l2c2", True, True, True

    def __init__(self, cfg: L2C2Cfg) -> None:
        self.cfg = cfg

    def check_fit(self, *, sequences: bool, actor: nn.Module, n_step: int = 1) -> None:
        """Refuse discrete actions, and a replay whose successors are several steps away."""
        require_continuous("L2C2Cfg", actor)
        require_single_steps("L2C2Cfg", n_step)

    def loss(
        self, actor: Any, critic: Any, batch: AnyBatch, num_original: int, expert: AnyBatch | None = None
    ) -> Tensor:
        """Return the term of the policy and, on-policy, of V, over at most `max_samples` states."""
        cfg, with_value = self.cfg, isinstance(batch, RolloutBatch)
        if not cfg.policy_weight and not (cfg.value_weight and with_value):  # nothing is drawn then
            return batch.action.new_zeros(())
        samples = Samples.of(batch, cfg.max_samples)
        moved, loss = self.moved(samples), batch.action.new_zeros(())
        if cfg.policy_weight:
            here, there = samples.actions(actor, [actor.encoder(samples.obs), actor.encoder(moved)])
            loss = loss + cfg.policy_weight * masked_mean(squared_distance(here, there), samples.continued)
        if cfg.value_weight and with_value:
            versions = [critic.encoder(samples.obs), critic.encoder(moved)]
            here, there = samples.evaluate(critic, "critic", versions)
            loss = loss + cfg.value_weight * masked_mean(squared_distance(here, there), samples.continued)
        return loss

    def critic_loss(self, critic: Any, batch: ReplayBatch) -> Tensor | None:
        """Return lambda_V mean (Q(s, a) - Q(s~, a))^2 over all critics."""
        if not self.cfg.value_weight:
            return None
        samples = Samples.of(batch, self.cfg.max_samples)
        here, there = (
            critic.head.mean(critic.outputs(critic.features(obs, samples.start)[0], samples.action))
            for obs in (samples.obs, self.moved(samples))
        )
        return self.cfg.value_weight * masked_mean((here - there).square().mean(0), samples.continued)

    def moved(self, samples: Samples) -> dict[str, Tensor]:
        """Return s~: s where the episode ended, and in groups of integers, such as images."""
        share = self._draw(samples.ended)
        found = {}
        for name, x in samples.obs.items():
            if not x.is_floating_point():
                found[name] = x
                continue
            lead = samples.ended.shape
            own = self._draw(x) if self.cfg.per_dimension else share.reshape(*lead, *[1] * (x.dim() - len(lead)))
            ended = samples.ended.reshape(*lead, *[1] * (x.dim() - len(lead)))
            found[name] = torch.where(ended, x, x + own * (samples.next_obs[name] - x))
        return found

    def _draw(self, like: Tensor) -> Tensor:
        return 2.0 * torch.rand(like.shape, device=like.device) - 1.0


@configclass
class L2C2Cfg(LossTermCfg):
    """Configuration of L2C2. Without a weight it changes nothing."""

    class_type: type = L2C2
    policy_weight: Annotated[float, Range(ge=0)] = 5e-3
    """lambda_pi: weight of the squared change of the deterministic action."""
    value_weight: Annotated[float, Range(ge=0)] = 2.5e-3
    """lambda_V: weight of the squared change of the value; a smooth value is wrong where contacts make it jump."""
    per_dimension: bool = False
    """True to draw u for every dimension of the observation, False for one number per state."""
    max_samples: Annotated[int, Range(ge=1)] = 1024
    """States of a mini-batch that the term reads, its first ones (so `shuffle=none` reads the first steps only)."""
