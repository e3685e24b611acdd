"""Checkpoints of runs, checked when they are read: a file with valid checksums can lack anything."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from ..envs.spec import EnvSpec
from ..utils.checkpoint import load_checkpoint
from ..utils.checkpoint_manifest import read_manifest
from ..utils.errors import BaseModelError, CheckpointError, ConfigError
from ..utils.run_dir import RunDir, resolve_checkpoint, run_of

logger = logging.getLogger(__name__)

_NONE = type(None)

SAVED_RUN: dict[str, Any] = {
    "task": str,
    "script?": (str, _NONE),
    "spec": (dict, _NONE),
    "config": {"agent": dict, "env": (dict, _NONE)},
    "versions": dict,
    "iteration": int,
    "interrupted?": (str, _NONE),
    "algorithm": dict,
    "runner": {
        "steps": int,
        "total_time": float,
        "best_score": float,
        "best_iteration?": (int, _NONE),
        "metrics?": {"*": float},
    },
    "shared?": dict,
    "local": [
        {
            "env": dict,
            "algorithm": (dict, _NONE),
            "stateful": dict,
            "rng": {"python": (tuple, list), "numpy": list, "torch": Tensor, "cuda": list},
        }
    ],
}
"""Schema for `misfit`; what has a question mark came later or is not always there."""


@dataclass(frozen=True)
class SavedRun:
    """A checkpoint that was read once, for everybody in a command who needs some of it.

    Tensors that lie in shards are verified but not read: `restore` reads them where they go.
    """

    path: Path
    data: dict[str, Any]

    @property
    def holds_shards(self) -> bool:
        """True if some of its tensors are in files of their own, which were not read."""
        return self.path.is_dir() and bool(read_manifest(self.path)[1])

    @property
    def spec(self) -> EnvSpec | None:
        """Spec that its learner was built for; None if that was no environment."""
        spec = self.data["spec"]
        return None if spec is None else EnvSpec.from_dict(spec)

    def without_data(self) -> SavedRun:
        """Return where it is, once its content was used: a stored replay is large."""
        return SavedRun(self.path, {})

    @property
    def is_newest(self) -> bool:
        """True if its run holds no newer checkpoint that can be read."""
        there = list(run_of(self.path).checkpoints().values())
        return self.path in there and not any(_is_whole(path) for path in there[there.index(self.path) + 1 :])


def read_run(path: str | Path) -> SavedRun:
    """Read the checkpoint of a run; see `load_run`."""
    return SavedRun(Path(path), load_run(path))


def read_newest(run: RunDir, consequence: str) -> SavedRun:
    """Read the newest whole checkpoint, whatever `latest` says: a process may be killed before it has written that.

    Args:
        run: Where it is looked for.
        consequence: What follows if that is not the newest of all, for the warning.

    Raises:
        CheckpointError: none can be read.
        UserError: there is none.
    """
    there = list(run.checkpoints().values()) or [resolve_checkpoint(run.root)]
    refused: CheckpointError | None = None
    for path in reversed(there):
        try:
            saved = read_run(path)
        except CheckpointError as error:
            refused = refused or error
            continue
        if refused is not None:
            logger.warning("%s %s", refused, consequence)
        return saved
    raise refused or CheckpointError(f"'{run.root}' holds no checkpoint.")


def _is_whole(path: Path) -> bool:
    try:
        load_run(path)
    except CheckpointError:
        return False
    return True


def load_run(path: str | Path) -> dict[str, Any]:
    """Read the checkpoint of a run.

    Raises:
        CheckpointError: it can't be used; see `load_checkpoint`.
    """
    data = load_checkpoint(path, schema=SAVED_RUN, read_shards=False)
    if not data["task"].isprintable():  # it is part of many sentences
        raise CheckpointError(
            f"'{path}' is not a complete checkpoint: its task is {data['task'][:60]!a}, expected a printable name."
        )
    try:
        if data["spec"] is not None:
            EnvSpec.from_dict(data["spec"])
    except ConfigError as error:
        raise CheckpointError(f"'{path}' is not a complete checkpoint: its spec is none ({error}).") from error
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise CheckpointError(
            f"'{path}' is not a complete checkpoint: its spec is none ({type(error).__name__}: {error})."
        ) from error
    return data


@contextmanager
def fitting(path: str | Path, what: str) -> Iterator[None]:
    """Say what state of another shape does not fit."""
    try:
        yield
    except BaseModelError as error:  # whose sentence says what to do
        raise CheckpointError(f"'{path}' does not fit {what}. {error}") from error
    except (LookupError, AttributeError, RuntimeError, ValueError, TypeError) as error:
        raise CheckpointError(
            f"'{path}' does not fit {what} ({' '.join(str(error).split())[:300]}); use the "
            "configuration it was trained with, as in params/agent.yaml of its run."
        ) from error
