"""Gaussian predictions with soft bounds on their variance (Chua et al. 2018, arXiv 1805.12114, appendix A.1)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class SoftBounds(nn.Module):
    """Learned bounds of the log-variance of each dimension.

    A hard clamp has no gradient beyond its ends; the softplus always has one, so a variance can leave its bound again.
    """

    def __init__(self, dim: int, low: float = -10.0, high: float = 0.5) -> None:
        super().__init__()
        self.low = nn.Parameter(torch.full((dim,), low))
        self.high = nn.Parameter(torch.full((dim,), high))

    def forward(self, raw: Tensor) -> Tensor:
        """Return log-variances `(..., dim)` within the bounds."""
        log_var = self.high - F.softplus(self.high - raw)
        return self.low + F.softplus(log_var - self.low)

    def penalty(self) -> Tensor:
        """Return the width of the bounds, 0-dim, which the loss makes small: they follow the data."""
        return self.high.sum() - self.low.sum()


def gaussian_nll(mean: Tensor, log_var: Tensor, target: Tensor, beta: float = 0.0) -> Tensor:
    """Return `(mu - y)^2 / var + log var`, elementwise: twice the NLL without its constant.

    With `beta`, each element is weighted by `var^beta` without gradient (Seitzer et al. 2022, arXiv 2203.09168):
    otherwise what is predicted badly is learned slowly.
    """
    loss = (mean - target).square() * torch.exp(-log_var) + log_var
    return loss if beta == 0.0 else loss * torch.exp(beta * log_var.detach())


class Standardizer(nn.Module):
    """Mean and standard deviation of each column, measured once over all data.

    A column that never changes keeps the scale 1.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(dim))
        self.register_buffer("std", torch.ones(dim))

    @torch.no_grad()
    def fit(self, rows: Tensor) -> None:
        """Measure `rows` `(M, dim)`."""
        std, mean = torch.std_mean(rows.double(), dim=0, correction=0)
        self.mean.copy_(mean)
        self.std.copy_(torch.where(std < 1e-6, 1.0, std))

    def forward(self, x: Tensor) -> Tensor:
        """Return `x` `(..., dim)` with mean 0 and standard deviation 1."""
        return (x - self.mean) / self.std

    def inverse(self, y: Tensor) -> Tensor:
        """Return the `x` that `forward` maps to `y`."""
        return y * self.std + self.mean
