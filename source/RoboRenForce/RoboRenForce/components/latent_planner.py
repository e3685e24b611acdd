"""Planner of TD-MPC: MPPI in the latent space of a `LatentModel`, with trajectories of its policy prior."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from typing_extensions import override

from .deterministic_actor import Deterministic
from .latent_model import TERMINATED, LatentModel, Pair, without_dropout
from .mppi import MPPICfg, mppi, shifted
from .observation import Observations


class PlannedAction(Deterministic):
    """A planned action `(N, A)`, with normal noise of the plan's standard deviation for exploration."""

    def __init__(self, action: Tensor, std: Tensor) -> None:
        super().__init__(action)
        self.std = std

    @override
    def sample(self) -> Tensor:
        return self.from_noise(torch.randn_like(self.action))

    @override
    def from_noise(self, noise: Tensor) -> Tensor:
        return torch.addcmul(self.action, self.std, noise).clamp(-1.0, 1.0)


class LatentPlanner(nn.Module):
    """Plan for every environment at once; the state `(H, N, A)` kept between steps is the plan's mean.

    Acts like an actor (`ActingPolicy`) and is played like one. Which of the elites is executed is drawn, so two calls
    differ also without exploration.

    Args:
        model: Model to plan in; shared with the learner.
        cfg: Sizes of the planner.
        gamma: Discount per step.
        aggregate: Whether a state is worth the `mean` or the `min` of two critics at the end of the horizon.
    """

    is_recurrent = True

    def __init__(self, model: LatentModel, cfg: MPPICfg, gamma: float, aggregate: Pair = "mean") -> None:
        super().__init__()
        self.model, self.cfg, self.gamma = model, cfg, gamma
        self.aggregate: Pair = aggregate
        self.noise = NoiseFloor(cfg)
        self.compiled_value: Callable[[Tensor, Tensor], Tensor] | None = None
        """`value`, compiled; None where it isn't."""

    @property
    def action_shape(self) -> tuple[int, ...]:
        """Shape of one environment's action."""
        return self.model.action_shape

    def initial_state(self, num_envs: int) -> Tensor:
        """Return the plan of nothing, zeros `(H, num_envs, A)`."""
        return self.noise.min_std.new_zeros(self.cfg.horizon, num_envs, *self.action_shape)

    @torch.no_grad()
    def forward(
        self, obs: Observations, state: Tensor | None = None, starts: Tensor | None = None
    ) -> tuple[PlannedAction, Tensor]:
        """Plan from `obs` `[N]`; returns the action to execute, and the plan to continue from.

        Args:
            obs: Observations.
            state: Plan of the last step; None: there is none.
            starts: bool `(N,)`, True where an episode starts, whose last plan counts for nothing.
        """
        cfg, model = self.cfg, self.model
        with without_dropout(model):
            latent = model.encode(obs)
            if state is None:
                state = self.initial_state(latent.shape[0])
            start = _repeated(latent, cfg.num_samples)
            value = self.compiled_value or self.value
            plan = mppi(
                cfg,
                shifted(state, starts),
                lambda actions: value(start, actions),
                proposals=self.propose(latent) if cfg.num_policy_samples else None,
                mask=model.mask(latent),
                min_std=self.noise.min_std,
            )
        return PlannedAction(plan.choose(), plan.std[0]), plan.mean

    def propose(self, latent: Tensor) -> Tensor:
        """Return sequences of the policy prior from latent states `(N, S)`, `(H, N, P, A)`."""
        state, actions = _repeated(latent, self.cfg.num_policy_samples), []
        for step in range(self.cfg.horizon):
            actions.append(self.model.sample_action(state)[0])
            if step < self.cfg.horizon - 1:
                state = self.model.next_state(state, actions[-1])
        return torch.stack(actions)

    def value(self, state: Tensor, actions: Tensor) -> Tensor:
        """Return predicted returns `(N, S)` of sequences `(H, N, S, A)` from `state`: rewards, then the value of pi."""
        model, discount = self.model, 1.0
        total = torch.zeros(actions.shape[1:-1], device=actions.device, dtype=actions.dtype)
        alive = torch.ones_like(total)
        for action in actions:
            reward = model.reward_head.mean(model.reward_output(state, action))
            total = torch.addcmul(total, alive, reward, value=discount)
            state = model.next_state(state, action)
            if model.termination is not None:
                # What comes after a terminal state is worth nothing.
                alive = alive * (model.termination_logit(state).sigmoid() <= TERMINATED)
            discount *= self.gamma
        last = model.value_of_two(state, model.sample_action(state)[0], self.aggregate)
        return torch.addcmul(total, alive, last, value=discount)

    def __getstate__(self) -> dict[str, Any]:
        """Leave out the compiled function: a copy in another process compiles its own, or none."""
        return {**super().__getstate__(), "compiled_value": None}


class NoiseFloor(nn.Module):
    """Lowest standard deviation of plans, which falls linearly with the gradient steps if the settings say so."""

    min_std: Tensor

    def __init__(self, cfg: MPPICfg) -> None:
        super().__init__()
        self.cfg = cfg
        first = cfg.min_std if cfg.first_min_std is None else cfg.first_min_std
        self.register_buffer("min_std", torch.tensor(first))

    @torch.no_grad()
    def update(self, step: Tensor) -> None:
        """Set the standard deviation for gradient step `step`, 0-dim."""
        cfg = self.cfg
        if cfg.first_min_std is not None:
            share = (step / cfg.min_std_steps).clamp(max=1.0)
            self.min_std.copy_(cfg.first_min_std + share * (cfg.min_std - cfg.first_min_std))


def _repeated(latent: Tensor, count: int) -> Tensor:
    """Return `(N, count, S)` of `(N, S)`."""
    return latent.unsqueeze(1).expand(-1, count, -1)
