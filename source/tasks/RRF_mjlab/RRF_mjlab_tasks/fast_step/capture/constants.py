"""Constants of Python code, kept on the device instead of being copied there at every call.

`torch.tensor([0.4, 0.0], device="cuda")`, `x[:, [3, 4]]` and `x[ids] = 0.0` each copy from unpinned host memory and
wait for the copy, which a CUDA graph can't contain. Under this mode the first call creates the tensor and every later
one reuses it.
"""

from __future__ import annotations

import numbers
from typing import Any

import torch
from torch.overrides import TorchFunctionMode


class DeviceConstants(TorchFunctionMode):
    """Cache of constants on one CUDA device; on another device it changes nothing.

    A function mode, because the calls are in the terms of mjlab and of third parties, and below it, in dispatch, the
    copy has been made.
    """

    def __init__(self, device: torch.device) -> None:
        super().__init__()
        self._device = device
        self._constants: dict[Any, torch.Tensor] = {}

    def __torch_function__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        """Replace constants in one call."""
        del types
        kwargs = kwargs or {}
        if self._device.type != "cuda":
            return func(*args, **kwargs)
        if func in (torch.tensor, torch.as_tensor) and self._targets_device(kwargs) and _is_plain(args[0]):
            # A copy, because the caller owns the result and may write it.
            return self._constant(args[0], kwargs.get("dtype")).clone()
        if func is torch.Tensor.__getitem__ and args[0].is_cuda:
            return func(args[0], self._index(args[1]))
        if func is torch.Tensor.__setitem__ and args[0].is_cuda:
            return func(args[0], *self._index_and_value(args[0], args[1], args[2]))
        return func(*args, **kwargs)

    def _targets_device(self, kwargs: dict[str, Any]) -> bool:
        device = kwargs.get("device")
        return device is not None and torch.device(device).type == "cuda"

    def _constant(self, data: Any, dtype: torch.dtype | None) -> torch.Tensor:
        key = (repr(data), dtype)
        if key not in self._constants:
            checking = torch.cuda.get_sync_debug_mode()
            torch.cuda.set_sync_debug_mode("default")  # the one copy that waits is this one
            try:
                with torch._C.DisableTorchFunction():
                    self._constants[key] = torch.tensor(data, dtype=dtype, device=self._device)
            finally:
                torch.cuda.set_sync_debug_mode(checking)
        return self._constants[key]

    def _index(self, index: Any) -> Any:
        if isinstance(index, tuple):
            return tuple(self._index(entry) for entry in index)
        if isinstance(index, list) and index and all(type(entry) is int for entry in index):
            return self._constant(index, torch.int64)
        return index

    def _index_and_value(self, target: torch.Tensor, index: Any, value: Any) -> tuple[Any, Any]:
        index = self._index(index)
        entries = index if isinstance(index, tuple) else (index,)
        gathers = any(isinstance(entry, torch.Tensor) and entry.dtype != torch.bool for entry in entries)
        if gathers and isinstance(value, numbers.Number):
            value = self._constant(value, target.dtype)
        return index, value


def _is_plain(data: Any) -> bool:
    if isinstance(data, (list, tuple)):
        return all(_is_plain(entry) for entry in data)
    return isinstance(data, numbers.Number)
