"""The return's mean by discrete regression in symlog space (Hafner et al. 2023, arXiv 2301.04104; TD-MPC2).

A scalar is encoded as a two-hot distribution: weights on the two bins around `symlog(x)`, in proportion to nearness.
Bins are equidistant in symlog space, so one network predicts rewards and returns of any scale.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated

import torch
from torch import Tensor
from typing_extensions import override

from ...configclass import Range, configclass
from .return_head import Aggregate, ReturnHead, ReturnHeadCfg, scalar_target


def symlog(x: Tensor) -> Tensor:
    """Return `sign(x) log(1 + |x|)`."""
    return x.sign() * x.abs().log1p()


def symexp(x: Tensor) -> Tensor:
    """Return the inverse of `symlog`."""
    return x.sign() * x.abs().expm1()


class TwoHotHead(ReturnHead):
    """Logits `(E, ..., num_bins)`; targets are scalars `(...)`, compared by the cross-entropy with their two-hot code.

    The mean is `symexp` of the mean bin, not the mean of `symexp`. Values beyond the outermost bins are clipped.
    """

    target_dims = 0
    bins: Tensor

    def __init__(self, cfg: TwoHotHeadCfg, num_members: int) -> None:
        super().__init__(cfg, num_members)
        self.cfg = cfg
        self.out_features = cfg.num_bins
        self.register_buffer("bins", torch.linspace(cfg.v_min, cfg.v_max, cfg.num_bins), persistent=False)

    @override
    def mean(self, output: Tensor) -> Tensor:
        return symexp((output.softmax(-1) * self.bins).sum(-1))

    def encode(self, value: Tensor) -> tuple[Tensor, Tensor]:
        """Return lower bin, int64 `(...)`, and the weight of the bin above it, of `value` `(...)`."""
        last = self.cfg.num_bins - 1
        step = (self.cfg.v_max - self.cfg.v_min) / last
        position = ((symlog(value) - self.cfg.v_min) / step).clamp(0.0, last)
        # The lower bin is never the last: the top edge has all its weight on the bin above, and nothing wraps.
        lower = position.long().clamp(0, last - 1)
        return lower, position - lower

    @override
    def _target(self, next_output: Tensor, shift: Tensor, discount: Tensor, aggregate: Aggregate) -> Tensor:
        return scalar_target(self.mean(next_output), shift, discount, aggregate)

    @override
    def _loss(self, output: Tensor, target: Tensor, weight: Tensor | None) -> Tensor:
        lower, above = self.encode(target)
        pair = torch.stack([lower, lower + 1], dim=-1).expand(*output.shape[:-1], 2)
        log_probability = output.log_softmax(-1).gather(-1, pair)
        return -torch.lerp(log_probability[..., 0], log_probability[..., 1], above)


@configclass
class TwoHotHeadCfg(ReturnHeadCfg):
    """Configuration of a `TwoHotHead`."""

    class_type: type = TwoHotHead
    num_bins: Annotated[int, Range(ge=2)] = 101
    """Number of bins."""
    v_min: float = -10.0
    """Lowest bin, in symlog space: -10 is a return of -22,025."""
    v_max: float = 10.0
    """Highest bin, in symlog space."""

    def check(self) -> Iterable[str]:
        """Check that the bins span an interval."""
        if not self.v_min < self.v_max:
            yield f"v_min: {self.v_min} is not below v_max={self.v_max}; expected the range of symlog(return)"
