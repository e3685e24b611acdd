"""One Gymnasium environment, made as `GymVecEnv` needs it, with errors that say what to do."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import gymnasium as gym
from gymnasium.envs.registration import load_env_creator
from gymnasium.wrappers import OrderEnforcing, TimeLimit
from RoboRenForce.configclass import resolve
from RoboRenForce.utils.errors import MissingPackageError, UnknownTaskError, UserError, did_you_mean

from . import rendering

if TYPE_CHECKING:
    from .gym_env import GymEnvCfg


def find_spec(env_id: str) -> Any:
    """Gymnasium's spec of an id.

    Raises:
        UnknownTaskError: nothing is registered under it; the message has the nearest ids.
    """
    module, _, name = env_id.rpartition(":")
    try:
        if module:
            __import__(module)
        return gym.spec(name)
    except ModuleNotFoundError as error:
        raise UnknownTaskError(f"{env_id} names the module '{module}', which can't be imported: {error}.") from error
    except (gym.error.UnregisteredEnv, gym.error.DeprecatedEnv, gym.error.Error) as error:
        hint = did_you_mean(name, list(gym.registry), limit=3)
        raise UnknownTaskError(f"Gymnasium has no environment '{name}': {hint}") from error


def step_limit(cfg: GymEnvCfg) -> int:
    """Steps of the environment after which an episode is cut; 0 for never."""
    return cfg.max_episode_steps or find_spec(cfg.env_id).max_episode_steps or 0


def make_env(cfg: GymEnvCfg, pictures: bool) -> gym.Env[Any, Any]:
    """One copy of `cfg.env_id`, with `cfg.wrappers` around it.

    Args:
        cfg: what to make.
        pictures: build it so that it can render, if it can at all.
    """
    spec = find_spec(cfg.env_id)
    # GymVecEnv counts steps itself. Only wrappers of the user may want to see the TimeLimit below them.
    limit = step_limit(cfg) or -1 if cfg.wrappers else -1
    try:
        kwargs = {**cfg.env_kwargs, **(_picture_options(spec, cfg) if pictures else {})}
        env = gym.make(spec, disable_env_checker=True, max_episode_steps=limit, **kwargs)
    except gym.error.DependencyNotInstalled as error:
        raise MissingPackageError(f"{cfg.env_id} can't be built: {error}.") from error
    except ModuleNotFoundError as error:
        raise MissingPackageError(
            f"{cfg.env_id} needs the package '{error.name}', which is not installed: pip install {error.name}."
        ) from error
    except (ImportError, AttributeError):
        rendering.explain_failed_import()  # this is how MuJoCo's import fails without the OpenGL library
        raise
    if type(env) is OrderEnforcing:
        env = env.env  # GymVecEnv always resets first; the check costs time at every step
    for wrapper in cfg.wrappers:
        env = _wrapped(env, resolve(wrapper) if isinstance(wrapper, str) else wrapper)
    return env


def _wrapped(env: gym.Env[Any, Any], wrapper: Callable[..., Any]) -> Any:
    try:
        inspect.signature(wrapper).bind(env)
    except (TypeError, ValueError) as error:
        name = getattr(wrapper, "__name__", wrapper)
        raise UserError(
            f"env.wrappers: {name} can't be made from the environment alone ({error}); "
            f"derive a wrapper from it that gives it the rest."
        ) from None
    return wrapper(env)


def find_time_limit(env: gym.Env[Any, Any]) -> TimeLimit[Any, Any] | None:
    """The TimeLimit wrapper around an environment, if there is one."""
    while isinstance(env, gym.Wrapper):
        if isinstance(env, TimeLimit):
            return env
        env = env.env
    return None


def _picture_options(spec: Any, cfg: GymEnvCfg) -> dict[str, Any]:
    creator = spec.entry_point if callable(spec.entry_point) else load_env_creator(spec.entry_point)
    metadata = vars(creator).get("metadata") or getattr(creator, "metadata", None) or {}
    if not isinstance(metadata, dict) or "rgb_array" not in (metadata.get("render_modes") or []):
        return {}
    options: dict[str, Any] = {"render_mode": "rgb_array"}
    if isinstance(creator, type) and any(base.__name__ == "MujocoEnv" for base in creator.__mro__):
        height, width = cfg.image_size if cfg.image_group is not None else cfg.render_size
        options |= {"width": width, "height": height}
    return options
