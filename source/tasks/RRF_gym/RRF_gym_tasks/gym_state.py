"""The whole state of a Gymnasium environment as plain data, so that an interrupted run resumes bit for bit.

An environment is restorable if all of its attributes are recognized: numbers, strings, arrays and containers of them,
its random generator, MuJoCo's data, and things that never change or only serve rendering. Classic control and MuJoCo
are restorable; an environment with any other attribute, such as the world of another physics engine, is not, and the
resumed run then starts with fresh episodes.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import FunctionType, MethodType
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from gymnasium.envs.registration import EnvSpec
from RoboRenForce.utils.errors import UserError

_FIXED_TYPES = (gym.Space, EnvSpec, FunctionType, MethodType, type)
_RENDERING_MODULES = ("pygame", "gymnasium.envs.mujoco.mujoco_rendering")
STATIC = (
    "env",
    "spec",
    "metadata",
    "_cached_spec",
    "_metadata",
    "_saved_kwargs",
    "_ezpickle_args",
    "_ezpickle_kwargs",
)
"""Attributes of environments and wrappers that never change."""


class NotRestorableError(TypeError):
    """An environment has an attribute that can't be saved as plain data."""


def snapshot(env: gym.Env[Any, Any]) -> list[dict[str, Any]]:
    """Return the state of the environment and of each wrapper around it, outermost first.

    Raises:
        NotRestorableError: The message names the attribute.
    """
    return [_layer_state(layer) for layer in _layers(env)]


def restore(env: gym.Env[Any, Any], state: list[dict[str, Any]]) -> None:
    """Restore the `snapshot` of an equally built environment."""
    layers = _layers(env)
    if len(layers) != len(state):
        raise UserError(
            f"The saved state is of an environment with {len(state) - 1} wrappers and this one has {len(layers) - 1}: "
            f"resume with the wrappers that it was saved with, or start a new run."
        )
    for layer, attributes in zip(layers, state, strict=True):
        for name, value in attributes.items():
            if name == "np_random":
                layer.np_random.bit_generator.state = _decoded(value)
            elif name == "mujoco":
                _restore_mujoco(layer.data, value)
            else:
                setattr(layer, name, _decoded(value))


def _layers(env: gym.Env[Any, Any]) -> list[Any]:
    layers = [env]
    while isinstance(layers[-1], gym.Wrapper):
        layers.append(layers[-1].env)
    return layers


def _layer_state(layer: Any) -> dict[str, Any]:
    state: dict[str, Any] = {}
    for name, value in vars(layer).items():
        if name in STATIC or isinstance(value, _FIXED_TYPES) or type(value).__module__.startswith(_RENDERING_MODULES):
            continue
        if isinstance(value, np.random.Generator):
            state["np_random"] = _encoded(value.bit_generator.state, name)
        elif type(value).__name__ == "MjData":
            state["mujoco"] = _mujoco_state(value)
        elif type(value).__name__ != "MjModel":
            state[name] = _encoded(value, f"{type(layer).__name__}.{name}")
    return state


def _mujoco_state(data: Any) -> dict[str, Any]:
    """Return every array of `MjData` that has a fixed size.

    More than the integration state: rewards and observations also read values that the last step derived (positions of
    bodies, contact forces), and mj_forward would derive them for another moment, because a step integrates at its end.
    """
    names = _fixed_arrays(data)
    packed = np.concatenate([np.ascontiguousarray(getattr(data, name)).reshape(-1).view(np.uint8) for name in names])
    return {"names": names, "bytes": torch.from_numpy(packed), "time": float(data.time)}


def _restore_mujoco(data: Any, state: Mapping[str, Any]) -> None:
    arrays = [getattr(data, name) for name in _fixed_arrays(data)]
    packed = state["bytes"].cpu().numpy()
    if state["names"] != _fixed_arrays(data) or len(packed) != sum(array.nbytes for array in arrays):
        raise UserError(
            "The saved simulator state is of another model or another version of MuJoCo: resume with the one it was "
            "saved with, or start a new run."
        )
    start = 0
    for array in arrays:
        array[...] = packed[start : start + array.nbytes].copy().view(array.dtype).reshape(array.shape)
        start += array.nbytes
    data.time = state["time"]


def _fixed_arrays(data: Any) -> list[str]:
    # What a fresh MjData holds before the first contact doesn't live in the arena, whose layout changes from step to
    # step. Unsigned 64-bit arrays are pointers of plugins.
    fresh = type(data)(data.model)
    arrays = {name: getattr(fresh, name) for name in dir(fresh) if not name.startswith("_")}
    return [
        name
        for name, array in arrays.items()
        if isinstance(array, np.ndarray) and array.size and array.flags.writeable and array.dtype != np.uint64
    ]


def _encoded(value: Any, where: str) -> Any:
    """Encode a value as plain data from which `_decoded` makes the same value of the same type."""
    if value is None or type(value) in (bool, int, float, str):
        return value
    if isinstance(value, np.ndarray) and value.dtype.kind in "bif":
        return {"array": torch.from_numpy(np.array(value))}
    if isinstance(value, np.bool_ | np.integer | np.floating):
        return {"scalar": torch.from_numpy(np.array([value]))}
    if type(value) in (list, tuple):
        items = [_encoded(item, where) for item in value]
        return {"list" if isinstance(value, list) else "tuple": items}
    if isinstance(value, dict) and all(type(key) is str for key in value):
        return {"dict": {key: _encoded(item, f"{where}['{key}']") for key, item in value.items()}}
    raise NotRestorableError(f"{where} is a {type(value).__name__}, which can't be saved as plain data.")


def _decoded(value: Any) -> Any:
    if not isinstance(value, dict):
        return value
    ((kind, content),) = value.items()
    if kind == "array":
        return content.cpu().numpy().copy()
    if kind == "scalar":
        return content.cpu().numpy()[0]
    if kind == "dict":
        return {key: _decoded(item) for key, item in content.items()}
    items = [_decoded(item) for item in content]
    return items if kind == "list" else tuple(items)
