"""Weights of a policy in a checkpoint, which may leave out the frozen ones and then knows whose they were."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ...utils.errors import BaseModelError
from ...utils.module_state import load_module_state, module_state
from ...utils.sharded_state import LEFT_OUT


def policy_state(module: nn.Module, frozen: Mapping[str, int], left_out: Collection[str]) -> dict[str, Any]:
    """Return the entries `policy` and `frozen` of a checkpoint.

    Args:
        module: The policy.
        frozen: Its `frozen_fingerprints`.
        left_out: Names among them whose weights are those of the base model, and not saved.
    """
    names, without = sorted(left_out), set(left_out)
    kept = {name: tensor for name, tensor in module_state(module)["tensors"].items() if name not in without}
    return {"policy": {"tensors": kept, LEFT_OUT: names}, "frozen": {name: frozen[name] for name in names}}


def load_policy_state(module: nn.Module, frozen: Mapping[str, int], state: Mapping[str, Any]) -> None:
    """Restore `policy_state`, which has to be of the same frozen weights."""
    require_same_frozen(frozen, state["frozen"], state["policy"][LEFT_OUT])
    load_module_state(module, state["policy"])


def frozen_fingerprints(module: nn.Module) -> dict[str, int]:
    """Name -> a number that tells the frozen weights of one base model from those of another, on any device."""
    return fingerprints({name: p for name, p in module.named_parameters() if not p.requires_grad})


def fingerprints(tensors: Mapping[str, nn.Parameter]) -> dict[str, int]:
    """Name -> a number of the bytes of each tensor."""
    if not tensors:
        return {}
    sums = torch.stack([_bits(tensor.detach()).sum(dtype=torch.int64) for tensor in tensors.values()])
    return dict(zip(tensors, (sums & (2**62 - 1)).tolist(), strict=True))


def require_same_frozen(here: Mapping[str, int], saved: Mapping[str, int], names: Iterable[str]) -> None:
    """Raise a BaseModelError where frozen weights that a checkpoint leaves out are others than when it was written."""
    for name in names:
        if here.get(name) != saved.get(name):
            raise BaseModelError(
                f"The frozen weights '{name}' are not those that this policy was trained with: load the same base "
                "model, or train with algorithm.checkpoints=all."
            )


def _bits(tensor: Tensor) -> Tensor:
    """The bytes as integers, whose sum does not depend on its order."""
    kinds = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
    return tensor.contiguous().view(kinds[tensor.element_size()])
