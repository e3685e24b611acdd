"""The stages of one environment step, in the order of `ManagerBasedRlEnv.step`.

actions | 4 x physics | terminations, rewards, metrics | events
        | [final: forward, commands, sense, observe all rows]
        | curriculum, reset masked rows | forward | commands | sense | observe
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from mjlab.envs import ManagerBasedRlEnv

from .capture.stages import Launch, Stage
from .errors import CannotCaptureError
from .masked.command_adapters import adapt_commands
from .masked.commands import CommandRows
from .masked.curricula import curriculum_rows, curriculum_terms, is_host_curriculum
from .masked.entity_memo import EntityMemo
from .masked.events import MaskedEvents
from .masked.held_rows import HeldRows
from .masked.observations import Observations, Observer
from .masked.resets import Log, MaskedResets
from .masked.rewards import FusedRewards, as_rows
from .masked.rows import RowCaller
from .masked.sensors import ContactReadings
from .physics.simulation import Physics


class StepStages:
    """The buffers of a step and the functions that fill them."""

    def __init__(
        self, env: ManagerBasedRlEnv, physics: Physics, *, final_observations: bool, holds_rows: bool = False
    ) -> None:
        self.env: Any = env
        self.physics = physics
        self._with_final = final_observations
        self.held = HeldRows(env) if holds_rows else None
        """Rows that a step leaves as they were, if it can."""
        self.draws = self.draws_final = True
        """Whether this step renders cameras and casts rays for the next observation, and for the last of an episode."""
        device, num_envs = env.device, env.num_envs
        self.actions = torch.zeros(num_envs, env.action_manager.total_action_dim, device=device)
        self.done = torch.zeros(num_envs, dtype=torch.bool, device=device)
        self._any_done = torch.zeros((), dtype=torch.bool, device=device)
        self.success = torch.zeros_like(self.done)
        self.step_count = torch.zeros((), dtype=torch.int32, device=device)
        self.lengths = env.episode_length_buf
        self.reset_ids: torch.Tensor | None = None
        """Rows of `done`, once a fallback has requested them in this step."""
        self.log: Log = {}
        """Statistics of finished episodes."""
        self.step_log: dict[str, Any] = {}
        """Values that reward terms log at every step."""
        self.observations: Observations = {}
        self.final: Observations = {}

        self._rows = RowCaller(env)
        self.memo = EntityMemo(env)
        self._observer = Observer(env)
        self._contacts = ContactReadings(env)
        self._fused_rewards = FusedRewards(env)
        as_rows(env.termination_manager._term_dones)
        self._resets = MaskedResets(env, self._rows, self.done, self.log)
        self._events = MaskedEvents(env, self._rows, self.step_count)
        self._commands = adapt_commands(env, self._rows)
        self._success_terms = [term for term in env.command_manager._terms.values() if "episode_success" in vars(term)]

    def stages(self) -> Iterator[Stage | Launch]:
        """Return all stages of a step."""
        if self.held is not None:
            yield Stage("rows before the step", self.held.save)
        yield Stage("actions", self._process_actions)
        for substep in range(self.env.cfg.decimation):
            late = substep == 0 and not self.physics.late_refusal
            last = substep == self.env.cfg.decimation - 1
            yield Stage("controls", self._late_controls if late else self._controls)
            yield self.physics.substep(late=late, last=last)
            yield Stage("sensors and metrics of the substep", self._after_substep)
        yield Stage("terminations", self._terminations, self._terminations)
        yield Stage(
            "rewards",
            lambda: self._rewards(self._fused_rewards.compute),
            lambda: self._rewards(self.env.reward_manager.compute),
        )
        yield Stage("metrics", self._metrics, self._metrics)
        yield from self._events.step_stages()
        yield from self._events.interval_stages()
        yield Stage("results", self._keep_results)
        if self.held is not None:
            yield Stage("held rows", self._hold)
        if self._with_final:
            # The state before the reset in all rows, then the first state of new episodes.
            yield from self._forward_stages(self._advance_unfinished, self._plain_advance_unfinished, self._sense_final)
            if self.held is not None:
                yield Stage("held rows after the commands", self._put_back)
            yield Stage("final observations", self._observe_all, self._observe_all)
            yield from self._reset_stages()
            yield self.physics.second_forward
            yield from self._command_stages(self._refresh, self._plain_refresh)
            yield from self._sense_stages(self._sense)
            yield Stage("observations", self._observe_done_rows, self._observe_done_rows)
        else:
            yield from self._reset_stages()
            yield from self._forward_stages(self._advance, self._plain_advance, self._sense)
            if self.held is not None:
                yield Stage("held rows after the commands", self._put_back)
            yield Stage("observations", self._observe_all, self._observe_all)
        yield from (
            Stage("end of the commands", adapter.end_step) for adapter in self._commands.values() if adapter is not None
        )

    def _forward_stages(self, run: Any, plain: Any, sense: Launch) -> Iterator[Stage | Launch]:
        """Return `forward()`, commands and rays; forces beside or after commands that read kinematics only."""
        adapters = list(self._commands.values())
        if self.physics.late_refusal or not all(rows is not None and rows.reads_kinematics for rows in adapters):
            yield self.physics.forward
            yield from self._command_stages(run, plain, self.physics.forward)
            yield from self._sense_stages(sense)
            return
        yield self.physics.forward_state
        if any(rows is not None and rows.moves_bodies for rows in adapters):
            yield from self._command_stages(run, plain, self.physics.forward_state)
            yield self.physics.begin_forces
        else:
            yield self.physics.begin_forces
            yield from self._command_stages(run, plain)
        yield from self._sense_stages(sense)
        yield self.physics.wait_for_forces

    def _sense_stages(self, sense: Launch) -> Iterator[Stage | Launch]:
        context = self.env.scene.sensor_context
        if context is not None:
            yield Stage("rays", context.prepare)
            yield sense
            yield Stage("ray hits", context.finalize)

    def _sense(self) -> None:
        if self.draws:
            self.physics.sense()

    def _sense_final(self) -> None:
        if self.draws_final:
            self.physics.sense()

    def _command_stages(self, run: Any, plain: Any, forward: Launch | None = None) -> Iterator[Stage | Launch]:
        """Return one stage per command term, followed by `forward` if a resample may have moved bodies.

        Args:
            run: Function of a term's adapter.
            plain: Function of the term itself, if its adapter needs the host.
            forward: Launch that updates what depends on the state; None if no command is resampled.
        """
        for name, adapter in self._commands.items():
            term = self.env.command_manager.get_term(name)
            yield Stage(
                f"command '{name}'",
                lambda adapter=adapter: self._run_command(adapter, run),
                lambda term=term: plain(term),
            )
            if forward is not None and adapter is not None and adapter.moves_bodies:
                yield forward
                yield Stage(f"command '{name}' after forward", adapter.after_forward)

    def _reset_stages(self) -> Iterator[Stage | Launch]:
        resets = self._resets
        for name, cfg in curriculum_terms(self.env):
            if not is_host_curriculum(cfg):
                yield self._curriculum_stage(name, cfg)
        yield Stage("reset mask", resets.begin)
        yield self.physics.reset
        yield Stage("reset of the scene", self._reset_scene)
        yield from self._events.reset_stages(self.done, self._ids)
        for name in ("observations", "actions", "rewards", "metrics", "curricula"):
            yield Stage(f"reset of the {name}", getattr(resets, name))
        for name, adapter in self._commands.items():
            yield Stage(
                f"reset of command '{name}'",
                lambda name=name, adapter=adapter: self._reset_command(name, adapter),
                lambda name=name: self._plain_command_reset(name),
            )
        yield Stage("reset of the event timers", lambda: self._events.reset_timers(self.done))
        yield Stage("reset of the terminations", resets.terminations)
        yield Stage("reset of the episode lengths", resets.episode_lengths)
        yield Stage("controls", self.env.scene.write_data_to_sim)

    def _curriculum_stage(self, name: str, cfg: Any) -> Stage:
        def plain() -> None:
            ids = self._ids()
            if len(ids):
                self._note_curriculum(name, cfg.func(self.env, ids, **cfg.params))

        def masked() -> None:
            self._note_curriculum(name, curriculum_rows(self.env, cfg, self._rows, self.done))

        return Stage(f"curriculum '{name}'", masked, plain)

    def _note_curriculum(self, name: str, state: Any) -> None:
        self.env.curriculum_manager._curriculum_state[name] = state
        values = state if isinstance(state, dict) else {"": state}
        for key, value in values.items():
            if value is not None:
                tag = f"Curriculum/{name}/{key}".rstrip("/")
                self.log[tag] = torch.as_tensor(value, dtype=torch.float32, device=self.env.device)

    def _process_actions(self) -> None:
        self.step_count += 1
        self.env.action_manager.process_action(self.actions)

    def _controls(self) -> None:
        self.env.action_manager.apply_action()
        self.env.scene.write_data_to_sim()

    def _late_controls(self) -> None:
        self._controls()
        # Sensors of accelerations add to what is there; the others keep what forward() computed from the same state.
        sensordata = self.env.sim.data.sensordata._tensor
        sensordata.masked_fill_(self.physics.acceleration_columns, 0.0)

    def _after_substep(self) -> None:
        self.env.scene.update(dt=self.env.physics_dt)
        self.env.metrics_manager.compute_substep()

    def _terminations(self) -> None:
        self.memo.begin()
        self.lengths += 1
        self.done.copy_(self.env.termination_manager.compute())
        torch.any(self.done, dim=0, out=self._any_done)

    def _rewards(self, compute: Callable[..., torch.Tensor]) -> None:
        self.env.extras["log"] = self.step_log
        self.env.reward_buf = compute(dt=self.env.step_dt)

    def _metrics(self) -> None:
        self.env.metrics_manager.compute()
        self.memo.end()

    def _keep_results(self) -> None:
        self._contacts.keep()
        if self._success_terms:
            reached = torch.stack([term.episode_success > 0 for term in self._success_terms])
            torch.any(reached, dim=0, out=self.success)

    def _hold(self) -> None:
        """Take the step back in held rows: no reward, no end, no time."""
        held = self._put_back()
        self.done &= ~held
        torch.any(self.done, dim=0, out=self._any_done)
        self.success &= ~held
        self.lengths -= held.long()
        self.env.reward_buf = self.env.reward_buf.masked_fill(held, 0.0)

    def _put_back(self) -> torch.Tensor:
        """Restore the state of held rows, bool `(num_envs,)`, which are returned; no reward is part of it."""
        if self.held is None:
            raise ValueError("This step can't hold rows: build it with holds_rows=True.")
        held = ~self.held.active
        self.held.restore()
        self.env.reward_manager._step_reward.masked_fill_(held.unsqueeze(1), 0.0)
        return held

    def _reset_scene(self) -> None:
        self._resets.scene()
        self._contacts.invalidate()

    def _observe_all(self) -> None:
        self._contacts.merge(self._any_done)
        self.memo.begin()
        self.observations = self._observer.observe()
        self.memo.end()
        if self._with_final:
            self.final = self.observations

    def _observe_done_rows(self) -> None:
        self._contacts.invalidate()
        self.memo.begin()
        self.observations = self._observer.observe_first(self.done, self.final)
        self.memo.end()

    def _run_command(self, adapter: CommandRows | None, run: Callable[[CommandRows], None]) -> None:
        if adapter is None:
            raise CannotCaptureError("has its own compute() or reset()")
        if not adapter.moves_bodies:
            self.memo.begin()
        run(adapter)
        self.memo.end()

    def _advance(self, adapter: CommandRows) -> None:
        adapter.advance(torch.where(self.done, 0.0, self.env.step_dt), None)

    def _plain_advance(self, term: Any) -> None:
        term.compute(torch.where(self.done, 0.0, self.env.step_dt))

    def _advance_unfinished(self, adapter: CommandRows) -> None:
        adapter.advance(self.env.step_dt, ~self.done)

    def _plain_advance_unfinished(self, term: Any) -> None:
        term.compute(self.env.step_dt)

    def _refresh(self, adapter: CommandRows) -> None:
        adapter.refresh(self.done)

    def _plain_refresh(self, term: Any) -> None:
        if len(self._ids()):
            term.compute(0.0, self._ids())

    def _reset_command(self, name: str, adapter: CommandRows | None) -> None:
        if adapter is None:
            raise CannotCaptureError("has its own compute() or reset()")
        for metric, value in adapter.reset(self.done, self._resets.count):
            self.log[f"Metrics/{name}/{metric}"] = value

    def _plain_command_reset(self, name: str) -> None:
        ids = self._ids()
        if len(ids):
            for metric, value in self.env.command_manager.get_term(name).reset(ids).items():
                self.log[f"Metrics/{name}/{metric}"] = torch.as_tensor(value, device=self.env.device)

    def _ids(self) -> torch.Tensor:
        """Return int64 `(K,)`, the rows that are reset, for code that needs indices; a sync, once per step."""
        if self.reset_ids is None:
            self.reset_ids = self.done.nonzero().flatten()
        return self.reset_ids
