"""Observations of the last state of an episode and of the first of the next, in one step.

mjlab observes once per step, after the reset, so the last observation of an episode is never computed. With exact final
observations a step observes twice:

    all rows     terminal state -> noise -> history and delay advance          = final observation
    done rows    first state    -> noise -> history and delay are reset        = returned observation
    other rows   the first pass is what is returned: history advances once, noise is drawn once
"""

from __future__ import annotations

from typing import Any

import torch
from mjlab.envs import ManagerBasedRlEnv
from mjlab.utils.noise import noise_cfg

from .buffers import backfill_rows, first_delayed_rows

Observation = torch.Tensor | dict[str, torch.Tensor]
Observations = dict[str, Observation]


class Observer:
    """Computation of the observation groups of one environment."""

    def __init__(self, env: ManagerBasedRlEnv) -> None:
        self._env = env
        self._manager: Any = env.observation_manager

    def observe(self) -> Observations:
        """Return all groups, with histories and delays advanced by one step."""
        return self._manager.compute(update_history=True)

    def observe_first(self, mask: torch.Tensor, before: Observations) -> Observations:
        """Return the first observation of an episode in the rows of `mask`, bool `(num_envs,)`, else `before`."""
        observations: Observations = {}
        for group in self._manager._group_obs_term_names:
            first = self._first_of_group(group, mask)
            observations[group] = _choose(mask, first, before[group])
        self._manager._obs_buffer = observations
        return observations

    def _first_of_group(self, group: str, mask: torch.Tensor) -> Observation:
        manager = self._manager
        cfg = manager.cfg[group]
        values: dict[str, torch.Tensor] = {}
        for name, term in zip(manager._group_obs_term_names[group], manager._group_obs_term_cfgs[group], strict=True):
            value = self._measure(group, name, term)
            if cfg.nan_check_per_term:
                value = manager._check_and_handle_nans(value, f"{group}/{name}", cfg.nan_policy)
            if term.delay_max_lag > 0:
                value = first_delayed_rows(manager._group_obs_term_delay_buffer[group][name], value, mask)
            if term.history_length > 0:
                history = manager._group_obs_term_history_buffer[group][name]
                backfill_rows(history, value, mask)
                value = history.buffer
                if term.flatten_history_dim:
                    value = value.reshape(self._env.num_envs, -1)
            values[name] = value
        if manager._group_obs_concatenate[group]:
            joined = torch.cat(list(values.values()), dim=manager._group_obs_concatenate_dim[group])
            return joined if cfg.nan_check_per_term else manager._check_and_handle_nans(joined, group, cfg.nan_policy)
        if not cfg.nan_check_per_term:
            for name, value in values.items():
                values[name] = manager._check_and_handle_nans(value, f"{group}/{name}", cfg.nan_policy)
        return values

    def _measure(self, group: str, name: str, term: Any) -> torch.Tensor:
        """Compute one term with noise, clip and scale."""
        value = term.func(self._env, **term.params).clone()
        if isinstance(term.noise, noise_cfg.NoiseCfg):
            value = term.noise.apply(value)
        elif isinstance(term.noise, noise_cfg.NoiseModelCfg):
            value = self._manager._group_obs_class_instances[group][name](value)
        if term.clip:
            value = value.clip_(min=term.clip[0], max=term.clip[1])
        return value if term.scale is None else value.mul_(term.scale)


def _choose(mask: torch.Tensor, chosen: Observation, other: Observation) -> Observation:
    if isinstance(chosen, dict) and isinstance(other, dict):
        return {name: torch.where(_like(mask, value), value, other[name]) for name, value in chosen.items()}
    return torch.where(_like(mask, chosen), chosen, other)  # type: ignore[arg-type]


def _like(mask: torch.Tensor, value: Any) -> torch.Tensor:
    return mask.view(-1, *[1] * (value.dim() - 1))
