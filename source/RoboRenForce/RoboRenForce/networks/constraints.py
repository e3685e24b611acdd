"""Weights that live on a surface: modules that put them back there after every optimizer step."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn


class Constrained(nn.Module, ABC):
    """A module whose parameters have to satisfy an equation that gradient steps violate."""

    @abstractmethod
    def constrain_(self) -> None:
        """Move the parameters in place to where the equation holds."""


def constrained_parts(*modules: nn.Module) -> list[Constrained]:
    """What has constraints inside `modules`. A learner searches once and then calls `constrain_` on that alone."""
    return [part for module in modules for part in module.modules() if isinstance(part, Constrained)]


@torch.no_grad()
def constrain_(*modules: nn.Module) -> None:
    """Put all constrained parameters inside `modules` back; call it after every step of their optimizer."""
    for part in constrained_parts(*modules):
        part.constrain_()


def scale_to_norm_(norm: float, *tensors: Tensor) -> None:
    """Scale `tensors` `(..., d)` jointly so that the vector of all their last dimensions has length `norm`, in place.

    The zero vector has no direction and stays where it is.
    """
    squares = torch.stack([tensor.square().sum(-1, keepdim=True) for tensor in tensors]).sum(0)
    factor = torch.where(squares > 0, norm * squares.clamp_min(torch.finfo(squares.dtype).tiny).rsqrt(), 1.0)
    for tensor in tensors:
        tensor.mul_(factor)
