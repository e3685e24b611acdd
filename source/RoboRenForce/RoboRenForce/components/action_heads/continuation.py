"""A chunk that goes on where the running one will be (real-time chunking, RTC, arXiv 2506.07339).

While a new chunk is computed, the first `delay` actions of the running one are executed. The new chunk has to agree
with them, and should agree with what is left of the running one behind them. Flow time runs from noise (0) to data (1).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

Schedule = Literal["linear", "exp", "ones", "zeros"]
"""Fading of the guidance towards the running chunk, behind the delay."""


@dataclass
class Continuation:
    """Running chunk that a new one continues. Rows without one have delay 0 and weights 0."""

    actions: Tensor
    """Rest of the running chunk, from now on: normalized `(B, H, A)`, zeros behind its end."""
    delay: Tensor
    """int64 `(B,)`: actions that are executed before the new chunk arrives."""
    weights: Tensor
    """float32 `(B, H)` within [0, 1], from `continuation_weights`: the pull to each of `actions`."""
    max_guidance_weight: float = 10.0
    """Upper bound of the gain of the guidance, which is infinite at time 0."""


def continuation_weights(delay: Tensor, end: Tensor, chunk_size: int, schedule: Schedule) -> Tensor:
    """Return weights `(B, H)`: 1 before `delay`, falling to 0 at `end`, both int64 `(B,)` (equation 5 of the paper)."""
    step = torch.arange(chunk_size, device=delay.device)
    delay, end = delay.unsqueeze(-1), end.unsqueeze(-1)
    fade = ((end - step) / (end - delay + 1).clamp(min=1)).clamp(0, 1)
    match schedule:
        case "exp":
            fade = fade * torch.expm1(fade) / math.expm1(1.0)
        case "ones":
            fade = torch.ones_like(fade)
        case "zeros":
            fade = torch.zeros_like(fade)
    return torch.where(step < delay, 1.0, torch.where(step < end, fade, 0.0))


def guidance_gain(time: float, max_guidance_weight: float) -> float:
    """min(max_guidance_weight, (1 - t) / (t r_t^2)) with r_t^2 = (1 - t)^2 / (t^2 + (1 - t)^2)."""
    noise = 1.0 - time
    if time <= 0.0 or noise <= 0.0:
        return max_guidance_weight
    return min(max_guidance_weight, (time**2 + noise**2) / (time * noise))


def guided_velocity(
    velocity: Callable[[Tensor, float], Tensor], x: Tensor, time: float, continuation: Continuation
) -> Tensor:
    """Add to the velocity at `x` the pull of its predicted chunk to the running one (equation 2 of the paper).

    Takes one backward pass through the velocity. Works below `torch.no_grad`, not below `torch.inference_mode`.
    """
    with torch.enable_grad():
        x = x.detach().requires_grad_()
        v = velocity(x, time)
        predicted = x + (1.0 - time) * v
        error = (continuation.actions - predicted.detach()) * continuation.weights.unsqueeze(-1)
        (pull,) = torch.autograd.grad(predicted, x, error)
    return v.detach() + guidance_gain(time, continuation.max_guidance_weight) * pull
