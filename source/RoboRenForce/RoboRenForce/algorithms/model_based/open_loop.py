"""Quality of a dynamics model against the horizon: predictions that read their own predictions, beside recorded ones.

    error(k)      root mean square of (s^_{t+k} - s_{t+k}) / std(s), over rows and predicted columns; of the mean
    relative(k)   sum |s^ - s| / sum |s| of the same
    coverage(k)   share of recorded values in the central 50 % and 90 % of sampled futures; calibrated: 0.5 and 0.9

Baselines: `hold` keeps the first state, `velocity` repeats the last recorded change of it.
"""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor

from ...components.system_dynamics import Memory, Steps, SystemDynamics, SystemDynamicsTransformer
from ...utils.errors import UserError
from .step_table import StepTable

INTERVALS = (0.5, 0.9)
"""Shares of sampled futures whose coverage is measured."""


@torch.no_grad()
def open_loop(
    model: SystemDynamics, table: StepTable, rows: Tensor, horizon: int, particles: int = 50, most_rows: int = 256
) -> dict[str, Any]:
    """Return errors and coverage of a model in evaluation mode, lists over 1 ... `horizon` steps.

    Args:
        model: Model.
        table: Recorded steps.
        rows: int64 `(K,)`: rows at which predictions may begin; those that begin an episode have no velocity and are
            left out, as are those whose episode ends first, unless none is longer.
        horizon: Most steps.
        particles: Sampled futures of each row, each by one member.
        most_rows: Rows that are used, evenly spread over the fitting ones.
    """
    rows = rows[(rows > 0) & ~table.begins[rows.clamp(min=0)]]
    if not len(rows):
        raise UserError("No step to predict from: every one that was held out begins an episode; record longer ones.")
    length = table.windows(rows, horizon).valid
    lengths = rows.new_zeros(len(rows)) if length is None else length.sum(0)
    whole = rows[lengths >= horizon]
    rows = whole if len(whole) else rows
    rows = rows[:: max(1, len(rows) // most_rows)][:most_rows]
    steps = table.windows(rows, horizon)
    columns = model.layout.predicted
    scale = table.rows[: table.size, : model.layout.dim].std(0, correction=0).clamp(min=1e-6)[columns]

    means = _mean_futures(model, steps, _memory(model, table, rows))
    sampled = _sampled_futures(model, steps, _memory(model, table, rows), particles)
    truth, valid = steps.next_state[..., columns], cast("Tensor", steps.valid)  # windows tell which steps they have
    step = torch.arange(1, horizon + 1, device=rows.device).view(-1, 1, 1)
    first = steps.state[0][..., columns]
    velocity = first - table.gather(rows - 1).state[..., columns]
    guesses = {"model": means[..., columns], "hold": first.expand_as(truth), "velocity": first + step * velocity}

    def over_rows(values: Tensor) -> Tensor:
        return (values.mean(-1) * valid).sum(1) / valid.sum(1).clamp(min=1.0)

    report: dict[str, Any] = {"rows": len(rows), "horizon": horizon, "particles": particles}
    report["error"] = {
        name: over_rows(((guess - truth) / scale).square()).sqrt().tolist() for name, guess in guesses.items()
    }
    report["relative"] = {
        name: (over_rows((guess - truth).abs()) / over_rows(truth.abs()).clamp(min=1e-9)).tolist()
        for name, guess in guesses.items()
    }
    report["coverage"] = {}
    for share in INTERVALS:
        low, high = (sampled[..., columns].quantile(0.5 + sign * share / 2, dim=1) for sign in (-1.0, 1.0))
        inside = (truth >= low) & (truth <= high)
        report["coverage"][f"{share:g}"] = over_rows(inside.to(truth.dtype)).tolist()
    return report


def _memory(model: SystemDynamics, table: StepTable, rows: Tensor) -> Memory:
    if isinstance(model, SystemDynamicsTransformer):
        return model.remember(*table.histories(rows, model.cfg.history))
    return model.memory(len(rows))


def _mean_futures(model: SystemDynamics, steps: Steps, memory: Memory) -> Tensor:
    """Return the states `(T, B, D)` that the mean over the elites predicts."""
    state, member, found = steps.state[0], torch.zeros_like(steps.reward[0]).long(), []
    for action, recorded in zip(steps.action, steps.state, strict=True):
        imagined = model.imagine(model.with_held(state, recorded), action, memory, member, deterministic=True)
        state, memory = imagined.state, imagined.memory
        found.append(state)
    return torch.stack(found)


def _sampled_futures(model: SystemDynamics, steps: Steps, memory: Memory, particles: int) -> Tensor:
    """Return sampled states `(T, particles, B, D)`; a particle stays with one elite."""
    rows = steps.state.shape[1]

    def copies(x: Tensor) -> Tensor:
        return x.repeat(particles, *[1] * (x.dim() - 1))

    state, memory = copies(steps.state[0]), {name: copies(value) for name, value in memory.items()}
    particle = torch.arange(particles, device=state.device).repeat_interleave(rows)
    member, found = particle % len(model.elites), []
    for action, recorded in zip(steps.action, steps.state, strict=True):
        imagined = model.imagine(model.with_held(state, copies(recorded)), copies(action), memory, member)
        state, memory = imagined.state, imagined.memory
        found.append(state.view(particles, rows, -1))
    return torch.stack(found)
