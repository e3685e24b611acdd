"""Conditional densities p(x | c) of continuous vectors: a Gaussian, and a flow that can have several modes.

The flow is conditional flow matching (Lipman et al. 2023, arXiv 2210.02747) of the whitened residual. With mean m(c)
and standard deviation s(c) of the Gaussian beside it, u = (x - m) / s, noise e ~ N(0, I) and t ~ U(0, 1):

    u_t = (1 - t) e + t u,      L = |v(u_t, t, c) - (u - e)|^2 + L_gauss
    x   = m + s u(1),           du/dt = v(u, t, c),   u(0) = e

Whitening gives the path unit scale whatever that of x, so that few steps integrate it. The minimum of the first term is
not 0 but the conditional variance of u - e: judge a flow by its samples or its log-density, not by its loss.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from typing import Annotated

import torch
from torch import Tensor, nn
from typing_extensions import override

from ..configclass import Cfg, Range, configclass
from .denoiser import time_embedding
from .mlp import MLPCfg
from .network import Network

_LOG_STD_RANGE = (-7.0, 3.0)
"""Soft bounds of the logarithm of a predicted standard deviation."""
_HALF_LOG_2PI = 0.5 * math.log(2.0 * math.pi)


class ConditionalDensity(nn.Module, ABC):
    """Density of `x` `(..., D)` given a condition `(..., C)`; built by `ConditionalDensityCfg.build(C, D)`."""

    def __init__(self, condition_features: int, features: int) -> None:
        super().__init__()
        self.condition_features, self.features = condition_features, features

    @abstractmethod
    def loss(self, x: Tensor, condition: Tensor) -> Tensor:
        """Return the training loss `(...)` of each row."""

    @abstractmethod
    def log_prob(self, x: Tensor, condition: Tensor) -> Tensor:
        """Return log p(x | condition) `(...)`."""

    @abstractmethod
    def from_noise(self, noise: Tensor, condition: Tensor) -> Tensor:
        """Map standard normal `noise` `(..., D)` to samples `(..., D)`."""

    def sample(self, condition: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Draw a sample `(..., D)` for each condition `(..., C)`."""
        noise = condition.new_empty(*condition.shape[:-1], self.features).normal_(generator=generator)
        return self.from_noise(noise, condition)


@configclass
class ConditionalDensityCfg(Cfg):
    """Base of the configurations of conditional densities."""

    class_type: type = ConditionalDensity


class GaussianDensity(ConditionalDensity):
    """Normal distribution with independent components; its loss is -log p."""

    def __init__(self, cfg: GaussianDensityCfg, condition_features: int, features: int) -> None:
        super().__init__(condition_features, features)
        self.network: Network = cfg.network.build(condition_features, 2 * features)

    def moments(self, condition: Tensor) -> tuple[Tensor, Tensor]:
        """Return mean and logarithm of the standard deviation, `(..., D)` each."""
        mean, log_std = self.network(condition).chunk(2, dim=-1)
        low, high = _LOG_STD_RANGE
        # Soft bounds keep a gradient everywhere (Chua et al. 2018, arXiv 1805.12114, appendix A.1).
        log_std = high - nn.functional.softplus(high - log_std)
        return mean, low + nn.functional.softplus(log_std - low)

    @override
    def loss(self, x: Tensor, condition: Tensor) -> Tensor:
        return -self.log_prob(x, condition)

    @override
    def log_prob(self, x: Tensor, condition: Tensor) -> Tensor:
        mean, log_std = self.moments(condition)
        return (_standard_log_prob((x - mean) * (-log_std).exp()) - log_std).sum(-1)

    @override
    def from_noise(self, noise: Tensor, condition: Tensor) -> Tensor:
        mean, log_std = self.moments(condition)
        return mean + log_std.exp() * noise


@configclass
class GaussianDensityCfg(ConditionalDensityCfg):
    """Configuration of a `GaussianDensity`."""

    class_type: type = GaussianDensity
    network: MLPCfg = MLPCfg(hidden_features=[64])
    """Network from the condition to mean and standard deviation."""


class FlowDensity(ConditionalDensity):
    """Flow from noise (t = 0) to the residual of a Gaussian (t = 1); see the module."""

    def __init__(self, cfg: FlowDensityCfg, condition_features: int, features: int) -> None:
        super().__init__(condition_features, features)
        self.cfg = cfg
        self.gaussian: GaussianDensity = cfg.gaussian.build(condition_features, features)
        self.network: Network = cfg.network.build(features + cfg.time_features + condition_features, features)

    def velocity(self, u: Tensor, time: Tensor, condition: Tensor) -> Tensor:
        """Return v(u, t, c) `(..., D)` at times `(...)`."""
        embedding = time_embedding(time, self.cfg.time_features, min_period=0.25).to(u.dtype)
        return self.network(torch.cat([u, embedding, condition], dim=-1))

    @override
    def loss(self, x: Tensor, condition: Tensor) -> Tensor:
        mean, log_std = self.gaussian.moments(condition)
        nll = -(_standard_log_prob((x - mean) * (-log_std).exp()) - log_std).sum(-1)
        # The Gaussian learns from its likelihood alone: through `u` the flow could only pull it to what is easy to fit.
        u = ((x - mean) * (-log_std).exp()).detach()
        noise, time = torch.randn_like(u), torch.rand_like(u[..., 0])
        u_t = noise + time.unsqueeze(-1) * (u - noise)
        return nll + (self.velocity(u_t, time, condition) - (u - noise)).square().sum(-1)

    @override
    def from_noise(self, noise: Tensor, condition: Tensor) -> Tensor:
        mean, log_std = self.gaussian.moments(condition)
        return mean + log_std.exp() * heun(self._field(condition), noise, self.cfg.num_steps)

    @override
    def log_prob(self, x: Tensor, condition: Tensor) -> Tensor:
        """Return log p(x | condition): the path is integrated backwards with the exact divergence of v.

        It takes D gradients of v per step, and returns no gradient itself.
        """
        mean, log_std = (moment.detach() for moment in self.gaussian.moments(condition))
        u = ((x - mean) * (-log_std).exp()).detach()
        field = self._field(condition.detach())

        def backwards(state: Tensor, time: float) -> Tensor:
            v, divergence = _with_divergence(lambda u: field(u, 1.0 - time), state[..., :-1])
            return -torch.cat([v, divergence.unsqueeze(-1)], dim=-1)

        # d log p / dt = -div v along the path (Chen et al. 2018, arXiv 1806.07366).
        state = heun(backwards, torch.cat([u, torch.zeros_like(u[..., :1])], dim=-1), self.cfg.num_steps)
        return (_standard_log_prob(state[..., :-1]) - log_std).sum(-1) + state[..., -1]

    def _field(self, condition: Tensor) -> Callable[[Tensor, float], Tensor]:
        return lambda u, time: self.velocity(u, torch.full_like(u[..., 0], time), condition)


@configclass
class FlowDensityCfg(ConditionalDensityCfg):
    """Configuration of a `FlowDensity`."""

    class_type: type = FlowDensity
    gaussian: GaussianDensityCfg = GaussianDensityCfg()
    """Gaussian whose residual flows."""
    network: MLPCfg = MLPCfg(hidden_features=[128, 128, 128], activations="SiLU", init="orthogonal")
    """Network from residual, time and condition to the velocity; it takes depth to tear a Gaussian into modes."""
    time_features: Annotated[int, Range(ge=2, le=4096)] = 8
    """Width of the embedding of the time."""
    num_steps: Annotated[int, Range(ge=1, le=1000)] = 8
    """Steps of the integration (Heun, two velocities each)."""

    def check(self) -> Iterable[str]:
        """Check that sines and cosines pair up."""
        if self.time_features % 2:
            yield f"time_features: {self.time_features} is odd; sines and cosines come in pairs"


def heun(field: Callable[[Tensor, float], Tensor], x: Tensor, num_steps: int) -> Tensor:
    """Integrate dx = field(x, t) dt from t = 0 to 1 by Heun's method, of second order."""
    step = 1.0 / num_steps
    for i in range(num_steps):
        slope = field(x, i * step)
        x = x + 0.5 * step * (slope + field(x + step * slope, (i + 1) * step))
    return x


def _standard_log_prob(u: Tensor) -> Tensor:
    return -0.5 * u.square() - _HALF_LOG_2PI


@torch.enable_grad()
def _with_divergence(field: Callable[[Tensor], Tensor], x: Tensor) -> tuple[Tensor, Tensor]:
    """Return the field `(..., D)` at `x` and its divergence `(...)`, both without gradient."""
    x = x.detach().requires_grad_(True)
    v = field(x)
    rows = [torch.autograd.grad(v[..., i].sum(), x, retain_graph=True)[0][..., i] for i in range(x.shape[-1])]
    return v.detach(), torch.stack(rows).sum(0)
