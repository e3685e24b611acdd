"""A data set as the replay of a learner."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from .dataset import TransitionDataset
from .dataset_checks import DatasetError
from .replay_batch import ReplayBatch


class DatasetBuffer:
    """Draws batches from a data set; to a learner it looks like a full replay.

    Everything lies on the learner's device, nothing is ever written, and `sample` can be part of a CUDA graph.

    Args:
        dataset: what to draw from.
        gamma: discount per step.
        batch_size: transitions of a batch.
        device: where the learner is.
        next_action: fill `ReplayBatch.next_action`. Rows whose next action nobody knows, because the episode was cut
            there, are then not drawn; with False every row is.
    """

    captured = True
    """Whether `sample` may be part of a CUDA graph."""

    def __init__(
        self,
        dataset: TransitionDataset,
        gamma: float,
        batch_size: int,
        device: torch.device | str,
        *,
        next_action: bool = True,
    ) -> None:
        self.batch_size, self.device, self.source = batch_size, torch.device(device), dataset.source
        if next_action and not bool(dataset.next_action_known.all()):
            if not bool(dataset.next_action_known.any()):
                raise DatasetError(f"{dataset.source} has no row with a next action: record longer episodes.")
            dataset = dataset.select(dataset.next_action_known)
        self.num_added = len(dataset)
        """Transitions, as of a replay that has been filled."""
        self._require_memory(dataset)
        self.obs = {name: rows.to(self.device) for name, rows in dataset.obs.items()}
        self.next_obs = {name: rows.to(self.device) for name, rows in dataset.next_obs.items()}
        self.action, self.reward = dataset.action.to(self.device), dataset.reward.to(self.device)
        self.discount = (gamma * (~dataset.terminated).to(dataset.reward.dtype)).to(self.device)
        self.next_action = dataset.next_action.to(self.device) if next_action else None

    def __len__(self) -> int:
        return self.num_added

    def sample(self) -> ReplayBatch:
        """`batch_size` transitions, uniformly and with replacement."""
        return self.gather(torch.randint(self.num_added, (self.batch_size,), device=self.device))

    def gather(self, index: Tensor) -> ReplayBatch:
        """The transitions `index`, int64 `(B,)`."""
        return ReplayBatch(
            obs={name: rows.index_select(0, index) for name, rows in self.obs.items()},
            action=self.action.index_select(0, index),
            reward=self.reward.index_select(0, index),
            discount=self.discount.index_select(0, index),
            next_obs={name: rows.index_select(0, index) for name, rows in self.next_obs.items()},
            index=index,
            next_action=None if self.next_action is None else self.next_action.index_select(0, index),
        )

    def update_priorities(self, index: Tensor, td_error: Tensor) -> None:
        """Without effect: the draw is uniform."""

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run compares; the data itself stays in its file."""
        return {"transitions": self.num_added, "reward_sum": self.reward.double().sum().cpu()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Check that this is the data that the checkpoint was learning from.

        Raises:
            ValueError: it is other data.
        """
        here = self.state_dict()
        if state["transitions"] != here["transitions"] or not torch.isclose(state["reward_sum"], here["reward_sum"]):
            raise ValueError(
                f"the checkpoint learned from {state['transitions']:,} transitions with rewards of "
                f"{float(state['reward_sum']):,.3f} in all, {self.source} has {here['transitions']:,} with "
                f"{float(here['reward_sum']):,.3f}; resume with the same data"
            )

    def _require_memory(self, dataset: TransitionDataset) -> None:
        if self.device.type != "cuda":
            return
        fields = [dataset.action, dataset.next_action, dataset.reward, dataset.reward]
        needed = sum(rows.nbytes for rows in (*dataset.obs.values(), *dataset.next_obs.values(), *fields))
        free = torch.cuda.mem_get_info(self.device)[0]
        if needed > free:
            fits = int(len(dataset) * free / needed)
            raise DatasetError(
                f"{dataset.source} needs {needed / 1e9:.1f} GB and {self.device} has {free / 1e9:.1f} GB free: about "
                f"{fits:,} of its {len(dataset):,} transitions fit. Use less data, a larger GPU, or --device cpu."
            )
