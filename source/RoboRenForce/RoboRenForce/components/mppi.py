"""Model predictive path integral control (MPPI; Williams et al. 2015, arXiv 1509.01149), as TD-MPC plans.

Sequences of actions are drawn from a normal distribution for each step of the horizon; the best of them, weighted by
`exp(temperature * (value - best value))`, give the next distribution. Of any model: values come from a function.

Shape letters: H horizon, N environments, S samples, K elites, A action dimensions.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Annotated

import torch
from torch import Tensor

from ..configclass import Cfg, Range, configclass

_WORST = -1.0e30
"""Value of a sequence whose value is not finite."""


@dataclass
class Plan:
    """Result of `mppi`."""

    mean: Tensor
    """`(H, N, A)`, from which the next step's plan starts."""
    std: Tensor
    """`(H, N, A)`."""
    elites: Tensor
    """Best sequences of actions of the last iteration, `(H, N, K, A)`."""
    weights: Tensor
    """Weights of the elites, `(N, K)`; they sum to 1."""

    def choose(self) -> Tensor:
        """Draw one elite for each environment by its weight; returns its first action `(N, A)`."""
        # The Gumbel maximum is a draw by weight, and unlike torch.multinomial it never waits for the host.
        noise = -torch.empty_like(self.weights).exponential_().log()
        drawn = (self.weights.log() + noise).argmax(-1)
        return self.elites[0].gather(1, drawn.view(-1, 1, 1).expand(-1, 1, self.elites.shape[-1])).squeeze(1)


def shifted(mean: Tensor, starts: Tensor | None) -> Tensor:
    """Return the last plan `(H, N, A)` moved on by a step, with zeros at its end and where an episode starts."""
    moved = torch.cat([mean[1:], torch.zeros_like(mean[:1])])
    return moved if starts is None else moved.masked_fill(starts.view(-1, 1), 0.0)


def mppi(
    cfg: MPPICfg,
    mean: Tensor,
    value: Callable[[Tensor], Tensor],
    *,
    proposals: Tensor | None = None,
    mask: Tensor | None = None,
    min_std: Tensor | float | None = None,
) -> Plan:
    """Plan sequences of actions within [-1, 1] that have a high value.

    Args:
        cfg: Sizes and temperature.
        mean: Mean to start from, `(H, N, A)`; see `shifted`.
        value: Returns values `(N, S)` of sequences `(H, N, S, A)`.
        proposals: Sequences that compete in every iteration, `(H, N, P, A)`: a policy's.
        mask: 1 for the action dimensions that exist, 0 for the others, `(N, A)`; None: all exist.
        min_std: Lower limit of the standard deviation; None: `cfg.min_std`.
    """
    low = cfg.min_std if min_std is None else min_std
    std = torch.full_like(mean, cfg.max_std)
    fixed = 0 if proposals is None else proposals.shape[2]
    noise_shape = (*mean.shape[:2], cfg.num_samples - fixed, mean.shape[-1])
    elites = weights = mean  # at least one iteration replaces them
    for _ in range(cfg.iterations):
        noise = torch.randn(noise_shape, device=mean.device, dtype=mean.dtype)
        actions = (mean.unsqueeze(2) + std.unsqueeze(2) * noise).clamp(-1.0, 1.0)
        if proposals is not None:
            actions = torch.cat([proposals, actions], dim=2)
        if mask is not None:
            actions = actions * mask.unsqueeze(1)
        # Where the model diverges, the sequence must not be chosen: top-k ranks NaN above everything.
        values = value(actions).nan_to_num(nan=_WORST, posinf=_WORST, neginf=_WORST)
        best, index = values.topk(cfg.num_elites, dim=-1)
        chosen = index.view(1, *index.shape, 1).expand(actions.shape[0], -1, -1, actions.shape[-1])
        elites = actions.gather(2, chosen)
        weights = (cfg.temperature * (best - best[:, :1])).softmax(-1)
        share = weights.unsqueeze(-1)
        new = (share * elites).sum(2)
        spread = (share * (elites - new.unsqueeze(2)).square()).sum(2).sqrt()
        mean = new if cfg.momentum == 0.0 else cfg.momentum * mean + (1.0 - cfg.momentum) * new
        std = torch.clamp(spread, max=cfg.max_std).clamp(min=low)
        if mask is not None:
            mean, std = mean * mask, std * mask
    return Plan(mean, std, elites, weights)


@configclass
class MPPICfg(Cfg):
    """Configuration of `mppi`. Defaults are those of TD-MPC2."""

    horizon: Annotated[int, Range(ge=1)] = 3
    """Planned steps; a terminal value stands for what follows."""
    iterations: Annotated[int, Range(ge=1)] = 6
    """Refinements of the distribution; the authors take 2 more for 20 action dimensions and beyond."""
    num_samples: Annotated[int, Range(ge=1)] = 512
    """Sequences of each environment in an iteration, the policy's included."""
    num_policy_samples: Annotated[int, Range(ge=0)] = 24
    """Sequences of the policy among them."""
    num_elites: Annotated[int, Range(ge=1)] = 64
    """Sequences that make the next distribution."""
    temperature: Annotated[float, Range(gt=0)] = 0.5
    """Factor (not divisor) of the values' differences in the weights of the elites."""
    min_std: Annotated[float, Range(ge=0)] = 0.05
    """Lowest standard deviation, and so of the exploration."""
    first_min_std: Annotated[float, Range(gt=0)] | None = None
    """`min_std` at first, to explore more (TD-MPC: 0.5); None: constant."""
    min_std_steps: Annotated[int, Range(ge=1)] = 25_000
    """Gradient steps until it has fallen to `min_std`."""
    max_std: Annotated[float, Range(gt=0)] = 2.0
    """Standard deviation at first, and the highest."""
    momentum: Annotated[float, Range(ge=0, lt=1)] = 0.0
    """Share of the previous iteration's mean that stays (TD-MPC: 0.1)."""

    def check(self) -> Iterable[str]:
        """Check that the numbers of sequences fit together."""
        if self.num_policy_samples >= self.num_samples:
            yield f"num_policy_samples: {self.num_policy_samples} leaves none of num_samples={self.num_samples} to plan"
        if self.num_elites > self.num_samples:
            yield f"num_elites: {self.num_elites} is more than num_samples={self.num_samples}; lower it"
        if self.min_std > self.max_std:
            yield f"min_std: {self.min_std} is above max_std={self.max_std}"
