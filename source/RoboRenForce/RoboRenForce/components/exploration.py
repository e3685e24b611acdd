"""Exploration noise added to the policy while data is collected.

An exploration turns the policy's distribution into the action that is executed. Its state per environment is kept in
tensors that are written in place, so that acting can be captured in a CUDA graph, and is part of the checkpoint.
Actions are in [-1, 1].

- `Sample`: draw from the distribution (SAC).
- `GaussianNoise`: the mode plus white noise (TD3, Fujimoto et al. 2018, arXiv 1802.09477).
- `MixedNoise`: the same with a noise level per environment, redrawn with every episode, so that cautious and bold
  environments fill one replay (FastTD3, Seo et al. 2025, arXiv 2505.22642).
- `RepeatedNoise`: the policy's own noise, each draw held for a random number of steps (FlashSAC, arXiv 2604.04539).
  Unlike there, each environment counts its own steps and draws anew when an episode begins.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from typing import Annotated, Any

import torch
from torch import Tensor
from typing_extensions import override

from ..configclass import Cfg, Range, configclass
from ..envs.spec import EnvSpec
from .distributions import Distribution


class Exploration(ABC):
    """Base of explorations, built by `ExplorationCfg.build(spec=..., device=...)`; used once per environment step."""

    def __init__(self, cfg: Any, *, spec: EnvSpec, device: torch.device) -> None:
        self.cfg = cfg
        self.spec = spec
        self.device = device
        self.state: dict[str, Tensor] = {}
        """Tensors kept between steps, with the environments in dimension 0."""

    @abstractmethod
    def explore(self, distribution: Distribution) -> Tensor:
        """Return the action `(N, A)` to execute for the policy's `distribution`, without gradient."""

    def on_done(self, done: Tensor) -> None:  # noqa: B027 - most remember nothing
        """Start new episodes where `done` `(N,)` is nonzero."""

    def state_dict(self) -> dict[str, Tensor]:
        """Return copies of the state."""
        return {name: value.clone() for name, value in self.state.items()}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Restore `state_dict` in place; with another number of environments, all of them are reset."""
        if set(state) != set(self.state):
            raise ValueError(
                f"the exploration has the state {sorted(self.state) or 'nothing'}, and the checkpoint "
                f"{sorted(state) or 'nothing'}"
            )
        if all(state[name].shape == value.shape for name, value in self.state.items()):
            for name, value in self.state.items():
                value.copy_(state[name])


@configclass
class ExplorationCfg(Cfg):
    """Base of every exploration's configuration."""

    class_type: type = Exploration


class Sample(Exploration):
    """Sample from the policy's distribution."""

    @override
    def explore(self, distribution: Distribution) -> Tensor:
        return distribution.sample()


@configclass
class SampleCfg(ExplorationCfg):
    """Configuration of `Sample`."""

    class_type: type = Sample


class GaussianNoise(Exploration):
    """The policy's mode plus white noise, clipped to the box."""

    @override
    @torch.no_grad()
    def explore(self, distribution: Distribution) -> Tensor:
        mode = distribution.mode
        return (mode + self.cfg.std * torch.randn_like(mode)).clamp(-1.0, 1.0)


@configclass
class GaussianNoiseCfg(ExplorationCfg):
    """Configuration of `GaussianNoise`."""

    class_type: type = GaussianNoise
    std: Annotated[float, Range(ge=0)] = 0.1
    """Standard deviation of the noise; 1 is half the width of an action's range."""


class MixedNoise(Exploration):
    """The policy's mode plus white noise whose standard deviation is drawn per environment and episode."""

    def __init__(self, cfg: MixedNoiseCfg, *, spec: EnvSpec, device: torch.device) -> None:
        super().__init__(cfg, spec=spec, device=device)
        self.state["std"] = torch.empty(spec.num_envs, 1, device=device).uniform_(cfg.min_std, cfg.max_std)

    @override
    @torch.no_grad()
    def explore(self, distribution: Distribution) -> Tensor:
        mode = distribution.mode
        return (mode + self.state["std"] * torch.randn_like(mode)).clamp(-1.0, 1.0)

    @override
    @torch.no_grad()
    def on_done(self, done: Tensor) -> None:
        std = self.state["std"]
        drawn = torch.empty_like(std).uniform_(self.cfg.min_std, self.cfg.max_std)
        std.copy_(torch.where(done.view(-1, 1) != 0, drawn, std))


@configclass
class MixedNoiseCfg(ExplorationCfg):
    """Configuration of `MixedNoise`."""

    class_type: type = MixedNoise
    min_std: Annotated[float, Range(ge=0)] = 0.001
    """Smallest standard deviation, of the most cautious environment."""
    max_std: Annotated[float, Range(ge=0)] = 0.4
    """Largest standard deviation, of the boldest environment."""

    def check(self) -> Iterable[str]:
        """Check the order of the bounds."""
        if self.min_std > self.max_std:
            yield f"min_std: {self.min_std} is above max_std={self.max_std}"


class RepeatedNoise(Exploration):
    """Sample from the policy's distribution with noise held for n steps, P(n) proportional to n^-exponent."""

    def __init__(self, cfg: RepeatedNoiseCfg, *, spec: EnvSpec, device: torch.device) -> None:
        super().__init__(cfg, spec=spec, device=device)
        steps = torch.arange(1, cfg.max_steps + 1, dtype=torch.float64)
        weights = steps**-cfg.exponent
        # The last entry is left out: below it every uniform number has to map to at most `max_steps`.
        self._cumulative = (weights.cumsum(0) / weights.sum())[:-1].to(device, torch.get_default_dtype())
        self.state["noise"] = torch.zeros(spec.num_envs, spec.action.dim, device=device)
        self.state["steps_left"] = torch.zeros(spec.num_envs, dtype=torch.int64, device=device)

    @override
    @torch.no_grad()
    def explore(self, distribution: Distribution) -> Tensor:
        noise, left = self.state["noise"], self.state["steps_left"]
        over = left <= 0
        noise.copy_(torch.where(over.unsqueeze(-1), torch.randn_like(noise), noise))
        left.copy_(torch.where(over, self.draw_steps(len(left)), left) - 1)
        return distribution.from_noise(noise)

    @override
    @torch.no_grad()
    def on_done(self, done: Tensor) -> None:
        left = self.state["steps_left"]
        left.masked_fill_(done != 0, 0)

    def draw_steps(self, count: int) -> Tensor:
        """Draw `count` numbers of steps to hold the noise for, int64 `(count,)` in 1..max_steps."""
        uniform = torch.rand(count, 1, dtype=self._cumulative.dtype, device=self.device)
        return 1 + (uniform >= self._cumulative).sum(-1)


@configclass
class RepeatedNoiseCfg(ExplorationCfg):
    """Configuration of `RepeatedNoise`; with the defaults the noise is held for 2.13 steps on average."""

    class_type: type = RepeatedNoise
    exponent: Annotated[float, Range(ge=0)] = 2.0
    """Exponent of the truncated zeta distribution; larger values hold the noise for fewer steps."""
    max_steps: Annotated[int, Range(ge=1)] = 16
    """Maximum number of steps with the same noise."""
