"""The return as a set of quantiles (QR-DQN: Dabney et al. 2018, arXiv 1710.10044), which needs no support.

With `drop_top` the largest quantiles are left out of targets, against overestimation (TQC: Kuznetsov et al. 2020, arXiv
2005.04269, which pools the members: `aggregate="mean"`).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated

import torch
import torch.nn.functional as F
from torch import Tensor
from typing_extensions import override

from ...configclass import Range, configclass
from .return_head import Aggregate, ReturnHead, ReturnHeadCfg, take_smallest


def quantile_huber(quantiles: Tensor, target: Tensor, levels: Tensor, kappa: float) -> Tensor:
    """Return the quantile Huber loss, averaged over all pairs of quantile and target (Dabney et al., eq. 10).

    Args:
        quantiles: `(..., K)`.
        target: Samples `(..., M)` of the target distribution; leading dimensions broadcast.
        levels: `(K,)`, the probability below each quantile.
        kappa: Error up to which the loss is quadratic; linear beyond.

    Returns:
        `(...)`. The original sums over the K quantiles; the mean keeps the gradients' scale independent of K.
    """
    predicted, sample = torch.broadcast_tensors(quantiles.unsqueeze(-1), target.unsqueeze(-2))  # (..., K, M)
    level = levels.unsqueeze(-1)
    asymmetry = torch.where(sample < predicted, 1.0 - level, level)
    huber = F.huber_loss(predicted, sample, reduction="none", delta=kappa)
    return (asymmetry * huber).mean((-2, -1)) / kappa


class QuantileHead(ReturnHead):
    """Quantiles `(E, ..., num_quantiles)` at the midpoints of equal probabilities; targets are samples `(..., M)`.

    `aggregate="mean"` pools all members' quantiles.
    """

    target_dims = 1
    levels: Tensor

    def __init__(self, cfg: QuantileHeadCfg, num_members: int) -> None:
        super().__init__(cfg, num_members)
        self.cfg = cfg
        self.out_features = cfg.num_quantiles
        levels = (torch.arange(cfg.num_quantiles) + 0.5) / cfg.num_quantiles
        self.register_buffer("levels", levels.to(torch.get_default_dtype()), persistent=False)

    @override
    def mean(self, output: Tensor) -> Tensor:
        return output.mean(-1)

    @override
    def _target(self, next_output: Tensor, shift: Tensor, discount: Tensor, aggregate: Aggregate) -> Tensor:
        quantiles, drop = next_output, self.cfg.drop_top
        if aggregate == "min":
            quantiles = take_smallest(next_output.mean(-1), next_output)
        elif aggregate == "mean":
            quantiles = next_output.movedim(0, -2).flatten(-2)  # (..., E K)
            drop *= next_output.shape[0]
        if drop:
            quantiles = quantiles.sort(-1).values[..., :-drop]
        return torch.addcmul(shift.unsqueeze(-1), discount.unsqueeze(-1), quantiles)

    @override
    def _loss(self, output: Tensor, target: Tensor, weight: Tensor | None) -> Tensor:
        return quantile_huber(output, target, self.levels, self.cfg.kappa)


@configclass
class QuantileHeadCfg(ReturnHeadCfg):
    """Configuration of a `QuantileHead`."""

    class_type: type = QuantileHead
    num_quantiles: Annotated[int, Range(ge=1)] = 25
    """K, number of quantiles of each member."""
    kappa: Annotated[float, Range(gt=0)] = 1.0
    """Error up to which the loss is quadratic, in units of the return.

    It has to be small against the spread of the returns: otherwise the head does not learn quantiles.
    """
    drop_top: Annotated[int, Range(ge=0)] = 0
    """Number of largest quantiles per member that targets leave out."""

    def check(self) -> Iterable[str]:
        """Check that `drop_top` leaves quantiles over."""
        if self.drop_top >= self.num_quantiles:
            yield f"drop_top: {self.drop_top} leaves none of num_quantiles={self.num_quantiles}; expected fewer"
