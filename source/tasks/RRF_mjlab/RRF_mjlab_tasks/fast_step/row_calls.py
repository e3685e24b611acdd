"""Call functions of mjlab that take `env_ids` with a mask instead."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from mjlab.envs import ManagerBasedRlEnv

from .masked_writes import MaskedWrites
from .state_slots import Slot, tensor_slots


class RowCaller:
    """Runs a function on all rows and keeps its effect in some."""

    def __init__(self, env: ManagerBasedRlEnv) -> None:
        self.all_ids = torch.arange(env.num_envs, device=env.device)
        """int64 `(num_envs,)`, what is passed as `env_ids`."""
        self.everywhere = torch.ones(env.num_envs, dtype=torch.bool, device=env.device)

    def call(self, function: Callable[[torch.Tensor], Any], mask: torch.Tensor, owner: Any = None) -> Any:
        """`function(all_ids)`, undone in rows where `mask`, bool `(num_envs,)`, is False.

        Args:
            function: takes `env_ids`.
            mask: rows in which the effect stays.
            owner: object whose attributes the function may bind to new tensors; those are undone as well.

        Returns:
            What the function returned, for all rows.
        """
        slots = [] if owner is None else tensor_slots({"": owner})
        before = [(slot, slot.get()) for slot in slots]
        with MaskedWrites(mask):
            result = function(self.all_ids)
        for slot, old in before:
            _keep_rows(slot, old, mask)
        return result


def _keep_rows(slot: Slot, old: torch.Tensor, mask: torch.Tensor) -> None:
    new = slot.get()
    if new is old or new.shape != old.shape or not new.dim() or new.shape[0] != mask.shape[0]:
        return
    slot.set(torch.where(mask.view(-1, *[1] * (new.dim() - 1)), new, old))


def masked_mean(values: torch.Tensor, mask: torch.Tensor, count: torch.Tensor) -> torch.Tensor:
    """Mean of `values`, `(num_envs,)`, over the rows of `mask`; NaN if `count`, the number of those rows, is 0."""
    return torch.where(mask, values.float(), 0.0).sum() / count
