"""Comparison of two runs of one environment: copies of steps, equality, and torch's generators."""

from __future__ import annotations

from typing import Any

import torch
from tensordict import TensorDict

from .vec_env import StepReturn


def same_device(first: torch.device, second: torch.device) -> bool:
    """Return True if two devices are the same, where `cuda` stands for any index."""
    return first.type == second.type and (first.index is None or second.index is None or first.index == second.index)


def copied(step: StepReturn) -> StepReturn:
    """Copy a step, so that later steps can't change it."""
    obs, rewards, dones, extras = step
    copies = {name: value if isinstance(value, list | dict) else value.clone() for name, value in extras.items()}
    return obs.clone(), rewards.clone(), dones.clone(), copies


def equal_runs(first: list[Any], second: list[Any]) -> bool:
    """Return True if two lists of copied steps agree in observations, rewards, dones and final observations."""
    return all(_equal(one, other) for one, other in zip(first, second, strict=True))


def _equal(first: Any, second: Any) -> bool:
    if isinstance(first, torch.Tensor):
        return torch.equal(first, second)
    if isinstance(first, TensorDict):
        return all(_equal(tensor, second[name]) for name, tensor in first.items())
    if isinstance(first, dict):
        return all(_equal(first[name], second[name]) for name in first if name != "log")
    if isinstance(first, tuple):
        return all(_equal(one, other) for one, other in zip(first, second, strict=True))
    return first == second


def generators() -> list[torch.Tensor]:
    """Return the states of torch's default generators, which a runner restores together with the environment."""
    return [torch.get_rng_state(), *(torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [])]


def restore_generators(states: list[torch.Tensor]) -> None:
    """Restore the states from `generators`."""
    torch.set_rng_state(states[0])
    if len(states) > 1:
        torch.cuda.set_rng_state_all(states[1:])
