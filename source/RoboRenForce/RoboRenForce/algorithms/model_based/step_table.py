"""Recorded steps as a table of flat states, in the order in which each environment took them.

    row              0    1    2  |  3    4    5 | 6  ...       |  the end of an episode
    state            a0   a1   a2    b0   b1   b2
    next state       a1   a2   a3    b1   b2   b3               true successors, never the first of another episode
    begins           1    0    0     1    0    0

A window of T steps from row 1 holds rows 1 and 2; what follows is not valid. The history of row 4 is row 3.
"""

from __future__ import annotations

from functools import cached_property

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from ...buffer.dataset import TransitionDataset
from ...buffer.replay import ReplayBuffer
from ...components.system_dynamics import StateLayout, Steps
from ...envs.spec import EnvSpec
from ...utils.errors import UserError


class StepTable:
    """At most `capacity` steps on one device; `fill_from_...` replaces all of them."""

    def __init__(self, layout: StateLayout, spec: EnvSpec, capacity: int, device: torch.device) -> None:
        self.layout, self.action, self.device = layout, spec.action, device
        self.capacity = capacity
        self._widths = [layout.dim, spec.action.dim, 1, 1, layout.dim]
        self.size = 0
        """Number of steps."""
        self._last = torch.zeros((), dtype=torch.int64, device=device)
        """Last row, on the device for captured draws."""

    @cached_property
    def rows(self) -> Tensor:
        """Steps side by side, `(capacity, W)`, allocated when they are first filled: only playing costs no memory."""
        return torch.zeros(self.capacity, sum(self._widths), device=self.device)

    @cached_property
    def begins(self) -> Tensor:
        """bool `(capacity,)`: True at the first step of an episode."""
        return torch.zeros(self.capacity, dtype=torch.bool, device=self.device)

    @cached_property
    def episode(self) -> Tensor:
        """int64 `(capacity,)`: number of the episode, from 1 on."""
        return torch.zeros(self.capacity, dtype=torch.int64, device=self.device)

    def fill_from_dataset(self, data: TransitionDataset) -> None:
        """Copy recorded data, whose rows are in order."""
        ends = data.terminated | data.truncated
        begins = torch.cat([torch.ones(1, dtype=torch.bool), ends[:-1]])
        self._fill(data.obs, data.action, data.reward, data.terminated, data.next_obs, begins)

    def fill_from_replay(self, replay: ReplayBuffer) -> None:
        """Copy a replay, environment after environment, each from its oldest step; reads the device once."""
        stored, envs = len(replay) // replay.num_envs, replay.num_envs
        # In a full ring the row to write next is the oldest.
        first = replay.num_added // envs % replay.rows if stored == replay.rows else 0
        row = (first + torch.arange(stored, device=replay.device)) % replay.rows
        slot = (row * envs + torch.arange(envs, device=replay.device).unsqueeze(1)).flatten()
        found = replay.records.gather(slot)
        obs, next_obs = (
            {group: found[f"{part}/{group}"] for group in self.layout.groups} for part in ("obs", "next_obs")
        )
        done = found["done"].view(envs, stored) != 0
        begins = torch.cat([torch.ones_like(done[:, :1]), done[:, :-1]], dim=1).flatten()
        self._fill(obs, found["action"], found["reward"], found["terminated"] != 0, next_obs, begins)

    def _fill(
        self,
        obs: dict[str, Tensor],
        action: Tensor,
        reward: Tensor,
        terminated: Tensor,
        next_obs: dict[str, Tensor],
        begins: Tensor,
    ) -> None:
        size = len(reward)
        if not 0 < size <= self.capacity:
            raise UserError(f"A dynamics model got {size:,} steps to learn from, expected 1 to {self.capacity:,}.")
        columns = [
            self.layout.flat(obs),
            self.encoded(action),
            reward.unsqueeze(1),
            terminated.unsqueeze(1),
            self.layout.flat(next_obs),
        ]
        first = 0
        for width, column in zip(self._widths, columns, strict=True):
            self.rows[:size, first : first + width].copy_(column)
            first += width
        self.begins[:size].copy_(begins)
        torch.cumsum(self.begins[:size], 0, out=self.episode[:size])
        self._last.fill_(size - 1)
        self.size = size

    def encoded(self, action: Tensor) -> Tensor:
        """Return actions `(..., A)`, one-hot if they are discrete."""
        return action if self.action.kind == "continuous" else one_hot(action, self.action.dim)

    def gather(self, index: Tensor) -> Steps:
        """Return the steps `index`, int64 of any shape."""
        found = self.rows.index_select(0, index.flatten()).view(*index.shape, -1)
        state, action, reward, terminated, following = found.split(self._widths, dim=-1)
        return Steps(state, action, reward.squeeze(-1), terminated.squeeze(-1), following)

    def windows(self, start: Tensor, length: int) -> Steps:
        """Return windows `(length, B)` of the steps from `start` `(B,)` on, padded by the last row of the table."""
        index = start + torch.arange(length, device=self.device).unsqueeze(1)
        inside = index <= self._last
        index = torch.minimum(index, self._last)
        steps = self.gather(index)
        same = self.episode[index] == self.episode[start]
        steps.valid = (inside & same).to(steps.reward.dtype)
        return steps

    def histories(self, index: Tensor, length: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return what led to the states of rows `index` `(N,)`, as `SystemDynamics.remember` takes it."""
        before = index - torch.arange(length, 0, -1, device=self.device).unsqueeze(1)
        first = before <= 0
        before = before.clamp(min=0)
        steps = self.gather(before)
        return steps.state, steps.action, self.begins[before] | first, self.begins[index]
