"""States that imagined episodes start from: recorded ones, with what led to them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from ...components.system_dynamics import Memory, SystemDynamics, SystemDynamicsTransformer
from .step_table import StepTable


@dataclass
class Starts:
    """`P` states to start from."""

    state: Tensor
    """`(P, D)`."""
    memory: Memory
    """What the model remembers of their histories, `(P, ...)` each."""


def recorded_starts(model: SystemDynamics, table: StepTable, count: int, generator: torch.Generator) -> Starts:
    """Return all states of the table; `count` of them, drawn at random, for a model that needs their histories."""
    if not isinstance(model, SystemDynamicsTransformer):
        return Starts(table.rows[: table.size, : model.layout.dim], {})
    rows = torch.randint(table.size, (count,), generator=generator, device=table.device)
    return Starts(table.gather(rows).state, model.remember(*table.histories(rows, model.cfg.history)))


def starts_to_save(model: SystemDynamics, table: StepTable, count: int) -> dict[str, Tensor]:
    """Return at most `count` states, evenly spread over the table, and their histories, on the host."""
    count = min(count, table.size)
    rows = torch.arange(count, device=table.device) * table.size // count
    found = {"state": table.gather(rows).state}
    if isinstance(model, SystemDynamicsTransformer):
        names = ("states", "actions", "starts", "begins")
        found |= dict(zip(names, table.histories(rows, model.cfg.history), strict=True))
    return {name: value.cpu() for name, value in found.items()}


def saved_starts(model: SystemDynamics, saved: Mapping[str, Tensor]) -> Starts:
    """Return what `starts_to_save` saved, with the memory of the model."""
    found = {name: value.to(model.elites.device) for name, value in saved.items()}
    state = found.pop("state")
    return Starts(state, model.remember(**found) if found else {})
