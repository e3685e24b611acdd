"""Constrained weights: modules that project their parameters back after every optimizer step."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn


class Constrained(nn.Module, ABC):
    """Module whose parameters have to satisfy an equation that gradient steps violate."""

    @abstractmethod
    def constrain_(self) -> None:
        """Project the parameters in place so that the equation holds."""


def constrained_parts(*modules: nn.Module) -> list[Constrained]:
    """Return the constrained modules inside `modules`; search once, then call `constrain_` on these."""
    return [part for module in modules for part in module.modules() if isinstance(part, Constrained)]


@torch.no_grad()
def constrain_(*modules: nn.Module) -> None:
    """Project all constrained parameters inside `modules`; call it after every step of their optimizer."""
    for part in constrained_parts(*modules):
        part.constrain_()


def scale_to_norm_(norm: float, *tensors: Tensor) -> None:
    """Scale `tensors` `(..., d)` jointly so that the vector of all their last dimensions has length `norm`, in place.

    The zero vector has no direction and stays unchanged.
    """
    squares = torch.stack([tensor.square().sum(-1, keepdim=True) for tensor in tensors]).sum(0)
    factor = torch.where(squares > 0, norm * squares.clamp_min(torch.finfo(squares.dtype).tiny).rsqrt(), 1.0)
    for tensor in tensors:
        tensor.mul_(factor)
