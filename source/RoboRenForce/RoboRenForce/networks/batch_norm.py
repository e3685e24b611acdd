"""Batch normalization for learners whose networks act while they learn.

The learner chooses for each pass whether it uses the statistics of its batch, not `train()` and `eval()`: a
network in training mode also acts, serves as a target and is evaluated, and none of these may use batch statistics or
change running ones. By default a pass uses the running statistics and leaves them unchanged.

    with batch_statistics(critic):   # normalize by this batch, and update the running statistics
        output = critic(obs, action)
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from typing_extensions import override

from .constraints import Constrained, scale_to_norm_


class BatchNorm(Constrained):
    """Normalization of each feature over B, `(..., B, d) -> (..., B, d)`, for each member separately.

    Scale and bias of a member are constrained to a joint length of sqrt(d), so that features neither vanish nor
    explode however long training goes on.

    Args:
        features: d.
        members: `(E,)` for inputs `(E, B, d)` of E members, `()` for a single network.
        momentum: Weight of a new batch in the running statistics.
        eps: Constant added to the variance.
    """

    running_mean: Tensor
    running_var: Tensor

    def __init__(self, features: int, members: tuple[int, ...] = (), momentum: float = 0.01, eps: float = 1e-5) -> None:
        super().__init__()
        self.features, self.momentum, self.eps = features, momentum, eps
        self.uses_batch = False
        self.weight = nn.Parameter(torch.ones(*members, features))
        self.bias = nn.Parameter(torch.zeros(*members, features))
        self.register_buffer("running_mean", torch.zeros(*members, features))
        self.register_buffer("running_var", torch.ones(*members, features))

    @override
    def forward(self, x: Tensor) -> Tensor:
        exact = x.float() if x.dtype in (torch.bfloat16, torch.float16) else x
        if self.uses_batch:
            var, mean = torch.var_mean(exact, dim=-2, correction=0)
            self._follow(mean.detach(), var.detach(), rows=x.shape[-2])
        else:
            mean, var = self.running_mean, self.running_var
        # One multiplication and one addition per element: what depends on the feature alone is computed there.
        scale = self.weight * (var + self.eps).rsqrt()
        shift = self.bias - mean * scale
        return torch.addcmul(shift.unsqueeze(-2), exact, scale.unsqueeze(-2)).to(x.dtype)

    @torch.no_grad()
    def _follow(self, mean: Tensor, var: Tensor, rows: int) -> None:
        self.running_mean.lerp_(mean, self.momentum)
        self.running_var.lerp_(var * (rows / max(rows - 1, 1)), self.momentum)

    @override
    def constrain_(self) -> None:
        scale_to_norm_(math.sqrt(self.features), self.weight, self.bias)


def batch_norms(module: nn.Module) -> tuple[BatchNorm, ...]:
    """Return the batch normalization layers inside `module`, which has to be complete: it is searched once.

    The result is kept in the module, so it is freed with it, and a deep copy has that of its own layers.
    """
    if "_batch_norms" not in module.__dict__:
        module.__dict__["_batch_norms"] = tuple(part for part in module.modules() if isinstance(part, BatchNorm))
    return module.__dict__["_batch_norms"]


def uses_batch_statistics(*modules: nn.Module) -> bool:
    """Return True if there is batch normalization inside `modules`."""
    return any(batch_norms(module) for module in modules)


@contextmanager
def batch_statistics(*modules: nn.Module) -> Iterator[None]:
    """Normalize `modules` by their batch, and update their running statistics, inside the block."""
    layers = [layer for module in modules for layer in batch_norms(module)]
    before = [layer.uses_batch for layer in layers]
    for layer in layers:
        layer.uses_batch = True
    try:
        yield
    finally:
        for layer, was in zip(layers, before, strict=True):
            layer.uses_batch = was
