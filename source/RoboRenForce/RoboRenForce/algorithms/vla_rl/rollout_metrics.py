"""What is logged of a rollout, under the names that users of RLinf know."""

from __future__ import annotations

import torch
from torch import Tensor

from .chunk_rollout import ChunkRollout
from .equal_rewards import NO_ADVANTAGES
from .policy_gradient import ChunkBatch


def rollout_metrics(rollout: ChunkRollout, batch: ChunkBatch) -> dict[str, Tensor]:
    """Return 0-dim statistics of rewards, advantages and returns; those of advantages are of what is learned from."""
    kept = batch.weight > 0
    advantage = batch.advantage if batch.advantage.dim() == 1 else batch.advantage.mean(1)
    # Without a wait for the device, which selecting rows would be.
    kept_advantage = torch.where(kept, advantage, 0.0)
    found = {
        "rollout/rewards": rollout.decisions(rollout.rewards).sum(-1).mean(),
        "rollout/advantages_mean": kept_advantage.sum() / kept.sum().clamp(min=1),
        "rollout/advantages_max": kept_advantage.max(),
        "rollout/advantages_min": kept_advantage.min(),
        "rollout/num_samples": torch.full_like(advantage[0], float(len(kept))),
        "rollout/used_samples": kept.float().mean(),
        NO_ADVANTAGES: (kept_advantage == 0).all().float(),
    }
    if batch.target.shape[1]:
        found |= {
            "rollout/returns_mean": batch.target.mean(),
            "rollout/returns_max": batch.target.max(),
            "rollout/returns_min": batch.target.min(),
        }
    return found
