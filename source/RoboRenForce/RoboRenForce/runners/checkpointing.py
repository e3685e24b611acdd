"""Checkpoints of a run: when they are written.

A checkpoint that can't be written ends nothing: it is tried again after the next iteration, and at the end of a run it
goes to another folder.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ..utils.errors import CheckpointError, NonFiniteError, RunDirectoryError
from ..utils.run_dir import RunDir, open_run_dir
from .callbacks import Callback
from .run_state import gather_state
from .writing import prune, store, write_to_run

if TYPE_CHECKING:
    from .trainer import Trainer

logger = logging.getLogger(__name__)

VALIDATION_ERROR = "Val/action_error"


class RunDirectoryCallback(Callback):
    """Make and lock the run directory for the session, and begin with what belongs to the run."""

    def __init__(self) -> None:
        super().__init__()
        self._locked = False

    def on_start(self, runner: Trainer) -> None:
        """Make it if it does not exist, lock it, tidy it up."""
        if runner.lock is None or runner.run_dir is None:
            return
        open_run_dir(runner.run_dir.root)
        runner.lock.acquire()
        self._locked = True
        try:
            _tidy(runner.run_dir, runner.iteration, runner.best_iteration)
        except OSError as error:
            raise RunDirectoryError(
                f"The run directory '{runner.run_dir.root}' can't be written ({error.strerror}); choose another one."
            ) from error

    def close(self, runner: Trainer) -> None:
        """Unlock."""
        if self._locked and runner.lock is not None:
            runner.lock.release()
        self._locked = False


class CheckpointCallback(Callback):
    """Save every `save_interval` iterations, at the end, when asked to stop, and as long as the last attempt failed.

    It comes before everything that may fail or hang, such as an evaluation.
    """

    def __init__(self) -> None:
        super().__init__()
        self._failed = False
        self._warned = False

    def after_iteration(self, runner: Trainer, metrics: dict[str, float]) -> None:
        """Save if it is time; all processes come to the same decision."""
        last, run = not runner.should_continue(), runner.run_dir
        if run is None or not (last or self._failed or runner.iteration % runner.cfg.save_interval == 0):
            return
        score = -math.inf if runner.evaluates else metrics.get("Train/mean_reward", -math.inf)
        self.save(runner, run, score, last=last)

    def save(self, runner: Trainer, run: RunDir, score: float, *, last: bool = False) -> None:
        """Save into the run directory; `best` names the checkpoint if no score was higher.

        Args:
            runner: All processes call this.
            run: Its run directory.
            score: How good the policy is; minus infinity: unknown.
            last: There is no next iteration for another attempt.

        Raises:
            CheckpointError: with `last`, nothing could be written anywhere.
        """
        best_before = runner.best_score, runner.best_iteration
        if score > runner.best_score:
            runner.best_score, runner.best_iteration = score, runner.iteration
        data = gather_state(runner)
        problem = None if data is None else self._write(runner, run, data, last=last)
        problem = runner.distributed.broadcast_object(problem)
        self._failed = problem is not None
        if problem is not None:
            runner.best_score, runner.best_iteration = best_before
            if last:
                raise CheckpointError(problem)

    def _write(self, runner: Trainer, run: RunDir, data: Mapping[str, Any], *, last: bool) -> str | None:
        """Write, and return what kept the checkpoint from being written."""
        keep = runner.cfg.keep_checkpoints
        try:
            if last:
                store(runner, run, data)
            else:
                write_to_run(runner, run, data)
        except NonFiniteError as error:
            self._warn_once("Iteration %d is not saved: %s", runner.iteration, error)
            return None  # the next iteration is no better
        except CheckpointError as error:
            self._warn_once("%s It is tried again after every iteration; the run goes on.", error)
            prune(runner, run, keep and 1)
            return str(error)
        self._warned = False
        prune(runner, run, keep)
        return None

    def _warn_once(self, *message: Any) -> None:
        if not self._warned:
            logger.warning(*message)
        self._warned = True


class BestCallback(Callback):
    """Save after the best evaluation so far, or without evaluations after the smallest validation error.

    Without either, `CheckpointCallback` goes by the training return.
    """

    def __init__(self, checkpoints: CheckpointCallback) -> None:
        super().__init__()
        self._checkpoints = checkpoints

    def after_iteration(self, runner: Trainer, metrics: dict[str, float]) -> None:
        """Save if this iteration was evaluated or validated, and better than all before."""
        if runner.evaluates:
            score = metrics.get("Eval/mean_reward", -math.inf)
        else:
            score = -metrics.get(VALIDATION_ERROR, math.inf)
        if runner.run_dir is not None and score > runner.best_score:
            self._checkpoints.save(runner, runner.run_dir, score)


def _tidy(run: RunDir, iteration: int, best_iteration: int | None) -> None:
    """Let the directory hold what a run that goes on after `iteration` has written, whenever its process was killed."""
    run.remove_partial_files()
    foreign = [path for number, path in run.checkpoints().items() if number > iteration]
    if not iteration and run.metrics.is_file() and run.metrics.stat().st_size:
        foreign.append(run.metrics)
    for path in foreign:
        logger.warning("'%s' is not of the run that begins here; it is now '%s'.", path, run.set_aside(path))
    there = run.checkpoints()
    for pointer, number in (("latest", iteration), ("best", best_iteration)):
        if number in there and run.pointed(pointer) != there[number]:
            run.point(pointer, there[number])
