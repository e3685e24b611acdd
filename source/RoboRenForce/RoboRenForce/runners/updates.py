"""The iteration of runners that step no environment: a number of updates."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from .trainer import Trainer

_LEAD = 2
"""Updates that the host may be ahead of a GPU: then time without data is time in which the GPU has nothing to do."""


def take_updates(
    trainer: Trainer,
    count: int,
    update: Callable[[], Mapping[str, Tensor]],
    numbers: Callable[[], Mapping[str, float]] = dict,
    *,
    samples: int = 0,
) -> None:
    """Run one iteration of `count` updates.

    Args:
        trainer: Trainer of the iteration.
        count: Number of updates.
        update: Takes one update and returns 0-dim metrics.
        numbers: Further metrics, read after the last update.
        samples: Samples of all processes in an update; if given, metrics are means over the updates, not the last ones.
    """
    trainer.timer.start()
    learned: Mapping[str, Tensor] = {}
    sums: dict[str, Tensor] = {}
    running: list[torch.cuda.Event] = []
    for _ in range(count):
        learned = update()
        if samples:
            for name, value in learned.items():
                sums[name] = value.detach().clone() if name not in sums else sums[name].add_(value.detach())
            _limit_lead(running, trainer.device)
        trainer.watchdog.beat()
    trainer.timer.lap("learning")
    seconds = max(sum(trainer.timer.durations().values()), 1e-9)
    found = {"Perf/updates_per_second": count / seconds, "Train/updates": float((trainer.iteration + 1) * count)}
    if samples:
        learned = {name: total / count for name, total in sums.items()}
        found["Perf/samples_per_second"] = count * samples / seconds
    trainer.end_iteration(learned, numbers={**found, **numbers()})


def _limit_lead(running: list[torch.cuda.Event], device: torch.device) -> None:
    """Wait until the GPU is at most `_LEAD` updates behind."""
    if device.type != "cuda":
        return
    running.append(torch.cuda.Event())
    running[-1].record()
    if len(running) > _LEAD:
        running.pop(0).synchronize()
