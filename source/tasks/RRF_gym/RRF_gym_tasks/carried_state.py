"""Wrappers that learn over episodes are refused: their statistics would be in no checkpoint that is played."""

from __future__ import annotations

import copy
from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import gymnasium as gym
import numpy as np
import torch
from gymnasium.wrappers import NormalizeObservation, NormalizeReward
from RoboRenForce.utils.errors import UserError

from .make_gym import make_copy, reset
from .raw_reward import RawReward

if TYPE_CHECKING:
    from .gym_env import GymEnvCfg

_COMPARED_STEPS = 20
_DEPTH = 3
"""How far into the attributes of a wrapper numbers are looked for: a wrapper, its statistics, their arrays."""


def refuse_learned_statistics(cfg: GymEnvCfg) -> None:
    """Refuse wrappers whose observations or rewards depend on earlier episodes.

    What they have learned would be in no checkpoint that `play` or an exported policy reads, and differs from copy to
    copy. They are found by what they do: two episodes from one seed with the same actions are the same below the
    wrappers and differ above, and numbers that a wrapper keeps differ at their ends.

    Raises:
        UserError: names the wrapper and our normalizer.
    """
    env, raw = make_copy(cfg, pictures=False)
    if raw is None:
        return  # no wrappers
    for layer in _wrappers(env):
        if isinstance(layer, NormalizeObservation | NormalizeReward) and layer.update_running_mean:
            raise _refusal(cfg, layer, "running mean and variance", rewards=isinstance(layer, NormalizeReward))
    first, again = _episode(env, raw, cfg), _episode(env, raw, cfg)
    env.close()
    if _same(first.above, again.above) or not _same(first.below, again.below):
        return
    for layer, kept in again.kept.items():
        changed = [name for name, numbers in kept.items() if not _same(numbers, first.kept[layer].get(name))]
        if changed:
            observations = [[returned[0] for returned in episode.above] for episode in (first, again)]
            raise _refusal(cfg, layer, f"'{changed[0]}'", rewards=_same(*observations))


@dataclass
class _Episode:
    above: list[Any]
    """What `reset` and `step` returned above the wrappers, without info."""
    below: list[Any]
    """The same below them."""
    kept: dict[Any, dict[str, list[np.ndarray]]]
    """Wrapper -> attribute -> the floats in it, at the end."""


def _episode(env: gym.Env[Any, Any], raw: RawReward, cfg: GymEnvCfg) -> _Episode:
    """The beginning of the episode of `cfg.seed`."""
    env.action_space.seed(cfg.seed)
    with raw.watched() as below:
        above = [copy.deepcopy((reset(env, cfg, cfg.seed)[0],))]
        for _ in range(_COMPARED_STEPS):
            returned = env.step(env.action_space.sample())
            above.append(copy.deepcopy(returned[:4]))
            if returned[2] or returned[3]:
                break
    kept = {
        layer: {
            name: list(_floats(value, _DEPTH))
            for name, value in {**vars(type(layer)), **vars(layer)}.items()
            if name != "env"
        }
        for layer in _wrappers(env)
    }
    return _Episode(above, below, kept)


def _wrappers(env: Any) -> Iterator[Any]:
    """The user's wrappers, outermost first."""
    while env is not None and not isinstance(env, RawReward):
        yield env
        env = getattr(env, "env", None)


def _floats(value: Any, depth: int) -> Iterator[np.ndarray]:
    """The floating-point numbers in a value, its items, attributes and closure; no environments, spaces, generators."""
    if isinstance(value, torch.Tensor):
        value = value.detach().cpu().numpy()
    if isinstance(value, float | np.floating) or (isinstance(value, np.ndarray) and value.dtype.kind == "f"):
        yield np.array(value)
    elif depth and not isinstance(value, str | bytes | type | gym.Env | gym.Space | np.random.Generator | np.ndarray):
        parts = (
            value.values() if isinstance(value, Mapping) else value if isinstance(value, list | tuple | deque) else ()
        )
        cells = (cell.cell_contents for cell in getattr(value, "__closure__", None) or ())
        owner = (getattr(value, "__self__", None),)
        for part in (*parts, *cells, *owner, *getattr(value, "__dict__", {}).values()):
            yield from _floats(part, depth - 1)


def _same(one: Any, other: Any) -> bool:
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        return one.keys() == other.keys() and all(_same(value, other[name]) for name, value in one.items())
    if isinstance(one, list | tuple) and isinstance(other, list | tuple):
        return len(one) == len(other) and all(map(_same, one, other))
    return np.array_equal(one, other)


def _refusal(cfg: GymEnvCfg, layer: Any, what: str, *, rewards: bool) -> UserError:
    changed, instead = "observations", "normalizer_cfg of the actor and the critic"
    if rewards:
        changed, instead = "rewards", "algorithm.normalize_reward=true (PPO)"
    return UserError(
        f"GymEnvCfg.wrappers: {type(layer).__name__} around {cfg.env_id} changes {changed} by what it keeps from "
        f"earlier episodes ({what}), which neither `rrf play` nor an exported policy would have; expected a wrapper "
        f"that begins anew with reset(seed=...): leave it out and use {instead}, which is in the checkpoint."
    )
