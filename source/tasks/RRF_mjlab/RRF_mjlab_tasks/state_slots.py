"""Discovery of mjlab's state: every tensor that managers, terms, sensors and entities hold between two steps.

With it the state of an environment can be saved and restored (`env_state`) and kept at fixed addresses (`fast_step`)
without naming a single term.
"""

from __future__ import annotations

import types
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from mjlab.envs import ManagerBasedRlEnv
from mjlab.scene import Scene
from mjlab.sensor.sensor_context import SensorContext
from mjlab.sim import Simulation
from mjlab.sim.sim_data import TorchArray, WarpBridge

_FOREIGN = ("torch", "numpy", "mujoco", "mujoco_warp", "warp", "builtins", "viser", "trimesh", "typing", "enum")
_NOT_FOLLOWED = (
    *(ManagerBasedRlEnv, Scene, Simulation, SensorContext, TorchArray, WarpBridge),
    *(type, types.ModuleType, types.FunctionType, types.MethodType, types.BuiltinFunctionType),
)
_PLAIN = (bool, int, float, str, type(None))
_DERIVED = ("_cached_data", "_obs_buffer", "_memo")
"""Caches that are rebuilt from other state."""


@dataclass(frozen=True)
class Slot:
    """One place that holds a value: an attribute, a dictionary entry or a list entry."""

    path: str
    owner: Any
    key: Any

    def get(self) -> Any:
        """Return the current value."""
        return self.owner[self.key] if isinstance(self.owner, (dict, list)) else getattr(self.owner, self.key)

    def set(self, value: Any) -> None:
        """Bind another value."""
        if isinstance(self.owner, (dict, list)):
            self.owner[self.key] = value
        else:
            setattr(self.owner, self.key, value)


def state_roots(env: ManagerBasedRlEnv) -> dict[str, Any]:
    """Return name -> object that may hold state: managers, their terms, sensors, entities, terrain."""
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
    """Yield terms that are objects rather than functions and may have state."""
    for attribute in ("_term_cfgs", "_mode_term_cfgs", "_group_obs_term_cfgs"):
        configs = getattr(manager, attribute, [])
        grouped = configs.items() if isinstance(configs, dict) else [("", configs)]
        for group, entries in grouped:
            for index, cfg in enumerate(entries):
                if not isinstance(cfg.func, types.FunctionType):
                    yield f"{group}{index}", cfg.func


def tensor_slots(roots: dict[str, Any]) -> list[Slot]:
    """Return every slot below `roots` that holds a tensor, in a fixed order."""
    return _slots(roots, lambda value: isinstance(value, torch.Tensor))


def plain_slots(roots: dict[str, Any]) -> list[Slot]:
    """Return every slot below `roots` that holds a number, a flag, a string or None."""
    return _slots(roots, lambda value: type(value) in _PLAIN)


def object_slots(roots: dict[str, Any], kind: type) -> list[Slot]:
    """Return every slot below `roots` that holds an instance of `kind`; a shared one is in several."""
    return _slots(roots, lambda value: isinstance(value, kind))


def _slots(roots: dict[str, Any], is_wanted: Callable[[Any], bool]) -> list[Slot]:
    visited = {id(root) for root in roots.values()}
    entries = (entry for path, root in roots.items() for entry in _walk(root, path, visited))
    return [Slot(f"{path}.{key}", owner, key) for path, owner, key, value in entries if is_wanted(value)]


def _walk(owner: Any, path: str, visited: set[int]) -> Iterator[tuple[str, Any, Any, Any]]:
    """Yield everything below `owner`, as path of the owner, owner, key and value."""
    if isinstance(owner, dict):
        entries = list(owner.items())
    elif isinstance(owner, list):
        entries = list(enumerate(owner))
    else:
        entries = list(vars(owner).items())
    for key, value in entries:
        if key in _DERIVED:
            continue
        yield path, owner, key, value
        if id(value) not in visited and _may_hold_state(value):
            visited.add(id(value))
            yield from _walk(value, f"{path}.{key}", visited)


def _may_hold_state(value: Any) -> bool:
    """Return True if `value` is neither part of the simulator nor a configuration, a function or a tensor."""
    if isinstance(value, (dict, list)):
        return True
    if isinstance(value, _NOT_FOLLOWED) or not hasattr(value, "__dict__"):
        return False
    cls = type(value)
    return not cls.__name__.endswith("Cfg") and cls.__module__.split(".")[0] not in _FOREIGN
