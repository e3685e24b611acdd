"""Flow-SDE: Euler steps of the flow that become normal distributions without changing what is sampled.

(Flow-GRPO, arXiv 2505.05470; for vision-language-action models pi_RL, arXiv 2510.25889.)

Time runs from noise (t = 0) to data (t = 1), x_t = (1 - t) noise + t actions. The exact velocity, which is
v = E[actions - noise | x_t], also gives the expected noise E[noise | x_t] = x - t v, hence the score of the marginal
density p_t, which is -E[noise | x_t] / (1 - t). For any diffusion g(t) the Fokker-Planck equation of

    dx = (v + g^2/2 score) dt + g dw = (v - g^2 / (2 (1 - t)) (x - t v)) dt + g dw

has the same p_t as dx = v dt. The papers, whose time is 1 at the noise, take g = a sqrt((1 - t) / t): the noise ends at
the data, and 1 - t cancels in the drift, a^2 / (2 t) (x - t v), which leaves one singularity, at t = 0. There they put
the first grid point behind it, t = delta. The marginals are exact as delta -> 0 but for that first step, which leaves
the variance of pure noise larger by a^4 / 4.
"""

from __future__ import annotations

import math
from typing import Annotated, Literal

from torch import Tensor

from ...configclass import Cfg, Range, configclass


@configclass
class FlowSDECfg(Cfg):
    """Exploration by Flow-SDE."""

    noise_level: Annotated[float, Range(gt=0, le=1)] = 0.5
    """a, the factor on the noise."""
    noisy_steps: Literal["one", "all"] = "one"
    """One step, drawn for each observation, is noisy and has the log-probability, so that evaluating takes one pass of
    the network; or all steps are, and evaluating takes as many passes."""


def sde_step(x: Tensor, velocity: Tensor, time: Tensor, delta: float, noise_level: float) -> tuple[Tensor, Tensor]:
    """Return mean and log-std of the point one step of `delta` behind `x`, in float32; see the module.

    mean = x + delta (v - a^2 / (2 s) (x - t v)) and variance = a^2 delta (1 - t) / s, with s = max(t, delta).

    Args:
        x: Noisy chunks `(B, H, A)`.
        velocity: At `x`, `(B, H, A)`.
        time: t of each chunk, `(B,)`, at most 1 - delta.
        delta: Length of a step.
        noise_level: a.
    """
    time = time.view(-1, *[1] * (x.dim() - 1))
    denominator = time.clamp(min=delta)
    pull = (0.5 * noise_level**2) / denominator
    mean = x + delta * (velocity - pull * (x - time * velocity))
    log_std = 0.5 * ((1.0 - time) / denominator).log() + math.log(noise_level * math.sqrt(delta))
    return mean, log_std.expand_as(mean)
