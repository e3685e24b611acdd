"""The return as a normal distribution: DSAC (Duan et al. 2021, arXiv 2001.02811), DSAC-T (2025, arXiv 2310.05858).

A member outputs the mean Q and, through a softplus, the standard deviation of the return. Both are learned by maximum
likelihood, with limits that keep a small or wrong std from producing huge gradients:

- v1: the sampled target `y_z = r + gamma (z + bonus)`, z from the successor's distribution, trains mean and std; for
  the std, its distance from Q is at most `bound`.
- T: the mean's target has the successor's mean in place of z; the distance is at most `bound_stds` times the
  running mean std; and losses are divided by the variance in proportion to that of the running mean.

The gradients are the papers' likelihood gradients. Where DSAC-T's code differs from its paper, the paper counts: the
std in that code settles at 0.71 of the true one (`std_loss="ref"`).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Literal

import torch
import torch.nn.functional as F
from torch import Tensor
from typing_extensions import override

from ...configclass import Range, configclass
from .return_head import Aggregate, ReturnHead, ReturnHeadCfg, batch_means, take_smallest

MAX_NOISE = 3.0
"""Bound of sampled returns, in stds from the mean."""
MIN_WEIGHT, MAX_WEIGHT = 0.1, 10.0
"""Limits of DSAC-T's loss weights."""


class GaussianHead(ReturnHead):
    """Mean and raw std `(E, ..., 2)`; targets `(..., 2)` hold the mean and a sample of the target return.

    The running mean std of each member is part of the state dict and is updated by training losses.
    """

    out_features = 2
    target_dims = 1
    std_ema: Tensor

    def __init__(self, cfg: GaussianHeadCfg, num_members: int) -> None:
        super().__init__(cfg, num_members)
        self.cfg = cfg
        # Zero means uninitialized; a real std is positive.
        self.register_buffer("std_ema", torch.zeros(num_members))

    @override
    def mean(self, output: Tensor) -> Tensor:
        return output[..., 0]

    def std(self, output: Tensor) -> Tensor:
        """Return the standard deviations `(E, ...)` of `output` `(E, ..., 2)`."""
        return F.softplus(output[..., 1])

    @override
    def _target(self, next_output: Tensor, shift: Tensor, discount: Tensor, aggregate: Aggregate) -> Tensor:
        if aggregate == "min":
            # Mean and std of one member: the sample has to come from the distribution whose mean was chosen.
            next_output = take_smallest(next_output[..., 0], next_output)
        mean, std = next_output[..., 0], self.std(next_output)
        if aggregate == "mean":
            # The normal distribution with the mixture's mean and variance.
            std = (std.square().mean(0) + mean.var(0, correction=0)).sqrt()
            mean = mean.mean(0)
        noise = torch.randn_like(mean).clamp_(-MAX_NOISE, MAX_NOISE)
        returns = torch.stack([mean, torch.addcmul(mean, std, noise)], dim=-1)
        return torch.addcmul(shift.unsqueeze(-1), discount.unsqueeze(-1), returns)

    @override
    def _loss(self, output: Tensor, target: Tensor, weight: Tensor | None) -> Tensor:
        mean, raw = output.unbind(-1)
        std = F.softplus(raw)
        average = self._running_std(std.detach(), weight)
        target_mean, sample = target.unbind(-1)
        if self.cfg.version == "v1":
            return self._loss_v1(mean, std, sample)
        return self._loss_t(mean, std, target_mean, sample, average.view(-1, *[1] * (std.dim() - 1)))

    def _loss_v1(self, mean: Tensor, std: Tensor, sample: Tensor) -> Tensor:
        """Return a loss with gradient `-(y - Q) / (std^2 + eps) dQ - (clip(y - Q)^2 - std^2) / (std^3 + eps) dstd`."""
        cfg = self.cfg
        fixed_std = std.detach()
        variance = fixed_std.square()
        error = (sample - mean.detach()).clamp(-cfg.bound, cfg.bound)
        loss_std = std * (variance - error.square()) / (variance * fixed_std + cfg.eps)
        return 0.5 * (sample - mean).square() / (variance + cfg.eps) + loss_std

    def _loss_t(self, mean: Tensor, std: Tensor, target_mean: Tensor, sample: Tensor, average: Tensor) -> Tensor:
        """Return DSAC-T's loss; all arguments are `(E, ...)` or broadcast to it; only `mean` and `std` learn."""
        cfg = self.cfg
        fixed_std = std.detach()
        variance = fixed_std.square()
        limit = cfg.bound_stds * average
        error = (sample - mean.detach()).clamp(-limit, limit)
        spread = error.square() if cfg.std_loss == "paper" else self._huber(error, torch.zeros_like(error))
        loss_mean = self._huber(mean, target_mean.expand_as(mean))
        loss_std = std * (variance - spread) / (fixed_std + cfg.eps)
        weight = (average.square() / (variance + cfg.eps)).clamp(MIN_WEIGHT, MAX_WEIGHT)
        return weight * (loss_mean + loss_std)

    def _huber(self, x: Tensor, y: Tensor) -> Tensor:
        """Return `(x - y)^2 / 2` up to `huber_delta`, linear beyond."""
        return F.huber_loss(x, y, reduction="none", delta=self.cfg.huber_delta)

    @torch.no_grad()
    def _running_std(self, std: Tensor, weight: Tensor | None) -> Tensor:
        """Return the running mean std `(E,)` after the batch `std` `(E, ...)`, which updates it in training only."""
        batch = batch_means(std, weight)
        moved = torch.lerp(self.std_ema, batch, self.cfg.ema_rate) if self.training else self.std_ema
        average = torch.where(self.std_ema == 0.0, batch, moved)
        if self.training:
            self.std_ema.copy_(average)
        return average

    @override
    def metrics(self) -> dict[str, Tensor]:
        """Return the running mean std, averaged over the members."""
        return {"return_std": self.std_ema.mean()}


@configclass
class GaussianHeadCfg(ReturnHeadCfg):
    """Configuration of a `GaussianHead`."""

    class_type: type = GaussianHead
    version: Literal["v1", "T"] = "T"
    """DSAC or DSAC-T."""
    std_loss: Literal["paper", "ref"] = "paper"
    """Std loss of version T: "paper" learns the std of the return, "ref" 0.71 of it, as the published code does."""
    eps: Annotated[float, Range(gt=0)] = 0.1
    """Constant added in divisions by std or variance, in units of the return: rewards far below 1 need a smaller one.
    one."""
    bound: Annotated[float, Range(gt=0)] = 10.0
    """Version v1: largest distance of a sampled target from Q that counts for the std, in units of the return."""
    bound_stds: Annotated[float, Range(gt=0)] = 3.0
    """Version T: that distance in multiples of the running mean std."""
    huber_delta: Annotated[float, Range(gt=0)] = 50.0
    """Version T: error of the mean beyond which the loss is linear, in units of the return."""
    ema_rate: Annotated[float, Range(gt=0, le=1)] = 0.005
    """Update rate of the running mean std."""

    def check(self) -> Iterable[str]:
        """Check that options of version T are not set for v1."""
        if self.version == "v1" and self.std_loss == "ref":
            yield 'std_loss: "ref" is a variant of version="T", and version is "v1"; expected std_loss="paper"'
