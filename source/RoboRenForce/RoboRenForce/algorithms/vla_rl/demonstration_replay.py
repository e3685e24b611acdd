"""Demonstrations beside what is collected, half of every batch (RLPD, arXiv 2302.02948)."""

from __future__ import annotations

import logging
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ...buffer.replay_batch import ReplayBatch
from ...components.vla_policy import VLAPolicy
from ...data.dataset import LeRobotDataset, LeRobotDatasetCfg
from ...data.loader import to_device
from ..vla_training.data_spec import ACTION, spec_of_dataset
from .prefix_features import FEATURES, PrefixFeatures

logger = logging.getLogger(__name__)

_AT_ONCE = 32
"""Frames that are encoded at once."""


@dataclass
class DemonstrationReplay:
    """Recorded chunks, from every frame on, as transitions of a learner of latent actions; T frames."""

    features: Tensor
    """`(T, F)`."""
    latent: Tensor
    """`(T, n)`: what the learner would have had to choose."""
    reward: Tensor
    """`(T,)`, discounted to the frame."""
    discount: Tensor
    """`(T,)`: gamma to the number of executed actions, 0 at the end of an episode."""
    successor: Tensor
    """int64 `(T,)`: frame after the chunk."""
    batch_size: int

    def sample(self) -> ReplayBatch:
        """Draw transitions uniformly, with replacement."""
        row = torch.rand(self.batch_size, device=self.reward.device).mul_(len(self.reward)).long()
        row.clamp_(max=len(self.reward) - 1)  # float32 may round up
        return ReplayBatch(
            obs={FEATURES: self.features[row]},
            action=self.latent[row],
            reward=self.reward[row],
            discount=self.discount[row],
            next_obs={FEATURES: self.features[self.successor[row]]},
        )


def encode_demonstrations(
    data_root: str, features: PrefixFeatures, *, gamma: float, final_reward: float, batch_size: int
) -> DemonstrationReplay:
    """Encode a data set once; its images are not needed afterwards.

    Every episode counts as a success that is rewarded in its last step with `final_reward` and terminates it.
    """
    policy, executed = features.policy, features.actions.executed
    data: LeRobotDataset = (
        LeRobotDatasetCfg(data_root=data_root).for_policy(executed, policy.spec.cameras, "all").build()
    )
    policy.require_data(spec_of_dataset(data))
    policy.add_instructions(data.metadata.tasks.values())
    parts = [_encode(data, rows, features) for rows in np.array_split(np.arange(len(data)), -(-len(data) // _AT_ONCE))]
    seen, latent = (torch.cat(tensors) for tensors in zip(*parts, strict=True))
    logger.info("Demonstrations: %d frames of %d episodes, encoded once.", len(data), len(data.episodes))
    lengths = torch.from_numpy(data.metadata.episodes.length[data.episodes])
    reward, discount, successor = (
        tensor.to(seen.device) for tensor in chunk_returns(lengths, executed, gamma, final_reward)
    )
    return DemonstrationReplay(seen, latent, reward, discount, successor, batch_size)


def chunk_returns(lengths: Tensor, chunk: int, gamma: float, final_reward: float) -> tuple[Tensor, Tensor, Tensor]:
    """Return reward, discount and successor of the chunks that begin at every frame of episodes of these lengths."""
    frame = torch.cat([torch.arange(length) for length in lengths.tolist()])
    left = lengths.repeat_interleave(lengths) - frame
    executed = left.clamp(max=chunk)
    ends = left <= chunk
    reward = torch.where(ends, final_reward * gamma ** (executed - 1).double(), 0.0)
    discount = torch.where(ends, 0.0, gamma ** executed.double())
    successor = torch.arange(len(frame)) + torch.where(ends, 0, executed)
    return reward.float(), discount.float(), successor


@torch.no_grad()
def _encode(data: LeRobotDataset, rows: np.ndarray, features: PrefixFeatures) -> tuple[Tensor, Tensor]:
    """Return features and latent actions of some frames."""
    policy: VLAPolicy = features.policy
    batch = to_device(data.get_batch(rows), next(policy.parameters()).device)
    seen = features(batch)
    chunk = policy.preprocessing.normalize_actions(batch[ACTION], policy.raw_state(seen.prefix))
    return seen.features, features.actions.latent(chunk, seen.context)
