"""Execution of per-environment functions on all rows, keeping the effect in some: a reset without indices.

mjlab passes `env_ids` to events, resets and commands, and the number of ids is known on the host only after a sync.
The same functions run on every row instead, a fixed-size computation, and the other rows are restored afterwards:

    rows.call(lambda ids: event(env, ids), mask)      # writes qpos, timers, ... of all rows
    # rows where mask is False hold what they held before
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from mjlab.envs import ManagerBasedRlEnv
from torch.utils._python_dispatch import TorchDispatchMode

from ...state_slots import Slot, tensor_slots
from ..errors import NotMaskableError


class MaskedWrites(TorchDispatchMode):
    """Undo every in-place write of the block in rows where `mask`, bool `(num_envs,)`, is False.

    A dispatch mode, because mjlab requires no event or term to declare its writes: torch is the only place that every
    write passes. Of a captured step, only the copies are left.
    """

    def __init__(self, mask: torch.Tensor) -> None:
        super().__init__()
        self._mask = mask
        self._before: list[tuple[torch.Tensor, torch.Tensor]] = []
        self._seen: set[tuple[int, tuple[int, ...]]] = set()
        self._fresh: dict[int, Any] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        """Copy the targets of a write before the first one."""
        del types
        kwargs = kwargs or {}
        for target in _written_tensors(func, args, kwargs):
            self._remember(target)
        result = func(*args, **kwargs)
        self._mark_fresh(result, args, kwargs)
        return result

    def __exit__(self, exc_type: Any, exc_value: Any, traceback: Any) -> None:
        """Restore the other rows."""
        super().__exit__(exc_type, exc_value, traceback)
        for base, before in self._before:
            torch.where(_rows_of(base, self._mask), base, before, out=base)
        self._before, self._fresh = [], {}

    def _remember(self, target: torch.Tensor) -> None:
        base = target if target._base is None else target._base
        storage = base.untyped_storage()
        key = (storage._cdata, tuple(base.shape))
        if storage._cdata in self._fresh or key in self._seen:
            return
        num_envs = self._mask.shape[0]
        if not (base.dim() and base.shape[0] == num_envs and (base.stride(0) or num_envs == 1)):
            raise NotMaskableError(f"it writes a tensor of shape {tuple(base.shape)}, which has no row per environment")
        self._seen.add(key)
        self._before.append((base, base.clone()))

    def _mark_fresh(self, result: Any, args: tuple, kwargs: dict) -> None:
        """Record tensors made inside the block: writing them has no effect outside."""
        inputs = {tensor.untyped_storage()._cdata for tensor in _tensors((args, tuple(kwargs.values())))}
        for tensor in _tensors(result):
            storage = tensor.untyped_storage()
            if storage._cdata not in inputs:
                self._fresh[storage._cdata] = storage


class RowCaller:
    """Caller of mjlab's functions that take `env_ids`, with a mask instead."""

    def __init__(self, env: ManagerBasedRlEnv) -> None:
        self.all_ids = torch.arange(env.num_envs, device=env.device)
        """int64 `(num_envs,)`, passed as `env_ids`."""

    def call(self, function: Callable[[torch.Tensor], Any], mask: torch.Tensor, owner: Any = None) -> Any:
        """Call `function(all_ids)` and undo it in rows where `mask`, bool `(num_envs,)`, is False.

        Args:
            function: Takes `env_ids`.
            mask: Rows in which the effect stays.
            owner: Object whose attributes the function may bind to new tensors; those are undone as well.

        Returns:
            The result of the function, for all rows.
        """
        slots = [] if owner is None else tensor_slots({"": owner})
        before = [(slot, slot.get()) for slot in slots]
        with MaskedWrites(mask):
            result = function(self.all_ids)
        for slot, old in before:
            _keep_rows(slot, old, mask)
        return result


def masked_mean(values: torch.Tensor, mask: torch.Tensor, count: torch.Tensor) -> torch.Tensor:
    """Return the mean of `values`, `(num_envs,)`, over the `count` rows of `mask`; NaN if there are none."""
    return torch.where(mask, values.float(), 0.0).sum() / count


def _keep_rows(slot: Slot, old: torch.Tensor, mask: torch.Tensor) -> None:
    new = slot.get()
    if new is old or new.shape != old.shape or not new.dim() or new.shape[0] != mask.shape[0]:
        return
    slot.set(torch.where(_rows_of(new, mask), new, old))


def _rows_of(value: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Reshape `mask` to broadcast against `value`, `(num_envs, ...)`."""
    return mask.view(-1, *[1] * (value.dim() - 1))


def _written_tensors(func: Any, args: tuple, kwargs: Mapping[str, Any]) -> Iterator[torch.Tensor]:
    """Return the arguments that an operation changes in place, by its schema."""
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
