"""Writing of checkpoints: into the run directory, or elsewhere if it can't be written later."""

from __future__ import annotations

import contextlib
import logging
import shlex
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..utils.checkpoint import first_nan, prune_checkpoints, save_checkpoint
from ..utils.errors import CheckpointError, NonFiniteError
from ..utils.run_dir import RunDir
from ..utils.side_activity import side_activity

if TYPE_CHECKING:
    from .trainer import Trainer

logger = logging.getLogger(__name__)


def write_to_run(runner: Trainer, run: RunDir, data: Mapping[str, Any]) -> Path:
    """Write a checkpoint into the run directory, recreated if somebody deleted it; `latest` then names it.

    Every process calls this where the learner is sharded, and only the main one otherwise.

    Raises:
        NonFiniteError: The learner contains NaN: it must not replace a good checkpoint.
        CheckpointError: It can't be written.
    """
    sharded = runner.algorithm.is_sharded
    bad = first_nan(data["algorithm"])
    if sharded:  # each process looked at its part
        found = runner.distributed.gather_objects(bad) or []
        bad = runner.distributed.broadcast_object(next((place for place in found if place is not None), None))
    if bad is not None:
        raise NonFiniteError(f"the learner holds NaN in {bad}; lower the learning rate.")
    path = run.checkpoint(data["iteration"], directory=sharded or runner.algorithm.saves_directories)
    if not sharded:
        try:
            run.root.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise CheckpointError(f"'{path}' can't be written ({error.strerror}).") from error
    save_checkpoint(path, data, together=sharded)
    if not runner.is_main:
        return path
    with side_activity("Writing 'latest'"):
        run.point("latest", path)
    if data["runner"]["best_iteration"] == data["iteration"]:
        with side_activity("Writing 'best'"):
            run.point("best", path)
    return path


def store(runner: Trainer, run: RunDir, data: Mapping[str, Any]) -> Path:
    """Write a checkpoint that can't be written later: into the run directory, or else to another folder.

    Raises:
        NonFiniteError: The learner contains NaN.
        CheckpointError: It can't be written anywhere.
    """
    try:
        return write_to_run(runner, run, data)
    except CheckpointError as error:
        refused = error
    prune(runner, run, runner.cfg.keep_checkpoints and 1)
    try:
        return write_to_run(runner, run, data)
    except CheckpointError:
        if runner.algorithm.is_sharded:  # another folder need not be one that all processes see
            raise
        # Another name than in a run: it is resumed into a new run directory, not into this folder.
        path = _write_elsewhere(f"{run.root.name}_iteration_{data['iteration']}.pt", data, refused)
    runner.saved_elsewhere = path
    logger.warning("%s Its content is in '%s': go on with --resume %s", refused, path, shlex.quote(str(path)))
    return path


def prune(runner: Trainer, run: RunDir, keep: int | None) -> None:
    """Delete old checkpoints, on the main process."""
    if runner.is_main:
        with side_activity("Deleting old checkpoints"):
            prune_checkpoints(run, keep)


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
