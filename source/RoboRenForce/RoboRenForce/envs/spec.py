"""Description of an environment for learners: shapes, action space, horizon and available extras.

An `EnvSpec` is made once by the adapter, printed at start, stored in every checkpoint and compared on load. Algorithms
are built from it and never see the environment itself.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

import torch

from ..utils.errors import ConfigError

MOST_ENVS = 1_000_000
MOST_NUMBERS = 1_000_000_000
"""Maximum size of the observations, and of the actions, of one environment."""

_DTYPES = {
    str(dtype).removeprefix("torch."): dtype
    for dtype in (
        *(torch.float32, torch.float64, torch.float16, torch.bfloat16, torch.bool),
        *(torch.uint8, torch.uint16, torch.uint32, torch.uint64),
        *(torch.int8, torch.int16, torch.int32, torch.int64),
    )
}


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
    """Number of actions that one `step` executes, as the first axis of the action. 0: no such axis."""

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
    """Properties of an environment that learning depends on."""

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
    """Width of the extras that have columns of their own: `command`, `dynamics` and `chunk_rewards`."""
    capabilities: tuple[str, ...] = ()
    """Optional methods that the environment supports: `reset_rows`, `step_rows`."""
    step_dt: float | None = None
    """Simulated seconds of one step, if the simulator defines them."""
    num_blocks: int = 1
    """Number of equal blocks of rows (`GroupVec`); the last is the leader, the policy that is deployed."""

    @property
    def leader_rows(self) -> slice:
        """Rows of the leader; all of them where there are no blocks."""
        return slice(self.num_envs - self.num_envs // self.num_blocks, self.num_envs)

    def obs_dim(self, groups: list[str] | tuple[str, ...]) -> int:
        """Return the flat size of the concatenation of `groups`."""
        return sum(math.prod(self.obs_groups[group]) for group in groups)

    def dtype_of(self, group: str) -> torch.dtype:
        """Return the dtype of an observation group.

        Raises:
            ConfigError: The spec names a dtype that observations can't have.
        """
        name = self.obs_dtypes.get(group, "float32")
        if name not in _DTYPES:
            raise _refusal(f"obs_dtypes.{group}", name, f"one of {', '.join(_DTYPES)}")
        return _DTYPES[name]

    def to_dict(self) -> dict[str, Any]:
        """Return plain data for checkpoints and YAML."""
        data = asdict(self)
        data["obs_groups"] = {name: list(shape) for name, shape in self.obs_groups.items()}
        data["obs_dtypes"] = dict(self.obs_dtypes)
        data["extra_dims"] = dict(self.extra_dims)
        return data

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> EnvSpec:
        """Build a spec from the output of `to_dict`.

        Raises:
            ConfigError: A value is of the wrong kind, or too large for any environment: the data may be untrusted.
            KeyError: A key is missing.
            TypeError: A key is unknown.
        """
        _require_valid(data)
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
        """Return sentences that explain why a policy trained for `other` can't run here; empty if it can.

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


# --- data of a stranger -----------------------------------------------------------------------------------------------


def _refusal(place: str, got: Any, expected: str) -> ConfigError:
    try:
        shown = repr(got) if isinstance(got, int | float | str | None) else f"a {type(got).__name__}"
    except ValueError:  # Python writes out no number of thousands of digits
        shown = "a number of thousands of digits"
    return ConfigError(f"spec.{place} is {shown[:60]}, expected {expected}; describe the environment by EnvSpec.")


def _require(fits: bool, place: str, got: Any, expected: str) -> None:
    if not fits:
        raise _refusal(place, got, expected)


def _is_int(value: Any, least: int, most: int = MOST_NUMBERS) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and least <= value <= most


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and value == value


def _is_name(value: Any) -> bool:
    return isinstance(value, str) and value.isprintable()


def _require_valid(data: Mapping[str, Any]) -> None:
    """Refuse data that is no spec, or too large to allocate anything for."""
    counting = f"a whole number from 1 to {MOST_NUMBERS:,}"
    _require(_is_name(data["task"]), "task", data["task"], "a printable name")
    _require(_is_int(data["num_envs"], 1, MOST_ENVS), "num_envs", data["num_envs"], f"1 to {MOST_ENVS:,}")
    _require(_is_int(data["max_episode_length"], 0, 2**62), "max_episode_length", data["max_episode_length"], "a count")
    step_dt = data.get("step_dt")
    seconds = step_dt is None or (_is_number(step_dt) and 0 < step_dt < math.inf)
    _require(seconds, "step_dt", step_dt, "seconds above 0, or None")
    blocks = data.get("num_blocks", 1)
    fits = _is_int(blocks, 1, MOST_ENVS) and data["num_envs"] % blocks == 0
    _require(fits, "num_blocks", blocks, f"a divisor of the {data['num_envs']} environments")
    for name in ("extras", "reward_terms", "capabilities"):
        names = data.get(name, ())
        _require(isinstance(names, list | tuple), name, names, "a list of names")
        for item in names:
            _require(_is_name(item), f"{name}[...]", item, "a printable name")
    for name in ("obs_groups", "obs_dtypes", "extra_dims"):
        entries = data[name] if name == "obs_groups" else data.get(name, {})
        _require(isinstance(entries, Mapping), name, entries, "a mapping of names")
        for key in entries:
            _require(_is_name(key), f"{name}: a key", key, "a printable name")
    for group, dtype in data.get("obs_dtypes", {}).items():
        _require(isinstance(dtype, str) and dtype in _DTYPES, f"obs_dtypes.{group}", dtype, f"one of {list(_DTYPES)}")
    numbers = 0
    for group, shape in data["obs_groups"].items():
        _require(isinstance(shape, list | tuple), f"obs_groups.{group}", shape, "a list of sizes")
        size = 1
        for length in shape:
            _require(_is_int(length, 1), f"a size in obs_groups.{group}", length, counting)
            size *= length
            _require(size <= MOST_NUMBERS, f"the size of obs_groups.{group}", size, f"at most {MOST_NUMBERS:,}")
        numbers += size
    _require(numbers <= MOST_NUMBERS, "obs_groups together", numbers, f"at most {MOST_NUMBERS:,} numbers")
    for extra, width in data.get("extra_dims", {}).items():
        _require(_is_int(width, 0), f"extra_dims.{extra}", width, counting)
    _require_valid_action(data["action"])


def _require_valid_action(action: Any) -> None:
    _require(isinstance(action, Mapping), "action", action, "a mapping")
    kind, dim, chunk = action["kind"], action["dim"], action.get("chunk", 0)
    _require(kind in ("continuous", "discrete"), "action.kind", kind, "continuous or discrete")
    _require(_is_int(dim, 1), "action.dim", dim, f"a whole number from 1 to {MOST_NUMBERS:,}")
    _require(_is_int(chunk, 0), "action.chunk", chunk, f"a whole number from 0 to {MOST_NUMBERS:,}")
    _require(dim * max(chunk, 1) <= MOST_NUMBERS, "action.chunk", chunk, f"chunks of at most {MOST_NUMBERS:,} numbers")
    for name in ("low", "high"):
        bounds = action[name]
        if bounds is None:
            continue
        _require(isinstance(bounds, list | tuple), f"action.{name}", bounds, "a list of numbers, or None")
        _require(len(bounds) == dim, f"the length of action.{name}", len(bounds), f"{dim}, the size of an action")
        for bound in bounds:
            _require(_is_number(bound), f"action.{name}[...]", bound, "a number")
