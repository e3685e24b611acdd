"""The iteration of runners that step no environment: a number of updates."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from torch import Tensor

from .trainer import Trainer


def take_updates(
    trainer: Trainer,
    count: int,
    update: Callable[[], Mapping[str, Tensor]],
    numbers: Callable[[], Mapping[str, float]] = dict,
) -> None:
    """Run one iteration of `count` updates.

    Args:
        trainer: Trainer of the iteration.
        count: Number of updates.
        update: Takes one update and returns 0-dim metrics.
        numbers: Further metrics, read after the last update.
    """
    trainer.timer.start()
    learned: Mapping[str, Tensor] = {}
    for _ in range(count):
        learned = update()
        trainer.watchdog.beat()
    trainer.timer.lap("learning")
    seconds = sum(trainer.timer.durations().values())
    speed = {"Perf/updates_per_second": count / max(seconds, 1e-9)}
    done = {"Train/updates": float((trainer.iteration + 1) * count)}
    trainer.end_iteration(learned, numbers={**done, **speed, **numbers()})
