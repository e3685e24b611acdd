"""State of modules and optimizers as nested mappings of tensors, for checkpoints.

Names are those without wrappers of DDP, and tensors are sharded where FSDP2 shards them.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from .errors import CheckpointError, did_you_mean
from .parallelize import named_parameters, unwrapped
from .run_dir import replacing, write_text_atomically
from .safetensors_file import write_tensors
from .sharded_state import LEFT_OUT


def module_state(module: nn.Module, *, trainable_only: bool = False) -> dict[str, Any]:
    """Return parameters and persistent buffers of a module: `{"tensors": {...}, "left_out": [names]}`.

    Args:
        module: Module; under FSDP every rank calls.
        trainable_only: True to leave out frozen parameters, which come from the base model's own weights.
    """
    tensors = _tensors(module)
    frozen = [name for name, parameter in named_parameters(module).items() if not parameter.requires_grad]
    left_out = frozen if trainable_only else []
    return {"tensors": {name: tensors[name] for name in tensors if name not in set(left_out)}, LEFT_OUT: left_out}


def load_module_state(module: nn.Module, state: Mapping[str, Any]) -> None:
    """Restore `module_state` in place; parameters that it leaves out have to be loaded before.

    Raises:
        CheckpointError: Names are missing or unexpected, shapes differ, or a parameter that is left out is trained here
            or was not loaded.
    """
    tensors, parameters = _tensors(module), named_parameters(module)
    left_out = list(state[LEFT_OUT])
    for name in left_out:
        if name not in parameters:
            raise CheckpointError(
                f"The checkpoint stands on '{name}', which the model lacks; build the model it was of."
            )
        if parameters[name].requires_grad or parameters[name].is_meta:
            what = "was not loaded" if parameters[name].is_meta else "is trained here"
            raise CheckpointError(
                f"The checkpoint has no weights of '{name}', which was frozen, and the parameter {what}: load the base "
                "model first, freeze as in the run that wrote it, or save with trainable_only=False."
            )
    copy_into({name: tensors[name] for name in tensors if name not in set(left_out)}, state["tensors"], "model")


@torch.no_grad()
def copy_into(targets: Mapping[str, Any], values: Mapping[str, Any], path: str) -> None:
    """Copy a nested mapping of tensors into another one of the same names and shapes.

    Raises:
        CheckpointError: Names or shapes differ; the message says where.
    """
    if targets.keys() != values.keys():
        missing, unexpected = targets.keys() - values.keys(), values.keys() - targets.keys()
        name, what = (min(missing), "lacks") if missing else (min(unexpected), "has an unexpected")
        others = values if missing else targets
        raise CheckpointError(
            f"The checkpoint {what} '{path}.{name}' ({len(missing)} missing, {len(unexpected)} unexpected names); "
            f"{did_you_mean(name, others)}"
        )
    for name, target in targets.items():
        value, place = values[name], f"{path}.{name}"
        if isinstance(target, Mapping):
            copy_into(target, value, place)
        elif value is not target:  # a checkpoint that was read into `target` is there already
            if target.shape != value.shape:
                raise CheckpointError(f"'{place}' has the shape {list(value.shape)}, expected {list(target.shape)}.")
            if isinstance(target, DTensor) and not isinstance(value, DTensor):
                raise CheckpointError(
                    f"'{place}' is sharded here and whole in the checkpoint: load_checkpoint(..., into=state)."
                )
            target.copy_(value)


def local(tensor: Tensor) -> Tensor:
    """Return this rank's part of a tensor, sharing its memory."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def whole(tensor: Tensor) -> Tensor:
    """Gather a sharded tensor; every rank of its mesh calls."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


@torch.no_grad()
def export_safetensors(
    module: nn.Module,
    folder: str | Path,
    config: Mapping[str, Any],
    *,
    dtype: torch.dtype | None = None,
    write: bool = True,
) -> Path:
    """Write `model.safetensors` and `config.json`, which other libraries read.

    Args:
        module: Module; under FSDP every rank calls, and one tensor after the other is gathered.
        folder: Folder, created if it does not exist.
        config: Plain data that describes the model.
        dtype: Type of floating-point tensors; None: unchanged.
        write: True on the rank that writes: `distributed.is_main`.
    """
    folder, tensors = Path(folder), _tensors(module)

    def kind(tensor: Tensor) -> torch.dtype:
        return dtype if dtype is not None and tensor.is_floating_point() else tensor.dtype

    shapes = {name: (kind(tensor), tensor.shape) for name, tensor in tensors.items()}
    folder.mkdir(parents=True, exist_ok=True)
    # Every rank goes through the same tensors in the same order, because gathering one takes all of them.
    with replacing(folder / "model.safetensors") if write else open(os.devnull, "wb") as file:
        write_tensors(file, shapes, lambda name: whole(tensors[name]).to(shapes[name][0]))
    if write:
        write_text_atomically(folder / "config.json", json.dumps(config, indent=2) + "\n")
    return folder / "model.safetensors"


def _tensors(module: nn.Module) -> dict[str, Tensor]:
    """Yield parameters, then persistent buffers; a tensor with two names comes under the first."""
    parameters = named_parameters(module)
    plain = unwrapped(module)
    saved = plain.state_dict(keep_vars=True)
    seen = {id(parameter) for parameter in plain.parameters()}
    return {
        **parameters,
        **{name: value for name, value in saved.items() if isinstance(value, Tensor) and id(value) not in seen},
    }
