"""Episodes that all rows start together: which rows still act."""

from __future__ import annotations

import torch
from torch import Tensor

from .host_flags import HostFlags


class Waves:
    """Every row acts until its episode has ended; then, if there is more to collect, the next wave begins.

    On a GPU the host learns one step late which episodes have ended, so that it prepares a step while the device works
    on the one before. Such rows act once more for nothing, and so do all if no episode was as long as it may be.

    Args:
        num_envs: Number of rows.
        device: Of the flags.
        max_steps: Steps of the longest episode.
        late: Whether the host learns late; None: on a GPU.
    """

    def __init__(self, num_envs: int, device: torch.device, *, max_steps: int, late: bool | None = None) -> None:
        self.running = torch.ones(num_envs, dtype=torch.bool, device=device)
        """bool `(num_envs,)`: the episode of the row goes on."""
        self.rows: Tensor | None = None
        """int64 `(n,)`: rows that act, all that run and perhaps more; None: all."""
        self.wave = 0
        """Number of the current wave in this iteration, from 0."""
        self.is_over = False
        """True if all episodes of the wave have ended."""
        self._steps, self._max_steps = 0, max_steps
        self._late = device.type == "cuda" if late is None else late
        self._flags = HostFlags(num_envs, device)

    def end_step(self, done: Tensor) -> None:
        """Take rows out where `done` `(num_envs,)` is nonzero."""
        self.running = self.running & (done == 0)
        self._steps += 1
        if not self._late:
            self.rows = self.running.nonzero().squeeze(1)
            self.is_over = not len(self.rows)
            return
        if not self._flags.is_empty:  # of the step before
            self.rows = self._flags.rows()
        self._flags.send(self.running)
        ended = self.rows is not None and not len(self.rows)
        self.is_over = ended or self._steps >= self._max_steps  # then there is nothing to ask

    def next_wave(self) -> None:
        """Let all rows act again."""
        self.running = torch.ones_like(self.running)
        self.rows, self.is_over = None, False
        self.wave += 1
        self._steps = 0
        self._flags.clear()

    def restart(self) -> None:
        """Begin the first wave of an iteration."""
        self.next_wave()
        self.wave = 0
