"""Spec of a VLA policy's data: cameras, vectors with their statistics, instructions.

It is plain data in every checkpoint of the policy.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from ..envs.spec import EnvSpec
from ..utils.errors import CheckpointError

STATISTICS = ("min", "max", "mean", "std", "q01", "q99")
"""Statistics that normalizers read. Quantiles may be absent."""
_MOST = 65_536


@dataclass(frozen=True)
class VectorSpec:
    """One vector of the data: proprioception or action."""

    dim: int
    """0: there is none."""
    names: tuple[str, ...] = ()
    """Of the dimensions; empty if the data gives none."""
    statistics: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    """`STATISTICS` over the data, `dim` numbers each."""
    relative: tuple[int, ...] = ()
    """Dimensions whose statistics are those of differences to the state, in rising order."""

    def name_of(self, dimension: int) -> str:
        """A dimension as messages call it."""
        return f"{dimension} ('{self.names[dimension]}')" if self.names else str(dimension)


@dataclass(frozen=True)
class VLASpec:
    """Everything about the data that a policy depends on."""

    cameras: tuple[str, ...]
    """In the order in which the policy reads them, without `observation.images.`."""
    state: VectorSpec
    action: VectorSpec
    instructions: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Plain data for checkpoints."""
        data = asdict(self)
        for name in ("state", "action"):
            vector = data[name]
            vector["names"], vector["relative"] = list(vector["names"]), list(vector["relative"])
            vector["statistics"] = {key: list(values) for key, values in vector["statistics"].items()}
        return data | {"cameras": list(self.cameras), "instructions": list(self.instructions)}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> VLASpec:
        """Inverse of `to_dict`.

        Raises:
            CheckpointError: it is something else.
        """
        try:
            return cls(
                cameras=_texts(data["cameras"]),
                state=_vector(data["state"]),
                action=_vector(data["action"]),
                instructions=_texts(data["instructions"]),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise CheckpointError(
                f"This describes no VLA policy ({error}); it has to be what VLASpec.to_dict() returned."
            ) from None

    def differences(self, data: VLASpec) -> list[str]:
        """Lines of a table of both, with what keeps this policy from reading `data`; empty if nothing does."""
        rows: list[tuple[str, Any, Any]] = []
        if not set(self.cameras) <= set(data.cameras):
            rows.append(("cameras", self.cameras, data.cameras))
        for name in ("state", "action"):
            mine, other = getattr(self, name), getattr(data, name)
            if mine.dim != other.dim:
                rows.append((f"{name} dimensions", _shown(mine), _shown(other)))
        return _table(rows, "data")

    def env_differences(self, env: EnvSpec, groups: Mapping[str, str]) -> list[str]:
        """The same for an environment, whose image groups are `groups[camera]` or have the camera's name."""
        rows: list[tuple[str, Any, Any]] = []
        images = [name for name, shape in env.obs_groups.items() if len(shape) == 3]
        if not {groups.get(camera, camera) for camera in self.cameras} <= set(images):
            rows.append(("cameras", self.cameras, tuple(images)))
        proprio = math.prod(env.obs_groups.get("proprio", (0,)))
        if self.state.dim and proprio != self.state.dim:
            rows.append(("proprio dimensions", _shown(self.state), proprio))
        if env.action.kind != "continuous" or env.action.dim != self.action.dim:
            rows.append(("action dimensions", _shown(self.action), f"{env.action.dim}, {env.action.kind}"))
        if "instruction_id" not in env.obs_groups:
            rows.append(("instruction", "instruction_id", "none"))
        return _table(rows, "environment")


def _table(rows: Iterable[tuple[str, Any, Any]], other: str) -> list[str]:
    shown = [(what, _listed(mine), _listed(theirs)) for what, mine, theirs in rows]
    if not shown:
        return []
    lines = [("", "policy", other), *shown]
    widths = [max(len(line[column]) for line in lines) for column in range(3)]
    return ["  " + "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) for line in lines]


def _listed(value: Any) -> str:
    return (", ".join(value) or "none") if isinstance(value, tuple) else str(value)


def _shown(vector: VectorSpec) -> str:
    return f"{vector.dim} ({', '.join(vector.names)})" if vector.names else str(vector.dim)


def _texts(values: Sequence[Any]) -> tuple[str, ...]:
    if isinstance(values, str) or not all(isinstance(value, str) for value in values):
        raise TypeError("expected a list of texts")
    return tuple(values)


def _vector(data: Mapping[str, Any]) -> VectorSpec:
    dim, names = data["dim"], _texts(data["names"])
    if not isinstance(dim, int) or not 0 <= dim <= _MOST or len(names) not in (0, dim):
        raise ValueError(f"{str(dim)[:20]} dimensions with {len(names)} names")
    statistics = {key: tuple(map(float, values)) for key, values in data["statistics"].items()}
    for key, values in statistics.items():
        if key not in STATISTICS or len(values) != dim or not all(map(math.isfinite, values)):
            raise ValueError(f"statistics '{str(key)[:20]}' of {len(values)} dimensions")
    relative = tuple(data["relative"])
    if not all(isinstance(number, int) and 0 <= number < dim for number in relative):
        raise ValueError("relative names dimensions that do not exist")
    return VectorSpec(dim, names, statistics, relative)
