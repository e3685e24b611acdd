"""Saving of a run that fails in the middle of an iteration: the last finished one, which is in memory."""

from __future__ import annotations

import contextlib
import logging
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from ..utils.errors import CheckpointError, DivergedError, EnvContractError, UserError
from .run_state import state_of_this_process
from .writing import store

if TYPE_CHECKING:
    from .trainer import Trainer

logger = logging.getLogger(__name__)


@contextlib.contextmanager
def saved_on_failure(runner: Trainer) -> Iterator[None]:
    """Save the last finished iteration if the loop inside ends with an error, a second signal or an exit.

    A learner that diverged is not saved: its parameters may be finite, and it would hide the last good checkpoint.
    """
    try:
        yield
    except DivergedError:
        raise
    except SystemExit as error:
        _save_after(runner, error, _reason(error))
        if runner.stop.signal is None and runner.raised_in_env(error):
            raise EnvContractError(
                f"{runner.task} ended the process (SystemExit: {error.code}) {_place(runner, error)}; let it raise "
                "another exception that says what is wrong."
            ) from error
        raise
    except UserError as error:  # its sentence is shown when the run has ended
        _save_after(runner, error)
        raise
    except BaseException as error:
        _save_after(runner, error, _reason(error))
        raise


def _reason(error: BaseException) -> str:
    return f" ({' '.join(f'{type(error).__name__}: {error}'.split())[:120].rstrip(': ')})"


def _save_after(runner: Trainer, error: BaseException, reason: str = "") -> None:
    """Save the current learner as the last finished iteration.

    Parameters are those at the time of the error: earlier ones would have to be copied in every iteration. Episodes are
    not continued. Other processes may wait elsewhere, so nothing is gathered: their episodes start anew as well.
    """
    place = _place(runner, error)
    logger.error("%s stopped %s%s.", runner.task, place, reason)
    if runner.run_dir is None:
        return
    if not runner.is_main:
        logger.error("Process %d leaves saving to the main process.", runner.distributed.rank)
        return
    try:
        there = save_last(runner, None if is_on_stack(error, runner, "finish_iteration") else place)
        if there is not None:
            logger.error("Iteration %d, the last finished one, is saved in '%s'.", runner.iteration, there)
    except Exception as failure:  # noqa: BLE001 - `error` ends the run, and whatever fails after it must not hide it
        newest = runner.run_dir.pointed("latest")
        kept = f" The newest checkpoint is '{newest}'." if newest is not None and newest.exists() else ""
        logger.error("Iteration %d can't be saved: %s%s", runner.iteration, failure, kept)


def save_last(runner: Trainer, interrupted: str | None) -> Path | None:
    """Save the last finished iteration without asking other processes; None if this session has finished none.

    Args:
        runner: Runner; only the main process saves.
        interrupted: Position in the next iteration; None: between two.
    """
    if not runner.is_main or runner.run_dir is None or runner.iteration == runner.first_iteration:
        return None
    sharded = runner.algorithm.is_sharded
    there = runner.run_dir.checkpoint(runner.iteration, directory=sharded or runner.algorithm.saves_directories)
    if there.exists():
        return there
    if sharded:
        raise CheckpointError(
            "every process holds a part of the learner, and they can't be asked now; a smaller save_interval loses less"
        )
    return store(runner, runner.run_dir, state_of_this_process(runner, interrupted))


def _place(runner: Trainer, error: BaseException) -> str:
    """Return the position of the run when `error` was raised."""
    if is_on_stack(error, runner, "finish_iteration"):
        return f"after iteration {runner.iteration}"
    if is_on_stack(error, runner.algorithm, "update"):
        return f"in the middle of an update, {runner.place()}"
    return ("in its environment, " if runner.raised_in_env(error) else "") + runner.place()


def is_on_stack(error: BaseException, owner: object, method: str | None = None) -> bool:
    """Return True if `error` came from a method of `owner`; asked afterwards, it costs the loop nothing."""
    frames = (frame for frame, _ in traceback.walk_tb(error.__traceback__))
    return any(frame.f_locals.get("self") is owner and method in (None, frame.f_code.co_name) for frame in frames)
