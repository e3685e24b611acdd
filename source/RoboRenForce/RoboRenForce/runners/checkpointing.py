"""When and where a run saves what it has learned, also when it fails or can't write where it should.

A checkpoint that can't be written ends nothing: it is tried again after the next iteration, and at the end of a run it
goes to another folder. A run that ends in the middle of an iteration saves the last finished one, which is in memory.
"""

from __future__ import annotations

import contextlib
import logging
import math
import shlex
import tempfile
import traceback
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..utils.checkpoint import first_nan, prune_checkpoints, save_checkpoint
from ..utils.errors import CheckpointError, EnvContractError, NonFiniteError, RunDirectoryError
from ..utils.run_dir import RunDir
from ..utils.side_activity import side_activity
from .callbacks import Callback

if TYPE_CHECKING:
    from .runner import Runner

logger = logging.getLogger(__name__)


class RunDirectoryCallback(Callback):
    """Lock the run directory for the session and begin with what belongs to the run."""

    def __init__(self) -> None:
        super().__init__()
        self._locked = False

    def on_start(self, runner: Runner) -> None:
        """Lock, then tidy up."""
        if runner.lock is None or runner.run_dir is None:
            return
        runner.lock.acquire()
        self._locked = True
        try:
            _tidy(runner.run_dir, runner.iteration, runner.best_iteration)
        except OSError as error:
            raise RunDirectoryError(
                f"The run directory '{runner.run_dir.root}' can't be written ({error.strerror}); choose another one."
            ) from error

    def close(self, runner: Runner) -> None:
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

    def after_iteration(self, runner: Runner, metrics: dict[str, float]) -> None:
        """Save if it is time; all processes come to the same decision."""
        last = not runner.goes_on()
        if runner.run_dir is None or not (last or self._failed or runner.iteration % runner.cfg.save_interval == 0):
            return
        score = -math.inf if runner.evaluates else metrics.get("Train/mean_reward", -math.inf)
        self.save(runner, score, last=last)

    def save(self, runner: Runner, score: float, *, last: bool = False) -> None:
        """Save into the run directory; `best` names the checkpoint if no score was higher.

        Args:
            runner: All processes call this.
            score: How good the policy is; minus infinity: unknown.
            last: There is no next iteration for another attempt.

        Raises:
            CheckpointError: with `last`, nothing could be written anywhere.
        """
        best_before = runner.best_score, runner.best_iteration
        if score > runner.best_score:
            runner.best_score, runner.best_iteration = score, runner.iteration
        data = runner.gather_state()
        problem = None if data is None else self._write(runner, data, last=last)
        problem = runner.distributed.broadcast_object(problem)
        self._failed = problem is not None
        if problem is not None:
            runner.best_score, runner.best_iteration = best_before
            if last:
                raise CheckpointError(problem)

    def _write(self, runner: Runner, data: Mapping[str, Any], *, last: bool) -> str | None:
        """Returns what kept the checkpoint from being written."""
        run, cfg = runner.run_dir, runner.cfg
        assert run is not None
        try:
            if last:
                store(runner, data)
            else:
                write_to_run(run, data)
        except NonFiniteError as error:
            self._warn_once("Iteration %d is not saved: %s", runner.iteration, error)
            return None  # the next iteration is no better
        except CheckpointError as error:
            self._warn_once("%s It is tried again after every iteration; the run goes on.", error)
            with side_activity("Deleting old checkpoints"):
                prune_checkpoints(run, cfg.keep_checkpoints and 1)
            return str(error)
        self._warned = False
        with side_activity("Deleting old checkpoints"):
            prune_checkpoints(run, cfg.keep_checkpoints)
        return None

    def _warn_once(self, *message: Any) -> None:
        if not self._warned:
            logger.warning(*message)
        self._warned = True


class BestCallback(Callback):
    """Save after the best evaluation so far; without evaluations, `CheckpointCallback` goes by the training return."""

    def __init__(self, checkpoints: CheckpointCallback) -> None:
        super().__init__()
        self._checkpoints = checkpoints

    def after_iteration(self, runner: Runner, metrics: dict[str, float]) -> None:
        """Save if this iteration was evaluated, and better than all before."""
        score = metrics.get("Eval/mean_reward", -math.inf)
        if runner.run_dir is not None and runner.evaluates and score > runner.best_score:
            self._checkpoints.save(runner, score)


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


# ------------------------------------------------------------------------------------------------------------ writing


def write_to_run(run: RunDir, data: Mapping[str, Any]) -> Path:
    """Write a checkpoint into the run directory, which is made again if somebody deleted it; `latest` then names it.

    Raises:
        NonFiniteError: the learner holds NaN: a good checkpoint must not be replaced by it.
        CheckpointError: it can't be written.
    """
    bad = first_nan(data["algorithm"])
    if bad is not None:
        raise NonFiniteError(f"the learner holds NaN in {bad}; lower the learning rate.")
    path = run.checkpoint(data["iteration"])
    try:
        run.root.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise CheckpointError(f"'{path}' can't be written ({error.strerror}).") from error
    save_checkpoint(path, data)
    with side_activity("Writing 'latest'"):
        run.point("latest", path)
    if data["runner"]["best_iteration"] == data["iteration"]:
        with side_activity("Writing 'best'"):
            run.point("best", path)
    return path


def store(runner: Runner, data: Mapping[str, Any]) -> Path:
    """Write a checkpoint that can't be written later: into the run directory, or else to another folder.

    Raises:
        NonFiniteError: the learner holds NaN.
        CheckpointError: it can't be written anywhere.
    """
    run = runner.run_dir
    assert run is not None
    try:
        return write_to_run(run, data)
    except CheckpointError as error:
        refused = error
    with side_activity("Deleting old checkpoints"):
        prune_checkpoints(run, runner.cfg.keep_checkpoints and 1)
    try:
        return write_to_run(run, data)
    except CheckpointError:
        # Another name than in a run: it is resumed into a new run directory, not into this folder.
        path = _write_elsewhere(f"{run.root.name}_iteration_{data['iteration']}.pt", data, refused)
    runner.saved_elsewhere = path
    logger.warning("%s Its content is in '%s': go on with --resume %s", refused, path, shlex.quote(str(path)))
    return path


def _write_elsewhere(name: str, data: Mapping[str, Any], refused: CheckpointError) -> Path:
    for parent in (None, "."):  # the system's temporary folder, the current one
        with contextlib.suppress(OSError, CheckpointError):
            folder = Path(tempfile.mkdtemp(prefix="RoboRenForce-", dir=parent)).resolve()
            try:
                save_checkpoint(folder / name, data)
                return folder / name
            except CheckpointError:
                folder.rmdir()
    raise CheckpointError(f"{refused} Neither can the temporary nor the current folder: the trained state is lost.")


# ----------------------------------------------------------------------------------------------------------- failures


@contextlib.contextmanager
def saved_on_failure(runner: Runner) -> Iterator[None]:
    """Save the last finished iteration if the loop inside ends with an error, a second signal or an exit."""
    try:
        yield
    except SystemExit as error:
        _save_after(runner, error)
        if runner.stop.signal is None and _is_on_stack(error, runner.env):
            raise EnvContractError(
                f"{runner.task} ended the process (SystemExit: {error.code}) {_place(runner, error)}; let it raise "
                "another exception that says what is wrong."
            ) from error
        raise
    except BaseException as error:
        _save_after(runner, error)
        raise


def _save_after(runner: Runner, error: BaseException) -> None:
    """Save what the learner is now as the last finished iteration.

    Parameters are what they are at the error: earlier ones would have to be copied in every iteration. Episodes are not
    continued. Other processes may wait somewhere else, so nothing is gathered: theirs begin anew as well.
    """
    place = _place(runner, error)
    reason = " ".join(f"{type(error).__name__}: {error}".split())[:120].rstrip(": ")
    logger.error("%s stopped %s (%s).", runner.task, place, reason)
    if runner.run_dir is None:
        return
    if not runner.is_main:
        logger.error("Process %d leaves saving to the main process.", runner.distributed.rank)
        return
    try:
        there = save_last(runner, None if _is_on_stack(error, runner, "finish_iteration") else place)
        if there is not None:
            logger.error("Iteration %d, the last finished one, is saved in '%s'.", runner.iteration, there)
    except Exception as failure:  # noqa: BLE001 - `error` ends the run, and whatever fails after it must not hide it
        newest = runner.run_dir.pointed("latest")
        kept = f" The newest checkpoint is '{newest}'." if newest is not None and newest.is_file() else ""
        logger.error("Iteration %d can't be saved: %s%s", runner.iteration, failure, kept)


def save_last(runner: Runner, interrupted: str | None) -> Path | None:
    """Save the last finished iteration without asking other processes; None if this session has finished none.

    Args:
        runner: Only the main process saves.
        interrupted: Where in the next iteration the run is; None: between two.
    """
    if not runner.is_main or runner.run_dir is None or runner.iteration == runner.first_iteration:
        return None
    there = runner.run_dir.checkpoint(runner.iteration)
    return there if there.is_file() else store(runner, runner.local_state_only(interrupted))


def _place(runner: Runner, error: BaseException) -> str:
    """Where the run was when `error` came."""
    if _is_on_stack(error, runner, "finish_iteration"):
        return f"after iteration {runner.iteration}"
    if _is_on_stack(error, runner.algorithm, "update"):
        return f"in the middle of an update, {runner.place()}"
    return ("in its environment, " if _is_on_stack(error, runner.env) else "") + runner.place()


def _is_on_stack(error: BaseException, owner: object, method: str | None = None) -> bool:
    """Whether `error` came from a method of `owner`; asked afterwards, it costs the loop nothing."""
    frames = (frame for frame, _ in traceback.walk_tb(error.__traceback__))
    return any(frame.f_locals.get("self") is owner and method in (None, frame.f_code.co_name) for frame in frames)
