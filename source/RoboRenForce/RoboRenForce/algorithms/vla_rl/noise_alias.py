"""Noise-aliased critics (DSRL-NA, arXiv 2506.15799): what is learned of an action holds for all noise that leads to it.

    y     = r + gamma^k (1 - terminated) [ min_j QAbar_j(s', a') - alpha log pi ],   a' = flow(s', w'), w' ~ pi
    L_A   = sum_j (QA_j(s, a) - y)^2,                                                a = flow(s, w) was executed
    L_W   = sum_j (QW_j(s, w) - QA_j(s, flow(s, w)))^2,                              w drawn anew

QA learns from rewards, QW learns from QA where no chunk was ever executed, and the policy maximizes QW, so that no
gradient passes through the flow.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ...buffer.replay_batch import ReplayBatch
from ...components.action_heads import FlowHead
from ...components.critic import QNetwork, QNetworkCfg
from ...components.return_heads import ScalarHead
from ...components.target import make_target, soft_update
from ...configclass import ConfigError
from ...envs.spec import ActionSpec
from ...networks import MLPDenoiserCfg
from ...networks.vlm import Prefix
from ...utils.precision import autocast
from ...utils.stateful import Stateful
from ..off_policy.q_losses import actor_at_next_obs, critic_at_obs, td_loss
from .dsrl import StartNoise
from .prefix_features import FEATURES, PrefixFeatures

if TYPE_CHECKING:
    from ..off_policy.sac import SAC


class NoiseAlias:
    """The critics of chunks QA, and what those of noise QW learn from them; the `critic_source` of a `SAC`.

    Args:
        learner: Learner of noise.
        features: Frozen features.
        critic_cfg: Configuration of QA, as of QW.
    """

    def __init__(self, learner: SAC, features: PrefixFeatures, critic_cfg: QNetworkCfg) -> None:
        actions, policy = features.actions, features.policy
        head = policy.head
        if not (isinstance(actions, StartNoise) and isinstance(head, FlowHead)):
            raise ConfigError("Noise aliases are those of start noise: set algorithm.actions=StartNoiseCfg().")
        if not isinstance(head.cfg.network, MLPDenoiserCfg):
            raise ConfigError(
                f"A noise-aliased critic samples chunks in every update, for which the replay keeps the mean of the "
                f"tokens, and a {type(head.cfg.network).__name__} reads more of them: set algorithm.aliased=false."
            )
        if not isinstance(learner.critic.head, ScalarHead):
            raise ConfigError(
                f"A noise-aliased critic hands values on, and networks.critic_cfg.head_cfg builds a "
                f"{type(learner.critic.head).__name__}, which predicts distributions: use ScalarHeadCfg."
            )
        self.learner, self.actions = learner, actions
        self.width, self.state_dim = policy.backbone.width, policy.spec.state.dim
        action = ActionSpec("continuous", actions.executed * actions.action_dim)
        spec = replace(learner.critic.spec, action=action)
        self.critic: QNetwork = critic_cfg.build(spec=spec, groups=[FEATURES]).to(learner.device)
        for tensor in [*self.critic.parameters(), *self.critic.buffers()]:
            learner.distributed.broadcast_(tensor.data)
        self.critic.encoder.normalizer = learner.critic.encoder.normalizer  # of the same features
        self.target = make_target(self.critic)
        self.optimizer = learner.make_optimizer({"chunk_critic": self.critic}, learner.cfg.critic_learning_rate)
        self._td_loss: Callable[[ReplayBatch], tuple[Tensor, dict[str, Tensor]]] = learner.compiled(self.td_loss)

    @torch.no_grad()
    def chunk(self, obs: Mapping[str, Tensor], latent: Tensor) -> Tensor:
        """Sample the chunks `(B, h * A)` that start from latent noise `(B, n)`, from stored features."""
        features = obs[FEATURES]
        mean, state = features[:, : self.width], features[:, self.width : self.width + self.state_dim]
        there = torch.ones(len(features), 1, dtype=torch.bool, device=features.device)
        prefix = Prefix(tokens=mean.unsqueeze(1), mask=there, is_image=~there, state=state)
        return self.actions.chunk(latent, prefix, features[:, :0]).flatten(1)

    def td_loss(self, batch: ReplayBatch) -> tuple[Tensor, dict[str, Tensor]]:
        """Return L_A and metrics without gradient."""
        learner, cfg = self.learner, self.learner.cfg
        with autocast(cfg.precision, learner.device):
            with torch.no_grad():
                latent, log_prob = learner.sample(actor_at_next_obs(learner.target_actor, batch))
                bonus = -learner.temperature() * log_prob if cfg.backup_entropy else torch.zeros_like(log_prob)
                next_chunk = self.chunk(_successors(batch), latent)
            executed = replace(batch, action=self.chunk(batch.obs, batch.action))
            loss, _, metrics = td_loss(
                self.critic, self.target, executed, next_chunk, bonus, cfg.aggregate, cfg.target_members
            )
        return loss, {"Loss/chunk_critic": metrics["Loss/critic"]}

    def train_step(self, batch: ReplayBatch) -> dict[str, Tensor]:
        """Take a gradient step of QA."""
        loss, metrics = self._td_loss(batch)
        metrics |= self.optimizer.step(loss)
        soft_update(self.target, self.critic, self.learner.cfg.tau)
        return metrics

    def loss(self, batch: ReplayBatch) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        """Return L_W; the error of each sample; metrics. The last two carry no gradient."""
        critic = self.learner.critic
        # As the flow was trained, and within the bounds of the policy.
        latent = (torch.randn_like(batch.action) / self.actions.cfg.bound).clamp(-1.0, 1.0)
        with autocast(self.learner.cfg.precision, self.learner.device):
            with torch.no_grad():
                known = replace(batch, action=self.chunk(batch.obs, latent))
                target = self.critic.head.mean(critic_at_obs(self.critic, known, known.action))
            asked = replace(batch, action=latent)
            value = critic.head.mean(critic_at_obs(critic, asked, latent))
        errors = (value - target).square()
        loss = batch.mean(errors.sum(0))
        found = {"Loss/critic": loss.detach(), "Policy/q_value": batch.mean(value.detach())}
        return loss, errors.detach().mean(0).sqrt(), found

    def parts(self) -> dict[str, Stateful]:
        """Return what it owns, for the checkpoint."""
        return {"chunk_critic": self.critic, "chunk_target": self.target, "chunk_optimizer": self.optimizer}


def _successors(batch: ReplayBatch) -> Mapping[str, Tensor]:
    if batch.next_obs is None:
        raise ConfigError("Noise-aliased critics learn from single chunks, and the replay draws sequences.")
    return batch.next_obs
