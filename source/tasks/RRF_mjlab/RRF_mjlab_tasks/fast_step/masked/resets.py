"""`ManagerBasedRlEnv._reset_idx` for a mask: the end of an episode in some rows, with the statistics that mjlab logs.

Statistics are means over the finished episodes of this step, as 0-dim tensors; they are NaN in a step in which none
ended, since whether one did is not known on the host.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from mjlab.actuator import Actuator
from mjlab.entity import Entity
from mjlab.envs import ManagerBasedRlEnv
from mjlab.envs.mdp.actions.actions import BaseAction
from mjlab.sensor import BuiltinSensor, ContactSensor, RayCastSensor
from mjlab.sensor.camera_sensor import CameraSensor

from .buffers import reset_delay_rows, reset_rows
from .rewards import as_rows
from .rows import RowCaller, masked_mean
from .sensors import reset_contact_sensor

Log = dict[str, torch.Tensor]

_TARGETS = ("joint_pos", "joint_vel", "joint_effort", "tendon_len", "tendon_vel", "tendon_effort", "site_effort")
"""Fields that `EntityData.clear_state` zeroes, without `_target`."""


class MaskedResets:
    """Reset of the episode state of scene and managers, in the rows of `mask`."""

    def __init__(self, env: ManagerBasedRlEnv, rows: RowCaller, mask: torch.Tensor, log: Log) -> None:
        self._env: Any = env
        self._rows = rows
        self._mask = mask
        self._log = log
        self.count = torch.zeros((), device=env.device)
        """Number of rows in `mask`, float `()`."""

    def begin(self) -> None:
        """Count the rows and pass the mask to the simulator."""
        torch.sum(self._mask, dtype=torch.float32, dim=0, out=self.count)
        self._env.sim._reset_mask._tensor.copy_(self._mask)

    def scene(self) -> None:
        """Reset actuator targets, delays and sensors."""
        for entity in self._env.scene.entities.values():
            self._entity(entity)
        for sensor in self._env.scene.sensors.values():
            if isinstance(sensor, ContactSensor):
                reset_contact_sensor(sensor, self._mask)
            elif not isinstance(sensor, (BuiltinSensor, RayCastSensor, CameraSensor)):
                self._call(sensor.reset, sensor)

    def observations(self) -> None:
        """Reset histories, delays, noise models and class terms of the observations."""
        manager = self._env.observation_manager
        for group in manager._group_obs_term_names:
            for cfg in manager._group_obs_class_term_cfgs[group]:
                self._call(lambda ids, cfg=cfg: cfg.func.reset(env_ids=ids), cfg.func)
            for buffer in manager._group_obs_term_delay_buffer[group].values():
                reset_delay_rows(buffer, self._mask)
            for buffer in manager._group_obs_term_history_buffer[group].values():
                reset_rows(buffer, self._mask)
            for noise in manager._group_obs_class_instances[group].values():
                self._call(lambda ids, noise=noise: noise.reset(env_ids=ids), noise)

    def actions(self) -> None:
        """Reset the stored actions."""
        manager = self._env.action_manager
        rows = self._mask.unsqueeze(1)
        for value in (manager._action, manager._prev_action, manager._prev_prev_action):
            value.masked_fill_(rows, 0.0)
        for term in manager._terms.values():
            if type(term).reset is BaseAction.reset:
                term._raw_actions.masked_fill_(rows, 0.0)
            else:
                self._call(lambda ids, term=term: term.reset(env_ids=ids), term)

    def rewards(self) -> None:
        """Reset the sums of the reward terms, logged as mean rates of the finished episodes."""
        manager = self._env.reward_manager
        if manager.active_terms:
            sums = as_rows(manager._episode_sums)  # (num_terms, num_envs)
            means = torch.where(self._mask, sums, 0.0).sum(1) / (self.count * self._env.max_episode_length_s)
            self._note("Episode_Reward", manager._episode_sums, means)
            sums.masked_fill_(self._mask, 0.0)
        self._class_terms(manager)

    def metrics(self) -> None:
        """Reset the metrics of the finished episodes, reduced as each is configured."""
        manager = self._env.metrics_manager
        if not manager.active_terms:
            return
        steps = manager._step_count.clamp(min=1).float()
        for index, (name, total) in enumerate(manager._episode_sums.items()):
            reduce = manager._term_cfgs[index].reduce
            if reduce == "max":
                value = manager._episode_max[name]
            elif reduce == "last":
                value = manager._step_values[:, index]
            else:
                value = total if reduce == "sum" else total / steps
            self._log[f"Episode_Metrics/{name}"] = masked_mean(value, self._mask, self.count)
            if reduce == "max":
                value.masked_fill_(self._mask, float("-inf"))
            total.masked_fill_(self._mask, 0.0)
        manager._step_count.masked_fill_(self._mask, 0)
        for buffer in manager._substep_accum:
            buffer.masked_fill_(self._mask, 0.0)
        self._class_terms(manager)

    def curricula(self) -> None:
        """Reset class terms of the curricula; their values are logged where they are computed."""
        if self._env.curriculum_manager.active_terms:
            self._class_terms(self._env.curriculum_manager)

    def terminations(self) -> None:
        """Reset termination terms; logs the reasons of ended episodes, as counts."""
        manager = self._env.termination_manager
        if manager.active_terms:
            done = as_rows(manager._term_dones)  # (num_terms, num_envs)
            numbers = (done & self._mask).sum(1, dtype=torch.float32)
            self._note("Episode_Termination", manager._term_dones, torch.where(self.count > 0, numbers, torch.nan))
        self._class_terms(manager)

    def episode_lengths(self) -> None:
        """Reset the episode lengths; `auto_reset=False` can't be pending, since these rows are reset here."""
        self._env.episode_length_buf.masked_fill_(self._mask, 0)

    def _note(self, folder: str, names: Iterable[str], values: torch.Tensor) -> None:
        self._log.update({f"{folder}/{name}": value for name, value in zip(names, values.unbind(), strict=True)})

    def _entity(self, entity: Entity) -> None:
        if type(entity).reset is not Entity.reset:
            self._call(entity.reset, entity)
            return
        data = entity._data
        if data.is_actuated:
            rows = self._mask.unsqueeze(1)
            for name in _TARGETS:
                target = getattr(data, f"{name}_target")
                if target.numel():
                    target.masked_fill_(rows, 0.0)
        delays = {}
        for actuator in entity._actuators:
            if type(actuator).reset is not Actuator.reset:
                self._call(actuator.reset, actuator)
            elif actuator._delay_buffer is not None:
                delays[id(actuator._delay_buffer)] = actuator._delay_buffer  # actuators of a group share one
        for buffer in delays.values():
            reset_delay_rows(buffer, self._mask)

    def _class_terms(self, manager: Any) -> None:
        for cfg in manager._class_term_cfgs:
            self._call(lambda ids, cfg=cfg: cfg.func.reset(env_ids=ids), cfg.func)

    def _call(self, function: Callable[[torch.Tensor], Any], owner: Any) -> None:
        self._rows.call(function, self._mask, owner)
