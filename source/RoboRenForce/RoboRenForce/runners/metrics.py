"""Bring an iteration's numbers from the device to the host in one transfer."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from ..utils.distributed import DistributedContext
from .statistics import Ratio

NO_RATIOS: Mapping[str, Ratio] = {}


def to_host(
    means: Mapping[str, Tensor],
    ratios: Mapping[str, Ratio],
    local: Mapping[str, Ratio],
    distributed: DistributedContext,
    device: torch.device,
    *,
    flag: bool = False,
) -> tuple[dict[str, float], bool]:
    """Read metrics on the host, averaged over all processes.

    Args:
        means: Tag -> 0-dim tensor; every process has the same tags.
        ratios: Tag -> (sum, count), summed over the processes before the division; every process has the same tags.
        local: Tag -> (sum, count) that only this process has; not reduced, because tags may differ between processes.
        distributed: The processes of the run.
        device: Where the tensors are.
        flag: Something that all processes have to agree on.

    Returns:
        Tag -> number, without ratios whose count is 0, and whether any process set `flag`.
    """
    values = [*means.values(), *(ratio[0] for ratio in ratios.values()), *(ratio[1] for ratio in ratios.values())]
    shared = _stack(values, device)
    if distributed.is_distributed:
        shared = distributed.sum_(torch.cat([shared, torch.tensor([float(flag)], dtype=torch.float64, device=device)]))
        flag = bool(shared[-1])
        shared = shared[:-1]
    own = _stack([ratio[0] for ratio in local.values()] + [ratio[1] for ratio in local.values()], device)
    numbers = torch.cat([shared, own]).tolist()
    found = {tag: numbers[index] / distributed.world_size for index, tag in enumerate(means)}
    found |= _divide(ratios, numbers[len(means) : len(shared)])
    found |= _divide(local, numbers[len(shared) :])
    return found, flag


def _stack(values: list[Tensor], device: torch.device) -> Tensor:
    """0-dim tensors as one float64 vector, so that counts stay exact."""
    if not values:
        return torch.zeros(0, dtype=torch.float64, device=device)
    return torch.stack([value.detach().double() for value in values])


def _divide(ratios: Mapping[str, Ratio], numbers: list[float]) -> dict[str, float]:
    sums, counts = numbers[: len(ratios)], numbers[len(ratios) :]
    return {tag: total / count for tag, total, count in zip(ratios, sums, counts, strict=True) if count}
