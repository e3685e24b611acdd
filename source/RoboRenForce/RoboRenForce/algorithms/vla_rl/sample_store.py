"""Storage of the decisions of a rollout: what the policy saw, as features or as observations, and what it recorded."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor

from ...utils.errors import NotEnoughMemory

logger = logging.getLogger(__name__)

Place = Literal["auto", "device", "host"]
"""Memory of the learner's device, or (pinned) memory of the host; `auto`: the device if at most half of what is free
there is taken."""


class SampleStore:
    """Rows of named tensors, one after another, written in place; allocated once, by the first rows.

    Args:
        capacity: Most rows of a rollout.
        device: Where rows come from and go to.
        place: Where they are kept.
    """

    def __init__(self, capacity: int, device: torch.device, place: Place = "auto") -> None:
        self.capacity, self.device, self._place = capacity, device, place
        self.count = 0
        """Stored rows."""
        self.rows: dict[str, Tensor] = {}
        self._kept: Tensor | None = None

    def add(self, rows: Mapping[str, Tensor]) -> None:
        """Append rows `(n, ...)`.

        Raises:
            NotEnoughMemory: The whole store, estimated from the first rows, does not fit.
        """
        if not self.rows:
            self._allocate(rows)
        count = len(next(iter(rows.values())))
        for name, tensor in rows.items():
            self.rows[name][self.count : self.count + count].copy_(tensor, non_blocking=True)
        self.count += count

    def keep(self, flags: Tensor) -> None:
        """Leave rows out where bool `(count,)` is False; waits for the device."""
        self._kept = flags.nonzero().squeeze(1)

    def take(self, index: Tensor) -> dict[str, Tensor]:
        """Gather rows on the device, by int64 indices on the device among those that are kept."""
        index = index if self._kept is None else self._kept[index]
        index = index.to(next(iter(self.rows.values())).device)  # to the host: waits for what `add` has sent, too
        if index.device.type == "cpu":
            return {name: self._upload(rows, index) for name, rows in self.rows.items()}
        return {name: rows[index] for name, rows in self.rows.items()}

    def _upload(self, rows: Tensor, index: Tensor) -> Tensor:
        """Gather into pinned memory, from which a copy does not wait; torch frees it behind the copy."""
        chosen = torch.empty(len(index), *rows.shape[1:], dtype=rows.dtype, pin_memory=rows.is_pinned())
        torch.index_select(rows, 0, index, out=chosen)
        return chosen.to(self.device, non_blocking=True)

    def restart(self) -> None:
        """Forget all rows; their memory stays."""
        self.count, self._kept = 0, None

    def _allocate(self, rows: Mapping[str, Tensor]) -> None:
        size = sum(tensor[0].nbytes for tensor in rows.values()) * self.capacity
        place = self._where(size)
        logger.info(
            "A rollout of %s decisions takes %s MiB on %s.", f"{self.capacity:,}", f"{size / 2**20:,.1f}", place
        )
        pinned = place.type == "cpu" and self.device.type == "cuda"
        try:
            self.rows = {
                name: torch.empty(self.capacity, *tensor.shape[1:], dtype=tensor.dtype, device=place, pin_memory=pinned)
                for name, tensor in rows.items()
            }
        except RuntimeError as error:  # OutOfMemoryError on a GPU, a plain one on the host
            raise NotEnoughMemory(
                f"A rollout of {self.capacity:,} decisions takes {size / 2**30:.1f} GiB, which {place} has not: take "
                "fewer environments or steps, set algorithm.sample_place=host, or store pictures instead of features "
                "by algorithm.store=observations."
            ) from error

    def _where(self, size: int) -> torch.device:
        if self._place == "host" or self.device.type != "cuda":
            return torch.device("cpu") if self._place == "host" else self.device
        if self._place == "auto" and size > torch.cuda.mem_get_info(self.device)[0] // 2:
            return torch.device("cpu")
        return self.device
