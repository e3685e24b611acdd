"""Transfer of a host simulator's arrays to the learner's device, all arrays of a step at once."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch


class Upload:
    """Convert the arrays of a step to new tensors at every call, so that learners may keep them.

    On the CPU they share the arrays' memory. On a GPU a small transfer costs about the same whatever its size, and one
    from ordinary memory also waits for the device: the arrays are packed into page-locked memory and transferred
    together, without waiting.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._staged = torch.empty(0, dtype=torch.uint8)
        self._travelled: torch.cuda.Event | None = None

    def __call__(self, arrays: Mapping[str, np.ndarray]) -> dict[str, torch.Tensor]:
        """Return tensors of the same shapes and dtypes."""
        if self._device.type == "cpu":
            return {name: torch.from_numpy(array) for name, array in arrays.items()}
        size, cuda = sum(array.nbytes for array in arrays.values()), self._device.type == "cuda"
        if self._travelled is not None:
            self._travelled.synchronize()  # nothing reads the page-locked memory any more
        if len(self._staged) < size:
            self._staged = torch.empty(size, dtype=torch.uint8, pin_memory=cuda)
            self._travelled = torch.cuda.Event() if cuda else None
        pack(arrays, self._staged)
        block = self._staged[:size].to(self._device, non_blocking=cuda)
        if self._travelled is not None:
            self._travelled.record(torch.cuda.current_stream(self._device))
        return unpack(arrays, block)


def pack(arrays: Mapping[str, np.ndarray], into: torch.Tensor) -> None:
    """Write the bytes of `arrays` one after the other into `into`, uint8 `(bytes,)` on the CPU."""
    end, target = 0, into.numpy()
    for name in _order(arrays):
        array = arrays[name]
        target[end : end + array.nbytes] = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
        end += array.nbytes


def unpack(arrays: Mapping[str, np.ndarray], block: torch.Tensor) -> dict[str, torch.Tensor]:
    """Return views of `block`, wherever it is now, with the shapes and dtypes of the packed `arrays`."""
    order, found = _order(arrays), {}
    for name, part in zip(order, block.split([arrays[name].nbytes for name in order]), strict=True):
        dtype = torch.from_numpy(np.empty(0, arrays[name].dtype)).dtype
        found[name] = part.view(dtype).view(arrays[name].shape)
    return found


def _order(arrays: Mapping[str, np.ndarray]) -> list[str]:
    """Return the order of wide elements first, so that every array starts at a multiple of its element size."""
    return sorted(arrays, key=lambda name: -arrays[name].itemsize)
