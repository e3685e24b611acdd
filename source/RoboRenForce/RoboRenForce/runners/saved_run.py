"""What the checkpoint of a run holds, checked when it is read: a file with valid checksums can lack anything."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch import Tensor

from ..envs.spec import EnvSpec
from ..utils.checkpoint import load_checkpoint
from ..utils.errors import CheckpointError, ConfigError

_NONE = type(None)

SAVED_RUN: dict[str, Any] = {
    "task": str,
    "script?": (str, _NONE),
    "spec": dict,
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


def load_run(path: str | Path) -> dict[str, Any]:
    """Read the checkpoint of a run.

    Raises:
        CheckpointError: it can't be used; see `load_checkpoint`.
    """
    data = load_checkpoint(path, schema=SAVED_RUN)
    if not data["task"].isprintable():  # it is part of many sentences
        raise CheckpointError(
            f"'{path}' is not a complete checkpoint: its task is {data['task'][:60]!a}, expected a printable name."
        )
    try:
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
    except (LookupError, AttributeError, RuntimeError, ValueError, TypeError) as error:
        raise CheckpointError(
            f"'{path}' does not fit {what} ({' '.join(str(error).split())[:300]}); use the "
            "configuration it was trained with, as in params/agent.yaml of its run."
        ) from error
