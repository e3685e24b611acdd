"""Saving and restoring what a run is: the learner, the counters, and what each process has of its own."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..configclass.references import main_script
from ..utils.checkpoint import load_checkpoint, save_checkpoint
from ..utils.environment_info import versions
from ..utils.errors import CheckpointError, SpecMismatch
from ..utils.seeding import rng_state, set_rng_state
from .saved_run import SavedRun, fitting
from .writing import write_to_run

if TYPE_CHECKING:
    from .trainer import Trainer

logger = logging.getLogger(__name__)


def save(trainer: Trainer, path: str | Path | None) -> Path | None:
    """Write a checkpoint; see `Trainer.save`."""
    data = gather_state(trainer)
    if data is None:
        return None
    if path is not None:
        save_checkpoint(path, data)
        return Path(path)
    if trainer.run_dir is None:
        raise CheckpointError("This runner has no run directory: give save() a path, or build the runner with log_dir.")
    return write_to_run(trainer, trainer.run_dir, data)


def gather_state(trainer: Trainer) -> dict[str, Any] | None:
    """Return what a checkpoint holds, on each process that writes it; every process has to call this."""
    local = trainer.distributed.gather_objects(_local_state(trainer, trainer.env_state()))
    writes = trainer.is_main or trainer.algorithm.is_sharded
    return _state(trainer, local or []) if writes else None  # of what is not sharded, that of the main process is saved


def state_of_this_process(trainer: Trainer, interrupted: str | None) -> dict[str, Any]:
    """Return what a checkpoint holds if other processes can't be asked.

    Args:
        trainer: Whose state it is.
        interrupted: Where in an iteration the run is: its running episodes are not continued. None: between two.
    """
    if interrupted is not None:
        trainer.algorithm.restart_episodes()
    local = _local_state(trainer, trainer.env_state() if interrupted is None else {})
    return _state(trainer, [local], interrupted)


def restore(trainer: Trainer, saved: SavedRun, *, resume: bool) -> None:
    """Load a checkpoint into a trainer; see `Trainer.load`."""
    data = saved.data
    _require_same_spec(trainer, saved)
    with fitting(saved.path, "this algorithm and policy"):
        trainer.algorithm.load_state_dict(_learner_state(trainer, saved))
    if resume:
        with fitting(saved.path, "this runner and environment"):
            _restore_progress(trainer, data)
            _restore_local(trainer, data)


def _learner_state(trainer: Trainer, saved: SavedRun) -> Any:
    """The learner's state, of which each process reads its part where it is sharded."""
    if not (saved.holds_shards or trainer.algorithm.is_sharded):
        return saved.data["algorithm"]
    into = {"algorithm": trainer.algorithm.state_dict()}
    return load_checkpoint(saved.path, trainer.device, into=into)["algorithm"]


def _state(trainer: Trainer, local: list[Any], interrupted: str | None = None) -> dict[str, Any]:
    return {
        "task": trainer.task,
        "script": None if (script := main_script()) is None else str(script),
        "spec": None if trainer.spec is None else trainer.spec.to_dict(),
        "config": trainer.config_dict(),
        "versions": versions(),
        "iteration": trainer.iteration,
        "interrupted": interrupted,
        "algorithm": trainer.algorithm.state_dict(),
        "runner": {
            "steps": trainer.steps,
            "total_time": trainer.total_time,
            "best_score": trainer.best_score,
            "best_iteration": trainer.best_iteration,
            "metrics": trainer.metrics,
        },
        "shared": {name: owner.state_dict() for name, owner in trainer.shared.items()},
        "local": local,
    }


def _local_state(trainer: Trainer, env: dict[str, Any]) -> dict[str, Any]:
    """Return the state that differs between processes, with the state `env` of the environments."""
    return {
        "env": env,
        # That of the main process is in the algorithm's own state.
        "algorithm": None if trainer.is_main else trainer.algorithm.local_state_dict(),
        "stateful": {name: owner.state_dict() for name, owner in trainer.stateful.items()},
        "rng": rng_state(),
    }


def _require_same_spec(trainer: Trainer, saved: SavedRun) -> None:
    """Refuse a learner of another robot."""
    here, there = trainer.played_spec, saved.spec
    differences = [] if here is None or there is None else here.differences(there)
    if differences:
        task = saved.data["task"]
        raise SpecMismatch(
            f"'{saved.path}' was trained on '{task}' and does not fit '{trainer.task}': {'; '.join(differences)}. "
            f"Use --task {task}, or the checkpoint of another run."
        )


def _restore_progress(trainer: Trainer, data: Mapping[str, Any]) -> None:
    """Restore the counters and what all processes share."""
    counters = data["runner"]
    trainer.iteration = data["iteration"]
    trainer.steps, trainer.total_time = counters["steps"], counters["total_time"]
    trainer.best_score, trainer.best_iteration = counters["best_score"], counters.get("best_iteration")
    trainer.metrics = counters.get("metrics", {})
    trainer.resumed = True
    for name, owner in trainer.shared.items():
        owner.load_state_dict(data["shared"][name])


def _restore_local(trainer: Trainer, data: Mapping[str, Any]) -> None:
    """Restore what this process had of its own, if it was part of the run."""
    rank = trainer.distributed.rank
    if rank >= len(data["local"]):
        logger.info("Process %d is new in this run and starts with fresh episodes.", rank)
        return
    local = data["local"][rank]
    if local["algorithm"] is not None:
        trainer.algorithm.load_local_state_dict(local["algorithm"])
    for name, owner in trainer.stateful.items():
        owner.load_state_dict(local["stateful"][name])
    trainer.restore_env(local["env"], data)
    set_rng_state(local["rng"])  # last, since restoring may draw numbers
