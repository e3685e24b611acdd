"""Groups of rows that start every episode together, from the same initial state (GRPO).

Group-relative advantages compare episodes with equal starts, so a member that is done waits for its whole group.
One group of three, whose episodes take 2, 4 and 3 steps (digits: step within the episode; `.`: waiting, at the first
state of the next episode):

    step      1  2  3  4 | 5  6
    row 0     1  2  .  . | 1  2
    row 1     1  2  3  4 | 1  2
    row 2     1  2  3  . | 1  2
    round     0  0  0  0 | 1  1     seed of round k of group g = base + k * num_groups + g

A finished row is reset at once to the start of the group's next round, so the observation that `step` returns is
already the first of its next episode, as everywhere in the contract. While it waits it is held (`VecEnv.step_rows`):
its observation stays the same, its reward and its flags are 0 and `active` is False.
"""

from __future__ import annotations

from typing import Any

import torch
from tensordict import TensorDict

from ..configclass import ConfigError
from .vec_env import StepReturn, VecEnv
from .wrapper import choose_rows


class GroupedReset:
    """Reset of the first `num_rows` rows of `env` group by group; used by `GroupVec`."""

    def __init__(self, env: VecEnv, num_rows: int, group_size: int, seed: int, check_same_start: bool) -> None:
        for capability, purpose in (("reset_rows", "start rows at a chosen state"), ("step_rows", "hold rows")):
            if capability not in env.spec.capabilities:
                raise ConfigError(
                    f"group_size={group_size} needs an environment that can {purpose}, but {env.spec.task} doesn't "
                    f"name '{capability}' in spec.capabilities: implement it, or drop group_size."
                )
        self._env = env
        self._num_rows = num_rows
        self._size = group_size
        self._num_groups = num_rows // group_size
        self.seed = seed
        """Seed of the first group in round 0."""
        self._check = check_same_start
        device = env.device
        self.group_id = torch.arange(self._num_groups, device=device).repeat_interleave(group_size)  # (num_rows,)
        self._round = torch.zeros(self._num_groups, dtype=torch.int64, device=device)
        self._waiting = torch.zeros(num_rows, dtype=torch.bool, device=device)

    def reset(self, seed: int | None) -> tuple[TensorDict, dict[str, Any]]:
        """Start round 0, or the next round if no seed is given, in every group.

        Call it after the environment's own reset.
        """
        if seed is not None:
            self.seed = seed
            self._round = torch.zeros_like(self._round)
        else:
            self._round = self._round + 1
        self._waiting = torch.zeros_like(self._waiting)
        obs, extras = self._start(torch.arange(self._num_rows, device=self._env.device), self._round)
        self._require_same_start(obs, torch.ones_like(self._round, dtype=torch.bool), drawn=True)
        return obs, extras

    def step(self, actions: torch.Tensor, active: torch.Tensor, *, draw: bool = True) -> StepReturn:
        """Step the rows where `active`, bool `(num_envs,)`, except those that wait; see `step_rows`."""
        runs = active.clone()
        runs[: self._num_rows] &= ~self._waiting
        obs, rewards, dones, extras = self._env.step_rows(actions, runs, draw=draw)
        extras = {**extras, "active": runs}
        finished = dones[: self._num_rows].bool()
        if bool(finished.any()):
            obs, present = self._regroup(finished, draw)
            extras.update(present)
            if "final_observations" in extras:
                extras["final_observations"] = choose_rows(dones.bool(), extras["final_observations"], obs)
        return obs, rewards, dones, extras

    def state_dict(self) -> dict[str, Any]:
        """Return seed, rounds and waiting rows."""
        return {"seed": self.seed, "round": self._round.clone(), "waiting": self._waiting.clone()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        self.seed = int(state["seed"])
        self._round = state["round"].to(self._env.device).clone()
        self._waiting = state["waiting"].to(self._env.device).clone()

    def _regroup(self, finished: torch.Tensor, drawn: bool) -> tuple[TensorDict, dict[str, Any]]:
        """Move `finished` rows, `(num_rows,)`, to their group's next round, and start complete groups."""
        obs, present = self._start(finished.nonzero().squeeze(1), self._round + 1)
        waiting = self._waiting | finished
        complete = waiting.view(self._num_groups, self._size).all(dim=1)  # (num_groups,)
        self._waiting = waiting & ~complete.repeat_interleave(self._size)
        self._round = self._round + complete
        self._require_same_start(obs, complete, drawn)
        return obs, present

    def _start(self, rows: torch.Tensor, rounds: torch.Tensor) -> tuple[TensorDict, dict[str, Any]]:
        groups = self.group_id[rows]
        seeds = self.seed + rounds[groups] * self._num_groups + groups
        return self._env.reset_rows(rows, seeds.tolist())

    def _require_same_start(self, obs: TensorDict, groups: torch.Tensor, drawn: bool) -> None:
        """Check that members of the starting groups, bool `(num_groups,)`, have equal observations.

        Where images are not `drawn`, those of members that were done earlier are, and others not yet.
        """
        if not self._check:
            return
        for name, tensor in obs.items():
            if tensor.dtype == torch.uint8 and not drawn:
                continue
            members = tensor[: self._num_rows].view(self._num_groups, self._size, -1)
            differs = (members != members[:, :1]).any(dim=2).any(dim=1) & groups
            if bool(differs.any()):
                raise RuntimeError(
                    f"The members of group {int(differs.nonzero()[0])} don't start alike: their observations '{name}' "
                    f"differ after {self._env.spec.task}.reset_rows with one seed. Make the reset depend on the seed "
                    f"alone, or set check_same_start=False if only the observation noise differs."
                )
