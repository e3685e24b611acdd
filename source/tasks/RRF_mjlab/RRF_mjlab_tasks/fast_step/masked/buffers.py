"""mjlab's history and delay buffers without a pointer that moves on the host."""

from __future__ import annotations

from typing import Any

import torch
from mjlab.utils.buffers import CircularBuffer, DelayBuffer

from ...state_slots import object_slots


class ShiftBuffer(CircularBuffer):
    """`CircularBuffer` whose newest frame is always the last: `append` shifts instead of moving a pointer.

    The pointer is a Python number, so a captured graph would write the same frame forever. All other code reads the
    buffer relative to the pointer and works unchanged.

    Args:
        plain: mjlab's buffer, whose frames are taken over.
    """

    def __init__(self, plain: CircularBuffer) -> None:
        super().__init__(plain.max_length, plain.batch_size, plain.device)
        vars(self).update(vars(plain))
        self.settle()

    def settle(self) -> None:
        """Sort the frames by time, after the state of a plain buffer was taken over."""
        last = self._max_len - 1
        if self._buffer is not None and self._pointer != last:
            self._buffer.copy_(self.buffer.transpose(0, 1))
            self._pointer = last

    def append(self, data: torch.Tensor) -> None:
        """See `CircularBuffer.append`."""
        if self._buffer is None:
            super().append(data)  # allocates, and fills every frame
            self._pointer = self._max_len - 1
            return
        self.settle()
        first = (self._num_pushes == 0).view(1, -1, *[1] * (data.dim() - 1))
        shifted = torch.cat([self._buffer[1:], data.unsqueeze(0)])
        torch.where(first, data.unsqueeze(0), shifted, out=self._buffer)
        self._num_pushes += 1


def adopt_buffers(roots: dict[str, Any]) -> list[ShiftBuffer]:
    """Replace every circular buffer below `roots` by a `ShiftBuffer` with its frames, in all slots that hold it."""
    adopted: dict[int, ShiftBuffer] = {}
    for slot in object_slots(roots, CircularBuffer):
        buffer = slot.get()
        if id(buffer) not in adopted:
            adopted[id(buffer)] = buffer if isinstance(buffer, ShiftBuffer) else ShiftBuffer(buffer)
        slot.set(adopted[id(buffer)])
    return list(adopted.values())


def reset_rows(buffer: CircularBuffer, mask: torch.Tensor) -> None:
    """Reset a `CircularBuffer` in the rows of `mask`, bool `(num_envs,)`."""
    buffer._num_pushes.masked_fill_(mask, 0)
    if buffer._buffer is not None:
        buffer._buffer.masked_fill_(_rows(mask, buffer._buffer), 0.0)


def backfill_rows(buffer: CircularBuffer, data: torch.Tensor, mask: torch.Tensor) -> None:
    """Fill all frames of the rows of `mask` with `data`, `(num_envs, ...)`, and leave the other rows."""
    if buffer._buffer is None:
        raise RuntimeError("A history buffer was used before its first append.")
    torch.where(_rows(mask, buffer._buffer), data.unsqueeze(0), buffer._buffer, out=buffer._buffer)
    buffer._num_pushes.masked_fill_(mask, 1)


def reset_delay_rows(buffer: DelayBuffer, mask: torch.Tensor) -> None:
    """Reset a `DelayBuffer` in the rows of `mask`."""
    reset_rows(buffer._buffer, mask)
    buffer._current_lags.masked_fill_(mask, 0)
    buffer._step_count.masked_fill_(mask, 0)
    if buffer.update_period > 0 and buffer.per_env_phase:
        phases = torch.randint_like(buffer._phase_offsets, buffer.update_period)
        torch.where(mask, phases, buffer._phase_offsets, out=buffer._phase_offsets)


def first_delayed_rows(buffer: DelayBuffer, data: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Do the first `append` and `compute` after a reset in the rows of `mask`; returns the delayed data."""
    backfill_rows(buffer._buffer, data, mask)
    lags, count = buffer._current_lags.clone(), buffer._step_count.clone()
    buffer._update_lags()
    buffer._current_lags = torch.where(mask, buffer._current_lags, lags)
    buffer._step_count.copy_(torch.where(mask, buffer._step_count, count))
    return buffer.peek()


def _rows(mask: torch.Tensor, frames: torch.Tensor) -> torch.Tensor:
    """Reshape `mask` to broadcast against frames `(max_len, num_envs, ...)`."""
    return mask.view(1, -1, *[1] * (frames.dim() - 2))
