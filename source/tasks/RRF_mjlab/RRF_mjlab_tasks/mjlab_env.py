"""mjlab's `ManagerBasedRlEnv` under our environment contract, on the fast step where it can be had.

mjlab resets inside `step` and returns the first observation of the new episode; the last one of the old is lost. Here
it is kept: the fast step computes it before the reset, the plain step lets mjlab stop at it (`auto_reset=False`) and
resets afterwards.
"""

from __future__ import annotations

import contextlib
import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from mjlab.envs import ManagerBasedRlEnv
from RoboRenForce.configclass import ConfigError
from RoboRenForce.envs.simulator_interface import ActionInterface, SimulatorInterface, Units
from RoboRenForce.envs.spec import ActionSpec, EnvSpec
from RoboRenForce.envs.vec_env import StepReturn, VecEnv
from RoboRenForce.envs.wrapper import choose_rows
from tensordict import TensorDict

from .action_bounds import action_bounds
from .env_cfg import MJLabEnvCfg, make_mjlab_env
from .env_state import EnvState
from .fast_step import CannotCaptureError, make_fast_step
from .play import onnx_metadata, tracking_errors, velocity_errors
from .rendering import FrameRenderer
from .rows import Rows, undrawn

if TYPE_CHECKING:
    from .fast_step import FastStep

logger = logging.getLogger(__name__)

POLICY = "policy"
"""Name under which the actor's observations are found too, for code written for rsl_rl's older convention."""


class MJLabVecEnv(VecEnv):
    """Any mjlab task as a `VecEnv`.

    Optional extras: `final_observations` (an option), `reward_terms` (each weighted, of this step), `command` (all
    command terms side by side) and, where a command term defines it, `success`.

    Args:
        cfg: What to build and how to step it.
        env: An environment that exists already; `cfg` then only says how to step it.
    """

    def __init__(self, cfg: MJLabEnvCfg, env: ManagerBasedRlEnv | None = None) -> None:
        self.cfg = cfg
        self.env: Any = make_mjlab_env(cfg) if env is None else env
        self.device = torch.device(self.env.device)
        self._first_memories = EnvState(self.env).reward_memories()
        obs, _ = self.env.reset(seed=cfg.seed if env is None else None)
        self._success_terms = _success_terms(self.env)
        # mjlab keeps its reward terms per second where rewards are multiplied by the seconds of a step.
        self._term_scale = self.env.step_dt if self.env.reward_manager._scale_by_dt else 1.0
        self._action_bounds = None if cfg.action_bound is None else action_bounds(self.env, cfg.action_bound)
        self.spec = _spec(self.env, cfg, obs, with_success=bool(self._success_terms))
        self._obs = self._tensor_dict(obs)
        self._extras: dict[str, Any] = {}
        self._fast = self._make_fast_step()
        self._rows = Rows(self.env)
        self._undrawn: torch.Tensor | None = None
        self._renderer: FrameRenderer | None = None
        _warn_without_graphs(self.env)

    # -- the contract -------------------------------------------------------------------------------------------------

    @property
    def unwrapped(self) -> ManagerBasedRlEnv:
        """mjlab's environment."""
        return self.env

    @property
    def episode_length_buf(self) -> torch.Tensor:
        """int64 `(num_envs,)`, settable."""
        return self.env.episode_length_buf

    @episode_length_buf.setter
    def episode_length_buf(self, value: torch.Tensor) -> None:
        self.env.episode_length_buf = value.to(self.device, torch.int64, copy=True)

    def reset(self, *, seed: int | None = None) -> tuple[TensorDict, dict[str, Any]]:
        """Reset all environments; `seed` restarts mjlab's (and torch's) random numbers and the reward terms' memory."""
        if seed is not None:
            EnvState(self.env).load_reward_memories(self._first_memories)
        self._undrawn = None
        obs, _ = self.env.reset(seed=seed)
        self._obs = self._tensor_dict(obs)
        return self._obs, self._state_extras()

    def get_observations(self) -> TensorDict:
        """Return the observations of the last `step` or `reset`: mjlab's own call would draw new noise."""
        return self._obs

    def step(self, actions: torch.Tensor) -> StepReturn:
        """See `VecEnv.step`."""
        return self._step(actions, None, draw=True)

    def step_rows(self, actions: torch.Tensor, active: torch.Tensor, *, draw: bool = True) -> StepReturn:
        """See `VecEnv.step_rows`."""
        if "step_rows" not in self.spec.capabilities:
            return super().step_rows(actions, active, draw=draw)
        return self._step(actions, active, draw=draw)

    def reset_rows(self, env_ids: torch.Tensor, seeds: Sequence[int]) -> tuple[TensorDict, dict[str, Any]]:
        """See `VecEnv.reset_rows`."""
        if "reset_rows" not in self.spec.capabilities:
            return super().reset_rows(env_ids, seeds)
        chosen = torch.zeros(self.num_envs, dtype=torch.bool, device=self.device)
        chosen[env_ids] = True
        self._rows.reset(env_ids, seeds)
        draw = self._undrawn is None
        with contextlib.nullcontext() if draw else undrawn(self.env):
            now = self._tensor_dict(self._rows.observe_reset(env_ids))
        self._obs = choose_rows(chosen, now if draw else self._blank(now, chosen), self._obs)
        return self._obs, self._state_extras()

    def _step(self, actions: torch.Tensor, active: torch.Tensor | None, *, draw: bool) -> StepReturn:
        if self.cfg.clip_actions is not None:
            actions = actions.clamp(-self.cfg.clip_actions, self.cfg.clip_actions)
        if self._action_bounds is not None:
            actions = actions.clamp(-1.0, 1.0) * self._action_bounds
        final = (self._step_plain if self._fast is None else self._step_fast)(actions, active, draw)
        terminated, time_outs = self._ends()
        extras = {
            "terminated": terminated,
            "time_outs": time_outs,
            "log": dict(self.env.extras["log"]),
            "reward_terms": self.env.reward_manager._step_reward * self._term_scale,
            **self._state_extras(),
        }
        if self.cfg.final_observations:
            extras["final_observations"] = final
        if self._success_terms:
            extras["success"] = self._success
        return self._obs, self.env.reward_buf, (terminated | time_outs).long(), extras

    def state_dict(self) -> dict[str, Any]:
        """Physics, randomized model fields, terms, timers and counters, so that curricula and episodes go on."""
        state = EnvState(self.env).save()
        return {**state, "observations": dict(self._obs.items())}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore `state_dict`."""
        state = dict(state)
        observations = state.pop("observations")
        EnvState(self.env).load(state)
        self.env.sim.forward()
        self.env.sim.sense()
        self._undrawn = None
        self._obs = TensorDict({name: value.to(self.device) for name, value in observations.items()}, [self.num_envs])

    def render(self) -> np.ndarray:
        """RGB frame `(H, W, 3)` of environment 0, with the camera that the task's viewer configuration describes."""
        if self._renderer is None:
            self._renderer = FrameRenderer(self.env, self.cfg.render_width, self.cfg.render_height)
        return self._renderer.frame()

    def measurements(self) -> dict[str, dict[str, torch.Tensor]]:
        """See `VecEnv.measurements`: distance from the commanded velocity or motion, in tasks that command one."""
        return velocity_errors(self.env) | tracking_errors(self.env)

    def simulator_interface(self) -> SimulatorInterface:
        """See `VecEnv.simulator_interface`: what `step` does before mjlab's, and mjlab's observation terms."""
        action = replace(ActionInterface.of(self.spec.action).unscaled(), dtype="float32")
        if self.spec.action.low is not None and self.spec.action.high is not None:
            action = replace(action, clip_low=self.spec.action.low, clip_high=self.spec.action.high)
        if self._action_bounds is not None:
            action = replace(action, scale=tuple(self._action_bounds.tolist()))
        simulator = {"name": "mjlab", "id": self.cfg.task, "frame_skip": self.env.cfg.decimation}
        return SimulatorInterface(action, _observation_sources(self.env, self.spec), simulator)

    def export_metadata(self, run: str, *, actions: Units = "policy") -> dict[str, str]:
        """See `VecEnv.export_metadata`: what mjlab writes into its own ONNX files."""
        return onnx_metadata(self.env, run, self._action_bounds if actions == "policy" else None)

    def close(self) -> None:
        """Free the renderer and mjlab's environment."""
        if self._renderer is not None:
            self._renderer.close()
            self._renderer = None
        self.env.close()

    # -- stepping -----------------------------------------------------------------------------------------------------

    def _make_fast_step(self) -> FastStep | None:
        """The fast step, or None with the reason in the log; `env_graph=on` insists."""
        mode = self.cfg.env_graph
        if mode == "off" or (mode == "auto" and self.device.type != "cuda"):
            self.env.cfg.auto_reset = False
            return None
        try:
            fast = make_fast_step(
                self.env,
                final_observations=self.cfg.final_observations,
                capture=self.device.type == "cuda",
                holds_rows=self._rows_are_separate(),
            )
        except CannotCaptureError as error:
            if mode == "on":
                raise
            logger.warning("%s steps as mjlab does, which is slower, because %s.", self.spec.task, error)
            self.env.cfg.auto_reset = False
            return None
        logger.info("%s: %s.", self.spec.task, fast.describe())
        return fast

    def _rows_are_separate(self) -> bool:
        """Whether rows can be held and started alike, which an environment says of the terms that it is made of."""
        return False

    def _step_fast(self, actions: torch.Tensor, active: torch.Tensor | None, draw: bool) -> TensorDict:
        fast: Any = self._fast
        fast(actions, active, draw=draw, draw_final=draw or self._may_time_out(active))
        now, final = self._tensor_dict(fast.observations), self._tensor_dict(fast.final)
        if self._success_terms:
            self._success = fast.success
        drawn = now
        if active is not None:
            now, final = choose_rows(active, now, self._obs), choose_rows(active, final, self._obs)
            self.env.reset_terminated, self.env.reset_time_outs = (
                flags & active for flags in (self.env.reset_terminated, self.env.reset_time_outs)
            )
        if not draw:
            now = self._blank(now, fast.done.clone())
        elif self._undrawn is not None:
            images = {name: drawn[name] for name, dtype in self.spec.obs_dtypes.items() if dtype == "uint8"}
            now = choose_rows(self._undrawn, TensorDict({**dict(now.items()), **images}, now.batch_size), now)
            self._undrawn = None
        self._obs = now
        return final

    def _may_time_out(self, active: torch.Tensor | None) -> bool:
        """Whether an episode reaches its longest length in this step, whose last images are then asked for."""
        last = self.env.episode_length_buf + 1 >= self.env.max_episode_length
        return bool((last if active is None else last & active).any())

    def _step_plain(self, actions: torch.Tensor, active: torch.Tensor | None, draw: bool) -> TensorDict:
        env, before = self.env, {} if active is None else self._rows.save()
        with contextlib.nullcontext() if draw else undrawn(env):
            obs, *_ = env.step(actions)
        final = self._tensor_dict({name: value.clone() for name, value in obs.items()})
        if self._success_terms:
            self._success = torch.stack([term.episode_success > 0 for term in self._success_terms]).any(0)
        if active is not None:
            self._rows.hold(before, active)
            final = choose_rows(active, final, self._obs)
            if self._success_terms:
                self._success &= active
        over = env.reset_buf.clone()
        ended = over.nonzero().flatten()
        if len(ended):
            if not draw and bool((env.reset_time_outs & over).any()):
                env.sim.sense()
                final = self._with_images(final, over)
            log = dict(env.extras["log"])
            with contextlib.nullcontext() if draw else undrawn(env):
                obs, _ = env.reset(env_ids=ended)
            env.extras["log"] = log | env.extras["log"]
        now = self._tensor_dict(obs)
        self._obs = now if active is None else choose_rows(active, now, self._obs)
        if not draw:
            self._obs = self._blank(self._obs, over)
        elif self._undrawn is not None:
            if not len(ended):  # else the reset has drawn what all rows are held at
                env.sim.forward()
                env.sim.sense()
            self._obs = self._with_images(self._obs, self._undrawn)
            self._undrawn = None
        return final

    def _with_images(self, obs: TensorDict, rows: torch.Tensor) -> TensorDict:
        """`obs` with images as they were rendered last in `rows`, bool `(num_envs,)`."""
        compute = self.env.observation_manager.compute_group
        images = {name: compute(name) for name, dtype in self.spec.obs_dtypes.items() if dtype == "uint8"}
        return choose_rows(rows, TensorDict({**dict(obs.items()), **images}, obs.batch_size), obs)

    def _blank(self, obs: TensorDict, rows: torch.Tensor) -> TensorDict:
        """`obs` with black images in `rows`, which begin an episode: the next step that draws shows them."""
        self._undrawn = rows if self._undrawn is None else self._undrawn | rows
        black = {name: torch.zeros_like(obs[name]) for name, dtype in self.spec.obs_dtypes.items() if dtype == "uint8"}
        return choose_rows(rows, TensorDict({**dict(obs.items()), **black}, obs.batch_size), obs)

    def _ends(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Terminations and time-outs apart; in a task with a finite horizon its end is a termination."""
        terminated, time_outs = self.env.reset_terminated.clone(), self.env.reset_time_outs & ~self.env.reset_terminated
        if self.env.cfg.is_finite_horizon:
            return terminated | time_outs, torch.zeros_like(time_outs)
        return terminated, time_outs

    def _state_extras(self) -> dict[str, Any]:
        commands = _commands(self.env)
        return {} if commands is None else {"command": commands}

    def _tensor_dict(self, obs: Mapping[str, torch.Tensor]) -> TensorDict:
        groups = dict(obs)
        if POLICY not in groups and "actor" in groups:
            groups[POLICY] = groups["actor"]
        return TensorDict(groups, batch_size=[self.env.num_envs])


def _spec(env: Any, cfg: MJLabEnvCfg, obs: Mapping[str, Any], *, with_success: bool) -> EnvSpec:
    shapes = {}
    for name, value in obs.items():
        if not isinstance(value, torch.Tensor):
            raise ConfigError(
                f"Observation group '{name}' of {cfg.task} is not concatenated (got {type(value).__name__}); "
                f"set concatenate_terms=True in its ObservationGroupCfg."
            )
        shapes[name] = tuple(value.shape[1:])
    dtypes = {
        name: str(value.dtype).removeprefix("torch.") for name, value in obs.items() if value.dtype != torch.float32
    }
    if POLICY not in shapes and "actor" in shapes:
        shapes[POLICY] = shapes["actor"]
    command = _commands(env)
    bound = cfg.clip_actions if cfg.action_bound is None else 1.0
    dim = env.action_manager.total_action_dim
    limits = (None, None) if bound is None else ((-bound,) * dim, (bound,) * dim)
    extras = ["final_observations"] if cfg.final_observations else []
    extras += ["reward_terms"]
    extras += ["command"] if command is not None else []
    extras += ["success"] if with_success else []
    return EnvSpec(
        task=cfg.task,
        num_envs=env.num_envs,
        obs_groups=shapes,
        action=ActionSpec("continuous", dim, *limits),
        max_episode_length=env.max_episode_length,
        extras=tuple(extras),
        obs_dtypes=dtypes,
        reward_terms=tuple(env.reward_manager.active_terms),
        extra_dims={} if command is None else {"command": command.shape[-1]},
        step_dt=env.step_dt,
    )


def _observation_sources(env: Any, spec: EnvSpec) -> dict[str, dict[str, Any]]:
    """Group -> its key in mjlab's observations, and the names and sizes of its terms in order where they are flat."""
    manager = env.observation_manager
    found = {}
    for group, shape in spec.obs_groups.items():
        key = group if group in manager.active_terms else "actor"
        shapes = manager.group_obs_term_dim[key]
        parts = [
            {"name": name, "size": math.prod(term)}
            for name, term in zip(manager.active_terms[key], shapes, strict=True)
        ]
        source = {"key": key, "space": "box", "keep": None}
        found[group] = {"source": source, "parts": parts if len(shape) == 1 else None}
    return found


def _commands(env: Any) -> torch.Tensor | None:
    names = env.command_manager.active_terms
    return torch.cat([env.command_manager.get_command(name) for name in names], dim=-1) if names else None


def _success_terms(env: Any) -> list[Any]:
    """Command terms that say whether their goal was reached, as mjlab's manipulation tasks do."""
    manager = env.command_manager
    terms = [manager.get_term(name) for name in manager.active_terms]
    return [term for term in terms if "episode_success" in vars(term)]


def _warn_without_graphs(env: Any) -> None:
    if torch.device(env.device).type == "cuda" and not env.sim.use_cuda_graph:
        logger.warning(
            "mjlab runs WITHOUT its CUDA graphs and is several times slower (its driver or memory pool is too old): "
            "update the NVIDIA driver to 12.4 or newer; see the message of mjlab's Simulation above."
        )
