"""Flags of the device on the host, read without a wait for what was sent to the device after them."""

from __future__ import annotations

import torch
from torch import Tensor


class HostFlags:
    """The flags that were sent last. Reading them waits for what came before `send`, not for what came after.

    Args:
        num_envs: N.
        device: Where flags come from, and where indices go.
    """

    def __init__(self, num_envs: int, device: torch.device) -> None:
        self._device = device
        self._on_gpu = device.type == "cuda"
        self._host = torch.zeros(num_envs, dtype=torch.bool, pin_memory=self._on_gpu)
        self._sent = torch.cuda.Event() if self._on_gpu else None
        self.is_empty = True
        """True if there are none."""

    def send(self, flags: Tensor) -> None:
        """Copy bool `(N,)` to the host, when the device comes to it."""
        self._host.copy_(flags, non_blocking=True)
        if self._sent is not None:
            self._sent.record()
        self.is_empty = False

    def rows(self) -> Tensor:
        """Return int64 `(n,)` on the device: the rows whose flag is set."""
        if self._sent is not None:
            self._sent.synchronize()
        rows = self._host.nonzero().squeeze(1)
        return rows.pin_memory().to(self._device, non_blocking=True) if self._on_gpu else rows

    def clear(self) -> None:
        """Forget them."""
        self.is_empty = True
