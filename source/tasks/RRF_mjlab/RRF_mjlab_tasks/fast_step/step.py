"""mjlab's environment step with fixed sizes and without the host, in CUDA graphs.

The order is `ManagerBasedRlEnv.step`'s. Three things differ, none of them in the numbers: resets are masked instead of indexed,
the first physics substep reuses the last `forward()` (see `physics`), and the last observation of an episode is computed before
its reset (see `observations`).

    actions | 4 x physics | terminations, rewards, metrics | events
            | [final: forward, commands, sense, observe all rows]
            | curriculum, reset masked rows | forward | commands | sense | observe
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any

import torch
from mjlab.envs import ManagerBasedRlEnv
from mjlab.managers.recorder_manager import NullRecorderManager

from ..env_state import EnvState
from .buffers import adopt_buffers
from .commands import CommandRows, adapt_commands
from .curricula import HostCurricula, TerrainLevels, curriculum_terms, is_host_curriculum
from .entity_memo import EntityMemo
from .errors import CannotCaptureError
from .events import MaskedEvents
from .host_values import HostValues
from .observations import Observations, Observer
from .physics import Physics
from .resets import Log, MaskedResets
from .reward_terms import FusedRewards, as_rows
from .row_calls import RowCaller
from .sensors import ContactReadings, HostFreeTerrainNormals, adopt_sensors
from .stages import Launch, Segment, Stage, StepContext, assemble, probe
from .state_slots import state_roots

logger = logging.getLogger(__name__)


class FastStep:
    """A replacement for `env.step` of one environment that has been reset at least once.

    Args:
        env: mjlab's environment; its plain `step` keeps working.
        final_observations: compute the last observation of every episode, at the price of a second `forward()`.
        reuse_forward: start the first physics substep where the last `forward()` ended.
        capture: use CUDA graphs; without them (on the CPU) the same stages run eagerly.

    Raises:
        CannotCaptureError: the environment can't be stepped this way; the message says why.
    """

    def __init__(self, env: ManagerBasedRlEnv, *, final_observations: bool, reuse_forward: bool, capture: bool) -> None:
        if not isinstance(env.recorder_manager, NullRecorderManager):
            raise CannotCaptureError("recorders write what they see to files at every reset")
        if not env.cfg.auto_reset:
            raise CannotCaptureError("auto_reset=False leaves the resets to the caller")
        self.env: Any = env
        self.with_final = final_observations
        roots = state_roots(env)
        adopt_sensors(env)
        adopt_buffers(roots)
        state = EnvState(env)
        present = state.save()

        device, num_envs = env.device, env.num_envs
        self._rows = RowCaller(env)
        self._physics = Physics(env, reuse_forward)
        self._context = StepContext(env, roots, self._physics.write_on_current_stream)
        self._actions = torch.zeros(num_envs, env.action_manager.total_action_dim, device=device)
        self._done = torch.zeros(num_envs, dtype=torch.bool, device=device)
        self._any_done = torch.zeros((), dtype=torch.bool, device=device)
        self._step_count = torch.zeros((), dtype=torch.int32, device=device)
        self._reset_ids: torch.Tensor | None = None
        self._lengths = env.episode_length_buf
        self._log: Log = {}
        self._step_log: dict[str, Any] = {}
        self._success = torch.zeros(num_envs, dtype=torch.bool, device=device)
        self._success_terms = [term for term in env.command_manager._terms.values() if "episode_success" in vars(term)]
        self._observations: Observations = {}
        self._final: Observations = {}
        self._observer = Observer(env)
        self._contacts = ContactReadings(env)
        self._memo = EntityMemo(env)
        self._fused_rewards = FusedRewards(env)
        as_rows(env.termination_manager._term_dones)
        self._resets = MaskedResets(env, self._rows, self._done, self._log)
        self._events = MaskedEvents(env, self._rows, self._step_count)
        self._commands = adapt_commands(env, self._rows)
        self._host_curricula = HostCurricula(env)
        self._host_values = HostValues(env)

        stages = list(self._stages())
        try:
            with HostFreeTerrainNormals():
                self.fallbacks = probe(stages, self._context)
        finally:
            state.load(present)
            env.sim.forward()
            env.sim.sense()
            self._physics.write_on_current_stream()
        self._context.stable.remember()
        self._log.clear()
        self._host_values.changed()
        self._sim_steps = -1
        self._program = assemble(stages, self._context, capture)

    @property
    def captured(self) -> bool:
        """Whether every part that can be a graph is one by now."""
        segments = [part for part in self._program if isinstance(part, Segment)]
        return all(segment.captured for segment in segments)

    @property
    def uses_late_step(self) -> bool:
        """Whether the first substep reuses the last `forward()`."""
        return not self._physics.late_refusal

    def describe(self) -> str:
        """What runs how, for the log."""
        parts = [part for part in self._program if isinstance(part, Segment)]
        lines = [f"environment step in {len(parts)} captured parts between the simulator's graphs"]
        lines += [f"'{stage.name}' runs mjlab's code, because it {stage.reason}" for stage in self.fallbacks]
        if self._memo.written:
            lines.append(f"nothing is remembered between terms, because one changes '{self._memo.written}' in place")
        if self._physics.late_refusal:
            lines.append(
                f"every step computes forward() twice for the same state, because {self._physics.late_refusal}"
            )
        return "; ".join(lines)

    def __call__(self, actions: torch.Tensor) -> None:
        """Do one step; results are in `observations`, `final`, `log` and in the buffers of the environment."""
        env = self.env
        self._actions.copy_(actions)
        if env.episode_length_buf is not self._lengths:
            self._lengths.copy_(env.episode_length_buf)
            env.episode_length_buf = self._lengths
        if env._sim_step_counter != self._sim_steps:
            self._step_count.fill_(env._sim_step_counter // env.cfg.decimation)
        self._context.stable.stabilize_if_moved()
        self._reset_ids = None
        env._sim_step_counter += env.cfg.decimation
        self._sim_steps = env._sim_step_counter
        env.common_step_counter += 1
        self._host_curricula.before_step()
        if self._host_values.changed():
            self.recapture()
        with HostFreeTerrainNormals():
            for part in self._program:
                part()
        self._host_curricula.after_step()
        env.obs_buf = env.observation_manager._obs_buffer = {
            name: _copy(value) for name, value in self._observations.items()
        }
        env.reset_terminated = env.termination_manager.terminated
        env.reset_time_outs = env.termination_manager.time_outs
        env.reset_buf = self._done
        env.extras["log"] = self.log()

    @property
    def observations(self) -> Observations:
        """Group -> what the policy sees next; valid as long as anyone keeps it."""
        return self.env.obs_buf

    @property
    def final(self) -> Observations:
        """Group -> the last observation of the episode in rows that are done; overwritten by the next step."""
        return self._final

    @property
    def success(self) -> torch.Tensor:
        """Bool `(num_envs,)`: rows that are done and had reached the goal of a command; overwritten by the next step."""
        return self._success

    @property
    def done(self) -> torch.Tensor:
        """Bool `(num_envs,)`: episodes that ended in this step."""
        return self._done

    def log(self) -> dict[str, Any]:
        """Scalars of this step, as copies that stay valid."""
        tensors = {**self._step_log, **self._log}
        copies = torch.stack([value.float() for value in tensors.values()]).unbind() if tensors else ()
        return {**dict(zip(tensors, copies, strict=True)), **self._host_curricula.log()}

    def recapture(self) -> None:
        """Forget the graphs, for example because a curriculum changed a weight; the next step captures anew."""
        for part in self._program:
            if isinstance(part, Segment):
                part.drop()

    def _stages(self) -> Iterator[Stage | Launch]:
        yield Stage("actions", self._process_actions)
        for substep in range(self.env.cfg.decimation):
            late = substep == 0 and self.uses_late_step
            last = substep == self.env.cfg.decimation - 1
            yield Stage("controls", self._late_controls if late else self._controls)
            yield Launch("physics", self._physics.substep(late=late, last=last))
            yield Stage("sensors and metrics of the substep", self._after_substep)
        yield Stage("terminations", self._terminations, self._terminations)
        yield Stage("rewards", self._rewards, self._plain_rewards)
        yield Stage("metrics", self._metrics, self._metrics)
        yield from self._events.step_stages()
        yield from self._events.interval_stages()
        yield Stage("results", self._keep_results)
        if self.with_final:
            yield from self._observe_terminal()
            yield from self._reset_stages()
            yield from self._observe_reset()
        else:
            yield from self._reset_stages()
            yield from self._observe_once()

    def _observe_terminal(self) -> Iterator[Stage | Launch]:
        """Observe the state before the reset, in all rows."""
        yield Launch("forward", self._physics.forward)
        yield from self._command_stages(self._advance_unfinished)
        yield from self._sense_stages()
        yield Stage("final observations", self._observe_all, self._observe_all)

    def _observe_reset(self) -> Iterator[Stage | Launch]:
        """Observe the first state of new episodes."""
        yield Launch("second forward", self._physics.second_forward)
        yield from self._command_stages(self._refresh, moves=False)
        yield from self._sense_stages()
        yield Stage("observations", self._observe_done_rows, self._observe_done_rows)

    def _observe_once(self) -> Iterator[Stage | Launch]:
        """Observe after the reset, as mjlab does."""
        yield Launch("forward", self._physics.forward)
        yield from self._command_stages(self._advance)
        yield from self._sense_stages()
        yield Stage("observations", self._observe_all, self._observe_all)

    def _sense_stages(self) -> Iterator[Stage | Launch]:
        context = self.env.scene.sensor_context
        if context is not None:
            yield Stage("rays", context.prepare)
            yield Launch("sense", self._physics.sense)
            yield Stage("ray hits", context.finalize)

    def _command_stages(self, method: Any, moves: bool = True) -> Iterator[Stage | Launch]:
        """One stage per command term, followed by `forward()` where a resample may have moved bodies."""
        for name, adapter in self._commands.items():
            fallback = self._plain_command(name, method)
            if adapter is None:
                yield Stage(f"command '{name}'", _cannot("has its own compute() or reset()"), fallback)
                continue
            yield Stage(f"command '{name}'", self._command(adapter, method), fallback)
            if moves and adapter.moves_bodies:
                yield Launch("forward", self._physics.forward)
                yield Stage(f"command '{name}' after forward", adapter.after_forward)

    def _reset_stages(self) -> Iterator[Stage | Launch]:
        resets = self._resets
        for name, cfg in curriculum_terms(self.env):
            if not is_host_curriculum(cfg):
                yield self._curriculum_stage(name, cfg)
        yield Stage("reset mask", resets.begin)
        yield Launch("reset", self._physics.reset)
        yield Stage("reset of the scene", self._reset_scene)
        yield from self._events.reset_stages(self._done, self._ids)
        for name in ("observations", "actions", "rewards", "metrics", "curricula"):
            yield Stage(f"reset of the {name}", getattr(resets, name))
        for name, adapter in self._commands.items():
            run = _cannot("has its own compute() or reset()") if adapter is None else self._command_reset(name, adapter)
            yield Stage(f"reset of command '{name}'", run, lambda name=name: self._plain_command_reset(name))
        yield Stage("reset of the event timers", lambda: self._events.reset_timers(self._done))
        yield Stage("reset of the terminations", resets.terminations)
        yield Stage("reset of the episode lengths", resets.episode_lengths)
        yield Stage("controls", self.env.scene.write_data_to_sim)

    def _curriculum_stage(self, name: str, cfg: Any) -> Stage:
        def plain() -> None:
            ids = self._ids()
            if len(ids):
                self._note_curriculum(name, cfg.func(self.env, ids, **cfg.params))

        if not TerrainLevels.fits(cfg):
            return Stage(f"curriculum '{name}'", _cannot("is not known to be separable by environment"), plain)
        levels = TerrainLevels(self.env, cfg, self._rows)
        return Stage(f"curriculum '{name}'", lambda: self._note_curriculum(name, levels.update(self._done)), plain)

    def _note_curriculum(self, name: str, state: Any) -> None:
        self.env.curriculum_manager._curriculum_state[name] = state
        values = state if isinstance(state, dict) else {"": state}
        for key, value in values.items():
            if value is not None:
                tag = f"Curriculum/{name}/{key}".rstrip("/")
                self._log[tag] = torch.as_tensor(value, dtype=torch.float32, device=self.env.device)

    def _process_actions(self) -> None:
        self._step_count += 1
        self.env.action_manager.process_action(self._actions)

    def _controls(self) -> None:
        self.env.action_manager.apply_action()
        self.env.scene.write_data_to_sim()

    def _late_controls(self) -> None:
        self._controls()
        # Sensors of accelerations add to what is there; the others keep what forward() computed from the same state.
        sensordata = self.env.sim.data.sensordata._tensor
        sensordata.masked_fill_(self._physics.acceleration_columns, 0.0)

    def _after_substep(self) -> None:
        self.env.scene.update(dt=self.env.physics_dt)
        self.env.metrics_manager.compute_substep()

    def _terminations(self) -> None:
        self._memo.begin()
        self._lengths += 1
        self._done.copy_(self.env.termination_manager.compute())
        torch.any(self._done, dim=0, out=self._any_done)

    def _rewards(self) -> None:
        self.env.extras["log"] = self._step_log
        self.env.reward_buf = self._fused_rewards.compute(self.env.step_dt)

    def _plain_rewards(self) -> None:
        self.env.extras["log"] = self._step_log
        self.env.reward_buf = self.env.reward_manager.compute(dt=self.env.step_dt)

    def _metrics(self) -> None:
        self.env.metrics_manager.compute()
        self._memo.end()

    def _keep_results(self) -> None:
        self._contacts.keep()
        if self._success_terms:
            reached = torch.stack([term.episode_success > 0 for term in self._success_terms])
            torch.any(reached, dim=0, out=self._success)

    def _reset_scene(self) -> None:
        self._resets.scene()
        self._contacts.invalidate()

    def _observe_all(self) -> None:
        self._contacts.merge(self._any_done)
        self._memo.begin()
        self._observations = self._observer.observe()
        self._memo.end()
        if self.with_final:
            self._final = self._observations

    def _observe_done_rows(self) -> None:
        self._contacts.invalidate()
        self._memo.begin()
        self._observations = self._observer.observe_first(self._done, self._final)
        self._memo.end()

    def _advance(self, adapter: CommandRows) -> None:
        dt = torch.where(self._done, 0.0, self.env.step_dt)
        adapter.advance(dt, None)

    def _advance_unfinished(self, adapter: CommandRows) -> None:
        adapter.advance(self.env.step_dt, ~self._done)

    def _refresh(self, adapter: CommandRows) -> None:
        adapter.refresh(self._done)

    def _command(self, adapter: CommandRows, method: Any) -> Any:
        def run() -> None:
            if not adapter.moves_bodies:
                self._memo.begin()
            method(adapter)
            self._memo.end()

        return run

    def _command_reset(self, name: str, adapter: CommandRows) -> Any:
        def run() -> None:
            for metric, value in adapter.reset(self._done, self._resets.count):
                self._log[f"Metrics/{name}/{metric}"] = value

        return run

    def _plain_command_reset(self, name: str) -> None:
        ids = self._ids()
        if len(ids):
            for metric, value in self.env.command_manager.get_term(name).reset(ids).items():
                self._log[f"Metrics/{name}/{metric}"] = torch.as_tensor(value, device=self.env.device)

    def _plain_command(self, name: str, method: Any) -> Any:
        term = self.env.command_manager.get_term(name)

        def advance() -> None:
            dt = torch.where(self._done, 0.0, self.env.step_dt) if method == self._advance else self.env.step_dt
            term.compute(dt)

        def refresh() -> None:
            if len(self._ids()):
                term.compute(0.0, self._ids())

        return refresh if method == self._refresh else advance

    def _ids(self) -> torch.Tensor:
        """int64 `(K,)`: the rows that are reset, for code that needs indices; a sync, once per step."""
        if self._reset_ids is None:
            self._reset_ids = self._done.nonzero().flatten()
        return self._reset_ids


def _copy(value: Any) -> Any:
    return {name: entry.clone() for name, entry in value.items()} if isinstance(value, dict) else value.clone()


def _cannot(reason: str) -> Any:
    def run() -> None:
        raise CannotCaptureError(reason)

    return run
