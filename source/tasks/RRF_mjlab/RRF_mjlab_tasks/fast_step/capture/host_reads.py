"""Detection of operations whose result the host needs: no CUDA graph can contain them."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from ..errors import HostReadError

_aten = torch.ops.aten
_HOST_READS = {
    _aten._local_scalar_dense.default: "reads a value on the host (.item(), bool(), if)",
    _aten.nonzero.default: "has a result of unknown size (nonzero, torch.where with one argument)",
    _aten.masked_select.default: "has a result of unknown size (masked_select)",
    _aten.bincount.default: "has a result of unknown size (bincount)",
    _aten._unique2.default: "has a result of unknown size (unique)",
    _aten.unique_consecutive.default: "has a result of unknown size (unique)",
    _aten.equal.default: "reads a value on the host (torch.equal)",
    _aten._linalg_check_errors.default: "checks a decomposition on the host (torch.linalg)",
    _aten._linalg_eigh.default: "checks a decomposition on the host (torch.linalg.eigh)",
}


class HostReadGuard(TorchDispatchMode):
    """Refuse every operation that a CUDA graph can't contain because the host needs its result, on any device.

    A dispatch mode, because torch's own check (`set_sync_debug_mode`) exists on CUDA only and sees syncs only.
    """

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        """Check one operation before it runs."""
        del types
        reason = _HOST_READS.get(func) or _boolean_index(func, args)
        if reason:
            raise HostReadError(f"{func} {reason}")
        return func(*args, **(kwargs or {}))


def _boolean_index(func: Any, args: tuple) -> str | None:
    """Return True for indexing with a boolean tensor, a hidden `nonzero`, unless one number is written."""
    if func not in (_aten.index.Tensor, _aten.index_put_.default, _aten.index_put.default):
        return None
    if not any(torch.is_tensor(index) and index.dtype == torch.bool for index in args[1]):
        return None
    if func is not _aten.index.Tensor and args[2].numel() == 1:
        return None
    return "has a size that depends on values (a boolean index)"


@contextlib.contextmanager
def refused_syncs(device: torch.device) -> Iterator[None]:
    """Let torch raise an error if a CUDA operation waits for the device."""
    if device.type != "cuda":
        yield
        return
    mode = torch.cuda.get_sync_debug_mode()
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode(mode)


def source_of(error: BaseException) -> str:
    """Return `file:line` of the innermost frame of `error` outside torch and this package."""
    place = ""
    traceback = error.__traceback__
    while traceback is not None:
        file = traceback.tb_frame.f_code.co_filename
        if "/torch/" not in file and "RRF_mjlab_tasks" not in file:
            place = f"{file.split('/mjlab/')[-1]}:{traceback.tb_lineno}"
        traceback = traceback.tb_next
    return place
