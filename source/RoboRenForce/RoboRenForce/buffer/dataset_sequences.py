"""Sequences of recorded transitions, for recurrent networks: the windows of `SequenceReplayBuffer`, over a data set."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor
from typing_extensions import override

from ..envs.obs_groups import PREVIOUS_ACTION
from .dataset import TransitionDataset
from .dataset_buffer import DatasetBuffer
from .replay_batch import ReplayBatch


class SequenceDatasetBuffer(DatasetBuffer):
    """Draw windows of `length` steps that start at any transition and end with its episode; the rest is padding.

    Args:
        dataset: Data to draw from, in the order of recording.
        gamma: Discount per step.
        batch_size: Windows per batch.
        device: Device of the learner.
        length: T, number of steps of a window.
        burn_in: Number of first steps that only warm up the recurrent state; none at the start of an episode.
    """

    def __init__(
        self,
        dataset: TransitionDataset,
        gamma: float,
        batch_size: int,
        device: torch.device | str,
        *,
        length: int,
        burn_in: int = 0,
    ) -> None:
        super().__init__(dataset, gamma, batch_size, device, next_action=False)
        begins = episode_begins(dataset)
        episode = begins.cumsum(0) - 1
        lasts = torch.cat([begins.nonzero().flatten()[1:] - 1, torch.tensor([len(dataset) - 1])])
        self._begins, self._last = begins.to(self.device), lasts[episode].to(self.device)
        self._burn_in, self._offset = burn_in, torch.arange(length, device=self.device).unsqueeze(1)
        self._start = torch.zeros(length + 1, batch_size, dtype=torch.bool, device=self.device)
        self._start[0] = True

    @override
    @torch.no_grad()
    def sample(self) -> ReplayBatch:
        """Draw `batch_size` windows, whose starts are uniform and with replacement."""
        return self.windows(torch.randint(self.num_added, (self.batch_size,), device=self.device))

    def windows(self, index: Tensor) -> ReplayBatch:
        """Return the windows that start at the transitions `index`, int64 `(batch_size,)`."""
        slots, last = index + self._offset, self._last[index]
        inside = slots <= last
        if self._burn_in:
            inside = inside & ((self._offset >= self._burn_in) | self._begins[index])
        shape = slots.shape
        rows = self.gather(torch.minimum(slots, last).flatten()).map(lambda x: x.unflatten(0, shape))
        next_obs = rows.next_obs or {}
        obs = {name: torch.cat([rows.obs[name][:1], following]) for name, following in next_obs.items()}
        return replace(rows, obs=obs, next_obs=None, valid=inside.to(rows.reward.dtype), start=self._start, index=index)


def with_previous_actions(dataset: TransitionDataset) -> TransitionDataset:
    """Return the data with the group `previous_action`: zeros where an episode begins."""
    before = torch.cat([torch.zeros_like(dataset.action[:1]), dataset.action[:-1]])
    before[episode_begins(dataset)] = 0
    return replace(
        dataset,
        obs={**dataset.obs, PREVIOUS_ACTION: before},
        next_obs={**dataset.next_obs, PREVIOUS_ACTION: dataset.action},
    )


def episode_begins(dataset: TransitionDataset) -> Tensor:
    """Return bool `(M,)`: the transition does not continue the one before it.

    That is after the end of an episode, and where rows of unknown successor were left out.
    """
    joined = ~(dataset.terminated | dataset.truncated)[:-1]
    for name, rows in dataset.obs.items():
        joined = joined & (dataset.next_obs[name][:-1] == rows[1:]).flatten(1).all(1)
    return torch.cat([torch.ones(1, dtype=torch.bool), ~joined])
