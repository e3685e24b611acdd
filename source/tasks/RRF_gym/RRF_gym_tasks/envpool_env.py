"""EnvPool under the `VecEnv` contract: C++ environments on threads, 1.5 to 2 times as fast as Gymnasium's MuJoCo.

Differences that are bridged, each found by measuring EnvPool 1.2:

- **Auto-reset.** EnvPool resets at the step *after* the end: that step ignores its action, returns reward 0 and the
  first observation. A learner would store a transition that never happened. Here the rows that ended are reset at once
  by a second, partial call (in sync mode EnvPool answers for any subset of rows, in the given order), and the first
  call returned the true last observation.
- **Time limit.** Its counters can't be moved. So EnvPool gets none and the limit is kept here; a partial reset also
  ends an episode that EnvPool considers running.
- **Seeds** are fixed when a pool is made, so `reset(seed=...)` makes a new pool unless the present one is untouched.
- **State** can't be read, so a resumed run starts with fresh episodes.
- **Pictures.** Its own renderer ends the process if there is no display. Plain MuJoCo tasks are rendered by Gymnasium.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterable, Sequence
from typing import Annotated, Any

import gymnasium as gym
import numpy as np
import torch
from RoboRenForce.configclass import MISSING, ConfigError, Range, configclass
from RoboRenForce.envs.env_cfg import VecEnvCfg
from RoboRenForce.envs.simulator_interface import SimulatorInterface
from RoboRenForce.envs.spec import EnvSpec
from RoboRenForce.envs.vec_env import StepReturn
from RoboRenForce.utils.errors import UnknownTaskError, UserError, did_you_mean
from RoboRenForce.utils.optional import require_package
from tensordict import TensorDict

from . import rendering
from .gym_env import GymEnvCfg
from .host_env import SUCCESS_KEYS, Buffers, HostVecEnv
from .make_gym import make_env
from .spaces import ActionMap, ObsLayout

_UNLIMITED = 2**31 - 1
_KEPT_INFO = ("command", "x_position", "y_position")


class EnvPoolEnv(HostVecEnv):
    """`cfg.num_envs` environments of `cfg.env_id`, stepped by `cfg.num_threads` threads."""

    def __init__(self, cfg: EnvPoolCfg) -> None:
        rendering.choose_backends()
        self._pool = _make_pool(cfg, cfg.seed)
        layout = ObsLayout(self._pool.observation_space, cfg.env_id, cfg.obs_mask, cfg.group_names, cfg.unmasked_group)
        super().__init__(cfg, layout, ActionMap(self._pool.action_space, cfg.env_id, cfg.rescale_actions))
        self._limit = cfg.max_episode_steps or _registered_limit(cfg.env_id)
        self._artist: gym.Env[Any, Any] | None = None
        self._begin()
        self._start_of: int | None = cfg.seed
        """Seed at whose start the pool is; None once it has stepped."""
        self._check_info_keys()
        self._success_key = next((key for key in SUCCESS_KEYS if key in self._info_keys), None)
        self.spec = self._make_spec()

    # --- the contract -----------------------------------------------------------------------------------------------

    def reset(self, *, seed: int | None = None) -> tuple[TensorDict, dict[str, Any]]:
        """See `VecEnv.reset`. A seed makes a new pool unless the current one is still at the start of that seed."""
        if seed is not None and seed == self._start_of:
            self._lengths[:] = 0
            return self._obs, {}
        if seed is not None:
            self._pool.close()
            del self._pool  # before the next one is made: pools of robots take gigabytes
            self._pool = _make_pool(self.cfg, seed)
        self._start_of = seed
        return self._begin(), {}

    def step(self, actions: torch.Tensor) -> StepReturn:
        """See `VecEnv.step`."""
        return self._step(actions, np.arange(self.cfg.num_envs), self._layout.buffers(self.cfg.num_envs))

    def step_rows(self, actions: torch.Tensor, active: torch.Tensor, *, draw: bool = True) -> StepReturn:
        """See `VecEnv.step_rows`."""
        rows = np.flatnonzero(active.cpu().numpy())
        return self._step(actions, rows, {name: raw.copy() for name, raw in self._raw.items()})

    def render(self) -> np.ndarray:
        """Render environment 0 by Gymnasium's environment of the same id in the same state."""
        if not self.cfg.render:
            raise rendering.RenderingError(f"{self.cfg.env_id} was built with render=False: build it with render=True.")
        if self._artist is None:
            self._artist = self._make_artist()
        inner: Any = self._artist.unwrapped
        skipped = inner.observation_structure.get("skipped_qpos", 0)
        positions = [self._info[name][0] for name in ("x_position", "y_position")[:skipped]]
        obs = self._last_flat.astype(np.float64)
        state = np.concatenate([positions, obs[: inner.model.nq - skipped + inner.model.nv]])
        inner.set_state(state[: inner.model.nq], state[inner.model.nq :])
        return rendering.frame(self._artist, self.cfg.env_id)

    def simulator_interface(self) -> SimulatorInterface:
        """See `VecEnv.simulator_interface`."""
        simulator = {
            "name": "envpool",
            "id": self.cfg.env_id,
            "kwargs": self.cfg.to_dict()["env_kwargs"],
            "max_episode_steps": self._limit or None,
            "frame_skip": self.cfg.frame_skip,
        }
        return SimulatorInterface(self._actions.interface, self._layout.sources, simulator)

    def close(self) -> None:
        """See `VecEnv.close`."""
        self._pool.close()
        if self._artist is not None:
            self._artist.close()

    # --- what DynamicEnv asks for -----------------------------------------------------------------------------------

    def dynamic_channels(self) -> dict[str, torch.Tensor]:
        """Return `command` if the task has one: MuJoCo Playground's joystick tasks do."""
        if "command" not in self._info:
            return {}
        return self._upload({"command": self._info["command"].astype(np.float32)})

    # --- one step ---------------------------------------------------------------------------------------------------

    def _step(self, actions: torch.Tensor, rows: np.ndarray, buffers: Buffers) -> StepReturn:
        """Step `rows`; `buffers` become the new observations and already hold those of the other rows."""
        self._require_shape(actions)
        self._start_of = None
        rewards = np.zeros(self.cfg.num_envs, np.float32)
        flags = np.zeros((3, self.cfg.num_envs), np.bool_)  # terminated, time_outs, success
        terms = np.zeros((self.cfg.num_envs, len(self.cfg.reward_terms)), np.float32)
        if len(rows):
            chosen = np.asarray(self._actions.to_simulator(actions)).astype(self._pool.action_space.dtype)
            self._lengths[rows] += 1
            for frame in range(1, self.cfg.frame_skip + 1):
                self._step_frame(chosen, rows, frame, buffers, rewards, flags, terms)
                rows = rows[~(flags[0, rows] | flags[1, rows])]
                if not len(rows):
                    break
        ended = np.flatnonzero(flags[0] | flags[1])
        final = {name: buffer.copy() for name, buffer in buffers.items()} if len(ended) else buffers
        if len(ended):
            self._restart(buffers, ended)
        return self._result(buffers, rewards, flags, terms, final)

    def _step_frame(
        self,
        actions: np.ndarray,
        rows: np.ndarray,
        frame: int,
        buffers: Buffers,
        rewards: np.ndarray,
        flags: np.ndarray,
        terms: np.ndarray,
    ) -> None:
        """Step `rows` once, as frame `frame` of their step: rewards and terms are added, all else is overwritten."""
        obs, reward, terminated, truncated, info = self._pool.step(actions[rows], rows.astype(np.int32))
        self._layout.write_rows(buffers, rows, obs)
        rewards[rows] += reward
        frames = (self._lengths[rows] - 1) * self.cfg.frame_skip + frame
        over = frames >= self._limit if self._limit else False
        flags[0, rows], flags[1, rows] = terminated, (truncated | over) & ~terminated
        if self._success_key is not None:
            flags[2, rows] = np.asarray(info[self._success_key]).astype(np.bool_)
        for column, name in enumerate(self.cfg.reward_terms):
            terms[rows, column] += info[name]
        self._take_info(rows, info)

    def _begin(self) -> TensorDict:
        """Start new episodes in all rows."""
        buffers = self._layout.buffers(self.cfg.num_envs)
        self._info: dict[str, np.ndarray] = {}
        self._restart(buffers, np.arange(self.cfg.num_envs))
        return self._show(buffers)

    def _restart(self, buffers: Buffers, rows: np.ndarray) -> None:
        """Start new episodes in `rows` and write their first observations."""
        obs, info = self._pool.reset(rows.astype(np.int32))
        self._layout.write_rows(buffers, rows, obs)
        self._take_info(rows, info)
        self._info_keys = info.keys()
        self._lengths[rows] = 0

    def _take_info(self, rows: np.ndarray, info: dict[str, Any]) -> None:
        """Store the info that `render` and `dynamic_channels` need of every row."""
        for name in _KEPT_INFO:
            if name in info:
                value = np.asarray(info[name])
                if name not in self._info:
                    self._info[name] = np.zeros((self.cfg.num_envs, *value.shape[1:]), value.dtype)
                self._info[name][rows] = value

    @property
    def _last_flat(self) -> np.ndarray:
        (flat,) = (buffer[0] for buffer in self._raw.values())
        return flat

    # --- building ---------------------------------------------------------------------------------------------------

    def _make_artist(self) -> gym.Env[Any, Any]:
        refusal = (
            f"EnvPool can't make pictures of {self.cfg.env_id}: its own renderer ends the process where there is no "
            f"display, and Gymnasium can't draw this task from what EnvPool tells about its state. Watch a policy on "
            f"a Gymnasium or MJLab task of the same robot."
        )
        if self.cfg.env_id not in gym.registry or self.cfg.env_kwargs or len(self._raw) != 1:
            raise rendering.RenderingError(refusal)
        artist = make_env(GymEnvCfg(env_id=self.cfg.env_id, render_size=self.cfg.render_size), pictures=True)
        structure = vars(artist.unwrapped).get("observation_structure")
        needed = ("x_position", "y_position")[: (structure or {}).get("skipped_qpos", 0)]
        if structure is None or any(name not in self._info for name in needed):
            raise rendering.RenderingError(refusal)
        artist.reset(seed=0)
        rendering.draw_fast(artist)
        rendering.follow(artist)
        return artist

    def _check_info_keys(self) -> None:
        missing = [name for name in self.cfg.reward_terms if name not in self._info_keys]
        if missing:
            has = sorted(self._info_keys)
            raise UserError(f"EnvPoolCfg.reward_terms names {missing}, but the info of {self.cfg.env_id} has {has}.")

    def _make_spec(self) -> EnvSpec:
        return EnvSpec(
            task=f"EnvPool/{self.cfg.env_id}",
            num_envs=self.cfg.num_envs,
            obs_groups=self._layout.shapes,
            action=self._actions.spec,
            max_episode_length=-(-self._limit // self.cfg.frame_skip),
            extras=self._declared_extras(),
            obs_dtypes=self._layout.dtypes,
            reward_terms=tuple(self.cfg.reward_terms),
            capabilities=("step_rows",),
            step_dt=_step_seconds(self._pool, self.cfg.frame_skip),
        )


@configclass
class EnvPoolCfg(VecEnvCfg):
    """Configuration of `EnvPoolEnv`."""

    class_type: type = EnvPoolEnv
    env_id: str = MISSING
    """An id in `envpool.list_all_envs()`."""
    num_envs: Annotated[int, Range(ge=1, le=100_000)] = 16
    """Number of environments; MuJoCo Playground's robots take about 50 MB and 0.2 s of a core each to build."""
    seed: Annotated[int, Range(ge=0)] = 0
    """Environment `i` starts from `seed + i`."""
    device: str = "cpu"
    """Device of the tensors; the simulators run on the CPU."""
    num_threads: Annotated[int, Range(ge=1, le=1024)] | None = None
    """Number of threads that step the environments; None: one per available core."""
    env_kwargs: dict[str, Any] = {}
    """Options of the environment, as `envpool.make` takes them."""
    group_names: dict[str, str] = {"state": "policy", "privileged_state": "critic"}
    """Key of a Dict observation -> observation group; keys that aren't named here keep their name."""
    frame_skip: Annotated[int, Range(ge=1)] = 1
    """Number of simulator steps with the same action, whose rewards are summed."""
    max_episode_steps: Annotated[int, Range(ge=1)] | None = None
    """Time limit in simulator steps; None for the registered one."""
    rescale_actions: bool = True
    """True to let the learner act in [-1, 1] if the action space has finite bounds."""
    obs_mask: list[int] = []
    """Indices of a flat observation that are hidden from the learner."""
    unmasked_group: str | None = None
    """Further group that holds the observation with nothing hidden, for a teacher or a critic; None: there is none."""
    reward_terms: list[str] = []
    """Keys of `info` that are parts of the reward, provided as `extras["reward_terms"]`."""
    render: bool = True
    """True to let Gymnasium render environment 0 if it can; costs nothing until the first picture."""
    render_size: list[int] = [360, 480]
    """Height and width of pictures."""

    def check(self) -> Iterable[str]:
        """Check that sizes are pairs, and that arguments of this adapter are not given again."""
        yield from super().check()
        if len(self.render_size) != 2 or min(self.render_size) < 1:
            yield f"render_size: {self.render_size} is no [height, width]"
        # EnvPool's own frame_skip keeps the last frame's reward only.
        for name in ("num_envs", "num_threads", "seed", "max_episode_steps", "frame_skip"):
            if name in self.env_kwargs:
                yield f"env_kwargs: {name} has a field of its own, set that instead"
        for name in ("env_type", "batch_size"):
            if name in self.env_kwargs:
                yield f"env_kwargs: {name} is this adapter's to choose, leave it out"


def _make_pool(cfg: EnvPoolCfg, seed: int) -> Any:
    envpool = require_package("envpool", extra="envpool", purpose="EnvPool tasks", package="RRF_gym")
    known = envpool.list_all_envs()
    if cfg.env_id not in known:
        raise UnknownTaskError(f"EnvPool has no environment '{cfg.env_id}': {did_you_mean(cfg.env_id, known, limit=3)}")
    threads = cfg.num_threads or min(cfg.num_envs, len(os.sched_getaffinity(0)))
    options = {"num_envs": cfg.num_envs, "num_threads": threads, "seed": seed, "max_episode_steps": _UNLIMITED}
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*Box (low|high)'s precision lowered")
        try:
            pool = envpool.make(cfg.env_id, env_type="gymnasium", **options, **cfg.env_kwargs)
            _ = pool.observation_space, pool.action_space  # made, with their warnings, at the first look
        except Exception as error:
            # Nothing here is code of the user's. Values are refused in many ways: a TypeError of pybind, a RuntimeError
            # for a file that is not there.
            if not cfg.env_kwargs:
                raise
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
            raise ConfigError(
                f"EnvPoolCfg.env_kwargs doesn't fit {cfg.env_id}: {reason}; got {cfg.env_kwargs}."
            ) from error
    return pool


def _registered_limit(env_id: str) -> int:
    """Return EnvPool's own time limit of an environment in steps; 0 if it has none."""
    envpool = require_package("envpool", extra="envpool", purpose="EnvPool tasks", package="RRF_gym")
    config: Sequence[Any] = envpool.make_spec(env_id).config
    return int(config._asdict().get("max_episode_steps", 0))  # pyright: ignore[reportAttributeAccessIssue]


def _step_seconds(pool: Any, frame_skip: int) -> float | None:
    """Return the simulated time of one step, if EnvPool's configuration contains it."""
    seconds = pool.config.get("ctrl_dt")
    return None if seconds is None else float(seconds) * frame_skip
