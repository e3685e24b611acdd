"""Sharded tensors in a nested state: extracted for writing, filled in when reading."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor

from .checkpoint_manifest import Stored
from .errors import CheckpointError, did_you_mean

LEFT_OUT = "left_out"
"""Key of the names of frozen parameters that a state does not contain, see `module_state`."""
_SHARDED = "__sharded__"
"""Key of the placeholder of a sharded tensor in plain data: its name in the manifest."""


def take_sharded(value: Any, path: str, sharded: dict[str, DTensor]) -> Any:
    """Move the sharded tensors of `value` into `sharded`, leaving their names."""
    if isinstance(value, DTensor):
        sharded[path] = value
        return {_SHARDED: path}
    if isinstance(value, dict):
        return {key: take_sharded(item, f"{path}/{key}".lstrip("/"), sharded) for key, item in value.items()}
    if isinstance(value, list | tuple):
        items = [take_sharded(item, f"{path}/{index}", sharded) for index, item in enumerate(value)]
        return items if isinstance(value, list) else tuple(items)
    return value


def plan_reads(
    value: Any,
    into: Any,
    path: str,
    stored: Mapping[str, Stored],
    device: torch.device,
    reads: dict[str, tuple[Stored, Tensor]],
) -> Any:
    """Return `value` with sharded tensors, which are empty until `reads` (source and target by path) are read."""
    if isinstance(value, dict) and value.keys() == {_SHARDED}:
        if value[_SHARDED] not in stored:
            raise CheckpointError(f"The manifest of the checkpoint lacks '{path}': it is damaged.")
        source = stored[value[_SHARDED]]
        target = into if isinstance(into, Tensor) else torch.empty(source.shape, dtype=source.dtype, device=device)
        reads[path] = source, target
        return target
    if isinstance(value, Tensor) and isinstance(into, DTensor):
        reads[path] = Stored.whole(value), into
        return into
    if isinstance(value, dict):
        inside = into if isinstance(into, Mapping) else {}
        if absent := [key for key in inside if key not in value]:
            fix = did_you_mean(str(absent[0]), map(str, value))
            raise CheckpointError(f"The checkpoint lacks '{path}/{absent[0]}'; {fix}")
        return {
            key: plan_reads(item, inside.get(key), f"{path}/{key}".lstrip("/"), stored, device, reads)
            for key, item in value.items()
        }
    if isinstance(value, list | tuple):
        inside = into if isinstance(into, list | tuple) and len(into) == len(value) else [None] * len(value)
        items = [
            plan_reads(item, inside[index], f"{path}/{index}", stored, device, reads)
            for index, item in enumerate(value)
        ]
        return items if isinstance(value, list) else tuple(items)
    return value


def names_left_out(value: Any) -> Iterator[str]:
    """Return the names of frozen parameters that a state inside `value` does not contain (`module_state`)."""
    if isinstance(value, Mapping):
        yield from value.get(LEFT_OUT, ())
        for item in value.values():
            yield from names_left_out(item)
