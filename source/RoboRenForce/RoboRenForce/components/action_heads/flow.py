"""Flow matching of action chunks (pi0, arXiv 2410.24164; flow matching, arXiv 2210.02747).

Flow time runs from noise (t = 0) to data (t = 1): x_t = (1 - t) noise + t actions, and the network learns the velocity
v = actions - noise. In the convention of pi0, whose time is 1 at the noise, v changes its sign and t becomes 1 - t.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Annotated

import torch
from torch import Tensor
from typing_extensions import override

from ...configclass import Range, configclass
from ...networks import DenoiserCfg, MLPDenoiserCfg
from ...networks.vlm import Prefix, Taps
from .action_head import ActionHead, ActionHeadCfg, LossSum, same_kind
from .continuation import Continuation, guided_velocity
from .masking import masked_loss, valid_actions


class FlowHead(ActionHead):
    """A network that predicts the velocity from noise to actions; sampling integrates it by Euler steps."""

    def __init__(self, cfg: FlowHeadCfg, *, width: int, state_dim: int, action_dim: int) -> None:
        super().__init__()
        self.cfg, self.action_dim = cfg, action_dim
        self.network = cfg.network.build(
            chunk_size=cfg.chunk_size, action_dim=action_dim, width=width, state_dim=state_dim
        )

    @override
    def loss(
        self, prefix: Prefix, actions: Tensor, mask: Tensor, *, generator: torch.Generator | None = None
    ) -> LossSum:
        """Mean over the draws of (v - (actions - noise))^2, summed over valid elements."""
        x, time, target, mask = self._draw(actions, mask, generator)
        return self._mean_of_draws((self._velocity(prefix, x, time) - target).square(), mask)

    @override
    def divergence(
        self,
        prefix: Prefix,
        reference: ActionHead,
        reference_prefix: Prefix,
        actions: Tensor,
        mask: Tensor,
        *,
        generator: torch.Generator | None = None,
    ) -> LossSum:
        """(v - v_reference)^2 at the same noisy chunks and times; symmetric, 0 where both sample the same way."""
        reference = same_kind(self, reference)
        x, time, _, mask = self._draw(actions, mask, generator)
        with torch.no_grad():
            target = reference._velocity(reference_prefix, x, time)
        return self._mean_of_draws((self._velocity(prefix, x, time) - target).square(), mask)

    @override
    def act(
        self,
        prefix: Prefix,
        *,
        deterministic: bool = True,
        generator: torch.Generator | None = None,
        continuation: Continuation | None = None,
    ) -> tuple[Tensor, Mapping[str, Tensor]]:
        """As in the base class; with a continuation, the chunk goes on from the running one."""
        size = (len(prefix.tokens), self.cfg.chunk_size, self.action_dim)
        noise = torch.empty(size, device=prefix.tokens.device).normal_(generator=generator)
        return self.sample(prefix, noise, continuation), {}

    def sample(self, prefix: Prefix, noise: Tensor, continuation: Continuation | None = None) -> Tensor:
        """Turn noise `(B, H, A)` into actions; the same noise gives the same actions."""
        context = self.network.encode(prefix)
        if continuation is None:
            return euler(lambda x, t: self.network(x, time_of_rows(t, x), context), noise, self.cfg.num_steps)
        if self.cfg.max_delay:
            return self._sample_behind(context, noise, continuation)

        def velocity(x: Tensor, t: float) -> Tensor:
            return guided_velocity(lambda y: self.network(y, time_of_rows(t, y), context), x, t, continuation)

        return euler(velocity, noise, self.cfg.num_steps)

    def _sample_behind(self, context: dict[str, Tensor], noise: Tensor, continuation: Continuation) -> Tensor:
        """Sample with the delayed actions given clean, as in training with `max_delay`."""
        given = self._is_given(continuation.delay)
        behind = given.unsqueeze(-1)

        def velocity(x: Tensor, t: float) -> Tensor:
            return torch.where(behind, 0.0, self.network(x, torch.where(given, 1.0, t), context))

        return euler(velocity, torch.where(behind, continuation.actions, noise), self.cfg.num_steps)

    def _is_given(self, delay: Tensor) -> Tensor:
        """Bool `(B, H)`: True for the actions before the delay `(B,)`."""
        return torch.arange(self.cfg.chunk_size, device=delay.device) < delay.unsqueeze(-1)

    def _velocity(self, prefix: Prefix, x: Tensor, time: Tensor) -> Tensor:
        """Velocity at `draws_per_feature` noisy chunks per observation, whose features are computed once."""
        context = self.network.encode(prefix)
        draws = self.cfg.draws_per_feature
        if draws > 1:
            context = {name: tensor.repeat_interleave(draws, 0) for name, tensor in context.items()}
        return self.network(x, time, context)

    def _draw(
        self, actions: Tensor, mask: Tensor, generator: torch.Generator | None
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Draw noisy chunks: x `(B * draws, H, A)`, their times, target velocities and valid elements."""
        cfg = self.cfg
        actions = valid_actions(actions, mask).repeat_interleave(cfg.draws_per_feature, 0)
        mask = mask.repeat_interleave(cfg.draws_per_feature, 0)
        noise = torch.empty_like(actions).normal_(generator=generator)
        time = draw_time(len(actions), cfg.time_alpha, cfg.max_time, actions.device, generator)
        per_action = time.unsqueeze(-1)
        if cfg.max_delay:
            delay = torch.randint(cfg.max_delay + 1, (len(actions),), device=actions.device, generator=generator)
            given = self._is_given(delay)
            time = per_action = torch.where(given, 1.0, per_action)
            mask = mask & ~given.unsqueeze(-1)
        return interpolate(noise, actions, per_action.unsqueeze(-1)), time, actions - noise, mask

    def _mean_of_draws(self, error: Tensor, mask: Tensor) -> LossSum:
        loss, draws = masked_loss(error, mask), self.cfg.draws_per_feature
        return LossSum(loss.total / draws, loss.count / draws, loss.metrics)


@configclass
class FlowHeadCfg(ActionHeadCfg):
    """Configuration of a `FlowHead`."""

    class_type: type = FlowHead

    network: DenoiserCfg = MLPDenoiserCfg()
    """Predicts the velocity: `MLPDenoiserCfg` from the mean of all tokens, `DiTCfg` attending to all of them."""
    num_steps: Annotated[int, Range(ge=1, le=1000)] = 10
    """Euler steps of sampling."""
    time_alpha: Annotated[float, Range(gt=0, le=100)] = 1.5
    """Training draws 1 - t from Beta(time_alpha, 1): above 1, more often near the noise; 1 is uniform."""
    max_time: Annotated[float, Range(gt=0, le=1)] = 0.999
    """Largest time of training; pi0 never trains on data without noise."""
    draws_per_feature: Annotated[int, Range(ge=1, le=256)] = 1
    """Noise and time drawn for each observation and step of training: where the backbone is what costs, a larger
    batch for the head at little cost."""
    max_delay: Annotated[int, Range(ge=0, le=1024)] = 0
    """Training-time RTC: up to so many first actions of a chunk are given clean, at time 1, and not learned, so that a
    chunk can go on from the running one without guidance. 0 switches it off."""

    @override
    def taps(self, action_dim: int) -> Taps:
        return self.network.taps()

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


def time_of_rows(time: float, x: Tensor) -> Tensor:
    """Return one and the same time for every row of `x`, `(B,)`."""
    return torch.full((len(x),), time, device=x.device)


def euler(velocity: Callable[[Tensor, float], Tensor], x: Tensor, num_steps: int) -> Tensor:
    """Integrate dx = velocity(x, t) dt from t = 0 to 1."""
    for step in range(num_steps):
        x = x + velocity(x, step / num_steps) / num_steps
    return x
