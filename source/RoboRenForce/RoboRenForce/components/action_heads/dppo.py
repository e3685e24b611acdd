"""Exploration of a diffusion head: noisy DDIM steps, whose density a policy gradient takes (DPPO, arXiv 2409.00588).

A step of DDIM with eta > 0 (arXiv 2010.02502, equation 16) is a normal distribution around

    sqrt(abar') chunk + sqrt(1 - abar' - eta^2 sigma^2) noise,  sigma^2 = (1 - abar') / (1 - abar) (1 - abar / abar'),

with the predicted clean chunk and noise, from the level abar to the next one, abar'. Sigma vanishes in the last step,
where a density would have none: its std is at least `min_std`, which also is the exploration that reaches the actions.
"""

from __future__ import annotations

from typing import Annotated

from ...configclass import Cfg, Range, configclass


@configclass
class DPPOCfg(Cfg):
    """Exploration by noisy DDIM steps."""

    eta: Annotated[float, Range(gt=0, le=1)] = 1.0
    """Share of the noise of DDPM."""
    min_std: Annotated[float, Range(gt=0)] = 0.1
    """Smallest std of a step."""


def step_std(level: float, following: float, eta: float, min_std: float) -> float:
    """Return the std of the step from the noise level abar to the following one, which is nearer to 1 (the data)."""
    variance = (1 - following) / (1 - level) * (1 - level / following)
    return max(eta * variance**0.5, min_std)
