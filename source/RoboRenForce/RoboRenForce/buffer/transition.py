"""One step of all environments as learning sees it, and the schema that declares what is kept of it.

    obs --act--> action, record --env.step--> reward, terminated, time_outs, next_obs, reset_obs

The two successors differ only where an episode ended: `next_obs` is its true last observation, whose value a time-out
bootstraps with, `reset_obs` the first of the next episode, from which the next action is chosen.

Acting is a part of its own, a `Collector`: what learning needs of the moment of acting is in the record of the
transition, so a copy of the collector may act in another process.
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
    """What `act` returns; valid until the next call."""

    action: Tensor
    """The action to execute, `(num_envs, *action.shape)`."""
    record: Mapping[str, Tensor] = field(default_factory=dict)
    """Everything else that learning needs of the moment of acting: `(num_envs, ...)` each, `policy_version` 0-dim."""


class Collector(Protocol):
    """Acting apart from learning: networks to read, the state of episodes, sampling or exploration.

    Whoever steps the environment calls `act(obs)`, then `end_step(done)`; in process `process_env_step` does so.
    """

    policy_version: Tensor
    """int64, 0-dim: updates behind the weights that act; part of every record."""

    def act(self, obs: TensorDict) -> ActOut:
        """Choose an action per environment for `obs` `[N]`."""
        ...

    def end_step(self, done: Tensor) -> None:
        """Finish the step of the last action: forget the state of episodes that ended, `done` `(N,)` nonzero."""
        ...

    def restart_episodes(self) -> None:
        """Forget the state of all episodes."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """What acting remembers from step to step, as copies; without the weights."""
        ...

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore `state_dict` in place."""
        ...

    def weights(self) -> dict[str, Any]:
        """What an update changes of acting, with `policy_version`, as copies."""
        ...

    def load_weights(self, weights: Mapping[str, Any]) -> None:
        """Restore `weights` in place."""
        ...


@dataclass
class Transition:
    """Tensors of `N` environments, only valid until the next step: whoever keeps them copies them."""

    obs: TensorDict
    """Observations `[N]` that the action was chosen from."""
    action: Tensor
    """`(N, *action.shape)`."""
    reward: Tensor
    """float `(N,)`."""
    terminated: Tensor
    """bool `(N,)`: the task ended, nothing is bootstrapped."""
    time_outs: Tensor
    """bool `(N,)`: the episode was cut, the value of `next_obs` is bootstrapped."""
    done: Tensor
    """int64 `(N,)`: 1 where the episode ended, for either reason."""
    next_obs: TensorDict | None
    """True successors `[N]` of `obs`; None where the environment does not tell them (`final_observations`)."""
    reset_obs: TensorDict
    """What the environment returned, `[N]`: `next_obs`, or where an episode ended the first of the next one."""
    record: Mapping[str, Tensor] = field(default_factory=dict)
    """What `act` said that learning needs."""
    mask: Tensor | None = None
    """bool `(N,)`: False in rows that waited and did not act (`extras["active"]`); None: all acted."""
    group_id: Tensor | None = None
    """int64 `(N,)`: block or group of each row; None: there are none."""

    @classmethod
    def of_step(cls, obs: TensorDict, action: Tensor, record: Mapping[str, Tensor], step: StepReturn) -> Transition:
        """The transition from `obs` by `action` to what `VecEnv.step` returned."""
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
        )

    def value_of(self, name: str) -> Tensor:
        """The tensor that a schema calls `name`: `obs/<group>`, `next_obs/<group>`, an attribute, or of the record."""
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
    """One column of the data."""

    name: str
    shape: tuple[int, ...]
    """Of one environment's entry."""
    dtype: torch.dtype
    meaning: str

    def zeros(self, *leading: int, device: torch.device) -> Tensor:
        """Storage `(*leading, *shape)`."""
        return torch.zeros(*leading, *self.shape, dtype=default_dtype(self.dtype), device=device)


@dataclass(frozen=True)
class TransitionSchema:
    """The columns that a learner keeps of transitions; every storage of them allocates from it."""

    num_envs: int
    fields: Mapping[str, Field]

    @classmethod
    def of(
        cls, spec: EnvSpec, groups: Iterable[str], *, next_obs: bool, record: Iterable[Field] = ()
    ) -> TransitionSchema:
        """The schema for an environment.

        Args:
            spec: of the environment; `mask` and `group_id` are there if it declares `active` and `group_id`.
            groups: observation groups to keep.
            next_obs: whether to keep true successors.
            record: what `act` records, beside `policy_version`.
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
    """float32 follows torch's default dtype, so that tests can run everything in float64."""
    return torch.get_default_dtype() if dtype == torch.float32 else dtype
