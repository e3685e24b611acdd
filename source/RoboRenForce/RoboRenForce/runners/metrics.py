"""Metrics of an iteration: transferred to the host at once, named, and checked."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from ..utils.distributed import DistributedContext
from ..utils.errors import DivergedError
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
        local: Tag -> (sum, count) of this process only; not reduced, because tags may differ between processes.
        distributed: Processes of the run.
        device: Device of the tensors.
        flag: Condition that all processes have to agree on.

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
    """Stack 0-dim tensors into one float64 vector, so that counts stay exact."""
    if not values:
        return torch.zeros(0, dtype=torch.float64, device=device)
    return torch.stack([value.detach().to(device, torch.float64) for value in values])


def _divide(ratios: Mapping[str, Ratio], numbers: list[float]) -> dict[str, float]:
    sums, counts = numbers[: len(ratios)], numbers[len(ratios) :]
    return {tag: total / count for tag, total, count in zip(ratios, sums, counts, strict=True) if count}


def tag_of_loss(name: str) -> str:
    """Return `Loss/<name>`, or the name itself if the algorithm chose the group."""
    return name if "/" in name else f"Loss/{name}"


def performance(
    phases: Mapping[str, float], *, total_steps: int, total_time: float, env_steps: int
) -> dict[str, float]:
    """Return metrics of progress and speed.

    Args:
        phases: Seconds of every phase of the iteration.
        total_steps: Environment steps of all processes since the run began.
        total_time: Seconds since the run began.
        env_steps: Environment steps of all processes in this iteration.
    """
    seconds = sum(phases.values())
    found = {"Train/total_steps": float(total_steps)}
    found |= {f"Perf/{name}_time": value for name, value in phases.items()}
    found["Perf/total_time"] = total_time
    if env_steps and seconds:
        found["Perf/total_fps"] = env_steps / seconds
    return found


def require_finite(metrics: Mapping[str, float], tags: set[str], iteration: int, newest: Path | None) -> None:
    """Raise an error if a loss is not finite.

    Args:
        metrics: Tag -> value.
        tags: Tags that have to be finite.
        iteration: For the message.
        newest: Newest checkpoint, for the message.

    Raises:
        DivergedError: A metric isn't finite.
    """
    bad = {tag: value for tag, value in metrics.items() if tag in tags and not math.isfinite(value)}
    if bad:
        listed = ", ".join(f"{tag} is {value}" for tag, value in bad.items())
        kept = f"the newest checkpoint is '{newest}'" if newest else "there is no earlier checkpoint"
        raise DivergedError(
            f"Learning diverged in iteration {iteration}, which is not saved: {listed}; lower the learning rate "
            f"({kept})."
        )
