"""Checkpoints: one file of tensors and plain data, written so that a crash never costs the previous one.

Nothing in the file can execute code: it is read with `weights_only=True`. Every entry carries a CRC that is verified
before anything is loaded, so a truncated or damaged file is told from a foreign one.
"""

from __future__ import annotations

import contextlib
import math
import os
import zipfile
import zlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch

from .errors import CheckpointError
from .run_dir import RunDir, replacing, run_of

FORMAT = "RoboRenForce checkpoint"
VERSION = 1
Schema = Any
"""What `misfit` compares with: types, lists and mappings of them."""
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
    try:
        with replacing(path) as file:
            torch.save(dict(data), file)
    except (OSError, RuntimeError) as error:  # torch turns a failed write into a RuntimeError of its own
        raise CheckpointError(
            f"'{path}' can't be written ({_reason(error)}); earlier checkpoints are untouched."
        ) from error
    _sync_folder(path.parent)


def load_checkpoint(
    path: str | Path, map_location: torch.device | str = "cpu", *, schema: Schema | None = None
) -> dict[str, Any]:
    """Read and verify a checkpoint.

    Args:
        path: The checkpoint.
        map_location: Where its tensors go.
        schema: What has to be in it, see `misfit`; None: anything.

    Raises:
        CheckpointError: it is absent, truncated, damaged, incomplete, not ours or of a newer format. Where the folder
            holds an older checkpoint that is whole, the message names it.
    """
    path = Path(path)
    try:
        return _read(path, map_location, schema)
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
            _read(path, "cpu", schema)
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


def misfit(value: Any, schema: Schema, path: str = "") -> str | None:
    """What in `value` is not as `schema` says, in words; None if all is.

    Args:
        value: Plain data and tensors.
        schema: A type or a tuple of types; `[schema]` for lists of at least one; `{name: schema}` for mappings that
            hold at least these names, of which `name?` may be absent, and `{"*": schema}` for any names. An int is a
            count: not negative, of at most 63 bits. NaN is no float.
        path: Where `value` is.
    """
    if isinstance(schema, Mapping):
        if not isinstance(value, Mapping):
            return _wrong(value, "a mapping", path)
        if "*" in schema:
            schema = {str(name): schema["*"] for name in value}
        for name, inner in schema.items():
            key, place = name.removesuffix("?"), f"{path}.{name}".lstrip(".").removesuffix("?")
            if key not in value:
                if key == name:
                    return f"{place} is missing"
            elif found := misfit(value[key], inner, place):
                return found
        return None
    if isinstance(schema, list):
        if not isinstance(value, list) or not value:
            return _wrong(value, "a list of at least one", path)
        return next((found for i, item in enumerate(value) if (found := misfit(item, schema[0], f"{path}[{i}]"))), None)
    kinds = schema if isinstance(schema, tuple) else (schema,)
    fits = isinstance(value, (*kinds, int) if float in kinds else kinds) and not isinstance(value, bool)
    if (
        not fits
        or (isinstance(value, int) and not 0 <= value < 2**63)
        or (isinstance(value, float) and math.isnan(value))
    ):
        return _wrong(value, " or ".join(kind.__name__ for kind in kinds), path)
    return None


def _wrong(value: Any, expected: str, path: str) -> str:
    try:
        got = repr(value) if isinstance(value, int | float | str | None) else f"a {type(value).__name__}"
    except ValueError:  # Python writes out no number of thousands of digits
        got = "a number of thousands of digits"
    return f"{path or 'it'} is {got[:60]}, expected {expected}"


def first_nan(value: Any, path: str = "") -> str | None:
    """Where the first tensor with a NaN is in nested data; None if there is none."""
    if isinstance(value, Mapping):
        items: Iterable[tuple[Any, Any]] = value.items()
    elif isinstance(value, list | tuple):
        items = enumerate(value)
    else:
        bad = isinstance(value, torch.Tensor) and value.is_floating_point() and bool(value.isnan().any())
        return path if bad else None
    found = (first_nan(item, f"{path}.{key}".lstrip(".")) for key, item in items)
    return next((place for place in found if place is not None), None)


def _read(path: Path, map_location: torch.device | str, schema: Schema | None) -> dict[str, Any]:
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
    wrong = wrong or (misfit(data, schema) if schema is not None else None)
    if wrong is not None:
        raise CheckpointError(f"'{path}' is not a complete checkpoint: {wrong}.")
    return data


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
