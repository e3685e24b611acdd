"""What an actor carries from one environment step to the next while it collects experience.

At step t the actor reads o_t and a_{t-1} with the state that step t - 1 left, and chooses a_t. `finish_step(a_t, done)`
makes a_t the previous action of step t + 1, or nothing, if the episode is over.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from ..envs.obs_groups import PREVIOUS_ACTION
from .actor import Actor
from .distributions import Distribution
from .observation import Observations


class ActingMemory:
    """Recurrent state and previous action of `num_envs` environments, written in place for captured steps.

    Args:
        actor: whose state is kept; feed-forward actors have none.
        num_envs: rows.
        device: where.
        previous_action: whether the previous action is an observation.
    """

    def __init__(self, actor: Actor, num_envs: int, device: torch.device, *, previous_action: bool) -> None:
        state = actor.initial_state(num_envs)
        self.state = None if state is None else state.to(device)
        self.start = torch.ones(num_envs, dtype=torch.bool, device=device)
        """Whether the next observation is the first of an episode."""
        self.previous_action = torch.zeros(num_envs, *actor.action_shape, device=device) if previous_action else None

    def complete(self, obs: Observations) -> Observations:
        """`obs` with the previous action, if it is wanted."""
        return obs if self.previous_action is None else {**dict(obs.items()), PREVIOUS_ACTION: self.previous_action}

    def distribution(self, actor: Actor, obs: Observations) -> Distribution:
        """What `actor` says to `obs`, not completed; the state advances."""
        distribution, state = actor(self.complete(obs), self.state, self.start)
        if self.state is not None and state is not None:
            self.state.copy_(state)
        return distribution

    def finish_step(self, action: Tensor, done: Tensor) -> None:
        """Remember the executed `action` `(N, A)`; where `done`, bool `(N,)`, everything is forgotten instead."""
        self.start.copy_(done)
        if self.previous_action is not None:
            self.previous_action.copy_(action.masked_fill(done.unsqueeze(-1), 0.0))

    def restart(self) -> None:
        """All environments begin new episodes."""
        self.start.fill_(True)
        if self.previous_action is not None:
            self.previous_action.zero_()

    def forget_state(self) -> None:
        """Empty the recurrent state: the observations since it was written were not seen."""
        if self.state is not None:
            self.state.zero_()

    def state_dict(self) -> dict[str, Tensor]:
        """Copies of everything that is kept."""
        return {name: value.clone() for name, value in self._kept().items()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore `state_dict` in place; with another number of environments all of them start anew."""
        kept = self._kept()
        if kept.keys() != state.keys():
            raise ValueError(f"the checkpoint remembers {sorted(state)} between steps, and here it is {sorted(kept)}")
        if state["start"].shape != self.start.shape:
            self.restart()
            return
        for name, value in kept.items():
            value.copy_(state[name])

    def _kept(self) -> dict[str, Tensor]:
        values = {"start": self.start, "state": self.state, "previous_action": self.previous_action}
        return {name: value for name, value in values.items() if value is not None}
