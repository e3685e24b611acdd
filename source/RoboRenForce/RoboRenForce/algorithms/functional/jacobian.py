"""Norms of a function's derivative, exact or estimated, that can themselves be differentiated."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Literal

import torch
from torch import Tensor


def jacobian_norm(
    function: Callable[[Tensor], Tensor],
    x: Tensor,
    probes: int | None = None,
    norm: Literal["frobenius", "rows"] = "frobenius",
) -> Tensor:
    """Return the norm of d function / dx `(...)` for each row of `x` `(..., F)`, differentiable.

    Args:
        function: `(..., F) -> (..., A)`, whose rows depend on the same row of `x` only (with probes: on any row).
        x: Where.
        probes: Number of random probes; None: exact, by a backward pass for each of the A outputs.
        norm: Frobenius norm, or the mean Euclidean norm of the A rows of the Jacobian.
    """
    output, pull = vjp(function, x)
    rows = [pull(direction)[0].square().sum(-1) for direction in _directions(output, probes)]
    if norm == "rows":
        return torch.stack([length(row) for row in rows]).mean(0)
    total = torch.stack(rows).sum(0)
    return length(total if probes is None else total / probes)


def vjp(function: Callable[[Tensor], Tensor], x: Tensor) -> tuple[Tensor, Callable[[Tensor], tuple[Tensor]]]:
    """Return `function(x)`, and a function from directions `(..., A)` to their products with the Jacobian.

    The products can be differentiated again, also inside a compiled function.
    """
    if x.device.type != "cpu" or torch.compiler.is_compiling():
        output, pull, *_ = torch.func.vjp(function, x)
        return output, pull
    # The LSTM of oneDNN has no second derivative; torch's own has one.
    mkldnn: Any = torch.backends.mkldnn
    before, mkldnn.enabled = mkldnn.enabled, False
    try:
        output, pull, *_ = torch.func.vjp(function, x)
    finally:
        mkldnn.enabled = before
    return output, pull


def _directions(output: Tensor, probes: int | None) -> Iterator[Tensor]:
    """Yield the unit vectors of the last dimension, or tensors of random signs."""
    if probes is None:
        unit = torch.eye(output.shape[-1], dtype=output.dtype, device=output.device)
        yield from (row.expand_as(output) for row in unit)
        return
    for _ in range(probes):
        yield torch.where(torch.rand_like(output) < 0.5, -1.0, 1.0).to(output.dtype)


def length(squares: Tensor) -> Tensor:
    """Return the square root, whose gradient at 0 is 0."""
    return squares.clamp_min(torch.finfo(squares.dtype).tiny).sqrt()
