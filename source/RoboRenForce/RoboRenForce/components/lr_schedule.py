"""Learning-rate schedules on the device, which an update follows without waiting for the host."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Annotated, Literal

import torch
from torch import Tensor

from ..configclass import Cfg, Range, configclass


@torch.no_grad()
def adapt_to_kl_(lr: Tensor, kl: Tensor, desired_kl: float, *, lowest: float = 1e-5, highest: float = 1e-2) -> None:
    """Adapt the learning rate to the measured KL divergence, in place (Schulman et al. 2017, section 4).

    Divides by 1.5 above twice the target, multiplies by 1.5 below half of it, as rsl_rl does; a KL of exactly 0 (the
    first mini-batch, where the policy has not moved yet) changes nothing.

    Args:
        lr: 0-dim learning rate.
        kl: 0-dim mean KL(old || new).
        desired_kl: Target.
        lowest: Lower bound of the learning rate.
        highest: Upper bound of the learning rate.
    """
    slower = (lr / 1.5).clamp(min=lowest)
    faster = (lr * 1.5).clamp(max=highest)
    lr.copy_(torch.where(kl > 2.0 * desired_kl, slower, torch.where((kl < 0.5 * desired_kl) & (kl > 0.0), faster, lr)))


@torch.no_grad()
def linear_(value: Tensor, start: float, end: float, iteration: Tensor, total: int) -> None:
    """Interpolate linearly from `start` to `end` by `iteration / total`, writing `value` in place."""
    progress = (iteration / max(total, 1)).clamp(0.0, 1.0)
    value.copy_(start + (end - start) * progress)


@torch.no_grad()
def cosine_(value: Tensor, start: float, end: float, step: Tensor, total: int) -> None:
    """Interpolate along a half cosine from `start` to `end` by `step / total`, writing `value` in place."""
    progress = (step / max(total, 1)).clamp(0.0, 1.0)
    value.copy_(end + (start - end) * 0.5 * (1.0 + (math.pi * progress).cos()))


@configclass
class ScheduleCfg(Cfg):
    """Learning rate as a function of the step: linear warm-up, then constant or a decay to a share of it."""

    kind: Literal["constant", "linear", "cosine"] = "constant"
    """Curve after the warm-up; `cosine` is a half cosine (Loshchilov and Hutter 2017, arXiv 1608.03983)."""
    warmup_steps: Annotated[int, Range(ge=0)] = 0
    """Steps until the full rate; step k of them (from 0) has the share (k + 1) / warmup_steps."""
    total_steps: Annotated[int, Range(ge=1)] | Literal["run"] | None = None
    """Step at which the decay ends, warm-up included; the rate stays there afterwards. `run`: the last step of the run,
    of which the warm-up then takes a tenth at most."""
    final_share: Annotated[float, Range(ge=0, le=1)] = 0.0
    """Share of the learning rate that is left at the end of the decay."""

    def check(self) -> Iterable[str]:
        """Check for a decay without an end, or one that ends before it begins."""
        if self.kind != "constant" and self.total_steps is None:
            yield f"total_steps: is not set; say at which step the {self.kind} decay ends"
        if isinstance(self.total_steps, int) and self.total_steps <= self.warmup_steps:
            yield (
                f"total_steps: {self.total_steps} is not larger than warmup_steps = {self.warmup_steps}; "
                "the warm-up is a part of it"
            )

    def for_run(self, steps: int) -> ScheduleCfg:
        """The schedule of a run of so many steps."""
        if self.total_steps != "run":
            return self
        return self.replace(total_steps=max(steps, 2), warmup_steps=min(self.warmup_steps, steps // 10))

    def factor(self, step: Tensor) -> Tensor:
        """Return the share of the learning rate at step number `step` (0-dim, from 0)."""
        factor = torch.ones_like(step)
        if self.kind != "constant":
            assert isinstance(self.total_steps, int)  # `check` and `for_run`
            decay_ = linear_ if self.kind == "linear" else cosine_
            decay_(factor, 1.0, self.final_share, step - self.warmup_steps, self.total_steps - self.warmup_steps)
        if self.warmup_steps:
            factor = torch.where(step < self.warmup_steps, (step + 1.0) / self.warmup_steps, factor)
        return factor
