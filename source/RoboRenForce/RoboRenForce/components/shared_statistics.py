"""Batch statistics of networks, averaged over the processes of a run."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from ..networks.batch_norm import BatchNorm
from ..utils.distributed import DistributedContext
from .return_heads import ReturnHead


@torch.no_grad()
def share_statistics(modules: Iterable[nn.Module], distributed: DistributedContext) -> None:
    """Average the statistics of batch normalization and return heads over processes.

    They are exponential means, so their average is that of the union of the batches.
    """
    if not distributed.is_distributed:
        return
    if statistics := list(batch_buffers(modules)):
        shared = distributed.mean_(torch.cat([buffer.flatten() for buffer in statistics]))
        for buffer, mean in zip(statistics, shared.split([buffer.numel() for buffer in statistics]), strict=True):
            buffer.copy_(mean.view_as(buffer))


def batch_buffers(modules: Iterable[nn.Module]) -> Iterable[Tensor]:
    """Return the buffers in which `modules` keep statistics of their training batches."""
    for module in modules:
        for part in module.modules():
            if isinstance(part, (BatchNorm, ReturnHead)):
                persistent = part.state_dict(keep_vars=True)
                yield from (buffer for name, buffer in part.named_buffers() if name in persistent)
