"""Run a per-environment function on all rows and keep its effect in some: a reset without indices.

mjlab hands `env_ids` to events, resets and commands, and the number of ids is known on the host only after a sync.
The same functions run on every row instead, a fixed-size computation, and rows that were not meant are put back
afterwards:

    with MaskedWrites(mask, num_envs):
        event(env, all_ids)            # writes qpos, timers, ... of all rows
    # rows where mask is False hold what they held before

What is written is not declared anywhere: a dispatch mode sees every in-place write and copies the target before the
first one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from .errors import HostReadError, NotMaskableError

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
    """Refuse every operation that a CUDA graph can't hold because the host needs its result, on any device."""

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        """Look at one operation before it runs."""
        del types
        kwargs = kwargs or {}
        reason = _HOST_READS.get(func) or _boolean_index(func, args)
        if reason:
            raise HostReadError(f"{func} {reason}")
        return func(*args, **kwargs)


def _boolean_index(func: Any, args: tuple) -> str | None:
    """Indexing with a boolean tensor is a `nonzero` in disguise, except when one number is written."""
    if func not in (_aten.index.Tensor, _aten.index_put_.default, _aten.index_put.default):
        return None
    if not any(torch.is_tensor(index) and index.dtype == torch.bool for index in args[1]):
        return None
    if func is not _aten.index.Tensor and args[2].numel() == 1:
        return None
    return "has a size that depends on values (a boolean index)"


class MaskedWrites(TorchDispatchMode):
    """Undo every in-place write of the block in rows where `mask`, bool `(num_envs,)`, is False.

    Args:
        mask: the rows in which writes stay.
        env_dims: storage address -> dimension of the environments, for tensors in which it is not the first.
    """

    def __init__(self, mask: torch.Tensor, env_dims: Mapping[int, int] | None = None) -> None:
        super().__init__()
        self._mask = mask
        self._env_dims = env_dims or {}
        self._before: list[tuple[torch.Tensor, torch.Tensor, int]] = []
        self._seen: set[tuple[int, tuple[int, ...]]] = set()
        self._fresh: dict[int, Any] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        """Copy the targets of a write before the first one."""
        del types
        kwargs = kwargs or {}
        for target in written_tensors(func, args, kwargs):
            self._remember(target)
        result = func(*args, **kwargs)
        self._mark_fresh(result, args, kwargs)
        return result

    def __exit__(self, exc_type: Any, exc_value: Any, traceback: Any) -> None:
        """Put the other rows back."""
        super().__exit__(exc_type, exc_value, traceback)
        for base, before, dim in self._before:
            keep = self._mask.view([-1 if axis == dim else 1 for axis in range(base.dim())])
            torch.where(keep, base, before, out=base)
        self._before, self._fresh = [], {}

    def _remember(self, target: torch.Tensor) -> None:
        base = target if target._base is None else target._base
        storage = base.untyped_storage()
        key = (storage._cdata, tuple(base.shape))
        if storage._cdata in self._fresh or key in self._seen:
            return
        dim = self._env_dim(base)
        self._seen.add(key)
        self._before.append((base, base.clone(), dim))

    def _env_dim(self, base: torch.Tensor) -> int:
        num_envs = self._mask.shape[0]
        known = self._env_dims.get(base.data_ptr())
        if known is not None:
            return known
        if base.dim() and base.shape[0] == num_envs and (base.stride(0) or num_envs == 1):
            return 0
        raise NotMaskableError(f"it writes a tensor of shape {tuple(base.shape)}, which has no row per environment")

    def _mark_fresh(self, result: Any, args: tuple, kwargs: dict) -> None:
        """Remember tensors made inside the block: writing them has no effect outside."""
        inputs = {tensor.untyped_storage()._cdata for tensor in _tensors((args, tuple(kwargs.values())))}
        for tensor in _tensors(result):
            storage = tensor.untyped_storage()
            if storage._cdata not in inputs:
                self._fresh[storage._cdata] = storage


def written_tensors(func: Any, args: tuple, kwargs: Mapping[str, Any]) -> Iterator[torch.Tensor]:
    """The arguments that an operation changes in place, by its schema."""
    for position, argument in enumerate(func._schema.arguments):
        if argument.alias_info is None or not argument.alias_info.is_write:
            continue
        value = args[position] if position < len(args) else kwargs.get(argument.name)
        yield from _tensors(value)


def _tensors(value: Any) -> Iterator[torch.Tensor]:
    if torch.is_tensor(value):
        yield value
    elif isinstance(value, (list, tuple)):
        for entry in value:
            yield from _tensors(entry)


def source_of(error: BaseException, package: str = "mjlab") -> str:
    """`file:line` of the innermost frame of `error` outside torch and this package, to name what can't be captured."""
    place = ""
    traceback = error.__traceback__
    while traceback is not None:
        file = traceback.tb_frame.f_code.co_filename
        if "/torch/" not in file and "RRF_mjlab_tasks" not in file:
            short = file.split(f"/{package}/")[-1]
            place = f"{short}:{traceback.tb_lineno}"
        traceback = traceback.tb_next
    return place


RowFunction = Callable[[torch.Tensor], Any]
"""A function of int64 ids of environments."""
