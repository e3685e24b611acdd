"""What a policy-gradient learner learns from: its rollout with advantages and value targets, in mini-batches."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from ...buffer.rollout import Epochs, RolloutBatch, RolloutBuffer
from ...components.normalizer import ValueNormalizer
from ...components.observation import Observations
from ..functional import gae, masked_var, normalize_advantage
from .rollout import OnPolicyRollout


class MiniBatches:
    """Mini-batches of a rollout with GAE (arXiv 1506.02438).

    Args:
        cfg: `PPOCfg`.
        rollout: The rollout.
        recurrent: True if mini-batches hold whole environments.
        whole: True if they hold whole transitions, for regularizers and learned rewards.
    """

    def __init__(self, cfg: Any, rollout: OnPolicyRollout, *, recurrent: bool, whole: bool) -> None:
        self.cfg, self.rollout = cfg, rollout
        self.epochs = Epochs.of(cfg, rollout.buffer, recurrent, whole=whole)

    @property
    def buffer(self) -> RolloutBuffer:
        """Storage of the rollout."""
        return self.rollout.buffer

    @property
    def value_normalizer(self) -> ValueNormalizer | None:
        """Statistics of the returns; None if the critic predicts them as they are."""
        return self.rollout.collector.value_normalizer

    def shuffle(self) -> None:
        """Draw new permutations, in place, outside of the captured update, which only reads them."""
        self.epochs.shuffle()

    @torch.no_grad()
    def prepare(self, obs: Observations, state: Tensor | None, start: Tensor | None) -> Tensor:
        """Compute advantages and value targets, given the end of the rollout (`OnPolicyRollout.end`).

        They are those of the policy that acted, so they are computed once, before it changes.

        Returns:
            The share of the targets' variance that the critic explains, 0-dim.
        """
        explained_variance = self._estimate(obs, state, start)
        # Normalized advantages make the step size independent of the scale of the rewards.
        if not self.cfg.normalize_advantage_per_mini_batch:
            self.buffer.advantage.copy_(normalize_advantage(self.buffer.advantage, mask=self.buffer.mask))
        return explained_variance

    def _estimate(self, obs: Observations, state: Tensor | None, start: Tensor | None) -> Tensor:
        """Do the same with advantages in units of the reward."""
        cfg, buffer, value, mask = self.cfg, self.buffer, self.buffer.value, self.buffer.mask
        # V(s_T) stands for all that follows the rollout.
        last_value = self.rollout.value(obs, state, start)
        advantage, target = gae(buffer.reward, value, buffer.done, last_value, gamma=cfg.gamma, lam=cfg.lam, mask=mask)
        unexplained = masked_var(target - value, mask) / (masked_var(target, mask) + 1e-8)
        # The critic predicts normalized returns, so its targets and the old values (for the clip) are normalized too.
        if self.value_normalizer is not None:
            self.value_normalizer.update(target.flatten(), self.rollout.distributed, mask)
            target = self.value_normalizer.normalize(target)
            value.copy_(self.value_normalizer.normalize(value))
        buffer.return_.copy_(target)
        buffer.advantage.copy_(advantage)
        return 1.0 - unexplained

    def __iter__(self) -> Iterator[RolloutBatch]:
        """Yield the mini-batches of all epochs."""
        for batch in self.epochs:
            if self.cfg.normalize_advantage_per_mini_batch:
                batch = replace(batch, advantage=normalize_advantage(batch.advantage, mask=batch.mask))
            yield batch
