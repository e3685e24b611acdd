"""Transitions of all environments, and the schema that declares which of their fields are stored.

    obs --act--> action, record --env.step--> reward, terminated, time_outs, next_obs, reset_obs

The two successors differ only where an episode ended: `next_obs` is its true last observation, whose value a time-out
bootstraps with, `reset_obs` the first of the next episode, from which the next action is chosen.

Acting is separate from learning: a `Collector` acts, and the record of a transition holds everything that learning
needs of the moment of acting, so a copy of the collector may act in another process.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from tensordict import TensorDict
from torch import Tensor

from ..envs.spec import EnvSpec
from ..envs.vec_env import StepReturn
from ..utils.errors import UserError


@dataclass
class ActOut:
    """Output of `act`; valid until the next call."""

    action: Tensor
    """The action to execute, `(num_envs, *action.shape)`."""
    record: Mapping[str, Tensor] = field(default_factory=dict)
    """Values that learning needs of the moment of acting: `(num_envs, ...)` each, `policy_version` 0-dim."""


class Collector(Protocol):
    """Acting part of an algorithm: its networks, episode states, and sampling or exploration.

    The caller steps the environment between `act(obs)` and `end_step(done)`, which `process_env_step` calls in process.
    """

    policy_version: Tensor
    """int64, 0-dim: number of updates of the weights that act; part of every record."""

    def act(self, obs: TensorDict) -> ActOut:
        """Choose an action for each environment from `obs` `[N]`."""
        ...

    def end_step(self, done: Tensor) -> None:
        """Finish the step of the last action: reset the state of episodes that ended, `done` `(N,)` nonzero."""
        ...

    def restart_episodes(self) -> None:
        """Reset the state of all episodes."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """Return copies of the state kept between steps, without the weights."""
        ...

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore `state_dict` in place."""
        ...

    def weights(self) -> dict[str, Any]:
        """Return copies of the weights that an update changes, with `policy_version`."""
        ...

    def load_weights(self, weights: Mapping[str, Any]) -> None:
        """Load the weights in place."""
        ...


@dataclass
class Transition:
    """One step of `N` environments; the tensors are valid only until the next step, so copy them to keep them."""

    obs: TensorDict
    """Observations `[N]` that the action was chosen from."""
    action: Tensor
    """`(N, *action.shape)`."""
    reward: Tensor
    """float `(N,)`."""
    terminated: Tensor
    """bool `(N,)`: the episode terminated, nothing is bootstrapped."""
    time_outs: Tensor
    """bool `(N,)`: the episode was truncated, the value of `next_obs` is bootstrapped."""
    done: Tensor
    """int64 `(N,)`: 1 where the episode ended, for either reason."""
    next_obs: TensorDict | None
    """True successors `[N]` of `obs`; None if the environment does not provide them (`final_observations`)."""
    reset_obs: TensorDict
    """Observations returned by the environment, `[N]`: `next_obs`, or the first of the next episode."""
    record: Mapping[str, Tensor] = field(default_factory=dict)
    """Record of `act`, see `ActOut.record`."""
    mask: Tensor | None = None
    """bool `(N,)`: False in rows that waited and did not act (`extras["active"]`); None: all acted."""
    group_id: Tensor | None = None
    """int64 `(N,)`: block or group of each row; None: there are none."""
    success: Tensor | None = None
    """bool `(N,)`: the episode ended in success; None: the environment does not define it."""
    executed_steps: Tensor | None = None
    """int64 `(N,)`: actions of the chunk that were executed; None: actions come one by one."""
    chunk_rewards: Tensor | None = None
    """float `(N, chunk)`: reward of each action, 0 where it was not executed; None: actions come one by one."""

    @classmethod
    def of_step(cls, obs: TensorDict, action: Tensor, record: Mapping[str, Tensor], step: StepReturn) -> Transition:
        """Build the transition from `obs` by `action` to the outcome of `VecEnv.step`."""
        reset_obs, reward, done, extras = step
        return cls(
            obs=obs,
            action=action,
            reward=reward,
            terminated=extras["terminated"],
            time_outs=extras["time_outs"],
            done=done,
            next_obs=extras.get("final_observations"),
            reset_obs=reset_obs,
            record=record,
            mask=extras.get("active"),
            group_id=extras.get("group_id"),
            success=extras.get("success"),
            executed_steps=extras.get("executed_steps"),
            chunk_rewards=extras.get("chunk_rewards"),
        )

    def value_of(self, name: str) -> Tensor:
        """Return the field `name` of a schema: `obs/<group>`, `next_obs/<group>`, an attribute, or of the record."""
        part, _, key = name.partition("/")
        if part in ("obs", "next_obs"):
            return getattr(self, part)[key]
        if name in self.record:
            return self.record[name]
        if not hasattr(self, name):
            raise UserError(
                f"A step has no '{name}' in its record ({', '.join(self.record) or 'empty'}), which the learner needs: "
                "let its own collector act, and pass on what `act` recorded."
            )
        return getattr(self, name)


@dataclass(frozen=True)
class Field:
    """One stored field of transitions."""

    name: str
    shape: tuple[int, ...]
    """Shape of one environment's entry."""
    dtype: torch.dtype
    meaning: str

    def zeros(self, *leading: int, device: torch.device) -> Tensor:
        """Allocate storage `(*leading, *shape)`."""
        return torch.zeros(*leading, *self.shape, dtype=default_dtype(self.dtype), device=device)


@dataclass(frozen=True)
class TransitionSchema:
    """Fields of transitions that an algorithm stores; every storage allocates by it."""

    num_envs: int
    fields: Mapping[str, Field]

    @classmethod
    def of(
        cls, spec: EnvSpec, groups: Iterable[str], *, next_obs: bool, record: Iterable[Field] = ()
    ) -> TransitionSchema:
        """Return the schema for an environment.

        Args:
            spec: Spec of the environment; `mask` and `group_id` are included if it declares `active` and `group_id`.
            groups: Observation groups to store.
            next_obs: True to store the true successors.
            record: Fields that `act` records, beside `policy_version`.
        """

        def observations(part: str, meaning: str) -> list[Field]:
            return [
                Field(f"{part}/{name}", tuple(spec.obs_groups[name]), spec.dtype_of(name), meaning) for name in kept
            ]

        kept = [name for name in spec.obs_groups if name in set(groups)]
        fields = [
            *observations("obs", "observation that the action was chosen from"),
            Field("action", spec.action.shape, spec.action.dtype, "action that was executed"),
            Field("reward", (), torch.float32, "reward of the step"),
            Field("terminated", (), torch.bool, "the task ended, nothing is bootstrapped"),
            Field("time_outs", (), torch.bool, "the episode was cut, its value is bootstrapped"),
            *(observations("next_obs", "true successor of the observation") if next_obs else ()),
            Field("policy_version", (), torch.int64, "updates behind the policy that acted"),
            *record,
        ]
        if "active" in spec.extras:
            fields.append(Field("mask", (), torch.bool, "False: the row waited for its group and did not act"))
        if "group_id" in spec.extras:
            fields.append(Field("group_id", (), torch.int64, "block or group of the row"))
        return cls(spec.num_envs, {entry.name: entry for entry in fields})


def default_dtype(dtype: torch.dtype) -> torch.dtype:
    """Replace float32 by torch's default dtype, so that tests can run everything in float64."""
    return torch.get_default_dtype() if dtype == torch.float32 else dtype
