"""Flow matching of action chunks (pi0, arXiv 2410.24164; flow matching, arXiv 2210.02747).

Flow time runs from noise (t = 0) to data (t = 1): x_t = (1 - t) noise + t actions, and the network learns the velocity
v = actions - noise. In the convention of pi0, whose time is 1 at the noise, v changes its sign and t becomes 1 - t.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import Annotated, Literal

import torch
from torch import Tensor
from typing_extensions import override

from ...configclass import Range, configclass
from ...networks.denoiser import Context
from ...networks.vlm import Prefix
from .continuation import Continuation, guided_velocity
from .denoising import Corrupted, DenoisingHead, DenoisingHeadCfg
from .flow_noise import FlowNoiseCfg, NoiseNetwork
from .flow_sde import FlowSDECfg, sde_step
from .noisy_steps import NoisyChain, NoisySteps, OneNoisyStep, step_times


class FlowHead(DenoisingHead):
    """A network that predicts the velocity from noise to actions; sampling integrates it by Euler steps."""

    cfg: FlowHeadCfg
    untaught = ("noise.",)
    exploration = ("noise.",)
    density_advice = "set policy.head.density=sde (or noise)"

    def __init__(self, cfg: FlowHeadCfg, *, width: int, state_dim: int, action_dim: int) -> None:
        super().__init__(cfg, width=width, state_dim=state_dim, action_dim=action_dim)
        self.has_density = cfg.density != "none"
        if cfg.density == "noise":
            self.noise: NoiseNetwork = cfg.noise.build(
                chunk_size=cfg.chunk_size, action_dim=self.chunk_dim, width=width, state_dim=state_dim
            )

    @override
    def corrupt(self, actions: Tensor, mask: Tensor, generator: torch.Generator | None) -> Corrupted:
        cfg = self.cfg
        noise = torch.empty_like(actions).normal_(generator=generator)
        time = draw_time(len(actions), cfg.time_alpha, cfg.max_time, actions.device, generator)
        per_action = time.unsqueeze(-1)
        if cfg.max_delay:
            delay = torch.randint(cfg.max_delay + 1, (len(actions),), device=actions.device, generator=generator)
            given = self._is_given(delay)
            time = per_action = torch.where(given, 1.0, per_action)
            mask = mask & ~given.unsqueeze(-1)
        return Corrupted(interpolate(noise, actions, per_action.unsqueeze(-1)), time, actions - noise, mask)

    @override
    def act(
        self,
        prefix: Prefix,
        *,
        deterministic: bool = True,
        generator: torch.Generator | None = None,
        continuation: Continuation | None = None,
    ) -> tuple[Tensor, Mapping[str, Tensor]]:
        """As in the base class; with a continuation, the chunk goes on from the running one, by the ODE."""
        if continuation is None:
            return super().act(prefix, deterministic=deterministic, generator=generator)
        with self.network.many_passes():
            return self.sample(prefix, self.draw_noise(prefix, generator), continuation=continuation), {}

    @override
    def _noisy(self, prefix: Prefix) -> NoisySteps:
        cfg, context = self.cfg, self.network.encode(prefix)
        steps, delta = cfg.num_steps, 1.0 / cfg.num_steps
        noise_context = self.noise.encode(prefix) if cfg.density == "noise" else {}

        def velocity(x: Tensor, time: Tensor) -> Tensor:
            return self.network(x, time, context)

        def law(x: Tensor, v: Tensor, time: Tensor) -> tuple[Tensor, Tensor]:
            if cfg.density == "noise":
                return x + delta * v, self.noise(x, time, noise_context)
            return sde_step(x, v, time, delta, cfg.sde.noise_level)

        if cfg.density == "sde" and cfg.sde.noisy_steps == "one":
            return OneNoisyStep(steps, velocity, law)
        times = step_times(steps, prefix.tokens.device)

        def step(x: Tensor, number: int) -> tuple[Tensor, Tensor]:
            time = times[number].expand(len(x))
            return law(x, velocity(x, time), time)

        return NoisyChain(steps, step, cfg.average_steps)

    @override
    def sample(
        self,
        prefix: Prefix,
        noise: Tensor,
        *,
        generator: torch.Generator | None = None,
        continuation: Continuation | None = None,
    ) -> Tensor:
        """As in the base class; the same noise gives the same actions."""
        context, noise = self.network.encode(prefix), self._with_padding(noise)

        def velocity(x: Tensor, t: float) -> Tensor:
            return self.network(x, torch.full((len(x),), t, device=x.device), context)

        if continuation is None:
            return self._robots(euler(velocity, noise, self.cfg.num_steps))
        running = replace(continuation, actions=self._with_padding(continuation.actions))
        if self.cfg.max_delay:
            return self._robots(self._sample_behind(context, noise, running))
        return self._robots(euler(lambda x, t: guided_velocity(velocity, x, t, running), noise, self.cfg.num_steps))

    def _sample_behind(self, context: Context, noise: Tensor, continuation: Continuation) -> Tensor:
        """Sample with the delayed actions given clean, as in training with `max_delay`."""
        given = self._is_given(continuation.delay)
        kept = given.unsqueeze(-1)

        def velocity(x: Tensor, t: float) -> Tensor:
            return torch.where(kept, 0.0, self.network(x, torch.where(given, 1.0, t), context))

        return euler(velocity, torch.where(kept, continuation.actions, noise), self.cfg.num_steps)

    def _is_given(self, delay: Tensor) -> Tensor:
        """Bool `(B, H)`: True for the actions before the delay `(B,)`."""
        return torch.arange(self.cfg.chunk_size, device=delay.device) < delay.unsqueeze(-1)


@configclass
class FlowHeadCfg(DenoisingHeadCfg):
    """Configuration of a `FlowHead`."""

    class_type: type = FlowHead

    num_steps: Annotated[int, Range(ge=1, le=1000)] = 10
    """Euler steps of sampling."""
    time_alpha: Annotated[float, Range(gt=0, le=100)] = 1.5
    """Training draws 1 - t from Beta(time_alpha, 1): above 1, more often near the noise; 1 is uniform."""
    max_time: Annotated[float, Range(gt=0, le=1)] = 0.999
    """Largest time of training; pi0 never trains on data without noise."""
    max_delay: Annotated[int, Range(ge=0, le=1024)] = 0
    """Training-time RTC (arXiv 2512.05964): up to so many first actions of a chunk are given clean, at time 1, and not
    learned, so that a chunk can go on from the running one without guidance. 0 switches it off."""

    density: Literal["none", "sde", "noise"] = "none"
    """Exploration with a log-probability, for reinforcement learning: by `sde` or by learned `noise`. What
    demonstrations teach, and acting without exploration (by the ODE), do not depend on it."""
    sde: FlowSDECfg = FlowSDECfg()
    """Read if `density` is `sde`."""
    noise: FlowNoiseCfg = FlowNoiseCfg()
    """Read if `density` is `noise`."""
    average_steps: bool = False
    """Where every step is noisy: take the mean of their log-probabilities and that of the start noise, as pi_RL does,
    instead of the sum. Ratios are then no longer those of chunks, but leave the clip range less soon."""

    def check(self) -> Iterable[str]:
        """Sentences on delays that can't be learned."""
        if self.max_delay >= self.chunk_size:
            yield f"max_delay: {self.max_delay} leaves nothing of chunk_size={self.chunk_size}; take a smaller one"
        if self.max_delay and not self.network.time_per_action:
            yield f"max_delay: {type(self.network).__name__} has one time for all actions; take network=DiTCfg()"


def interpolate(noise: Tensor, actions: Tensor, time: Tensor) -> Tensor:
    """x_t = (1 - t) noise + t actions."""
    return noise + time * (actions - noise)


def draw_time(
    number: int, alpha: float, max_time: float, device: torch.device, generator: torch.Generator | None = None
) -> Tensor:
    """Draw t = max_time (1 - s), s ~ Beta(alpha, 1), `(number,)`; that of pi0 is 1 - t, with alpha 1.5 and 0.999."""
    s = torch.rand(number, device=device, generator=generator) ** (1 / alpha)  # inverse of the distribution s^alpha
    return max_time * (1 - s)


def euler(velocity: Callable[[Tensor, float], Tensor], x: Tensor, num_steps: int) -> Tensor:
    """Integrate dx = velocity(x, t) dt from t = 0 to 1."""
    for step in range(num_steps):
        x = x + velocity(x, step / num_steps) / num_steps
    return x
