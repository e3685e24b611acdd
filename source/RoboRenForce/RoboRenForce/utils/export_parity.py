"""Comparison of an exported policy with the original."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from .export import Exportable

Session = Callable[[Mapping[str, Tensor]], dict[str, Tensor]]
"""An opened file: inputs by name to outputs by name."""

_BATCHES = (1, 2, 7)
_SPREADS = (1.0, 3.0, 100.0, 1.0)
"""Standard deviations around the mean of the observations, step by step; the large ones exercise clipping."""


def parity(policy: Exportable, session: Session) -> float:
    """Return the largest deviation of `session` from the policy, over random inputs, batch sizes and several steps.

    Each side continues from the recurrent state that it returned itself, and the states are compared too. Deviations
    are relative to values above 1 and, as rounding grows with the inputs, to their spread; they are infinite if names,
    shapes, types, NaN or infinities differ.
    """
    generator = torch.Generator().manual_seed(0)
    worst = 0.0
    for batch in _BATCHES:
        own: dict[str, Tensor] = {}
        other: dict[str, Tensor] = {}
        for spread in _SPREADS:
            inputs = policy.example(batch, generator, spread)
            expected, got = policy.call({**inputs, **own}), session({**inputs, **other})
            if got.keys() != expected.keys():
                return math.inf
            worst = max(worst, *(_deviation(got[name], value, spread) for name, value in expected.items()))
            if worst == math.inf:
                return worst
            if policy.state is not None:
                state_in, state_out = policy.state
                own, other = {state_in: expected[state_out]}, {state_in: got[state_out]}
    return worst


def _deviation(got: Tensor, expected: Tensor, spread: float) -> float:
    """Return a deviation that is never NaN, so that `max` cannot lose it."""
    if got.shape != expected.shape or got.dtype != expected.dtype:
        return math.inf
    same = (got == expected) | (got.isnan() & expected.isnan())
    scale = expected.abs().clamp(min=max(1.0, spread))
    deviation = ((got - expected).abs() / scale).masked_fill(same, 0.0)
    return float(deviation.nan_to_num(nan=math.inf, posinf=math.inf).max())
