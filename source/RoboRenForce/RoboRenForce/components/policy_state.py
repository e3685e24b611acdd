"""Recurrent state and previous action of a policy while it collects experience.

At step t the policy reads o_t and a_{t-1} with the state left by step t - 1, and chooses a_t. `end_step(a_t, done)`
makes a_t the previous action of step t + 1, or zeros if the episode is over.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import torch
from torch import Tensor

from ..envs.obs_groups import PREVIOUS_ACTION
from ..utils.stateful import Stateful
from .distributions import Distribution
from .observation import Observations


class ActingPolicy(Stateful, Protocol):
    """Policy that chooses actions: an `Actor`, or a planner, whose state is the plan that it continues."""

    @property
    def action_shape(self) -> tuple[int, ...]:
        """Shape of one environment's action."""
        ...

    def initial_state(self, num_envs: int) -> Tensor | None:
        """Return the zero state `(L, num_envs, S)`; None if there is none."""
        ...

    def __call__(
        self, obs: Observations, state: Tensor | None, starts: Tensor | None
    ) -> tuple[Distribution, Tensor | None]:
        """Return the distribution to draw actions from and the next state; the state is reset where `starts`."""
        ...


class PolicyState:
    """Recurrent state and previous action of `num_envs` environments, written in place for captured steps.

    Args:
        policy: Policy whose state is kept; feed-forward actors have none.
        num_envs: Number of environments.
        device: Device of the state.
        previous_action: True if the previous action is an observation.
    """

    def __init__(self, policy: ActingPolicy, num_envs: int, device: torch.device, *, previous_action: bool) -> None:
        state = policy.initial_state(num_envs)
        self.state = None if state is None else state.to(device)
        self.start = torch.ones(num_envs, dtype=torch.bool, device=device)
        """bool `(N,)`, True if the next observation is the first of an episode."""
        self.previous_action = torch.zeros(num_envs, *policy.action_shape, device=device) if previous_action else None

    def distribution(self, policy: ActingPolicy, obs: Observations) -> Distribution:
        """Return the policy's action distribution for `obs` `[N]` and advance the recurrent state."""
        seen = obs if self.previous_action is None else {**dict(obs.items()), PREVIOUS_ACTION: self.previous_action}
        distribution, state = policy(seen, self.state, self.start)
        if self.state is not None and state is not None:
            self.state.copy_(state)
        return distribution

    def end_step(self, action: Tensor, done: Tensor) -> None:
        """Store the executed `action` `(N, A)`; start a new episode where `done`, bool `(N,)`."""
        self.start.copy_(done)
        if self.previous_action is not None:
            self.previous_action.copy_(action.masked_fill(done.unsqueeze(-1), 0.0))

    def restart_episodes(self) -> None:
        """Start new episodes in all environments."""
        self.start.fill_(True)
        if self.previous_action is not None:
            self.previous_action.zero_()

    def zero_state(self) -> None:
        """Zero the recurrent state after skipped observations."""
        if self.state is not None:
            self.state.zero_()

    def state_dict(self) -> dict[str, Tensor]:
        """Return copies of all state."""
        return {name: value.clone() for name, value in self._kept().items()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore `state_dict` in place; with another number of environments, all of them are reset."""
        kept = self._kept()
        if kept.keys() != state.keys():
            raise ValueError(f"the checkpoint remembers {sorted(state)} between steps, and here it is {sorted(kept)}")
        if state["start"].shape != self.start.shape:
            self.restart_episodes()
            return
        for name, value in kept.items():
            value.copy_(state[name])

    def _kept(self) -> dict[str, Tensor]:
        values = {"start": self.start, "state": self.state, "previous_action": self.previous_action}
        return {name: value for name, value in values.items() if value is not None}
