"""Where mjlab keeps its state: every tensor that managers, terms, sensors and entities hold between two steps.

Two things need the list. A CUDA graph reads and writes fixed addresses, but mjlab often binds an attribute to a new
tensor (`self.peak = torch.where(...)`); `stabilize` copies such a tensor to the old address and binds the old one
again. And the state of an environment can be saved and restored without naming a single term.
"""

from __future__ import annotations

import dataclasses
import types
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from mjlab.envs import ManagerBasedRlEnv
from mjlab.scene import Scene
from mjlab.sensor.sensor_context import SensorContext
from mjlab.sim import Simulation
from mjlab.sim.sim_data import TorchArray, WarpBridge

_FOREIGN = ("torch", "numpy", "mujoco", "mujoco_warp", "warp", "builtins", "viser", "trimesh", "typing", "enum")
_PLAIN = (bool, int, float, str, type(None))
_DERIVED = ("_cached_data", "_obs_buffer", "_memo")
"""Caches that are rebuilt from other state."""


@dataclass(frozen=True)
class Slot:
    """One place that holds a tensor: an attribute, a dictionary entry or a list entry."""

    path: str
    owner: Any
    key: Any

    def get(self) -> Any:
        """What is there now."""
        return self.owner[self.key] if isinstance(self.owner, (dict, list)) else getattr(self.owner, self.key)

    def set(self, value: Any) -> None:
        """Bind something else."""
        if isinstance(self.owner, (dict, list)):
            self.owner[self.key] = value
        else:
            setattr(self.owner, self.key, value)


def state_roots(env: ManagerBasedRlEnv) -> dict[str, Any]:
    """Name -> object that may hold state: managers, their terms, sensors, entities, terrain."""
    roots: dict[str, Any] = {}
    for name in ("event", "command", "action", "observation", "termination", "reward", "curriculum", "metrics"):
        manager = getattr(env, f"{name}_manager")
        roots[name] = manager
        for term, function in _class_terms(manager):
            roots[f"{name}/{term}"] = function
    for name, entity in env.scene.entities.items():
        roots[f"entity/{name}"] = entity
    for name, sensor in env.scene.sensors.items():
        roots[f"sensor/{name}"] = sensor
    return roots


def _class_terms(manager: Any) -> Iterator[tuple[str, Any]]:
    """Terms that are objects rather than functions: they may remember something."""
    for attribute in ("_term_cfgs", "_mode_term_cfgs", "_group_obs_term_cfgs"):
        configs = getattr(manager, attribute, [])
        grouped = configs.items() if isinstance(configs, dict) else [("", configs)]
        for group, entries in grouped:
            for index, cfg in enumerate(entries):
                if not isinstance(cfg.func, types.FunctionType):
                    yield f"{group}{index}", cfg.func


def tensor_slots(roots: dict[str, Any]) -> list[Slot]:
    """Every slot below `roots` that holds a tensor, in a fixed order."""
    return [slot for slot in _slots(roots) if isinstance(slot.get(), torch.Tensor)]


def plain_slots(roots: dict[str, Any]) -> list[Slot]:
    """Every slot below `roots` that holds a number, a flag, a string or None."""
    return [slot for slot in _slots(roots) if isinstance(slot.get(), _PLAIN)]


def _slots(roots: dict[str, Any]) -> list[Slot]:
    found: list[Slot] = []
    visited = {id(root) for root in roots.values()}
    for path, root in roots.items():
        _walk(root, path, visited, found)
    return found


def _walk(owner: Any, path: str, visited: set[int], found: list[Slot]) -> None:
    if isinstance(owner, dict):
        entries = list(owner.items())
    elif isinstance(owner, list):
        entries = list(enumerate(owner))
    else:
        entries = list(vars(owner).items())
    for key, value in entries:
        if key in _DERIVED:
            continue
        if isinstance(value, torch.Tensor) or type(value) in _PLAIN:
            found.append(Slot(f"{path}.{key}", owner, key))
        elif is_followed(value) and id(value) not in visited:
            visited.add(id(value))
            _walk(value, f"{path}.{key}", visited, found)


def is_followed(value: Any) -> bool:
    """Whether `value` may hold state of a term and isn't a part of the simulator or a configuration."""
    if isinstance(value, (dict, list)):
        return True
    if isinstance(
        value, (ManagerBasedRlEnv, Scene, Simulation, SensorContext, TorchArray, WarpBridge, type, types.ModuleType)
    ):
        return False
    if callable(value) and not hasattr(value, "__dict__"):
        return False
    if isinstance(value, (types.FunctionType, types.MethodType, types.BuiltinFunctionType)):
        return False
    cls = type(value)
    return (
        not cls.__name__.endswith("Cfg") and cls.__module__.split(".")[0] not in _FOREIGN and hasattr(value, "__dict__")
    )


class StableTensors:
    """Keeps every tensor of the state at the address where it was first seen."""

    def __init__(self, roots: dict[str, Any]) -> None:
        self._roots = roots
        self._home: dict[tuple[int, Any], torch.Tensor] = {}
        self._movable: dict[tuple[int, Any], Slot] = {}
        """Slots that are bound anew now and then."""
        self.remember()

    def remember(self) -> None:
        """Take the present addresses as the homes."""
        self._home = {(id(slot.owner), slot.key): slot.get() for slot in tensor_slots(self._roots)}

    def stabilize_if_moved(self) -> None:
        """`stabilize`, if code that doesn't (a plain `reset` or `step` of mjlab) has run in between."""
        if any(slot.get() is not self._home[key] for key, slot in self._movable.items()):
            self.stabilize()

    def stabilize(self) -> None:
        """Copy tensors that were bound anew to their homes.

        Two slots that share a new tensor share a home afterwards, because writing through one has to show in the other.
        """
        moved: dict[int, torch.Tensor] = {}
        for slot in tensor_slots(self._roots):
            key, value = (id(slot.owner), slot.key), slot.get()
            home = self._home.get(key)
            if home is value:
                continue
            self._movable[key] = slot
            if id(value) in moved:
                home = moved[id(value)]
            elif home is None or home.shape != value.shape or home.dtype != value.dtype or home.device != value.device:
                self._home[key] = value
                continue
            else:
                home.copy_(value)
                moved[id(value)] = home
            self._home[key] = home
            slot.set(home)


class StableCaches:
    """Keeps what sensors have cached at one address per field, for code that is captured after code that is not."""

    def __init__(self, sensors: Mapping[str, Any]) -> None:
        self._sensors = sensors
        self._homes: dict[tuple[str, str], torch.Tensor] = {}

    def stabilize(self) -> None:
        """Copy cached tensors to their homes and let the sensors serve those."""
        for name, sensor in self._sensors.items():
            data = sensor._cached_data
            if not sensor._cache_valid or not dataclasses.is_dataclass(data):
                continue
            for field in dataclasses.fields(data):
                value = getattr(data, field.name)
                if isinstance(value, torch.Tensor):
                    setattr(data, field.name, self._at_home((name, field.name), value))

    def _at_home(self, key: tuple[str, str], value: torch.Tensor) -> torch.Tensor:
        if key not in self._homes:
            self._homes[key] = value.clone()
        elif self._homes[key] is not value:
            self._homes[key].copy_(value)
        return self._homes[key]
