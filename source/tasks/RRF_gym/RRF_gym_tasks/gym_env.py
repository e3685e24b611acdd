"""Any Gymnasium environment under the `VecEnv` contract: a batch of copies stepped in one tight loop.

Why not Gymnasium's SyncVectorEnv: the loop here resets at the very step an episode ends and keeps the true last
observation, can hold and reseed single rows, moves the time limit with `episode_length_buf`, saves and restores the
simulators, and costs less per step, because observations are written straight into one array.
`tests/tasks/gym/test_gym_env.py` compares the two step by step.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Annotated, Any

import gymnasium as gym
import numpy as np
import torch
from RoboRenForce.configclass import MISSING, ImportsModule, Range, SubclassOf, configclass
from RoboRenForce.envs.env_cfg import VecEnvCfg
from RoboRenForce.envs.simulator_interface import SimulatorInterface
from RoboRenForce.envs.spec import EnvSpec
from RoboRenForce.envs.vec_env import StepReturn
from RoboRenForce.utils.errors import EnvContractError, UserError
from tensordict import TensorDict

from . import gym_state, rendering
from .carried_state import refuse_learned_statistics
from .host_env import Buffers, HostVecEnv
from .info_keys import InfoReader
from .make_gym import find_time_limit, make_copy, reset, return_check, step_limit
from .returned_values import Step
from .spaces import FLAT_GROUP, ActionMap, ObsLayout

_log = logging.getLogger(__name__)


class GymVecEnv(HostVecEnv):
    """`cfg.num_envs` copies of `cfg.env_id`; environment `i` is seeded with `seed + i`.

    `envs` are the Gymnasium environments. The time limit is kept here and not by Gymnasium's TimeLimit wrapper, unless
    there are wrappers around it that may want to read it.
    """

    def __init__(self, cfg: GymEnvCfg) -> None:
        rendering.choose_backends()
        copies = [
            make_copy(cfg, pictures=cfg.image_group is not None or (cfg.render and i == 0)) for i in range(cfg.num_envs)
        ]
        self.envs = [env for env, _ in copies]
        self._raw_rewards = [raw for _, raw in copies if raw is not None]
        first = self.envs[0]
        for env in self.envs:
            rendering.draw_fast(env)
            rendering.follow(env)
        layout = ObsLayout(first.observation_space, cfg.env_id, cfg.obs_mask, unmasked=cfg.unmasked_group)
        super().__init__(cfg, layout, ActionMap(first.action_space, cfg.env_id, cfg.rescale_actions))
        self._limit = step_limit(cfg)
        self._time_limits = [find_time_limit(env) for env in self.envs]
        self._require_equal_spaces()
        # The first steps and resets are checked; then the environment's own `step` and `reset` take these places.
        checks = [return_check(env, cfg) for env in self.envs]
        self._single_steps = [
            check.first(env.step, partial(self._step_directly, i))
            for i, (check, env) in enumerate(zip(checks, self.envs, strict=True))
        ]
        self._check_reset: list[Callable[[Any], tuple[Any, Any]] | None] = [check.reset for check in checks]
        self._steps = [self._repeated(i) for i in range(cfg.num_envs)] if cfg.frame_skip > 1 else self._single_steps
        self.reset(seed=cfg.seed)
        refuse_learned_statistics(cfg)
        self._info = InfoReader(cfg)
        self._success_key = self._info.success_key
        self.spec = self._make_spec()

    # --- the contract -----------------------------------------------------------------------------------------------

    @property
    def episode_length_buf(self) -> torch.Tensor:
        """Number of steps in the current episode, int64 `(num_envs,)`, a copy; setting it moves the time limit."""
        return super().episode_length_buf

    @episode_length_buf.setter
    def episode_length_buf(self, value: torch.Tensor) -> None:
        self._lengths[:] = value.cpu().numpy()
        for limit, length in zip(self._time_limits, self._lengths, strict=True):
            if limit is not None:
                limit._elapsed_steps = int(length) * self.cfg.frame_skip

    def reset(self, *, seed: int | None = None) -> tuple[TensorDict, dict[str, Any]]:
        """See `VecEnv.reset`."""
        seeds = [None if seed is None else seed + i for i in range(self.cfg.num_envs)]
        buffers = self._buffers()
        self._reset_into(buffers, range(self.cfg.num_envs), seeds)
        return self._show(buffers), {}

    def reset_rows(self, env_ids: torch.Tensor, seeds: Sequence[int]) -> tuple[TensorDict, dict[str, Any]]:
        """See `VecEnv.reset_rows`."""
        buffers = {name: buffer.copy() for name, buffer in self._raw.items()}
        self._reset_into(buffers, env_ids.tolist(), list(seeds))
        return self._show(buffers), {}

    def step(self, actions: torch.Tensor) -> StepReturn:
        """See `VecEnv.step`."""
        return self._step(actions, range(self.cfg.num_envs), self._buffers())

    def step_rows(self, actions: torch.Tensor, active: torch.Tensor, *, draw: bool = True) -> StepReturn:
        """See `VecEnv.step_rows`."""
        rows = active.nonzero().squeeze(1).tolist()
        kept = () if draw else (self.cfg.image_group,)
        return self._step(actions, rows, {name: raw if name in kept else raw.copy() for name, raw in self._raw.items()})

    def state_dict(self) -> dict[str, Any]:
        """Return simulators, generators, counters and observations; empty if an environment can't be saved."""
        try:
            layers = [gym_state.snapshot(env) for env in self.envs]
        except gym_state.NotRestorableError as error:
            _log.info("%s is not restorable: %s", self.cfg.env_id, error)
            return {}
        raw = {name: torch.from_numpy(buffer.copy()) for name, buffer in self._raw.items()}
        return {"envs": layers, "lengths": torch.tensor(self._lengths), "obs": raw}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        if not state:
            return
        if len(state["envs"]) != self.num_envs:
            raise UserError(
                f"The saved state is of {len(state['envs'])} environments and there are {self.num_envs}: use "
                f"--num_envs {len(state['envs'])} to resume exactly."
            )
        for env, layers in zip(self.envs, state["envs"], strict=True):
            gym_state.restore(env, layers)
        self._lengths[:] = state["lengths"].cpu().numpy()
        self._show({name: buffer.cpu().numpy().copy() for name, buffer in state["obs"].items()})

    def render(self) -> np.ndarray:
        """See `VecEnv.render`."""
        return rendering.frame(self.envs[0], self.cfg.env_id)

    def simulator_interface(self) -> SimulatorInterface:
        """See `VecEnv.simulator_interface`."""
        observations = self._layout.sources
        if FLAT_GROUP in observations and not self.cfg.wrappers:  # wrappers may change what is where
            observations[FLAT_GROUP] |= {"parts": _parts(self.envs[0], self.spec.obs_groups[FLAT_GROUP])}
        if self.cfg.image_group is not None:
            observations[self.cfg.image_group] = {"source": {"key": None, "space": "render"}}
        cfg = self.cfg.to_dict()
        simulator = {
            "name": "gymnasium",
            "id": self.cfg.env_id,
            "kwargs": cfg["env_kwargs"],
            "wrappers": cfg["wrappers"],
            "max_episode_steps": self._limit or None,
            "frame_skip": self.cfg.frame_skip,
        }
        return SimulatorInterface(self._actions.interface, observations, simulator)

    def close(self) -> None:
        """See `VecEnv.close`."""
        for env in self.envs:
            rendering.free_pictures(env)
            env.close()

    # --- what DynamicEnv asks for -----------------------------------------------------------------------------------

    def dynamic_channels(self) -> dict[str, torch.Tensor]:
        """Return `dynamics`: positions and velocities of MuJoCo, or the `state` of classic control, else nothing."""
        states = [_dynamics(env) for env in self.envs]
        if states[0] is None:
            return {}
        return self._upload({"dynamics": np.asarray(states, dtype=np.float32)})

    # --- one step ---------------------------------------------------------------------------------------------------

    def _step(self, actions: torch.Tensor, rows: Sequence[int], buffers: Buffers) -> StepReturn:
        """Step `rows`; `buffers` become the new observations and already hold those of the other rows.

        Pictures are rendered only where an episode ends if `buffers` has the array of the last ones.
        """
        self._require_shape(actions)
        chosen = self._actions.to_simulator(actions)
        rewards = np.zeros(self.cfg.num_envs, np.float32)
        flags = np.zeros((3, self.cfg.num_envs), np.bool_)  # terminated, time_outs, success
        names = self.cfg.reward_terms
        terms = np.zeros((self.cfg.num_envs, len(names)), np.float32)
        self._lengths[rows] += 1
        over = (self._lengths >= self.spec.max_episode_length).tolist() if self.spec.max_episode_length else None

        steps, write, ended = self._steps, self._layout.writer(buffers), []
        for i in rows:
            obs, rewards[i], terminated, truncated, info = steps[i](chosen[i])
            write(i, obs)
            if names:
                terms[i] = self._info.reward_terms(info)
            if terminated or truncated or (over is not None and over[i]):
                ended.append(i)
                flags[:, i] = terminated, not terminated, self._info.succeeded(info, terminated)
        raw = self._take_raw_rewards(rows)
        drawn = rows
        if (group := self.cfg.image_group) is not None and buffers[group] is self._raw.get(group):
            drawn = ended
            if ended:
                buffers[group] = buffers[group].copy()
        self._draw(buffers, drawn)
        final = {name: buffer.copy() for name, buffer in buffers.items()} if ended else buffers
        if ended:
            self._reset_into(buffers, ended, [None] * len(ended))
        return self._result(buffers, rewards, flags, terms, final, raw)

    def _step_directly(self, row: int, step: Step) -> None:
        """Skip the checks of a row whose first steps were valid."""
        self._single_steps[row], self._check_reset[row] = step, None

    def _repeated(self, row: int) -> Step:
        """Return a step that applies its action `frame_skip` times, within the episode and its time limit."""

        def step(action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
            repeats = self.cfg.frame_skip
            if self._limit:
                repeats = min(repeats, self._limit - (int(self._lengths[row]) - 1) * repeats)
            obs, reward, terminated, truncated, info = self._single_steps[row](action)
            total, names = float(reward), self.cfg.reward_terms
            terms = self._info.reward_terms(info) if names else []
            for _ in range(repeats - 1):
                if terminated or truncated:
                    break
                obs, reward, terminated, truncated, info = self._single_steps[row](action)
                total += float(reward)
                if names:
                    terms = [sum(parts) for parts in zip(terms, self._info.reward_terms(info), strict=True)]
            if names:  # what the frames gave together, as the reward
                info = info | dict(zip(names, terms, strict=True))
            return obs, total, terminated, truncated, info

        return step

    def _take_raw_rewards(self, rows: Sequence[int]) -> np.ndarray | None:
        """Return the environments' rewards below the wrappers since the last call; None without wrappers."""
        if not self._raw_rewards:
            return None
        raw = np.zeros(self.cfg.num_envs, np.float32)
        raw[rows] = [self._raw_rewards[i].take() for i in rows]
        return raw

    def _reset_into(self, buffers: Buffers, rows: Iterable[int], seeds: list[int | None]) -> None:
        """Start new episodes in `rows` and write their first observations."""
        rows, write = list(rows), self._layout.writer(buffers)
        for i, seed in zip(rows, seeds, strict=True):
            returned, check = reset(self.envs[i], self.cfg, seed), self._check_reset[i]
            obs, _ = returned if check is None else check(returned)
            write(i, obs)
        self._lengths[rows] = 0
        self._take_raw_rewards(rows)  # a wrapper may have stepped to begin the episode
        self._draw(buffers, rows)

    def _draw(self, buffers: Buffers, rows: Iterable[int]) -> None:
        if self.cfg.image_group is not None:
            height, width = self.cfg.image_size
            for i in rows:
                picture = rendering.frame(self.envs[i], self.cfg.env_id)
                buffers[self.cfg.image_group][i] = rendering.fitted(picture, height, width)

    def _buffers(self) -> Buffers:
        """Allocate empty buffers."""
        buffers = self._layout.buffers(self.cfg.num_envs)
        if self.cfg.image_group is not None:
            buffers[self.cfg.image_group] = np.zeros((self.cfg.num_envs, *self.cfg.image_size, 3), np.uint8)
        return buffers

    # --- what is known before the first step ------------------------------------------------------------------------

    def _require_equal_spaces(self) -> None:
        first = self.envs[0]
        for name in ("observation_space", "action_space"):
            spaces = [getattr(env, name) for env in self.envs]
            other = next((space for space in spaces if space != spaces[0]), None)
            if other is not None:
                raise EnvContractError(
                    f"{self.cfg.env_id}: two copies have the {name} {getattr(first, name)} and {other}, expected equal "
                    f"ones; make it depend on the constructor's arguments alone."
                )

    def _make_spec(self) -> EnvSpec:
        cfg = self.cfg
        groups, dtypes = self._layout.shapes, self._layout.dtypes
        if cfg.image_group is not None:
            if cfg.image_group in groups:
                raise UserError(
                    f"GymEnvCfg.image_group: {cfg.env_id} has a group '{cfg.image_group}' already, choose another."
                )
            groups[cfg.image_group] = (*cfg.image_size, 3)
            dtypes[cfg.image_group] = "uint8"
        return EnvSpec(
            task=cfg.env_id,
            num_envs=cfg.num_envs,
            obs_groups=groups,
            action=self._actions.spec,
            max_episode_length=-(-self._limit // cfg.frame_skip),
            extras=(*self._declared_extras(), *(["raw_rewards"] if cfg.wrappers else [])),
            obs_dtypes=dtypes,
            reward_terms=tuple(cfg.reward_terms),
            capabilities=("reset_rows", "step_rows"),
            step_dt=_step_seconds(self.envs[0], cfg.frame_skip),
        )


_INSTEAD = {
    "id": "from the field env_id",
    "max_episode_steps": "from the field of that name",
    "disable_env_checker": "and the first steps are checked here",
}
"""Argument of `gymnasium.make` that can't be among `env_kwargs` -> the field to use instead."""


@configclass
class GymEnvCfg(VecEnvCfg):
    """Configuration of `GymVecEnv`."""

    class_type: type = GymVecEnv
    env_id: Annotated[str, ImportsModule(("gymnasium",), refused=("GymV21Environment", "GymV26Environment"))] = MISSING
    """Any Gymnasium id, such as `HalfCheetah-v5`; `module:Name-v0` imports the module first."""
    num_envs: Annotated[int, Range(ge=1, le=100_000)] = 16
    seed: Annotated[int, Range(ge=0, le=2**62)] = 0
    """Environment `i` starts from `seed + i`."""
    device: str = "cpu"
    """Device of the tensors; the simulators run on the CPU."""
    env_kwargs: dict[str, Any] = {}
    """Arguments for `gymnasium.make`."""
    wrappers: list[Annotated[Callable[..., Any], SubclassOf(gym.Wrapper, ("gymnasium.wrappers",))]] = []
    """Subclasses of `gymnasium.Wrapper`, applied to each copy, innermost first.

    From Python also functions from environment to environment. A wrapper that learns over episodes, such as
    `NormalizeObservation`, is refused: our normalizers are in the checkpoint.
    """
    max_episode_steps: Annotated[int, Range(ge=1)] | None = None
    """Time limit in steps of the environment; None for the registered one."""
    frame_skip: Annotated[int, Range(ge=1)] = 1
    """Number of environment steps per action; their rewards are summed."""
    rescale_actions: bool = True
    """True to let the learner act in [-1, 1] if the action space has finite bounds."""
    obs_mask: list[int] = []
    """Indices of a flat observation that are hidden from the learner."""
    unmasked_group: str | None = None
    """Further group that holds the observation with nothing hidden, for a teacher or a critic; None: there is none."""
    success_key: str | None = "auto"
    """Key of `info` with the success of a finished episode; `auto`: `is_success` or `success`, if any."""
    success_key_optional: bool = False
    """True if the key is only present after a success: without it an episode has failed."""
    reset_options: dict[str, Any] = {}
    """`options` of every `reset`."""
    reward_terms: list[str] = []
    """Keys of `info` that are parts of the reward, provided as `extras["reward_terms"]`."""
    render: bool = True
    """True to let environment 0 render; costs nothing until the first picture."""
    render_size: list[int] = [360, 480]
    """Height and width of the pictures, if the environment supports a choice (MuJoCo)."""
    image_group: str | None = None
    """Name of an observation group with a picture of every environment, uint8 `(*image_size, 3)`; slow."""
    image_size: list[int] = [64, 64]
    """Height and width of `image_group`."""

    def check(self) -> Iterable[str]:
        """Check that sizes are pairs, and that arguments with a field of their own are not given again."""
        yield from super().check()
        for name, size in (("render_size", self.render_size), ("image_size", self.image_size)):
            if len(size) != 2 or min(size) < 1:
                yield f"{name}: {size} is no [height, width]"
        for name in _INSTEAD:
            if name in self.env_kwargs:
                yield f"env_kwargs: {name} is given to gymnasium.make already, {_INSTEAD[name]}"


def _dynamics(env: gym.Env[Any, Any]) -> np.ndarray | None:
    """Return the physical state that a world model would predict."""
    inner: Any = env.unwrapped
    if rendering.is_mujoco(env):
        return np.concatenate([inner.data.qpos, inner.data.qvel])
    state = vars(inner).get("state")
    return None if state is None else np.asarray(state, dtype=np.float64).reshape(-1)


def _parts(env: gym.Env[Any, Any], shape: tuple[int, ...]) -> list[dict[str, Any]] | None:
    """Return names and sizes of the parts of Gymnasium's MuJoCo observations, in order; None if unknown."""
    structure: dict[str, int] = vars(env.unwrapped).get("observation_structure", {})
    parts = [{"name": name, "size": int(size)} for name, size in structure.items() if name != "skipped_qpos" and size]
    return parts if (sum(part["size"] for part in parts),) == shape else None


def _step_seconds(env: gym.Env[Any, Any], frame_skip: int) -> float | None:
    """Return the simulated time of one action: MuJoCo and Pendulum call it dt, CartPole tau."""
    inner: Any = env.unwrapped
    seconds = inner.dt if rendering.is_mujoco(env) else vars(inner).get("dt", vars(inner).get("tau"))
    return float(seconds) * frame_skip if isinstance(seconds, int | float | np.number) and seconds > 0 else None
