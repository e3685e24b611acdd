"""Target networks: slow copies of networks, for the targets of values."""

from __future__ import annotations

import copy
from typing import TypeVar

import torch
from torch import Tensor, nn

from ..networks.batch_norm import batch_norms
from .normalizer import Normalizer

Module = TypeVar("Module", bound=nn.Module)


def make_target(online: Module) -> Module:
    """Copy `online`, without gradients.

    Normalizers are shared, not copied: both networks see an observation on the same scale.
    """
    shared = {id(module): module for module in online.modules() if isinstance(module, Normalizer)}
    return copy.deepcopy(online, shared).requires_grad_(False)


@torch.no_grad()
def soft_update(target: nn.Module, online: nn.Module, tau: float) -> None:
    """Move all parameters by `target <- (1 - tau) target + tau online` (Lillicrap et al. 2016, arXiv 1509.02971).

    Running statistics of batch normalization are included: a target is never trained on batches of its own.
    """
    lerp = torch._foreach_lerp_  # pyright: ignore[reportPrivateImportUsage] - one kernel for all of them
    lerp(_averaged(target), _averaged(online), tau)


def _averaged(network: nn.Module) -> list[Tensor]:
    return [*network.parameters(), *(buffer for layer in batch_norms(network) for buffer in layer.buffers())]
