"""The adapter's conversions between policy and simulator as data, for receivers of exported policies."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from .spec import ActionSpec

Units = Literal["policy", "simulator"]


@dataclass(frozen=True)
class ActionInterface:
    """Conversion of a policy's action `a` to the simulator's.

    Continuous, per dimension: `clip(clip(a, clip_low, clip_high) * scale + offset, low, high)`, with infinities where
    there is no bound. Discrete: `a + start`, of `dim` choices.
    """

    kind: Literal["continuous", "discrete"]
    dim: int
    shape: tuple[int, ...]
    """Shape of one action as the simulator takes it."""
    dtype: str
    clip_low: tuple[float, ...] = ()
    clip_high: tuple[float, ...] = ()
    scale: tuple[float, ...] = ()
    offset: tuple[float, ...] = ()
    low: tuple[float, ...] = ()
    high: tuple[float, ...] = ()
    start: int = 0

    @classmethod
    def of(cls, spec: ActionSpec) -> ActionInterface:
        """Return the interface of an environment whose `step` only clips to the bounds."""
        dtype = str(spec.dtype).removeprefix("torch.")
        made = cls(spec.kind, spec.dim, spec.shape, dtype)
        if spec.kind == "discrete":
            return made
        free = made.unscaled()
        return replace(free, low=spec.low or free.low, high=spec.high or free.high)

    def unscaled(self) -> ActionInterface:
        """Return the interface without clipping, scale and bounds of continuous actions."""
        endless, dim = (math.inf,) * self.dim, self.dim
        below = (-math.inf,) * dim
        return replace(
            self,
            clip_low=below,
            clip_high=endless,
            scale=(1.0,) * dim,
            offset=(0.0,) * dim,
            low=below,
            high=endless,
        )

    def to_metadata(self, units: Units) -> dict[str, Any]:
        """Return the conversion left to do for a file that outputs actions in `units`; None is no bound."""
        common = {"kind": self.kind, "units": units, "shape": list(self.shape), "dtype": self.dtype}
        if self.kind == "discrete":
            return {**common, "n": self.dim, "start": self.start, "offset": self.start if units == "policy" else 0}
        left = self if units == "policy" else replace(self.unscaled(), low=self.low, high=self.high)
        names = ("clip_low", "clip_high", "scale", "offset", "low", "high")
        return common | {name: [_or_none(value) for value in getattr(left, name)] for name in names}


@dataclass(frozen=True)
class SimulatorInterface:
    """Description for receivers that have the simulator, but not our adapter."""

    action: ActionInterface
    observations: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """Observation group -> `source` and `parts`, each only if known.

    `source` describes how the group is made of the simulator's observation, `parts` lists names and sizes of its
    entries.
    """
    simulator: Mapping[str, Any] = field(default_factory=dict)
    """Plain data: the simulator, its environment and options, and the number of its steps per action."""


def _or_none(value: float) -> float | None:
    return value if math.isfinite(value) else None
