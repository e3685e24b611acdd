"""Sharded tensors in a directory: one file of every rank, and `manifest.json` that says where each part lies.

torch.distributed.checkpoint (DCP) plans who writes and who reads what, so that a checkpoint can be loaded by another
number of ranks. Its own files hold metadata as a pickle, which runs code when it is read; ours are safetensors and
JSON, written and read by the two classes below.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import shutil
import warnings
import zlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.default_planner import DefaultLoadPlanner, DefaultSavePlanner
from torch.distributed.checkpoint.metadata import (
    ChunkStorageMetadata,
    Metadata,
    MetadataIndex,
    TensorProperties,
    TensorStorageMetadata,
)
from torch.distributed.checkpoint.planner import LoadPlan, LoadPlanner, SavePlan, SavePlanner
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import save
from torch.distributed.checkpoint.storage import StorageReader, StorageWriter, WriteResult
from torch.futures import Future
from typing_extensions import override

from .checkpoint_manifest import MANIFEST, VERSION, Stored
from .errors import CheckpointError
from .run_dir import partial_path, write_text_atomically
from .safetensors_file import NAMES, as_bytes, write_tensors

# ------------------------------------------------------------------------------------------------------------ writing


def write_directory(
    path: Path,
    sharded: Mapping[str, Tensor],
    facts: Mapping[str, Any],
    write_rest: Callable[[Path], None],
    *,
    together: bool = True,
) -> None:
    """Write a checkpoint directory atomically.

    Args:
        path: What exists under this name is replaced.
        sharded: Tensors of which every rank has a part.
        facts: Plain data for readers of the manifest.
        write_rest: Writes other files into the folder it is given; rank 0 calls it.
        together: Every rank of the process group calls; False: rank 0 alone, for tensors that are not sharded.

    Raises:
        CheckpointError: on every rank, where one of them could not write.
    """
    writer = _Writer(path, facts, write_rest)
    planner = DefaultSavePlanner(flatten_state_dict=False, flatten_sharded_tensors=False)
    try:
        with _no_warning_of_one_process():
            save(
                dict(sharded), storage_writer=writer, planner=planner, no_dist=not (together and dist.is_initialized())
            )
    except CheckpointException as error:
        if writer.partial is not None and _rank() == 0:
            shutil.rmtree(writer.partial, ignore_errors=True)
        raise CheckpointError(
            f"'{path}' can't be written ({_first_failure(error)}); earlier checkpoints are untouched."
        ) from error


class _Writer(StorageWriter):
    """DCP's side of writing: a partial directory of all ranks, which rank 0 completes by renaming it."""

    def __init__(self, path: Path, facts: Mapping[str, Any], write_rest: Callable[[Path], None]) -> None:
        self.path, self.facts, self.write_rest = path, facts, write_rest
        self.partial: Path | None = None

    @override
    def prepare_global_plan(self, plans: list[SavePlan]) -> list[SavePlan]:
        self.partial = partial_path(self.path)
        shutil.rmtree(self.partial, ignore_errors=True)
        self.partial.mkdir(parents=True)
        return [dataclasses.replace(plan, storage_data=str(self.partial)) for plan in plans]  # rank 0's name, for all

    @override
    def write_data(self, plan: SavePlan, planner: SavePlanner) -> Future[list[WriteResult]]:
        folder = Path(plan.storage_data)
        if _rank() == 0:
            self.write_rest(folder)
        tensors = {f"{item.index.fqn}@{_text(item.index.offset)}": item for item in plan.items}
        values: dict[str, Any] = {name: planner.resolve_data(item) for name, item in tensors.items()}
        checksums: dict[str, int] = {}

        def content(name: str) -> Tensor:
            value = values[name].detach().cpu()
            checksums[name] = zlib.crc32(as_bytes(value))
            return value

        file_name = f"shard_{_rank():05d}.safetensors"
        with open(folder / file_name, "wb") as file:
            starts = write_tensors(file, {n: (v.dtype, v.shape) for n, v in values.items()}, content)
            file.flush()
            os.fsync(file.fileno())
        results = [
            WriteResult(
                item.index,
                values[name].nbytes,
                {
                    "file": file_name,
                    "start": starts[name],
                    "crc32": checksums[name],
                    "offsets": list(item.index.offset or ()),
                    "sizes": list(values[name].shape),
                },
            )
            for name, item in tensors.items()
        ]
        return _done(results)

    @override
    def finish(self, metadata: Metadata, results: list[list[WriteResult]]) -> None:
        if self.partial is None:
            raise RuntimeError("torch.distributed.checkpoint finished a checkpoint that it has not planned")
        tensors: dict[str, Any] = {
            name: {"dtype": NAMES[entry.properties.dtype], "shape": list(entry.size), "parts": []}
            for name, entry in metadata.state_dict_metadata.items()
            if isinstance(entry, TensorStorageMetadata)
        }
        for result in (result for of_rank in results for result in of_rank):
            tensors[result.index.fqn]["parts"].append(result.storage_data)
        files = {path.name: path.stat().st_size for path in sorted(self.partial.iterdir())}
        manifest = {"version": VERSION, **self.facts, "files": files, "tensors": tensors}
        write_text_atomically(self.partial / MANIFEST, json.dumps(manifest, indent=1))
        # A directory can't be replaced in one step. Whoever is killed between the two has the old one under this name.
        replaced = self.path.with_name(f"{self.path.name}.replaced")
        if self.path.exists():
            shutil.rmtree(replaced, ignore_errors=True)
            self.path.rename(replaced)
        self.partial.rename(self.path)
        shutil.rmtree(replaced, ignore_errors=True)

    @override
    def reset(self, checkpoint_id: Any = None) -> None: ...

    @override
    def set_up_storage_writer(self, is_coordinator: bool, *args: Any, **kwargs: Any) -> None: ...

    @override
    def prepare_local_plan(self, plan: SavePlan) -> SavePlan:
        return plan

    @classmethod
    @override
    def validate_checkpoint_id(cls, checkpoint_id: Any) -> bool:
        return True


# ------------------------------------------------------------------------------------------------------------ reading


def read_tensors(sources: Mapping[str, Stored], targets: Mapping[str, Tensor], *, together: bool) -> None:
    """Fill `targets`, sharded or whole, with what is stored under their names.

    Args:
        sources: Where each lies.
        targets: Filled in place.
        together: Every rank calls, and where one fails all do.

    Raises:
        CheckpointError: a part is damaged, or shape or type are not those of the target.
    """
    for name, target in targets.items():
        source = sources[name]
        for what, got, expected in (("shape", source.shape, target.shape), ("type", source.dtype, target.dtype)):
            if got != expected:
                shown = [list(x) if isinstance(x, torch.Size) else x for x in (got, expected)]
                raise CheckpointError(f"'{name}' has the {what} {shown[0]} in the checkpoint, expected {shown[1]}.")
    planner = DefaultLoadPlanner(flatten_state_dict=False, flatten_sharded_tensors=False)
    try:
        with _no_warning_of_one_process():
            load(dict(targets), storage_reader=_Reader(sources), planner=planner, no_dist=not together)
    except CheckpointException as error:
        raise CheckpointError(_first_failure(error)) from error


class _Reader(StorageReader):
    """DCP's side of reading."""

    def __init__(self, sources: Mapping[str, Stored]) -> None:
        self.sources = sources

    @override
    def read_metadata(self, *args: Any, **kwargs: Any) -> Metadata:
        entries: dict[str, Any] = {
            name: TensorStorageMetadata(
                TensorProperties(dtype=source.dtype),
                source.shape,
                [ChunkStorageMetadata(part.offsets, part.sizes) for part in source.parts],
            )
            for name, source in self.sources.items()
        }
        return Metadata(entries)

    @override
    def read_data(self, plan: LoadPlan, planner: LoadPlanner) -> Future[None]:
        parts = {MetadataIndex(n, p.offsets): p for n, source in self.sources.items() for p in source.parts}
        verified: dict[MetadataIndex, Tensor] = {}
        for item in plan.items:
            index = MetadataIndex(item.storage_index.fqn, item.storage_index.offset)
            if index not in verified:
                verified[index] = parts[index].read()
            value = verified[index]
            for dim, (start, length) in enumerate(zip(item.storage_offsets, item.lengths, strict=True)):
                value = value.narrow(dim, start, length)
            target = planner.resolve_tensor(item).detach()
            target.copy_(value)
            planner.commit_tensor(item, target)
        return _done(None)

    @override
    def reset(self, checkpoint_id: Any = None) -> None: ...

    @override
    def set_up_storage_reader(self, metadata: Metadata, is_coordinator: bool, *args: Any, **kwargs: Any) -> None: ...

    @override
    def prepare_local_plan(self, plan: LoadPlan) -> LoadPlan:
        return plan

    @override
    def prepare_global_plan(self, plans: list[LoadPlan]) -> list[LoadPlan]:
        return plans

    @classmethod
    @override
    def validate_checkpoint_id(cls, checkpoint_id: Any) -> bool:
        return True


def _first_failure(error: Any) -> str:
    """The words of the first rank that failed."""
    failure = next(iter(error.failures.values()))
    cause = failure[0] if isinstance(failure, tuple) else failure
    text = getattr(cause, "strerror", None) or str(cause) or type(cause).__name__
    return text.splitlines()[0]


def _text(offsets: torch.Size | None) -> str:
    return ",".join(map(str, offsets or ()))


@contextlib.contextmanager
def _no_warning_of_one_process() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*in a single process", category=UserWarning)
        yield


def _rank() -> int:
    return dist.get_rank() if dist.is_initialized() else 0


def _done(value: Any) -> Future[Any]:
    future: Future[Any] = Future()
    future.set_result(value)
    return future
