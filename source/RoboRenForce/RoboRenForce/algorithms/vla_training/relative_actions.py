"""Statistics of actions that are learned as differences to the state: those of the recorded actions are not theirs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from ...components.vla_normalizer import dimension
from ...components.vla_preprocessing import STATE
from ...components.vla_spec import VectorSpec, VLASpec
from ...data.dataset import LeRobotDataset
from ...data.statistics import RunningStatistics
from ...utils.errors import UserError
from .data_spec import ACTION

_ROWS = 4096


def relative_spec(
    spec: VLASpec, datasets: Sequence[LeRobotDataset], relative_actions: Sequence[tuple[int | str, int | str]]
) -> VLASpec:
    """Replace the statistics of relative dimensions by those of `action - state` over all chunks.

    Args:
        spec: What `spec_of_data` returned.
        datasets: Opened with `delta_timestamps` of the action, so that its windows are the chunks that are learned.
        relative_actions: `preprocessing.relative_actions` of the policy.
    """
    pairs = [
        (dimension(action, spec.action, "relative_actions"), dimension(state, spec.state, "relative_actions"))
        for action, state in relative_actions
    ]
    if not pairs:
        return spec
    measured = _measured(datasets, pairs)
    place = {action: column for column, (action, _) in enumerate(pairs)}
    statistics = {
        name: tuple(
            float(measured[name][place[number]]) if number in place else value for number, value in enumerate(values)
        )
        for name, values in spec.action.statistics.items()
    }
    return replace(spec, action=VectorSpec(spec.action.dim, spec.action.names, statistics, tuple(sorted(place))))


def _measured(datasets: Sequence[LeRobotDataset], pairs: Sequence[tuple[int, int]]) -> dict[str, np.ndarray]:
    """Statistics of the differences, a column per pair; what lies behind the end of an episode does not count."""
    running = RunningStatistics((len(pairs),))
    actions, states = (list(numbers) for numbers in zip(*pairs, strict=True))
    for dataset in datasets:
        blind: LeRobotDataset = dataset.cfg.replace(cameras=[]).build()
        for start in range(0, len(blind), _ROWS):
            batch = blind.get_batch(np.arange(start, min(start + _ROWS, len(blind))))
            if batch[ACTION].dim() != 3:
                raise UserError("Relative actions need the chunks that are learned: set delta_timestamps of 'action'.")
            difference = batch[ACTION][..., actions] - batch[STATE][:, None, states]
            running.update(difference[~batch[f"{ACTION}_is_pad"]].numpy())
    result = running.result()
    return {name: getattr(result, name) for name in ("min", "max", "mean", "std")} | result.quantiles
