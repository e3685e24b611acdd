"""What a learner may know about an environment: shapes, action space, horizon and which extras exist.

An `EnvSpec` is made once by the adapter, printed at start, stored in every checkpoint and compared on load. Algorithms
are built from it and never see the environment itself.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

import torch


@dataclass(frozen=True)
class ActionSpec:
    """The action space of one environment.

    `continuous`: float32 actions of shape `(num_envs, dim)`; `low`/`high` are per-dimension bounds, `None` if
    unbounded. `discrete`: int64 actions of shape `(num_envs,)` in `[0, dim)`.
    """

    kind: Literal["continuous", "discrete"]
    dim: int
    low: tuple[float, ...] | None = None
    high: tuple[float, ...] | None = None
    chunk: int = 0
    """Actions that one `step` executes in a row; they are then the first axis of the action. 0: no such axis."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one environment's action: `(dim,)` or `()`, after `(chunk,)` where actions come in chunks."""
        single = (self.dim,) if self.kind == "continuous" else ()
        return (self.chunk, *single) if self.chunk else single

    @property
    def dtype(self) -> torch.dtype:
        """float32 for continuous, int64 for discrete actions."""
        return torch.float32 if self.kind == "continuous" else torch.int64


@dataclass(frozen=True)
class EnvSpec:
    """Everything about an environment that learning depends on."""

    task: str
    num_envs: int
    obs_groups: Mapping[str, tuple[int, ...]]
    """Observation group -> shape of one environment's observation, without the batch dimension."""
    action: ActionSpec
    max_episode_length: int
    """Steps after which an episode is truncated; 0 if the environment never truncates."""
    extras: tuple[str, ...] = ()
    """Optional extras that every `step` provides, on top of `terminated`, `time_outs` and `log`."""
    obs_dtypes: Mapping[str, str] = field(default_factory=dict)
    """Groups that are not float32, for example `{"camera": "uint8"}`."""
    reward_terms: tuple[str, ...] = ()
    """Names of the columns of `extras["reward_terms"]`."""
    extra_dims: Mapping[str, int] = field(default_factory=dict)
    """Width of the extras that have columns of their own: `command` and `dynamics`."""
    capabilities: tuple[str, ...] = ()
    """Optional methods of the environment that work: `reset_rows`, `step_rows`."""
    step_dt: float | None = None
    """Simulated seconds of one step, where the simulator defines them."""

    def obs_dim(self, groups: list[str] | tuple[str, ...]) -> int:
        """Flat size of the concatenation of `groups`."""
        return sum(math.prod(self.obs_groups[group]) for group in groups)

    def dtype_of(self, group: str) -> torch.dtype:
        """The dtype of an observation group."""
        return getattr(torch, self.obs_dtypes.get(group, "float32"))

    def to_dict(self) -> dict[str, Any]:
        """Plain data for checkpoints and YAML."""
        data = asdict(self)
        data["obs_groups"] = {name: list(shape) for name, shape in self.obs_groups.items()}
        data["obs_dtypes"] = dict(self.obs_dtypes)
        data["extra_dims"] = dict(self.extra_dims)
        return data

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> EnvSpec:
        """Inverse of `to_dict`."""
        data = dict(data)
        action = dict(data["action"])
        for bound in ("low", "high"):
            action[bound] = None if action[bound] is None else tuple(action[bound])
        data["action"] = ActionSpec(**action)
        data["obs_groups"] = {name: tuple(shape) for name, shape in data["obs_groups"].items()}
        for name in ("extras", "reward_terms", "capabilities"):
            data[name] = tuple(data.get(name, ()))
        return cls(**data)

    def differences(self, other: EnvSpec) -> list[str]:
        """Sentences on what keeps a policy trained for `other` from running here; empty if nothing does.

        The number of environments, the extras and the task name may differ: a policy does not depend on them.
        """
        found = []
        for name in sorted({*self.obs_groups, *other.obs_groups}):
            here, there = self.obs_groups.get(name), other.obs_groups.get(name)
            if here != there:
                found.append(f"observation group '{name}' is {here} here and {there} there")
        if (self.action.kind, self.action.dim) != (other.action.kind, other.action.dim):
            found.append(
                f"actions are {self.action.kind} of size {self.action.dim} here and "
                f"{other.action.kind} of size {other.action.dim} there"
            )
        elif self.action.chunk != other.action.chunk:
            found.append(f"action chunks have {self.action.chunk} actions here and {other.action.chunk} there")
        return found

    def __str__(self) -> str:
        groups = ", ".join(f"{name}{list(shape)}" for name, shape in self.obs_groups.items())
        horizon = f"{self.max_episode_length} steps" if self.max_episode_length else "unlimited"
        return (
            f"{self.task}: {self.num_envs} envs | obs {groups} | {self.action.kind} actions [{self.action.dim}] | "
            f"horizon {horizon} | extras {', '.join(self.extras) or 'none'}"
        )
