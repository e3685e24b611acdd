"""Normal distributions, elementwise; densities are float32 whatever the precision of the network."""

from __future__ import annotations

import math

from torch import Tensor


def normal_log_prob(x: Tensor, mean: Tensor, log_std: Tensor) -> Tensor:
    """Log-density of N(mean, std)."""
    return -0.5 * ((x - mean) * (-log_std).exp()).square() - log_std - 0.5 * math.log(2 * math.pi)


def normal_entropy(log_std: Tensor) -> Tensor:
    """Differential entropy of N(mean, std)."""
    return log_std + 0.5 * math.log(2 * math.pi * math.e)


def normal_kl(mean: Tensor, log_std: Tensor, other_mean: Tensor, other_log_std: Tensor) -> Tensor:
    """KL(N(mean, std) || N(other_mean, other_std))."""
    precision = (-2 * other_log_std).exp()
    return other_log_std - log_std + 0.5 * ((2 * log_std).exp() + (mean - other_mean).square()) * precision - 0.5
