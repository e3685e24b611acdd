"""Checkpoints of tensors and plain data, written so that a crash never costs the previous one.

`model_<N>.pt` is a single file (format 1), for learners that fit into one process. `global_step_<N>/` is a directory
(format 2): `data.pt`, which is a file of format 1, the sharded tensors in files of their own, and `manifest.json`. Both
are written and read by the same two functions.

Nothing in either can execute code: files are read with `weights_only=True`, shards are numbers, and the manifest is
JSON. Everything carries a CRC that is verified before it is used, so a truncated or damaged checkpoint is told from a
foreign one.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor

from .checkpoint_manifest import Stored, read_manifest, verify
from .errors import CheckpointError
from .plain_data import Schema, as_plain, first_nan, misfit
from .run_dir import RunDir, is_checkpoint_directory, partial_path, replacing, run_of
from .sharded_state import names_left_out, plan_reads, take_sharded

__all__ = [
    "FORMAT",
    "VERSION",
    "as_plain",
    "first_nan",
    "load_checkpoint",
    "misfit",
    "newest_usable",
    "prune_checkpoints",
    "save_checkpoint",
    "save_tensors",
]

FORMAT = "RoboRenForce checkpoint"
VERSION = 1
"""Format of the single file."""
_REST = "data.pt"


def save_checkpoint(path: str | Path, data: Mapping[str, Any], *, together: bool = True) -> None:
    """Write a checkpoint atomically: whoever reads `path` sees the old one or the complete new one.

    Args:
        path: `global_step_<N>` for a directory; any other name for a file of one process.
        data: Nested tensors and plain data. In a directory, tensors that are not sharded are those of rank 0.
        together: Every rank of the process group writes the directory; False: this process alone.

    Raises:
        TypeError: `data` holds something else than tensors and plain data, or a file is to hold sharded tensors; the
            message names where.
        CheckpointError: it can't be written.
    """
    path = Path(path)
    sharded: dict[str, DTensor] = {}
    rest = {**take_sharded(as_plain(data), "", sharded), "format": FORMAT, "version": VERSION}
    if is_checkpoint_directory(path):
        from .checkpoint_shards import write_directory  # DCP, which small runs need not import

        facts = {"format": FORMAT, "torch": str(torch.__version__), "left_out": sorted(names_left_out(data))}
        write_directory(path, sharded, facts, lambda folder: save_tensors(folder / _REST, rest), together=together)
        _sync_folder(path.parent)
    elif sharded:
        raise TypeError(
            f"{next(iter(sharded))} is sharded and can't go into the file '{path}': every rank saves to a directory, "
            "global_step_<N>."
        )
    else:
        save_tensors(path, rest)


def save_tensors(path: str | Path, data: Mapping[str, Any]) -> None:
    """Write tensors and plain data atomically.

    Raises:
        CheckpointError: the file can't be written.
    """
    path = Path(path)
    try:
        with replacing(path) as file:
            torch.save(dict(data), file)
    except (OSError, RuntimeError) as error:  # torch turns a failed write into a RuntimeError of its own
        raise CheckpointError(
            f"'{path}' can't be written ({_reason(error)}); earlier checkpoints are untouched."
        ) from error
    _sync_folder(path.parent)


def load_checkpoint(
    path: str | Path,
    map_location: torch.device | str = "cpu",
    *,
    schema: Schema | None = None,
    into: Mapping[str, Any] | None = None,
    read_shards: bool = True,
) -> dict[str, Any]:
    """Read and verify a checkpoint, file or directory, written by any number of ranks.

    Args:
        path: The checkpoint.
        map_location: Where its tensors go.
        schema: What has to be in it, see `misfit`; None: anything.
        into: A state like the saved one whose tensors are sharded now: these are filled in place, each rank reading its
            part, and are in the result. Every rank of the process group calls. None: all tensors are read whole.
        read_shards: False verifies what lies in shards and leaves its tensors on the meta device.

    Raises:
        CheckpointError: it is absent, truncated, damaged, incomplete, not ours, of a newer format or not like `into`.
            Where the folder holds an older checkpoint that is whole, the message names it.
    """
    path = Path(path)
    try:
        return _read(path, map_location, schema, into, read_shards)
    except CheckpointError as error:
        usable = newest_usable(run_of(path), without=path, schema=schema)
        hint = f" The newest usable checkpoint beside it is '{usable}'." if usable else ""
        raise CheckpointError(f"{error}{hint}") from error


def newest_usable(run: RunDir, without: Path | None = None, *, schema: Schema | None = None) -> Path | None:
    """The newest checkpoint of a run that can be read completely; None if there is none."""
    for path in reversed(run.checkpoints().values()):
        if without is not None and path.name == without.name:
            continue
        with contextlib.suppress(CheckpointError):
            _verify(path, schema)
            return path
    return None


def prune_checkpoints(run: RunDir, keep: int | None) -> None:
    """Delete all but the newest `keep` checkpoints; those that `latest` and `best` name always stay."""
    if keep is None:
        return
    protected = {run.pointed("latest"), run.pointed("best")}
    for path in list(run.checkpoints().values())[:-keep]:
        if path in protected:
            continue
        if path.is_dir():
            # Renamed first: a directory of which some files are gone must not look like a checkpoint.
            shutil.rmtree(path.rename(partial_path(path)))
        else:
            path.unlink(missing_ok=True)


def _read(
    path: Path,
    map_location: torch.device | str,
    schema: Schema | None,
    into: Mapping[str, Any] | None,
    read_shards: bool,
) -> dict[str, Any]:
    stored: dict[str, Stored] = {}
    file = path
    if is_checkpoint_directory(path) and path.is_dir():
        stored, file = read_manifest(path)[1], path / _REST
    data = _read_file(file, map_location, None if stored else schema)
    if not stored and into is None:
        return data
    from .checkpoint_shards import read_tensors

    reads: dict[str, tuple[Stored, Tensor]] = {}
    data = plan_reads(data, into, "", stored, torch.device(map_location if read_shards else "meta"), reads)
    if read_shards:
        together = into is not None and torch.distributed.is_initialized()
        sources = {name: source for name, (source, _) in reads.items()}
        read_tensors(sources, {name: target for name, (_, target) in reads.items()}, together=together)
    else:
        verify(stored)
    _require(path, data, schema)
    return data


def _verify(path: Path, schema: Schema | None) -> None:
    """Raise a CheckpointError unless the checkpoint can be read completely."""
    if not path.is_dir():
        _read_file(path, "cpu", schema)
        return
    stored = read_manifest(path)[1]
    verify(stored)
    plan_reads(_read_file(path / _REST, "cpu", schema), None, "", stored, torch.device("meta"), {})


def _read_file(path: Path, map_location: torch.device | str, schema: Schema | None) -> dict[str, Any]:
    if not path.is_file():
        raise CheckpointError(f"There is no checkpoint '{path}'.")
    _require_whole(path)
    try:
        data = torch.load(path, map_location=map_location, weights_only=True)
    except Exception as error:
        raise CheckpointError(f"'{path}' is not a checkpoint of RoboRenForce: {_reason(error)}") from error
    if not isinstance(data, dict) or data.get("format") != FORMAT:
        keys = f" (it holds {', '.join(map(str, list(data)[:6]))})" if isinstance(data, dict) else ""
        raise CheckpointError(f"'{path}' is not a checkpoint of RoboRenForce{keys}.")
    wrong = misfit(data, {"version": int})
    if wrong is None and data["version"] > VERSION:
        raise CheckpointError(
            f"'{path}' has format {data['version']}, and this RoboRenForce reads up to {VERSION}: install a newer one."
        )
    _require(path, data, {"version": int} if schema is None or wrong else schema)
    return data


def _require(path: Path, data: Any, schema: Schema | None) -> None:
    wrong = None if schema is None else misfit(data, schema)
    if wrong is not None:
        raise CheckpointError(f"'{path}' is not a complete checkpoint: {wrong}.")


def _require_whole(path: Path) -> None:
    """Compare the contents with their checksums."""
    try:
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()
    except PermissionError as error:
        raise CheckpointError(f"'{path}' can't be read ({error.strerror}).") from error
    except (zipfile.BadZipFile, zlib.error, EOFError, OSError, ValueError, RuntimeError) as error:
        raise CheckpointError(f"'{path}' is truncated or not a checkpoint ({error}).") from error
    if damaged is not None:
        raise CheckpointError(f"'{path}' is damaged: its entry '{damaged}' fails the checksum.")


def _sync_folder(folder: Path) -> None:
    """Make a rename durable; where a file system can't do that now, it happens later."""
    if os.name != "posix":
        return
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _reason(error: BaseException) -> str:
    """The operating system's words if there are any, else the first line of the error."""
    system = next((e for e in (error, error.__cause__, error.__context__) if isinstance(e, OSError)), None)
    lines = (system.strerror or str(system) if system is not None else str(error)).strip().splitlines()
    return lines[0] if lines else type(error).__name__
