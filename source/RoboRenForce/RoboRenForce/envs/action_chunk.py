"""Execution of action chunks, with the exact end of an episode inside a chunk."""

from __future__ import annotations

from typing import Any

import torch
from tensordict import TensorDict

from .vec_env import ActionWatcher, StepReturn, VecEnv
from .wrapper import choose_rows

_ANY_ACTION = ("terminated", "time_outs", "success", "active")
_SUMS = ("raw_rewards", "reward_terms")
_OF_THE_STATE = ("command", "dynamics", "instruction", "group_id")


def step_chunk(
    env: VecEnv,
    actions: torch.Tensor,
    active: torch.Tensor | None,
    *,
    has_images: bool,
    watcher: ActionWatcher | None = None,
) -> StepReturn:
    """Execute `actions`, `(num_envs, H, *single)`, one after the other; a row that is done is held for the rest.

    Images inside the chunk are not rendered, because no policy sees them; those after it are, also where every row is
    done before its end.

    Args:
        env: Environment with the capability `step_rows`, unless H is 1.
        actions: H actions per environment.
        active: Rows to step, bool `(num_envs,)`; None: all.
        has_images: True if `env` has image groups that are read.
        watcher: Called before every action, while the state is the one that the action meets.
    """
    horizon = actions.shape[1]
    chunk = _Chunk(env.num_envs, horizon, env.device)
    if horizon == 1 and active is None:
        if watcher is not None:
            watcher(chunk.runs)
        chunk.add(0, env.step(actions[:, 0].contiguous()))
        return chunk.result()
    if active is not None:
        chunk.runs = active
    for index in range(horizon):
        if watcher is not None and not chunk.is_over:
            watcher(chunk.runs)
        hidden = has_images and index + 1 < horizon and not chunk.is_over
        hide = {"draw": False} if hidden else {}
        chunk.add(index, env.step_rows(actions[:, index].contiguous(), chunk.runs, **hide))
        if chunk.is_over and not hidden:
            break
    return chunk.result()


class _Chunk:
    """Accumulated result of up to `horizon` steps of `num_envs` rows."""

    def __init__(self, num_envs: int, horizon: int, device: torch.device) -> None:
        self.runs = torch.ones(num_envs, dtype=torch.bool, device=device)
        """Rows that continue, bool `(num_envs,)`."""
        self.is_over = False
        """True if no row continues."""
        self._rewards = torch.zeros(num_envs, horizon, device=device)
        self._dones = torch.zeros(num_envs, dtype=torch.int64, device=device)
        self._executed = torch.zeros(num_envs, dtype=torch.int64, device=device)
        self._extras: dict[str, Any] = {}
        self._ended: list[tuple[torch.Tensor, TensorDict]] = []
        self._logs: dict[str, list[torch.Tensor]] = {}

    def add(self, index: int, step: StepReturn) -> None:
        """Add the step of action `index`, executed in the rows where `runs`."""
        self._last, rewards, dones, extras = step
        ended = dones.bool()
        self._rewards[:, index] = rewards
        self._dones |= dones
        self._executed += self.runs & extras["active"] if "active" in extras else self.runs
        self.runs = self.runs & ~ended
        any_ended, any_runs = torch.stack([ended.any(), self.runs.any()]).tolist()
        self.is_over = not any_runs
        for name, value in extras["log"].items():
            self._logs.setdefault(name, []).append(torch.as_tensor(value, dtype=torch.float32).clone())
        self._final = extras.get("final_observations")
        if any_ended and self._final is not None:
            # The environment may reuse its tensors at the next action.
            self._ended.append((ended, self._final.clone()))
        for name in extras.keys() - {"log", "final_observations"}:
            self._extras[name] = self._combined(name, extras[name], ended)

    def _combined(self, name: str, value: Any, ended: torch.Tensor) -> Any:
        """Return the extra `name` combined over one more action."""
        if name in _OF_THE_STATE:
            return value
        if name not in _ANY_ACTION and name not in _SUMS:
            raise RuntimeError(f"MultiModal doesn't know how to combine the extra '{name}' over a chunk.")
        if name == "success":
            value = value & ended
        if name not in self._extras:
            return value.clone()
        return self._extras[name] + value if name in _SUMS else self._extras[name] | value

    def result(self) -> StepReturn:
        """Return last observations, summed rewards, dones and extras."""
        log = {name: torch.stack(values).mean() for name, values in self._logs.items()}
        extras = {**self._extras, "log": log, "executed_steps": self._executed, "chunk_rewards": self._rewards}
        if self._final is not None:
            for ended, final in self._ended:
                self._final = choose_rows(ended, final, self._final)
            extras["final_observations"] = self._final
        return self._last, self._rewards.sum(dim=1), self._dones, extras
