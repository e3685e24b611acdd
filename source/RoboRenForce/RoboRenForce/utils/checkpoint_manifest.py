"""Manifest of a checkpoint directory: its tensors, and the files that hold their parts.

It comes with the checkpoint and may be damaged or forged, so everything in it is compared with itself and with the
files before it is used.
"""

from __future__ import annotations

import json
import re
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .errors import CheckpointError
from .plain_data import misfit
from .safetensors_file import DTYPES, as_bytes, map_file, tensor_at

VERSION = 2
"""Format of the directory; format 1 is the single file."""
MANIFEST = "manifest.json"
MOST_MANIFEST_BYTES = 2**29
_SHARD_NAME = re.compile(r"shard_\d{5}\.safetensors")
_PART = {"file": str, "start": int, "crc32": int, "offsets": list, "sizes": list}


@dataclass(frozen=True)
class Part:
    """A rectangular part of a tensor, and its location."""

    offsets: torch.Size
    sizes: torch.Size
    read: Callable[[], Tensor]
    """Function that reads and verifies the part."""


@dataclass(frozen=True)
class Stored:
    """A tensor whose parts are in files, or in memory."""

    dtype: torch.dtype
    shape: torch.Size
    parts: list[Part]

    @classmethod
    def whole(cls, tensor: Tensor) -> Stored:
        """Build the entry of a tensor in memory."""
        return cls(tensor.dtype, tensor.shape, [Part(torch.Size([0] * tensor.ndim), tensor.shape, lambda: tensor)])


def read_manifest(path: Path) -> tuple[dict[str, Any], dict[str, Stored]]:
    """Return the manifest of a checkpoint directory, and its sharded tensors, which are not read yet.

    Raises:
        CheckpointError: It is damaged, incomplete, of a newer format, or its manifest contradicts its files.
    """
    manifest = _parse(path)
    files = {}
    for name, size in manifest["files"].items():
        file = path / name
        if Path(name).name != name or not file.is_file() or file.is_symlink():
            raise CheckpointError(f"'{path}' is incomplete: its file '{name}' is missing.")
        if file.stat().st_size != size or size == 0:
            raise CheckpointError(f"'{file}' is damaged: it has {file.stat().st_size} bytes, expected {size}.")
        if _SHARD_NAME.fullmatch(name):
            files[name] = map_file(file)
    return manifest, {name: _stored(path, name, entry, files) for name, entry in manifest["tensors"].items()}


def verify(sources: Mapping[str, Stored]) -> None:
    """Read all parts and compare them with their checksums.

    Raises:
        CheckpointError: A part is damaged.
    """
    for source in sources.values():
        for part in source.parts:
            part.read()


def _parse(path: Path) -> dict[str, Any]:
    file = path / MANIFEST
    try:
        if file.stat().st_size > MOST_MANIFEST_BYTES:
            raise CheckpointError(f"'{file}' is too large for a manifest: it is not one of RoboRenForce.")
        manifest = json.loads(file.read_bytes())
    except OSError as error:
        raise CheckpointError(f"'{path}' is incomplete: its {MANIFEST} can't be read ({error.strerror}).") from error
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"'{file}' is damaged: it is no JSON.") from error
    wrong = misfit(manifest, {"version": int})
    if wrong is None and manifest["version"] > VERSION:
        raise CheckpointError(
            f"'{path}' has format {manifest['version']}, and this RoboRenForce reads up to {VERSION}: install a newer "
            "one."
        )
    wrong = wrong or misfit(
        manifest, {"files": {"*": int}, "tensors": {"*": {"dtype": str, "shape": list, "parts": [_PART]}}}
    )
    if wrong is not None:
        raise CheckpointError(f"'{file}' is not a complete manifest: {wrong}.")
    return manifest


def _stored(path: Path, name: str, entry: Mapping[str, Any], files: Mapping[str, Tensor]) -> Stored:
    """Build a tensor of the manifest; its parts have to be in files of the directory and tile the tensor."""
    lie = CheckpointError(f"'{path / MANIFEST}' is damaged: it contradicts itself or the files about '{name}'.")
    dtype, shape = DTYPES.get(entry["dtype"]), _size(entry["shape"])
    if dtype is None or shape is None:
        raise lie
    parts: list[Part] = []
    for part in entry["parts"]:
        data, offsets, sizes = files.get(part["file"]), _size(part["offsets"]), _size(part["sizes"])
        if data is None or offsets is None or sizes is None or not len(offsets) == len(sizes) == len(shape):
            raise lie
        inside = all(o + s <= n for o, s, n in zip(offsets, sizes, shape, strict=True))
        if (
            not inside
            or part["start"] + sizes.numel() * dtype.itemsize > data.numel()
            or part["start"] % dtype.itemsize
        ):
            raise lie
        read = _verified(path / part["file"], name, data, part["start"], dtype, sizes, part["crc32"])
        parts.append(Part(offsets, sizes, read))
    # Parts that do not overlap and have the tensor's size together leave no hole.
    if sum(part.sizes.numel() for part in parts) != shape.numel() or any(
        _overlap(*pair) for pair in combinations(parts, 2)
    ):
        raise lie
    return Stored(dtype, shape, parts)


def _verified(
    file: Path, name: str, data: Tensor, start: int, dtype: torch.dtype, sizes: torch.Size, checksum: int
) -> Callable[[], Tensor]:
    def read() -> Tensor:
        part = tensor_at(data, start, dtype, sizes)
        if zlib.crc32(as_bytes(part)) != checksum:
            raise CheckpointError(f"'{file}' is damaged: '{name}' fails the checksum.")
        return part

    return read


def _overlap(one: Part, other: Part) -> bool:
    spans = zip(one.offsets, one.sizes, other.offsets, other.sizes, strict=True)
    return all(a < b + length_b and b < a + length_a for a, length_a, b, length_b in spans)


def _size(numbers: list[Any]) -> torch.Size | None:
    fine = all(type(n) is int and 0 <= n < 2**48 for n in numbers)
    return torch.Size(numbers) if fine else None
