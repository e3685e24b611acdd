"""Replay interface over a data set."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from .dataset import TransitionDataset
from .dataset_checks import DatasetError
from .records import Column, Part, Records, bytes_per_slot, free_bytes
from .replay_batch import ReplayBatch


class DatasetBuffer:
    """Draw batches from a data set through the interface of a full replay.

    All data is on the learner's device, nothing is ever written, and `sample` can be part of a CUDA graph.

    Args:
        dataset: Data to draw from.
        gamma: Discount per step.
        batch_size: Transitions per batch.
        device: Device of the learner.
        next_action: True to fill `ReplayBatch.next_action`. Rows with an unknown next action, because the episode was
            cut there, are then not drawn; with False every row is.
    """

    captured = True
    """True: `sample` may be part of a CUDA graph."""

    def __init__(
        self,
        dataset: TransitionDataset,
        gamma: float,
        batch_size: int,
        device: torch.device | str,
        *,
        next_action: bool = True,
    ) -> None:
        self.gamma, self.batch_size, self.device, self.source = gamma, batch_size, torch.device(device), dataset.source
        if next_action and not bool(dataset.next_action_known.all()):
            if not bool(dataset.next_action_known.any()):
                raise DatasetError(f"{dataset.source} has no row with a next action: record longer episodes.")
            dataset = dataset.select(dataset.next_action_known)
        self.num_added = len(dataset)
        """Number of transitions, as of a replay that has been filled."""
        values, fields = _packed(dataset, gamma, next_action=next_action)
        self._groups = tuple(dataset.obs)
        self._require_memory(bytes_per_slot(fields))
        # One row of as many environments as there are transitions: the slot of a transition is its index.
        self.records = Records(fields, 1, self.num_added, self.device)
        self.records.write(torch.zeros(1, dtype=torch.int64, device=self.device), values)
        self._reward_sum = dataset.reward.double().sum()

    def __len__(self) -> int:
        return self.num_added

    @torch.no_grad()
    def sample(self) -> ReplayBatch:
        """Draw `batch_size` transitions, uniformly and with replacement."""
        return self.gather(torch.randint(self.num_added, (self.batch_size,), device=self.device))

    def gather(self, index: Tensor) -> ReplayBatch:
        """Return the transitions `index`, int64 `(B,)`."""
        found = self.records.gather(index)
        return ReplayBatch(
            obs={name: found[f"obs/{name}"] for name in self._groups},
            action=found["action"],
            reward=found["reward"],
            discount=found["discount"],
            next_obs={name: found[f"next_obs/{name}"] for name in self._groups},
            index=index,
            next_action=found.get("next_action"),
        )

    def update_priorities(self, index: Tensor, td_error: Tensor) -> None:
        """Do nothing: draws are uniform."""

    def state_dict(self) -> dict[str, Any]:
        """Return a summary for a resumed run to compare; the data itself stays in its file."""
        return {"transitions": self.num_added, "reward_sum": self._reward_sum.clone()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Check that the checkpoint was trained on this data.

        Raises:
            ValueError: It was trained on other data.
        """
        there, rewards = state["transitions"], state["reward_sum"].cpu()
        if there != self.num_added or not torch.isclose(rewards, self._reward_sum):
            raise ValueError(
                f"the checkpoint learned from {there:,} transitions with rewards of {float(rewards):,.3f} in all, and "
                f"{self.source} has {self.num_added:,} with {float(self._reward_sum):,.3f}; resume with the same data"
            )

    def _require_memory(self, row_bytes: int) -> None:
        # Twice, because the packed rows and the table are there at the same time while it is filled.
        free, needed = free_bytes(self.device), 2 * row_bytes * self.num_added
        if free is not None and needed > free:
            raise DatasetError(
                f"{self.source} needs {needed / 2**30:.1f} GiB on {self.device}, where {free / 2**30:.1f} GiB are "
                f"free: about {free // (2 * row_bytes):,} of its {self.num_added:,} transitions fit. Use less data, or "
                "another device."
            )


def _packed(dataset: TransitionDataset, gamma: float, *, next_action: bool) -> tuple[dict[str, Tensor], list[Column]]:
    """Return every field of every transition, `(M, ...)`, and their layout."""
    parts: dict[Part, dict[str, Tensor]] = {
        "first": {**{f"obs/{name}": rows for name, rows in dataset.obs.items()}, "action": dataset.action},
        "step": {"reward": dataset.reward, "discount": gamma * (~dataset.terminated).to(dataset.reward.dtype)},
        "next": {f"next_obs/{name}": rows for name, rows in dataset.next_obs.items()},
    }
    if next_action:
        parts["next"]["next_action"] = dataset.next_action
    values = {name: rows for part in parts.values() for name, rows in part.items()}
    fields = [
        Column(name, part, tuple(rows.shape[1:]), rows.dtype)
        for part, named in parts.items()
        for name, rows in named.items()
    ]
    return values, fields
