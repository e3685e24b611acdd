"""Past transitions of the policy for a discriminator, which would otherwise forget what it has rejected before."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

GOLDEN = 0.6180339887498949
"""Fractional part of the golden ratio: its multiples fill [0, 1) most evenly."""


def spread_rows(first: Tensor, count: int, length: Tensor | int) -> Tensor:
    """Return `count` indices in [0, length), int64, of a Weyl sequence from position `first` (0-dim float64) on.

    As even as a permutation, without random numbers: exact on resume, and nothing is drawn in a captured update.
    """
    position = first + torch.arange(count, dtype=torch.float64, device=first.device)
    return (torch.frac(position * GOLDEN) * length).to(torch.int64)


class TransitionRing:
    """Ring of discriminator inputs `(D,)`; rows that did not act are kept, marked, and never count."""

    def __init__(self, size: int, num_inputs: int, device: torch.device) -> None:
        self.size = size
        self.rows = torch.zeros(size, num_inputs, device=device)
        self.valid = torch.zeros(size, dtype=torch.bool, device=device)
        self.added = torch.zeros((), dtype=torch.int64, device=device)
        """Number of rows added so far."""
        self._drawn = torch.zeros((), dtype=torch.float64, device=device)

    def mixed_with(self, current: Tensor, valid: Tensor | None, num_old: int) -> tuple[Tensor, Tensor | None]:
        """Return `current` `(B, D)` followed by `num_old` kept rows, and which of them count: all if None."""
        if not num_old:
            return current, valid
        index = spread_rows(self._drawn, num_old, self.added.clamp(max=self.size))
        self._drawn.add_(num_old)
        here = valid if valid is not None else torch.ones(len(current), dtype=torch.bool, device=current.device)
        old = self.valid.index_select(0, index)
        return torch.cat([current, self.rows.index_select(0, index)]), torch.cat([here, old])

    def add(self, rows: Tensor, valid: Tensor | None) -> None:
        """Overwrite the oldest rows by `rows` `(k, D)`."""
        if not self.size:
            return
        rows, valid = rows[: self.size], None if valid is None else valid[: self.size]
        index = (self.added + torch.arange(len(rows), device=rows.device)) % self.size
        self.rows.index_copy_(0, index, rows)
        self.valid.index_copy_(0, index, torch.ones_like(index, dtype=torch.bool) if valid is None else valid)
        self.added.add_(len(rows))

    def state_dict(self) -> dict[str, Any]:
        """Return the rows that were written, and the positions."""
        used = min(int(self.added), self.size)
        return {
            "rows": self.rows[:used].clone(),
            "valid": self.valid[:used].clone(),
            "added": self.added.clone(),
            "drawn": self._drawn.clone(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore `state_dict`; a ring of another size starts empty."""
        rows, added = state["rows"], int(state["added"])
        if (added >= self.size and len(rows) != self.size) or len(rows) > self.size:
            self.valid.zero_()
            self.added.zero_()
            return
        self.rows[: len(rows)].copy_(rows)
        self.valid.zero_()
        self.valid[: len(rows)].copy_(state["valid"])
        self.added.copy_(state["added"])
        self._drawn.copy_(state["drawn"])
