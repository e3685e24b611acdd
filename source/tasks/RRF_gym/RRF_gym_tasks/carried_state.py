"""Refusal of wrappers that learn over episodes: no checkpoint that is played would hold their statistics."""

from __future__ import annotations

import copy
import logging
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import gymnasium as gym
import numpy as np
import torch
from gymnasium.wrappers import NormalizeObservation, NormalizeReward
from RoboRenForce.utils.errors import UserError

from .gym_state import STATIC
from .make_gym import make_env, reset
from .raw_reward import RawReward

if TYPE_CHECKING:
    from .gym_env import GymEnvCfg

logger = logging.getLogger(__name__)

_COMPARED_STEPS = 20
_STEPS_BETWEEN = 300
"""Steps between the two compared episodes, for wrappers that change nothing until they have seen enough."""
_DEPTH = 3
"""Depth of the search for numbers in the attributes of a wrapper: a wrapper, its statistics, their arrays."""


def refuse_learned_statistics(cfg: GymEnvCfg) -> None:
    """Refuse wrappers whose observations or rewards depend on earlier episodes.

    Their statistics would be in no checkpoint that `play` or an exported policy reads, and differ from copy to copy.
    They are found by their effect: two episodes from one seed with the same actions are equal below such a wrapper and
    differ above it, and start with other numbers in it. A wrapper that counts steps or episodes and has changed nothing
    yet (a curriculum, or only a statistic) is named in a warning.

    Raises:
        UserError: Names the wrapper and our normalizer.
    """
    if not cfg.wrappers:
        return
    env = make_env(cfg, pictures=False)
    layers = list(_layers(env))
    for layer in layers:
        if isinstance(layer, NormalizeObservation | NormalizeReward) and layer.update_running_mean:
            raise _refusal(cfg, layer, "running mean and variance", rewards=isinstance(layer, NormalizeReward))
    first = _episode(env, layers, cfg)
    _play(env, _STEPS_BETWEEN, cfg)
    again = _episode(env, layers, cfg)
    env.close()
    # Innermost first: the first layer with a difference makes it, the others pass it on.
    for layer, one, other in reversed(list(zip(layers, first, again, strict=True))):
        if not _same(one.returned, other.returned):
            changed = [name for name in other.kept if not _same(one.kept.get(name, []), other.kept[name])]
            if changed and not isinstance(layer, RawReward):
                observations = [[returned[0] for returned in seen.returned] for seen in (one, other)]
                raise _refusal(cfg, layer, f"'{changed[0]}'", rewards=_same(*observations))
            return  # random without a seed, or the environment itself
    for layer, one, other in zip(layers, first, again, strict=True):
        carried = [name for name in other.kept if not _same(one.kept.get(name, []), other.kept[name])]
        if carried and not isinstance(layer, RawReward) and not type(layer).__module__.startswith("gymnasium."):
            logger.warning(
                "%s around %s keeps '%s' from one episode to the next. If what it returns depends on that, "
                "evaluations, `rrf play` and exported policies see something else: let reset(seed=...) begin it anew.",
                type(layer).__name__,
                cfg.env_id,
                carried[0],
            )


@dataclass
class _Seen:
    """One layer over the start of an episode."""

    returned: list[Any] = field(default_factory=list)
    """Values returned by its `reset` and `step`, without info."""
    kept: dict[str, list[np.ndarray]] = field(default_factory=dict)
    """Attribute -> numbers in it after the reset; at the end, means over one and two equal episodes are equal."""


def _episode(env: Any, layers: list[Any], cfg: GymEnvCfg) -> list[_Seen]:
    """Play the start of the episode of `cfg.seed`, recorded by each layer."""
    seen = [_Seen() for _ in layers]
    for layer, entry in zip(layers, seen, strict=True):
        layer.reset = _watched(layer.reset, entry)
        layer.step = _watched(layer.step, entry)
    env.action_space.seed(cfg.seed)
    reset(env, cfg, cfg.seed)
    for layer, entry in zip(layers, seen, strict=True):
        attributes = {**vars(type(layer)), **vars(layer)}
        entry.kept = {name: list(_numbers(value, _DEPTH)) for name, value in attributes.items() if name not in STATIC}
    for _ in range(_COMPARED_STEPS):
        _, _, terminated, truncated, _ = env.step(env.action_space.sample())
        if terminated or truncated:
            break
    for layer in layers:
        del layer.reset, layer.step
    return seen


def _play(env: Any, steps: int, cfg: GymEnvCfg) -> None:
    """Take random actions, through as many episodes as needed."""
    reset(env, cfg, None)
    for _ in range(steps):
        _, _, terminated, truncated, _ = env.step(env.action_space.sample())
        if terminated or truncated:
            reset(env, cfg, None)


def _watched(call: Callable[..., Any], entry: _Seen) -> Callable[..., Any]:
    def watched(*args: Any, **kwargs: Any) -> Any:
        returned = call(*args, **kwargs)
        entry.returned.append(copy.deepcopy(returned[:-1]))
        return returned

    return watched


def _layers(env: Any) -> Iterator[Any]:
    """Return the user's wrappers, outermost first, and `RawReward`, which is around the environment itself."""
    while env is not None:
        yield env
        env = None if isinstance(env, RawReward) else getattr(env, "env", None)


def _numbers(value: Any, depth: int) -> Iterator[np.ndarray]:
    """Return the numbers in a value, its items, attributes and closure; no environments, spaces, generators."""
    if isinstance(value, torch.Tensor):
        value = value.detach().cpu().numpy()
    if isinstance(value, int | float | np.number) or (isinstance(value, np.ndarray) and value.dtype.kind in "fiu"):
        yield np.array(value)
    elif depth and not isinstance(value, str | bytes | type | gym.Env | gym.Space | np.random.Generator | np.ndarray):
        parts = (
            value.values() if isinstance(value, Mapping) else value if isinstance(value, list | tuple | deque) else ()
        )
        cells = (cell.cell_contents for cell in getattr(value, "__closure__", None) or ())
        owner = (getattr(value, "__self__", None),)
        for part in (*parts, *cells, *owner, *getattr(value, "__dict__", {}).values()):
            yield from _numbers(part, depth - 1)


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
