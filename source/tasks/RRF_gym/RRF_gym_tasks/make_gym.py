"""Construction of one Gymnasium environment for `GymVecEnv`, with errors that say what to do.

Mistakes of the configuration are one sentence; exceptions in the constructor of the user's own environment pass with
their traceback.
"""

from __future__ import annotations

import copy
import inspect
import re
import sys
import traceback
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import gymnasium as gym
from gymnasium.envs.registration import load_env_creator
from gymnasium.wrappers import OrderEnforcing, TimeLimit
from RoboRenForce.configclass import ConfigError, resolve
from RoboRenForce.utils.errors import EnvContractError, MissingPackageError, UnknownTaskError, UserError, did_you_mean

from . import rendering
from .raw_reward import RawReward
from .returned_values import ReturnCheck

if TYPE_CHECKING:
    from .gym_env import GymEnvCfg

_UNEXPECTED = re.compile(r"unexpected keyword argument '(\w+)'")


def find_spec(env_id: str) -> Any:
    """Return Gymnasium's spec of an id.

    Raises:
        UnknownTaskError: Nothing is registered under it; the message has the nearest ids.
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
    """Return the environment steps after which an episode is cut; 0: never."""
    return cfg.max_episode_steps or find_spec(cfg.env_id).max_episode_steps or 0


def make_env(cfg: GymEnvCfg, pictures: bool) -> gym.Env[Any, Any]:
    """Build one copy of `cfg.env_id`, with `cfg.wrappers` around it.

    Args:
        cfg: Configuration of the environment.
        pictures: True to build it so that it can render, if it can at all.
    """
    return make_copy(cfg, pictures)[0]


def make_copy(cfg: GymEnvCfg, pictures: bool) -> tuple[gym.Env[Any, Any], RawReward | None]:
    """Build an environment with `make_env`, counting rewards below the wrappers if there are any."""
    env, raw = _construct(cfg, pictures), None
    if type(env) is OrderEnforcing:
        env = env.env  # GymVecEnv always resets first; the check costs time at every step
    _require_interface(env, cfg)
    if cfg.wrappers:
        env = raw = RawReward(env, cfg.env_id)
        # GymVecEnv counts steps itself. Only wrappers of the user may want to see the TimeLimit below them.
        if limit := step_limit(cfg):
            env = TimeLimit(env, limit)
    for wrapper in cfg.wrappers:
        env = _wrapped(env, resolve(wrapper) if isinstance(wrapper, str) else wrapper, cfg.env_id)
    return env, raw


def reset(env: gym.Env[Any, Any], cfg: GymEnvCfg, seed: int | None) -> Any:
    """Start an episode with the options of the configuration; returns the environment's result, unchecked."""
    if cfg.reset_options:
        return env.reset(seed=seed, options=copy.deepcopy(cfg.reset_options))
    return env.reset(seed=seed)


def return_check(env: gym.Env[Any, Any], cfg: GymEnvCfg) -> ReturnCheck:
    """Build the check of an environment's returned values, wrappers included."""
    return ReturnCheck(env, f"{cfg.env_id} with its wrappers" if cfg.wrappers else cfg.env_id)


def find_time_limit(env: gym.Env[Any, Any]) -> TimeLimit[Any, Any] | None:
    """Return the TimeLimit wrapper around an environment, if there is one."""
    while isinstance(env, gym.Wrapper):
        if isinstance(env, TimeLimit):
            return env
        env = env.env
    return None


# --- the constructor --------------------------------------------------------------------------------------------------


def _construct(cfg: GymEnvCfg, pictures: bool) -> gym.Env[Any, Any]:
    """Call `gymnasium.make` without any of its wrappers."""
    spec = find_spec(cfg.env_id)
    try:
        creator = _creator(spec)
        options = _picture_options(creator, cfg) if pictures else {}
        _require_fitting(creator, {**spec.kwargs, **cfg.env_kwargs}, cfg)
        try:
            return _make(spec, cfg, options)
        except TypeError as error:
            # A constructor with **kwargs tells only when it is called what the constructor of its base doesn't take.
            refused = _UNEXPECTED.search(str(error))
            if refused and refused[1] in options:
                return _make(spec, cfg, {})
            if refused and refused[1] in cfg.env_kwargs:
                raise ConfigError(f"GymEnvCfg.env_kwargs doesn't fit {cfg.env_id}: {_first_line(error)}.") from error
            raise
    except gym.error.DependencyNotInstalled as error:
        raise MissingPackageError(f"{cfg.env_id} can't be built: {error}.") from error
    except gym.error.Error as error:
        raise UserError(f"Gymnasium can't make {cfg.env_id}: {_first_line(error)}") from error
    except ModuleNotFoundError as error:
        raise MissingPackageError(
            f"{cfg.env_id} needs the package '{error.name}', which is not installed: pip install {error.name}."
        ) from error
    except (ImportError, AttributeError) as error:
        rendering.explain_failed_import()  # this is how MuJoCo's import fails without the OpenGL library
        if isinstance(error, ImportError) and callable(spec.entry_point) and _is_of_gymnasium(spec.entry_point):
            raise MissingPackageError(f"Gymnasium can't make {cfg.env_id}: {_first_line(error)}") from error
        raise


def _make(spec: Any, cfg: GymEnvCfg, options: dict[str, Any]) -> gym.Env[Any, Any]:
    try:
        return gym.make(spec, disable_env_checker=True, max_episode_steps=-1, **{**cfg.env_kwargs, **options})
    except (UserError, gym.error.Error, ImportError):
        raise
    except Exception as error:
        # Gymnasium's own environments are no code of the user's: what they raise, and only if they are given
        # arguments, is about these. Values are refused in many ways: a KeyError for a map, an OSError for a file.
        if _raised_by_gymnasium_make(error):
            raise UserError(f"Gymnasium can't make {spec.id}: {_first_line(error)}") from error
        unexpected = isinstance(error, TypeError) and _UNEXPECTED.search(str(error))
        if unexpected or not cfg.env_kwargs or not _is_of_gymnasium(_creator(spec)):
            raise
        raise ConfigError(
            f"GymEnvCfg.env_kwargs doesn't fit {spec.id}: {type(error).__name__}: {_first_line(error)}; got "
            f"{cfg.env_kwargs}."
        ) from error


def _raised_by_gymnasium_make(error: BaseException) -> bool:
    """Return True if `gymnasium.make` itself refused the environment, instead of passing on its exception."""
    frames = list(traceback.walk_tb(error.__traceback__))
    return error.__cause__ is None and frames[-1][0].f_code is gym.make.__code__


def _creator(spec: Any) -> Callable[..., Any]:
    """Return the class or function that makes an environment."""
    if callable(spec.entry_point):
        return spec.entry_point
    if spec.entry_point is None:
        raise UserError(
            f"'{spec.id}' is registered without an entry point for single environments, so nothing can be stepped: "
            f"give gymnasium.register an entry_point."
        )
    try:
        return load_env_creator(spec.entry_point)
    except AttributeError as error:
        module, _, name = spec.entry_point.partition(":")
        if module in sys.modules and not hasattr(sys.modules[module], name):
            raise UserError(
                f"'{spec.id}' is registered with the entry point '{spec.entry_point}', and '{module}' has no '{name}': "
                f"correct its gymnasium.register."
            ) from error
        raise


def _require_fitting(creator: Callable[..., Any], kwargs: dict[str, Any], cfg: GymEnvCfg) -> None:
    signature = _signature(creator)
    try:
        if signature is not None:
            signature.bind(**kwargs)
    except TypeError as error:
        raise ConfigError(
            f"GymEnvCfg.env_kwargs doesn't fit {cfg.env_id}: {error}; got {sorted(cfg.env_kwargs)}, its constructor is "
            f"{_shown(creator)}{signature}."
        ) from error


def _picture_options(creator: Callable[..., Any], cfg: GymEnvCfg) -> dict[str, Any]:
    """Return the arguments that let an environment render pictures, as far as its constructor takes them."""
    metadata = vars(creator).get("metadata") or getattr(creator, "metadata", None) or {}
    if not isinstance(metadata, dict) or "rgb_array" not in (metadata.get("render_modes") or []):
        return {}
    options: dict[str, Any] = {"render_mode": "rgb_array"}
    if isinstance(creator, type) and any(base.__name__ == "MujocoEnv" for base in creator.__mro__):
        height, width = cfg.image_size if cfg.image_group is not None else cfg.render_size
        options |= {"width": width, "height": height}
    return {name: value for name, value in options.items() if _takes(creator, name)}


def _require_interface(env: gym.Env[Any, Any], cfg: GymEnvCfg) -> None:
    """Check that an environment declares its spaces, and that its `reset` takes Gymnasium's arguments."""
    for name in ("observation_space", "action_space"):
        space = getattr(env, name, None)
        if not isinstance(space, gym.Space):
            raise EnvContractError(
                f"{cfg.env_id} has {name}={space!r}, expected a gymnasium.spaces.Space: set it in its constructor."
            )
    needed = {"seed": None} | ({"options": None} if cfg.wrappers or cfg.reset_options else {})
    if missing := [name for name in needed if not _takes(env.unwrapped.reset, name)]:
        raise EnvContractError(
            f"{cfg.env_id}: reset doesn't take {' and '.join(missing)}, as in the old Gym; write "
            f"`def reset(self, *, seed=None, options=None)` and return (observation, info)."
        )


# --- wrappers ---------------------------------------------------------------------------------------------------------


def _wrapped(env: gym.Env[Any, Any], wrapper: Callable[..., Any], env_id: str) -> gym.Env[Any, Any]:
    what, signature = f"GymEnvCfg.wrappers: {_shown(wrapper)}", _signature(wrapper)
    try:
        if signature is not None:
            signature.bind(env)
    except TypeError as error:
        raise ConfigError(
            f"{what}{signature} can't be called with an environment alone: {error}; name a function or class that can, "
            f"such as functools.partial or a class of your own."
        ) from error
    try:
        wrapped = wrapper(env)
    except Exception as error:
        if not _is_of_gymnasium(wrapper):
            raise
        # Gymnasium's own wrappers refuse what they are put around by assertions and errors of many kinds.
        raise ConfigError(
            f"{what} doesn't fit around {env_id}: {type(error).__name__}: {_first_line(error)}."
        ) from error
    if not isinstance(wrapped, gym.Env):
        raise ConfigError(
            f"{what} returned {type(wrapped).__name__} for {env_id}, expected a gymnasium.Env: return the environment."
        )
    return wrapped


# --- small things -----------------------------------------------------------------------------------------------------


def _signature(function: Callable[..., Any]) -> inspect.Signature | None:
    try:
        return inspect.signature(function)
    except (TypeError, ValueError):  # some built-in ones have none
        return None


def _takes(function: Callable[..., Any], name: str) -> bool:
    """Return True if a function accepts a keyword argument, as far as its signature tells."""
    signature = _signature(function)
    if signature is None:
        return True
    keywords = inspect.Parameter.KEYWORD_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD
    return any(
        parameter.kind is inspect.Parameter.VAR_KEYWORD or (parameter.name == name and parameter.kind in keywords)
        for parameter in signature.parameters.values()
    )


def _shown(function: Callable[..., Any]) -> str:
    return getattr(function, "__qualname__", type(function).__qualname__)


def _is_of_gymnasium(function: Callable[..., Any]) -> bool:
    return (getattr(function, "__module__", None) or "").startswith("gymnasium.")


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0].split(" was raised from the environment")[0]
