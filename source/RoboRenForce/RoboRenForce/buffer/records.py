"""Rows of a replay: all fields of a transition side by side, so that a sample is one gather instead of one per field.

Fields are packed by dtype. With two float groups, a camera and a continuous action there are two tables:

    float32 (C, N, W):  obs/actor  obs/critic  action | reward  terminated  done | next_obs/actor  next_obs/critic
    uint8   (C, N, V):  obs/camera                    |                          | next_obs/camera
                        -------- "first" ------------   -------- "step" -------    ----------- "next" ------------

`C` is the capacity per environment, `N` counts environments. The slot of row `c` and environment `n` is `c * N + n`;
the next step of the same environment is `N` slots further, modulo `C * N`. The three parts are what the first step of
an n-step window, each of its steps and its last step contribute.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

Part = Literal["first", "step", "next"]
PARTS: tuple[Part, ...] = ("first", "step", "next")


@dataclass(frozen=True)
class Column:
    """Named entry of a transition, read by a window from its first step, each step or its last."""

    name: str
    part: Part
    shape: tuple[int, ...]
    dtype: torch.dtype


@dataclass
class _Columns:
    """Consecutive columns of a table and the fields in them: name -> (first, last + 1, shape)."""

    table: Tensor
    fields: dict[str, tuple[int, int, tuple[int, ...]]]


class Records:
    """Tables of `rows * num_envs` transitions; see the module's drawing."""

    def __init__(
        self, fields: Sequence[Column], rows: int, num_envs: int, device: torch.device, *, pinned: bool = False
    ) -> None:
        self.rows, self.num_envs, self.device, self.pinned = rows, num_envs, device, pinned
        self._order: dict[torch.dtype, list[Column]] = {}
        for part in PARTS:
            for entry in fields:
                if entry.part == part:
                    self._order.setdefault(entry.dtype, []).append(entry)
        self.tables: dict[torch.dtype, Tensor] = {
            dtype: torch.zeros(rows, num_envs, _width(order), dtype=dtype, device=device, pin_memory=pinned)
            for dtype, order in self._order.items()
        }
        together: tuple[tuple[Part, ...], ...] = (("first",), ("step",), ("step", "next"), PARTS)
        self._columns = {
            parts: [
                columns
                for dtype, order in self._order.items()
                if (columns := _columns(self.tables[dtype].flatten(0, 1), order, parts)).fields
            ]
            for parts in together
        }

    def write(self, row: Tensor, values: Mapping[str, Tensor]) -> None:
        """Store one step of all environments, fields `(N, ...)`, at the row that `row` `(1,)` holds."""
        for dtype, order in self._order.items():
            step = torch.cat([values[entry.name].to(dtype).reshape(self.num_envs, -1) for entry in order], dim=1)
            self.tables[dtype].index_copy_(0, row, step.to(self.device).unsqueeze(0))

    def gather(self, slot: Tensor, parts: tuple[Part, ...] = PARTS) -> dict[str, Tensor]:
        """Return fields `(*slot.shape, ...)` of neighboring parts, as views of one new tensor per dtype."""
        found = {}
        for columns in self._columns[parts]:
            rows = self._select(columns.table, slot.flatten()).view(*slot.shape, -1)
            for name, (first, end, shape) in columns.fields.items():
                field = rows[..., first:end]
                if len(shape) != 1:  # a vector is the slice itself
                    field = field.unflatten(-1, shape) if shape else field.squeeze(-1)
                found[name] = field
        return found

    def at(self, name: str, slot: Tensor) -> Tensor:
        """Return one field `(*slot.shape, ...)`."""
        columns, (first, end, shape) = self._find(name)
        return self._select(columns.table[:, first:end], slot.flatten()).view(*slot.shape, *shape)

    def put(self, name: str, slot: Tensor, value: Tensor) -> None:
        """Replace a field at `slot` `(B,)` by `value` `(B, ...)`."""
        columns, (first, end, _) = self._find(name)
        columns.table[:, first:end].index_copy_(0, slot, value.to(columns.table.dtype).reshape(len(slot), -1))

    def _find(self, name: str) -> tuple[_Columns, tuple[int, int, tuple[int, ...]]]:
        return next((columns, columns.fields[name]) for columns in self._columns[PARTS] if name in columns.fields)

    def _select(self, table: Tensor, slot: Tensor) -> Tensor:
        if not self.pinned:
            return table.index_select(0, slot)
        # Pinned, so that the copy to the learner is asynchronous. The allocator reuses the block after that copy.
        rows = torch.empty(slot.numel(), table.shape[1], dtype=table.dtype, pin_memory=True)
        return torch.index_select(table, 0, slot, out=rows)

    def state_dict(self, filled: int) -> dict[str, Tensor]:
        """Return copies of the first `filled` rows of every table, on the host."""
        return {str(dtype): table[:filled].to("cpu", copy=True) for dtype, table in self.tables.items()}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Restore `state_dict` into the first rows."""
        for dtype, table in self.tables.items():
            rows = state[str(dtype)]
            table[: len(rows)].copy_(rows)

    def check_state(self, state: Mapping[str, Tensor]) -> None:
        """Refuse contents of other observations, actions or numbers of environments."""
        here = {str(dtype): tuple(table.shape[1:]) for dtype, table in self.tables.items()}
        there = {name: tuple(rows.shape[1:]) for name, rows in state.items()}
        if here != there:
            raise ValueError(
                f"The checkpoint's replay has tables {there} (environments, columns) and this one {here}: "
                "resume with the same observation groups, actions and number of environments."
            )


def bytes_per_slot(fields: Sequence[Column]) -> int:
    """Return the memory of one transition, in bytes."""
    return sum(math.prod(entry.shape) * entry.dtype.itemsize for entry in fields)


def free_bytes(device: torch.device) -> int | None:
    """Return the memory that can still be allocated on a device; None if unknown."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    if device.type != "cpu":
        return None
    limits = []
    meminfo = Path("/proc/meminfo")
    if meminfo.is_file():
        found = [line.split()[1] for line in meminfo.read_text().splitlines() if line.startswith("MemAvailable:")]
        limits += [int(kibibytes) * 1024 for kibibytes in found]
    group_max, group_now = Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory.current")
    if group_max.is_file() and group_now.is_file() and (most := group_max.read_text().strip()) != "max":
        limits.append(int(most) - int(group_now.read_text()))
    return min(limits, default=None)


def _width(order: Sequence[Column]) -> int:
    return sum(math.prod(entry.shape) for entry in order)


def _columns(table: Tensor, order: Sequence[Column], parts: tuple[Part, ...]) -> _Columns:
    """Return the columns of `parts`, which are neighbors, of a table `(C * N, W)`."""
    before = _width([entry for entry in order if PARTS.index(entry.part) < PARTS.index(parts[0])])
    fields, end = {}, 0
    for entry in order:
        if entry.part in parts:
            first, end = end, end + math.prod(entry.shape)
            fields[entry.name] = (first, end, entry.shape)
    return _Columns(table[:, before : before + end], fields)
