"""Rows in groups that start every episode together, from the same initial state (GRPO).

Group-relative advantages compare episodes that began alike, so a member that is done waits until the whole group is.
One group of three, whose episodes take 2, 4 and 3 steps (digits: step within the episode; `.`: waiting, at the first
state of the next episode):

    step      1  2  3  4 | 5  6
    row 0     1  2  .  . | 1  2
    row 1     1  2  3  4 | 1  2
    row 2     1  2  3  . | 1  2
    round     0  0  0  0 | 1  1     seed of round k of group g = base + k * num_groups + g

A finished row is reset at once to the start of the group's next round, so the observation that `step` returns is
already the first of its next episode, as everywhere in the contract. While it waits, its observation stays the same,
its reward and its flags are 0 and `active` is False.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from tensordict import TensorDict

from ..configclass import ConfigError
from .vec_env import StepReturn, VecEnv


class SameStartGroups:
    """The bookkeeping of groups over the first `num_rows` rows of `env`; used by `GroupVec`.

    Rows are held through the capability `step_rows` where the environment has it. Otherwise waiting rows run on unseen
    and are reset a second time when their group starts.
    """

    def __init__(self, env: VecEnv, num_rows: int, group_size: int, seed: int, check_same_start: bool) -> None:
        if "reset_rows" not in env.spec.capabilities:
            raise ConfigError(
                f"group_size={group_size} needs an environment that can reset single rows to a chosen state, but "
                f"{env.spec.task} doesn't name 'reset_rows' in spec.capabilities: implement it, or drop group_size."
            )
        self._env = env
        self._num_rows = num_rows
        self._size = group_size
        self._num_groups = num_rows // group_size
        self._seed = seed
        self._check = check_same_start
        self._can_hold = "step_rows" in env.spec.capabilities
        device = env.device
        self.group_id = torch.arange(self._num_groups, device=device).repeat_interleave(group_size)  # (num_rows,)
        self._round = torch.zeros(self._num_groups, dtype=torch.int64, device=device)
        self._waiting = torch.zeros(num_rows, dtype=torch.bool, device=device)
        self._first: tuple[TensorDict, dict[str, Any]] | None = None

    @property
    def waiting(self) -> torch.Tensor:
        """Mask `(num_envs,)` over all rows of the environment: True where a member waits for its group."""
        waiting = torch.zeros(self._env.num_envs, dtype=torch.bool, device=self._env.device)
        waiting[: self._num_rows] = self._waiting
        return waiting

    def reset(self, seed: int | None) -> tuple[TensorDict, dict[str, Any]]:
        """Start round 0, or the next round if no seed is given, in every group.

        Call it after the environment's own reset.
        """
        if seed is not None:
            self._seed = seed
            self._round = torch.zeros_like(self._round)
        else:
            self._round = self._round + 1
        self._waiting = torch.zeros_like(self._waiting)
        obs, extras = self._start(torch.arange(self._num_rows, device=self._env.device), self._round)
        self._verify(obs, torch.ones_like(self._round, dtype=torch.bool))
        self._first = obs.clone(), dict(extras)
        return obs, extras

    def step(self, actions: torch.Tensor, active: torch.Tensor | None) -> StepReturn:
        """Step all rows of the environment; `active`, bool `(num_envs,)` or None, holds further rows from outside."""
        runs = ~self.waiting if active is None else active & ~self.waiting
        if self._can_hold:
            obs, rewards, dones, extras = self._env.step_rows(actions, runs)
            extras = dict(extras)
        else:
            obs, rewards, dones, extras = self._hide(self._env.step(actions), runs)
        finished = dones[: self._num_rows].bool()
        if bool(finished.any()):
            obs, present = self._regroup(finished)
            extras.update(present)
        obs = self.shown(obs)
        if not self._can_hold and self._first is not None:
            extras.update(
                {name: choose_rows(self.waiting, first, extras[name]) for name, first in self._first[1].items()}
            )
        if "final_observations" in extras:
            extras["final_observations"] = choose_rows(dones.bool(), extras["final_observations"], obs)
        extras["active"] = runs
        return obs, rewards, dones, extras

    def shown(self, obs: TensorDict) -> TensorDict:
        """`obs`, batch `[num_envs]`, seen from outside: waiting rows show the start of their next episode."""
        return obs if self._can_hold or self._first is None else choose_rows(self.waiting, self._first[0], obs)

    def state_dict(self) -> dict[str, Any]:
        """Rounds, who waits, and the first observations that are shown meanwhile."""
        obs, extras = self._first if self._first is not None else ({}, {})
        return {
            "seed": self._seed,
            "round": self._round.clone(),
            "waiting": self._waiting.clone(),
            "first_obs": {name: tensor.clone() for name, tensor in obs.items()},
            "first_extras": copy.deepcopy(extras),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        device = self._env.device
        self._seed = int(state["seed"])
        self._round = state["round"].to(device).clone()
        self._waiting = state["waiting"].to(device).clone()
        self._first = None
        if state["first_obs"]:
            groups = {name: tensor.to(device).clone() for name, tensor in state["first_obs"].items()}
            obs = TensorDict(groups, batch_size=[self._env.num_envs], device=device)
            self._first = obs, copy.deepcopy(state["first_extras"])

    def _regroup(self, finished: torch.Tensor) -> tuple[TensorDict, dict[str, Any]]:
        """Send `finished` rows, `(num_rows,)`, to the start of their group's next round, and let complete groups go."""
        self._waiting = self._waiting | finished
        complete = self._waiting.view(self._num_groups, self._size).all(dim=1)  # (num_groups,)
        starting = complete.repeat_interleave(self._size)
        resets = finished if self._can_hold else finished | starting
        obs, present = self._start(resets.nonzero().squeeze(1), self._round + 1)
        self._remember(finished, obs, present)
        self._waiting = self._waiting & ~starting
        self._round = self._round + complete
        self._verify(obs, complete)
        return obs, present

    def _start(self, rows: torch.Tensor, rounds: torch.Tensor) -> tuple[TensorDict, dict[str, Any]]:
        groups = self.group_id[rows]
        seeds = self._seed + rounds[groups] * self._num_groups + groups
        return self._env.reset_rows(rows, seeds.tolist())

    def _remember(self, finished: torch.Tensor, obs: TensorDict, present: dict[str, Any]) -> None:
        if self._first is None:
            self._first = obs.clone(), dict(present)
            return
        rows = torch.zeros(self._env.num_envs, dtype=torch.bool, device=self._env.device)
        rows[: self._num_rows] = finished
        extras = {name: choose_rows(rows, value, self._first[1][name]) for name, value in present.items()}
        self._first = choose_rows(rows, obs, self._first[0]), extras

    def _hide(self, step: StepReturn, runs: torch.Tensor) -> StepReturn:
        """What waiting rows did unseen must not be learned from."""
        obs, rewards, dones, extras = step
        hidden = {name: extras[name] & runs for name in ("terminated", "time_outs", "success") if name in extras}
        if "raw_rewards" in extras:
            hidden["raw_rewards"] = torch.where(runs, extras["raw_rewards"], 0.0)
        if "reward_terms" in extras:
            hidden["reward_terms"] = torch.where(runs.unsqueeze(1), extras["reward_terms"], 0.0)
        return obs, torch.where(runs, rewards, 0.0), dones * runs, {**extras, **hidden}

    def _verify(self, obs: TensorDict, groups: torch.Tensor) -> None:
        """Members of the groups that start now must observe the same; `groups` is bool `(num_groups,)`."""
        if not self._check:
            return
        for name, tensor in obs.items():
            members = tensor[: self._num_rows].view(self._num_groups, self._size, -1)
            differs = (members != members[:, :1]).any(dim=2).any(dim=1) & groups
            if bool(differs.any()):
                raise RuntimeError(
                    f"The members of group {int(differs.nonzero()[0])} don't start alike: their observations '{name}' "
                    f"differ after {self._env.spec.task}.reset_rows with one seed. Make the reset depend on the seed "
                    f"alone, or set check_same_start=False if only the observation noise differs."
                )


def choose_rows(rows: torch.Tensor, chosen: Any, other: Any) -> Any:
    """`chosen` where `rows` is True, `other` elsewhere: for TensorDicts, tensors and lists of `num_envs` entries."""
    if isinstance(chosen, list):
        return [first if row else second for row, first, second in zip(rows.tolist(), chosen, other, strict=True)]
    if isinstance(chosen, TensorDict):
        groups = {name: choose_rows(rows, tensor, other[name]) for name, tensor in chosen.items()}
        return TensorDict(groups, batch_size=other.batch_size, device=other.device)
    return torch.where(rows.view(-1, *[1] * (chosen.dim() - 1)), chosen, other)
