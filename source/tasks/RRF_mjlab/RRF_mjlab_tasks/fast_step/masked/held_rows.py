"""Rows that a step leaves as they were: `rows.Rows.hold` at fixed addresses and without the host.

The simulator steps all rows. What a held one was is put back twice: before `forward()`, which computes from it what is
observed, and after the commands, which count every row's steps.
"""

from __future__ import annotations

import torch
from mjlab.envs import ManagerBasedRlEnv

from ...rows import Rows


class HeldRows:
    """Copies of all rows, and which of them the step is meant for."""

    def __init__(self, env: ManagerBasedRlEnv) -> None:
        self.active = torch.ones(env.num_envs, dtype=torch.bool, device=env.device)
        """bool `(num_envs,)`: the rows that the step is meant for."""
        self._rows = Rows(env)
        self._saved: dict[str, torch.Tensor] = {}

    def save(self) -> None:
        """Copy all rows."""
        for path, tensor in self._rows.tensors().items():
            kept = self._saved.get(path)
            if kept is None or kept.shape != tensor.shape:
                self._saved[path] = tensor.clone()
            else:
                kept.copy_(tensor)

    def restore(self) -> None:
        """Put back the rows that are not active."""
        self._rows.restore(self._saved, ~self.active)
