"""mjlab's environment step with fixed sizes and without the host, in CUDA graphs.

Three things differ from `ManagerBasedRlEnv.step`, none of them in the numbers: resets are masked instead of indexed,
the first physics substep reuses the last `forward()` (see `physics.simulation`), and the last observation of an
episode is computed before its reset (see `masked.observations`).
"""

from __future__ import annotations

from typing import Any

import torch
from mjlab.envs import ManagerBasedRlEnv
from mjlab.managers.recorder_manager import NullRecorderManager

from ..env_state import EnvState
from ..state_slots import state_roots
from .capture.host_values import HostValues
from .capture.stages import Segment, Stage, StepContext, assemble, probe
from .errors import CannotCaptureError
from .masked.buffers import adopt_buffers
from .masked.curricula import HostCurricula
from .masked.host_free import host_free
from .masked.observations import Observations
from .physics.simulation import Physics
from .program import StepStages


class FastStep:
    """Replacement of `env.step` for one environment that has been reset at least once.

    Args:
        env: mjlab's environment; its plain `step` keeps working.
        final_observations: True to compute the last observation of every episode, at the price of a second `forward()`.
        capture: True to use CUDA graphs; without them (on the CPU) the same stages run eagerly.
        holds_rows: True to be able to leave rows as they were, at the price of copies of all rows in every step.

    Raises:
        CannotCaptureError: The environment can't be stepped this way; the message says why.
    """

    def __init__(
        self, env: ManagerBasedRlEnv, *, final_observations: bool, capture: bool, holds_rows: bool = False
    ) -> None:
        if not isinstance(env.recorder_manager, NullRecorderManager):
            raise CannotCaptureError("recorders write what they see to files at every reset")
        if not env.cfg.auto_reset:
            raise CannotCaptureError("auto_reset=False leaves the resets to the caller")
        self.env: Any = env
        roots = state_roots(env)
        self._buffers = adopt_buffers(roots)
        self._physics = Physics(env)
        self._parts = StepStages(env, self._physics, final_observations=final_observations, holds_rows=holds_rows)
        self._context = StepContext(env, roots, self._physics.write_on_current_stream, host_free)
        self._host_curricula = HostCurricula(env)
        self._host_values = HostValues(env)
        self._host_values.changed()
        self._sim_steps = -1
        stages = list(self._parts.stages())
        self.fallbacks = self._probe(stages)
        """Stages that run mjlab's own code, each with its reason."""
        self._program = assemble(stages, self._context, capture)

    def _probe(self, stages: list[Any]) -> list[Stage]:
        """Find the stages that need the host by running all of them once; restores the state afterwards."""
        state = EnvState(self.env)
        present = state.save()
        try:
            return probe(stages, self._context)
        finally:
            state.load(present)
            self.env.sim.forward()
            self.env.sim.sense()
            self._physics.write_on_current_stream()
            self._context.stable.remember()
            self._parts.log.clear()
            self._parts.step_log.clear()

    @property
    def captured(self) -> bool:
        """True if every part that can be a graph is one by now."""
        return all(part.captured for part in self._program if isinstance(part, Segment))

    def describe(self) -> str:
        """Describe the execution of all parts, for the log."""
        parts = [part for part in self._program if isinstance(part, Segment)]
        lines = [f"environment step in {len(parts)} captured parts between the simulator's graphs"]
        lines += [f"'{stage.name}' runs mjlab's code, because it {stage.reason}" for stage in self.fallbacks]
        if self._parts.memo.written:
            lines.append(
                f"nothing is remembered between terms, because one changes '{self._parts.memo.written}' in place"
            )
        if self._physics.late_refusal:
            lines.append(f"forward() is computed twice for the same state, because {self._physics.late_refusal}")
        if self._physics.branches_refusal:
            lines.append(f"physics is recorded in one branch, because {self._physics.branches_refusal}")
        return "; ".join(lines)

    def __call__(
        self,
        actions: torch.Tensor,
        active: torch.Tensor | None = None,
        *,
        draw: bool = True,
        draw_final: bool = True,
    ) -> None:
        """Do one step; results are in `observations`, `final`, `log` and in the buffers of the environment.

        Args:
            actions: `(num_envs, A)`.
            active: bool `(num_envs,)`: rows that the step is meant for, with `holds_rows`; the others stay as they
                are. None: all.
            draw: False to render no camera and cast no ray for the next observation, which shows what it did.
            draw_final: The same for last observations of episodes.
        """
        env, parts = self.env, self._parts
        parts.actions.copy_(actions)
        parts.draws, parts.draws_final = draw, draw_final
        if parts.held is not None:
            parts.held.active.copy_(torch.ones_like(parts.done) if active is None else active)
        elif active is not None:
            raise ValueError("This step can't hold rows: build it with holds_rows=True, or step all of them.")
        if env.episode_length_buf is not parts.lengths:
            parts.lengths.copy_(env.episode_length_buf)
            env.episode_length_buf = parts.lengths
        if env._sim_step_counter != self._sim_steps:
            parts.step_count.fill_(env._sim_step_counter // env.cfg.decimation)
        self._context.stable.stabilize_if_moved()
        for buffer in self._buffers:
            buffer.settle()
        parts.reset_ids = None
        env._sim_step_counter += env.cfg.decimation
        self._sim_steps = env._sim_step_counter
        env.common_step_counter += 1
        self._host_curricula.before_step()
        if self._host_values.changed():
            self.recapture()
        for part in self._program:
            part()
        self._host_curricula.after_step()
        self._publish()

    def _publish(self) -> None:
        """Write the results where mjlab's step writes them; observations as copies that outlive the next step."""
        env = self.env
        env.obs_buf = {name: _copy(value) for name, value in self._parts.observations.items()}
        env.observation_manager._obs_buffer = env.obs_buf
        env.reset_terminated = env.termination_manager.terminated
        env.reset_time_outs = env.termination_manager.time_outs
        env.reset_buf = self._parts.done
        env.extras["log"] = self.log()

    @property
    def observations(self) -> Observations:
        """Group -> next observation of the policy."""
        return self.env.obs_buf

    @property
    def final(self) -> Observations:
        """Group -> the last observation of the episode in rows that are done; overwritten by the next step."""
        return self._parts.final

    @property
    def success(self) -> torch.Tensor:
        """Bool `(num_envs,)`: rows that are done and had reached a command's goal; overwritten by the next step."""
        return self._parts.success

    @property
    def done(self) -> torch.Tensor:
        """Bool `(num_envs,)`: episodes that ended in this step; overwritten by the next step."""
        return self._parts.done

    def log(self) -> dict[str, Any]:
        """Scalars of this step, as copies; NaN if a statistic is about finished episodes and none finished."""
        entries = {**self._parts.step_log, **self._parts.log}
        tensors = {name: value for name, value in entries.items() if torch.is_tensor(value)}
        copies = torch.stack([value.float() for value in tensors.values()]).unbind() if tensors else ()
        numbers = {name: value for name, value in entries.items() if name not in tensors}
        return {**dict(zip(tensors, copies, strict=True)), **numbers, **self._host_curricula.log()}

    def recapture(self) -> None:
        """Drop the graphs, for example because a curriculum changed a weight; the next steps capture again."""
        self._context.renew_pool()
        for part in self._program:
            if isinstance(part, Segment):
                part.drop()


def _copy(value: Any) -> Any:
    return {name: entry.clone() for name, entry in value.items()} if isinstance(value, dict) else value.clone()
