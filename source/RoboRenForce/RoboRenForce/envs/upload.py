"""Arrays of a simulator on the host become tensors of the learner's device, all of one step in one transfer."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch


class Upload:
    """Call it with the arrays of a step; the tensors are new ones at every call, so that learners may keep them.

    On the CPU they share the arrays' memory. On a GPU a transfer costs about the same whatever its size, as long as it
    is small, and one from ordinary memory waits for the device besides: the arrays are put side by side into
    page-locked memory and travel together, without waiting.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._staged = np.empty(0, np.uint8)
        self._travelled: torch.cuda.Event | None = None

    def __call__(self, arrays: Mapping[str, np.ndarray]) -> dict[str, torch.Tensor]:
        """Tensors of the same shapes and dtypes."""
        if self._device.type == "cpu":
            return {name: torch.from_numpy(array) for name, array in arrays.items()}
        # Wide elements first: every array then begins at a multiple of its element's size.
        order = sorted(arrays, key=lambda name: -arrays[name].itemsize)
        sizes = [arrays[name].nbytes for name in order]
        total, end = sum(sizes), 0
        self._reserve(total)
        for name, size in zip(order, sizes, strict=True):
            self._staged[end : end + size] = np.ascontiguousarray(arrays[name]).reshape(-1).view(np.uint8)
            end += size
        block = self._pinned[:total].to(self._device, non_blocking=True)
        if self._travelled is not None:
            self._travelled.record()
        found = {}
        for name, part in zip(order, block.split(sizes), strict=True):
            found[name] = part.view(_torch_dtype(arrays[name].dtype)).view(arrays[name].shape)
        return found

    def _reserve(self, size: int) -> None:
        """Page-locked memory that nothing reads any more."""
        if self._travelled is not None:
            self._travelled.synchronize()
        if len(self._staged) < size:
            cuda = self._device.type == "cuda"
            self._pinned = torch.empty(size, dtype=torch.uint8, pin_memory=cuda)
            self._staged = self._pinned.numpy()
            self._travelled = torch.cuda.Event() if cuda else None


def _torch_dtype(dtype: np.dtype) -> torch.dtype:
    return torch.from_numpy(np.empty(0, dtype)).dtype
