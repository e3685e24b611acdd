"""Running statistics and the normalizers built on them: observations, rewards, values.

Statistics are kept in float64 whatever the precision of the learner: in float32 an average over 1e10 samples stops
moving, and the variance of a feature with mean 1e6 is lost in rounding. Batches are merged by Chan's formula (Chan,
Golub, LeVeque 1979), first those of all ranks. Nothing is read back to the host and every buffer is updated in place,
so updates can be captured in a CUDA graph.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any

import torch
from torch import Tensor, nn
from typing_extensions import override

from ..configclass import Cfg, Range, configclass
from ..utils.distributed import DistributedContext

LARGEST = 1e10
"""Largest plausible magnitude; values beyond come from a broken simulator.

In float32, neighboring numbers are a thousand apart there. Such values enter no statistics, and runs stop at them as
they do at NaN.
"""


def plausible(x: Tensor) -> Tensor:
    """Return True where `x` is finite and within `LARGEST`, elementwise."""
    return x.abs() <= LARGEST


class RunningMoments(nn.Module):
    """Running mean and variance per feature; 0 and 1 before the first batch.

    Entries that are not finite or beyond `LARGEST` count as the mean so far: a single 1e30 would outweigh all later
    data.
    """

    count: Tensor
    mean: Tensor
    var: Tensor

    def __init__(self, shape: int | tuple[int, ...] = ()) -> None:
        super().__init__()
        shape = (shape,) if isinstance(shape, int) else tuple(shape)
        self.shape = shape
        self.register_buffer("count", torch.zeros((), dtype=torch.float64))
        self.register_buffer("mean", torch.zeros(shape, dtype=torch.float64))
        self.register_buffer("var", torch.ones(shape, dtype=torch.float64))

    @torch.no_grad()
    def update(
        self,
        x: Tensor,
        distributed: DistributedContext | None = None,
        max_count: float | None = None,
        mask: Tensor | None = None,
    ) -> None:
        """Merge a batch `(..., *shape)`, together with those of the other ranks.

        Args:
            x: Batch; ranks may have different numbers of rows.
            distributed: Process group of the run, None for this process alone.
            max_count: Number of rows after which nothing is merged any more.
            mask: bool `(...)`, False in rows to skip; None: all count.
        """
        if x.shape[x.dim() - len(self.shape) :] != self.shape or x.dim() == len(self.shape):
            raise ValueError(
                f"Running statistics got a batch of shape {tuple(x.shape)}; expected (..., *{self.shape})."
            )
        x = x.reshape(-1, *self.shape).to(torch.float64)
        rows, mean, m2 = batch_moments(torch.where(plausible(x), x, self.mean), distributed, mask)
        if max_count is not None:
            rows = rows * (self.count < max_count)
        total = self.count + rows
        share = rows / total.clamp_min(1.0)
        delta = mean - self.mean
        # The first batch replaces the prior (share 1); later ones move mean and variance by their share of the data.
        self.var.add_(share * (m2 - self.var + (1.0 - share) * delta.square()))
        self.mean.add_(share * delta)
        self.count.copy_(total)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> RunningMoments:
        # `module.half()` and the like must move the statistics but not round them.
        exact = dict(self._buffers)
        super()._apply(fn, recurse)
        for name, old in exact.items():
            moved = self._buffers[name]
            if old is not None and moved is not None and old.dtype == torch.float64 != moved.dtype:
                self._buffers[name] = old.to(moved.device)
        return self


def batch_moments(
    x: Tensor, distributed: DistributedContext | None, mask: Tensor | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """Return number of rows, mean and biased variance `(...)` over dimension 0 of `x` `(B, ...)`, over all ranks.

    `mask`, bool with `B` elements, is False in rows to skip.
    """
    x = x.to(torch.float64)
    if mask is None:
        rows = torch.full((), float(x.shape[0]), dtype=torch.float64, device=x.device)
        var, mean = torch.var_mean(x, dim=0, correction=0)
    else:
        weight = mask.reshape(-1, *[1] * (x.dim() - 1)).to(torch.float64)
        rows = weight.sum()
        mean = (weight * x).sum(0) / rows.clamp_min(1.0)
        var = (weight * (x - mean).square()).sum(0) / rows.clamp_min(1.0)
    if distributed is None or not distributed.is_distributed:
        return rows, mean, var
    # Two small reductions: the variance needs the global mean first, sums of squares would cancel for large means.
    sums = distributed.sum_(torch.cat([rows.view(1), (rows * mean).view(-1)]))
    total = sums[0].clamp_min(1.0)  # no rank has a row that counts: nothing is merged
    global_mean = (sums[1:] / total).view_as(mean)
    m2 = distributed.sum_(rows * (var + (mean - global_mean).square()))
    return total, global_mean, m2 / total


class Normalizer(nn.Module):
    """Identity, and the interface of all observation normalizers: `(..., D) -> (..., D)`."""

    def __init__(self, cfg: NormalizerCfg, shape: int | tuple[int, ...]) -> None:
        super().__init__()

    def forward(self, x: Tensor) -> Tensor:
        """Normalize `x`; never changes the statistics."""
        return x

    def inverse(self, y: Tensor) -> Tensor:
        """Return the `x` whose normalization is `y`."""
        return y

    def update(self, x: Tensor, distributed: DistributedContext | None = None, mask: Tensor | None = None) -> None:
        """Update the statistics from rows of a batch `(..., D)` where `mask` `(...)` is True, unless in eval mode."""


@configclass
class NormalizerCfg(Cfg):
    """Configuration of the identity normalizer and base of the others."""

    class_type: type = Normalizer


class EmpiricalNormalizer(Normalizer):
    """`(x - mean) / (std + eps)` with the mean and standard deviation of all data seen in training mode.

    A feature that never changed maps to 0 and, should it change later, is amplified by `1 / eps` at most.
    """

    shift: Tensor
    shift_low: Tensor
    scale: Tensor

    def __init__(self, cfg: EmpiricalNormalizerCfg, shape: int | tuple[int, ...]) -> None:
        super().__init__(cfg, shape)
        self.cfg = cfg
        self.moments = RunningMoments(shape)
        # What `forward` applies, kept in the learner's precision. The mean is split in two parts whose subtraction
        # one after the other loses nothing: rounded to float32, a mean of 1e6 alone would be off by up to 0.03.
        for name in ("shift", "shift_low", "scale"):
            self.register_buffer(name, torch.zeros(self.moments.shape))
        self.refresh()

    @override
    def forward(self, x: Tensor) -> Tensor:
        y = (x - self.shift - self.shift_low) / self.scale
        return y if self.cfg.clip is None else y.clamp(-self.cfg.clip, self.cfg.clip)

    @override
    def inverse(self, y: Tensor) -> Tensor:
        return y * self.scale + self.shift_low + self.shift

    @override
    def update(self, x: Tensor, distributed: DistributedContext | None = None, mask: Tensor | None = None) -> None:
        if self.training:
            self.moments.update(x, distributed, self.cfg.until, mask)
            self.refresh()

    @torch.no_grad()
    def refresh(self) -> None:
        """Recompute the buffers of `forward`; needed after `moments` was changed other than by `update`."""
        mean = self.moments.mean
        self.shift.copy_(mean)
        self.shift_low.copy_(mean - self.shift)
        self.scale.copy_(self.moments.var.sqrt() + self.cfg.eps)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> EmpiricalNormalizer:
        super()._apply(fn, recurse)
        self.refresh()  # in the new precision
        return self


@configclass
class EmpiricalNormalizerCfg(NormalizerCfg):
    """Configuration of an `EmpiricalNormalizer`."""

    class_type: type = EmpiricalNormalizer
    eps: Annotated[float, Range(gt=0)] = 1e-2
    """Constant added to the standard deviation."""
    until: Annotated[int, Range(gt=0)] | None = None
    """Number of samples after which the statistics are frozen; None: never."""
    clip: Annotated[float, Range(gt=0)] | None = None
    """Bound on the absolute normalized value; None: no bound."""


class RewardScaler(nn.Module):
    """Divide rewards by the running standard deviation of the discounted return.

    Like Gymnasium's `NormalizeReward`, for a batch of environments or a rollout at once. Rewards are scaled but not
    shifted: a shift would change which policy is best in episodes of variable length. They are clipped to
    `[-clip, clip]`: as long as all returns are equal their deviation is 0, and a constant reward would explode.
    """

    discounted: Tensor

    def __init__(self, num_envs: int, gamma: float, eps: float = 1e-8, clip: float | None = 10.0) -> None:
        super().__init__()
        self.gamma = gamma
        self.eps = eps
        self.clip = clip
        self.moments = RunningMoments()
        self.register_buffer("discounted", torch.zeros(num_envs))

    @torch.no_grad()
    def update(
        self,
        rewards: Tensor,
        dones: Tensor,
        distributed: DistributedContext | None = None,
        mask: Tensor | None = None,
    ) -> None:
        """Update the statistics from one step or a rollout; no effect in eval mode.

        Args:
            rewards: `(N,)` or `(T, N)`.
            dones: Same shape, nonzero where the episode ended with that reward.
            distributed: Process group of the run, None for this process alone.
            mask: bool `(N,)` of one step, False in rows that did not act; None: all acted.
        """
        if not self.training:
            return
        if rewards.shape != dones.shape or rewards.shape[-1:] != self.discounted.shape:
            raise ValueError(
                f"RewardScaler got rewards {tuple(rewards.shape)} and dones {tuple(dones.shape)}; "
                f"expected both (T, {len(self.discounted)}) or ({len(self.discounted)},)."
            )
        n = len(self.discounted)
        returns = []
        for reward, done in zip(rewards.reshape(-1, n), dones.reshape(-1, n), strict=True):
            before = self.discounted.clone() if mask is not None else None
            self.discounted.mul_(self.gamma).add_(torch.where(plausible(reward), reward, 0.0))
            if mask is not None and before is not None:
                self.discounted.copy_(torch.where(mask, self.discounted, before))
            returns.append(self.discounted.clone())
            self.discounted.masked_fill_(done.bool(), 0.0)
        self._observe(torch.stack(returns), distributed, mask)

    def restart(self) -> None:
        """Zero the running returns because all environments start new episodes; keep the statistics."""
        self.discounted.zero_()

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any, **kwargs: Any) -> None:
        # Running returns belong to episodes; those of another number of environments don't go on here.
        name = f"{prefix}discounted"
        if name in state_dict and state_dict[name].shape != self.discounted.shape:
            state_dict[name] = torch.zeros_like(self.discounted)
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)

    def _observe(self, returns: Tensor, distributed: DistributedContext | None, mask: Tensor | None) -> None:
        """Update the statistics from discounted returns `(T, N)`."""
        self.moments.update(returns, distributed, mask=mask)

    def forward(self, rewards: Tensor) -> Tensor:
        """Return scaled rewards of the same shape; does not change the statistics."""
        scaled = rewards / (self.moments.var + self.eps).sqrt().to(rewards.dtype)
        return scaled if self.clip is None else scaled.clamp(-self.clip, self.clip)


class BoundedRewardScaler(RewardScaler):
    """Divide rewards so that returns fit a critic with a bounded range (FlashSAC, arXiv 2604.04539).

    The divisor is the standard deviation of the discounted return or, if that is larger, the value that scales the
    largest return ever seen to `max_return`. It hardly ever shrinks: one early outlier keeps rewards small for good.
    """

    largest: Tensor

    def __init__(self, num_envs: int, gamma: float, max_return: float = 5.0, eps: float = 1e-8) -> None:
        super().__init__(num_envs, gamma, eps, clip=None)
        self.max_return = max_return
        self.register_buffer("largest", torch.zeros(()))

    @override
    def _observe(self, returns: Tensor, distributed: DistributedContext | None, mask: Tensor | None) -> None:
        super()._observe(returns, distributed, mask)
        largest = (returns if mask is None else returns * mask).abs().amax()
        if distributed is not None and distributed.is_distributed:
            # The only reduction at hand is the sum: it adds up one entry per process and zeros of the others.
            entries = largest.new_zeros(distributed.world_size)
            entries[distributed.rank] = largest
            largest = distributed.sum_(entries).amax()
        self.largest.copy_(torch.maximum(self.largest, largest))

    @override
    def forward(self, rewards: Tensor) -> Tensor:
        std = (self.moments.var + self.eps).sqrt()
        # Before the first return there is nothing to divide by; rewards then pass as they are.
        divisor = torch.where(self.moments.count > 0, torch.maximum(std, self.largest / self.max_return), 1.0)
        return rewards / divisor.to(rewards.dtype)


class ValueNormalizer(nn.Module):
    """Normalize returns to mean 0 and standard deviation 1 for the critic, and map its values back."""

    def __init__(self, eps: float = 1e-5) -> None:
        super().__init__()
        self.eps = eps
        self.moments = RunningMoments()

    def update(
        self, returns: Tensor, distributed: DistributedContext | None = None, mask: Tensor | None = None
    ) -> None:
        """Update from returns of any shape where `mask` of that shape is True; no effect in eval mode."""
        if self.training:
            self.moments.update(returns, distributed, mask=mask)

    def normalize(self, values: Tensor) -> Tensor:
        """Convert returns to the critic's units, any shape."""
        mean, std = self._mean_std()
        return ((values - mean) / std).to(values.dtype)

    def denormalize(self, values: Tensor) -> Tensor:
        """Convert the critic's values to units of the return, any shape."""
        mean, std = self._mean_std()
        return (values * std + mean).to(values.dtype)

    def _mean_std(self) -> tuple[Tensor, Tensor]:
        return self.moments.mean, self.moments.var.sqrt().clamp_min(self.eps)
