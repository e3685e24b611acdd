"""Episodes that all rows start together: which rows still act."""

from __future__ import annotations

import torch
from torch import Tensor


class Waves:
    """Every row acts until its episode has ended; then, if there is more to collect, the next wave begins.

    Args:
        num_envs: Number of rows.
        device: Of the flags.
    """

    def __init__(self, num_envs: int, device: torch.device) -> None:
        self.running = torch.ones(num_envs, dtype=torch.bool, device=device)
        """bool `(num_envs,)`: the episode of the row goes on."""
        self.rows: Tensor | None = None
        """int64 `(n,)`: rows that act; None: all."""
        self.wave = 0
        """Number of the current wave in this iteration, from 0."""
        self.is_over = False
        """True if all episodes of the wave have ended."""

    def end_step(self, done: Tensor) -> None:
        """Take rows out where `done` `(num_envs,)` is nonzero; the only wait for the device of a step."""
        self.running = self.running & (done == 0)
        self.rows = self.running.nonzero().squeeze(1)
        self.is_over = not len(self.rows)

    def next_wave(self) -> None:
        """Let all rows act again."""
        self.running = torch.ones_like(self.running)
        self.rows, self.is_over = None, False
        self.wave += 1

    def restart(self) -> None:
        """Begin the first wave of an iteration."""
        self.next_wave()
        self.wave = 0
