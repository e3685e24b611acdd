"""GRPO for vision-language-action policies: episodes are compared with others from the same start; there is no critic.

Shao et al. 2024 (arXiv 2402.03300); for VLA policies SimpleVLA-RL (arXiv 2509.09674) and RLinf-VLA (arXiv 2510.06710).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Any, Literal

import torch
from torch import Tensor
from typing_extensions import override

from ...buffer.transition import Transition
from ...configclass import ConfigError, Range, configclass
from ...utils.errors import UserError
from ..functional import chunk_reward, episode_weights, group_advantage, informative_groups
from .chunk_rollout import ChunkRollout
from .options import PolicyGradientOptions
from .vla_on_policy import Targets, VLAOnPolicy


class GRPO(VLAOnPolicy):
    """An iteration is one wave of episodes, or several where too many groups say nothing."""

    cfg: GRPOCfg

    def __init__(self, cfg: GRPOCfg, **runtime: Any) -> None:
        super().__init__(cfg, **runtime)
        spec = self.context.spec
        if not {"group_id", "active"} <= set(spec.extras):
            raise ConfigError(
                f"GRPO compares episodes of a group that start alike, and '{spec.task}' has no such groups: set "
                "env.groups=GroupVecCfg(group_size=8), or choose VLAPPO for an environment that can't start rows alike."
            )
        if cfg.score == "success" and "success" not in spec.extras:
            raise ConfigError(f"algorithm.score is 'success', which '{spec.task}' does not tell: set it to return.")
        self._group_size = 0

    def after_step(self, transition: Transition, mask: Tensor) -> None:
        """Find the size of the groups, once."""
        if not self._group_size and transition.group_id is not None:
            self._group_size = len(transition.group_id) // (int(transition.group_id.max()) + 1)

    def wants_wave(self, rollout: ChunkRollout) -> bool:
        """Return True while too few groups are informative (dynamic sampling); waits for the device."""
        if self._num_waves > self.cfg.max_refills:
            return False
        _, useful = self._compared(rollout)
        # All processes collect as many waves: otherwise the one that has enough would wait for the others.
        counts = torch.stack([useful.sum(), torch.ones_like(useful[0], dtype=torch.int64).sum()])
        found, groups = self.context.distributed.sum_(counts).tolist()
        return found < self.cfg.min_useful_groups * groups

    def targets(self, rollout: ChunkRollout) -> Targets:
        """Compare the episodes of each group."""
        cfg, waves = self.cfg, self._num_waves
        scores, useful = self._compared(rollout)  # (W, G, members), (W, G)
        advantage = group_advantage(scores, scale="std" if cfg.normalize_by_std else "none")
        episodes = rollout.mask.shape[1] * waves
        # Every decision of an episode has the advantage of the episode.
        episode = rollout.decisions(rollout.episode_index())
        kept = useful.unsqueeze(-1).expand_as(scores).reshape(episodes)[episode]
        executed = rollout.decisions(rollout.executed)
        weight = kept.to(scores.dtype)
        if cfg.length_normalization:
            elements = torch.ones_like(executed) if cfg.log_prob_level == "chunk" else executed
            total = self.context.distributed.sum_
            weight = weight * episode_weights(episode, elements * kept, episodes, total=total)
        return Targets(
            advantage=advantage.reshape(episodes)[episode] * kept,
            weight=weight,
            returns=torch.zeros(len(episode), 0, device=self.device),
            metrics={
                "rollout/returns_mean": scores.mean(),
                "rollout/useful_groups": useful.to(scores.dtype).mean(),
                "rollout/waves": torch.full((), float(waves), device=self.device),
            },
        )

    @property
    def _num_waves(self) -> int:
        """Waves of this iteration, the current one included."""
        return 1 if self.waves is None else self.waves.wave + 1

    def _compared(self, rollout: ChunkRollout) -> tuple[Tensor, Tensor]:
        """Scores `(waves, groups, members)`, and which groups tell something, bool `(waves, groups)`."""
        cfg, waves = self.cfg, self._num_waves
        if not self._group_size:
            raise UserError("GRPO got steps without group_id, which the environment's spec announces.")
        success = rollout.per_episode(rollout.success, waves).clamp(max=1.0)
        returns = rollout.per_episode(chunk_reward(rollout.rewards, 1.0), waves)
        scores = (success if cfg.score == "success" else returns).view(waves, -1, self._group_size)
        rate = success.view_as(scores) if cfg.filters_success else None
        return scores, informative_groups(scores, cfg.lowest_mean, cfg.highest_mean, rate=rate)


@configclass
class GRPOCfg(PolicyGradientOptions):
    """Configuration of `GRPO`."""

    class_type: type = GRPO

    score: Literal["return", "success"] = "return"
    """What is compared: the sum of rewards of an episode (undiscounted), or its success, 0 or 1."""
    normalize_by_std: bool = True
    """Divide the deviation from the mean of the group by the standard deviation."""
    length_normalization: bool = False
    """Let every episode count alike, instead of every action: without, long episodes (the failures) dominate."""
    lowest_mean: float | None = None
    """Groups of a smaller mean (of success, or of the score, see `filters_success`) are left out."""
    highest_mean: float | None = None
    """Groups of a larger mean are left out. Those whose scores are all equal always are."""
    filters_success: bool = False
    """Let the bounds be about the success rate of a group, where the score is another one."""
    max_refills: Annotated[int, Range(ge=0)] = 0
    """Further waves of episodes in an iteration while too few groups are useful (dynamic sampling)."""
    min_useful_groups: Annotated[float, Range(gt=0, le=1)] = 0.5
    """Useful groups that end the collection, as a share of the groups of a wave."""

    @property
    @override
    def max_waves(self) -> int:
        return 1 + self.max_refills

    def check(self) -> Iterable[str]:
        """Sentences on options that contradict one another."""
        yield from super().check()
        if self.lowest_mean is not None and self.highest_mean is not None and self.lowest_mean > self.highest_mean:
            yield f"lowest_mean: {self.lowest_mean} is above highest_mean={self.highest_mean}; swap them"
