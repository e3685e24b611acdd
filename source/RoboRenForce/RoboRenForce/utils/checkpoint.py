"""Checkpoints: one file of tensors and plain data, written so that a crash never costs the previous one.

Nothing in the file can execute code: it is read with `weights_only=True`. Every entry carries a CRC that is verified
before anything is loaded, so a truncated or damaged file is told from a foreign one.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from .errors import CheckpointError
from .run_dir import RunDir, run_of

FORMAT = "RoboRenForce checkpoint"
VERSION = 1
_PLAIN = {str, int, float, bool, type(None), torch.dtype}


def save_checkpoint(path: str | Path, data: Mapping[str, Any]) -> None:
    """Write a checkpoint atomically: whoever reads `path` sees the old file or the complete new one.

    Raises:
        TypeError: `data` holds something else than tensors and plain data; the message names where.
        CheckpointError: the file can't be written.
    """
    save_tensors(path, {**as_plain(data), "format": FORMAT, "version": VERSION})


def save_tensors(path: str | Path, data: Mapping[str, Any]) -> None:
    """Write tensors and plain data atomically.

    Raises:
        CheckpointError: the file can't be written.
    """
    path = Path(path)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        with open(partial, "wb") as file:
            torch.save(dict(data), file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
        _sync_folder(path.parent)
    except OSError as error:
        raise CheckpointError(
            f"'{path}' can't be written ({error.strerror}); earlier checkpoints are untouched."
        ) from error
    finally:
        partial.unlink(missing_ok=True)


def load_checkpoint(path: str | Path, map_location: torch.device | str = "cpu") -> dict[str, Any]:
    """Read and verify a checkpoint.

    Raises:
        CheckpointError: it is absent, truncated, damaged, not ours or of a newer format. Where the folder holds an
        older
            checkpoint that is whole, the message names it.
    """
    path = Path(path)
    try:
        return _read(path, map_location)
    except CheckpointError as error:
        usable = newest_usable(run_of(path), without=path)
        hint = f" The newest usable checkpoint beside it is '{usable}'." if usable else ""
        raise CheckpointError(f"{error}{hint}") from error


def newest_usable(run: RunDir, without: Path | None = None) -> Path | None:
    """The newest checkpoint of a run that can be read completely; None if there is none."""
    for path in reversed(run.checkpoints().values()):
        if without is not None and path.name == without.name:
            continue
        with contextlib.suppress(CheckpointError):
            _read(path, "cpu")
            return path
    return None


def prune_checkpoints(run: RunDir, keep: int | None) -> None:
    """Delete all but the newest `keep` checkpoints; those that `latest` and `best` name always stay."""
    if keep is None:
        return
    protected = {run.pointed("latest"), run.pointed("best")}
    for path in list(run.checkpoints().values())[:-keep]:
        if path not in protected:
            path.unlink(missing_ok=True)


def _read(path: Path, map_location: torch.device | str) -> dict[str, Any]:
    if not path.is_file():
        raise CheckpointError(f"There is no checkpoint '{path}'.")
    try:
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()
    except (zipfile.BadZipFile, EOFError, OSError) as error:
        raise CheckpointError(f"'{path}' is truncated or not a checkpoint ({error}).") from error
    if damaged is not None:
        raise CheckpointError(f"'{path}' is damaged: its entry '{damaged}' fails the checksum.")
    try:
        data = torch.load(path, map_location=map_location, weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, KeyError) as error:
        reason = str(error).strip().splitlines()[0]
        raise CheckpointError(f"'{path}' is not a checkpoint of RoboRenForce: {reason}") from error
    if not isinstance(data, dict) or data.get("format") != FORMAT:
        keys = f" (it holds {', '.join(map(str, list(data)[:6]))})" if isinstance(data, dict) else ""
        raise CheckpointError(f"'{path}' is not a checkpoint of RoboRenForce{keys}.")
    if data["version"] > VERSION:
        raise CheckpointError(
            f"'{path}' has format {data['version']}, and this RoboRenForce reads up to {VERSION}: install a newer one."
        )
    return data


def as_plain(value: Any, path: str = "checkpoint") -> Any:
    """Copy the containers of `value` as dict, list and tuple, and refuse what is neither a tensor nor plain data.

    `weights_only` loading would refuse it later, when the run is over and the state is gone.

    Raises:
        TypeError: something else is in there; the message names where.
    """
    if isinstance(value, Mapping):
        return {key: as_plain(item, f"{path}.{key}") for key, item in value.items()}
    if isinstance(value, list | tuple):
        items = [as_plain(item, f"{path}[{index}]") for index, item in enumerate(value)]
        return items if isinstance(value, list) else tuple(items)
    if isinstance(value, torch.Tensor):
        return value.detach()
    if type(value) not in _PLAIN:
        raise TypeError(f"{path} is a {type(value).__name__}; checkpoints hold tensors and plain data only.")
    return value


def _sync_folder(folder: Path) -> None:
    """Make a rename durable, where the file system lets a folder be opened."""
    if os.name != "posix":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
