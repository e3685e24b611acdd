"""The policy that is played, evaluated and exported: an actor without its learner."""

from __future__ import annotations

import torch
from tensordict import TensorDict
from torch import Tensor, nn

from .algorithm import Policy


class ActorPolicy(Policy):
    """Mode (or sample) of an actor's distribution; keeps the state of recurrent actors between calls."""

    def __init__(self, actor: nn.Module, *, deterministic: bool = True) -> None:
        super().__init__()
        self.actor = actor
        self.deterministic = deterministic
        self._state: Tensor | None = None
        self._start: Tensor | None = None

    @torch.no_grad()
    def forward(self, obs: TensorDict) -> Tensor:
        """Actions `(N, *action.shape)` for observations `[N]`."""
        if self.actor.is_recurrent and self._needs_new_state(obs.batch_size[0]):
            self.reset()
            self._state = self.actor.initial_state(obs.batch_size[0])
            self._start = torch.ones(obs.batch_size[0], dtype=torch.bool, device=self._state.device)
        distribution, self._state = self.actor(obs, self._state, self._start)
        if self._start is not None:
            self._start = torch.zeros_like(self._start)
        return distribution.mode if self.deterministic else distribution.sample()

    def reset(self, dones: Tensor | None = None) -> None:
        """Begin new episodes where `dones` `(N,)` is set; everywhere if it is None."""
        if dones is None:
            self._state = self._start = None
        elif self._start is not None:
            self._start = self._start | (dones != 0)

    def _needs_new_state(self, num_envs: int) -> bool:
        return self._start is None or self._start.shape[0] != num_envs
