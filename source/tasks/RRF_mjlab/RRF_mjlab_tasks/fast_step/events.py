"""The event manager with masks: when an event is due is decided per environment on the device.

Event functions themselves are mjlab's (or a third party's) and run on all rows; see `row_calls`.
"""

from __future__ import annotations

import types
from collections.abc import Iterator
from typing import Any

import torch
from mjlab.envs import ManagerBasedRlEnv
from mjlab.managers.event_manager import RecomputeLevel

from .errors import NotMaskableError
from .row_calls import RowCaller
from .stages import Stage

_DUE_BELOW_S = 1e-6
"""mjlab's tolerance on the timers of interval events."""


class MaskedEvents:
    """Step, interval and reset events of one environment."""

    def __init__(self, env: ManagerBasedRlEnv, rows: RowCaller, step_count: torch.Tensor) -> None:
        self._env = env
        self._manager: Any = env.event_manager
        self._rows = rows
        self._step_count = step_count
        """int32 `()`: environment steps so far; mjlab passes it as a Python number."""

    def step_stages(self) -> Iterator[Stage]:
        """Events of mode `step`, one stage each."""
        for name, cfg in self._terms("step"):
            yield Stage(f"event '{name}'", lambda cfg=cfg: self._call_everywhere(cfg), lambda cfg=cfg: self._plain(cfg))

    def interval_stages(self) -> Iterator[Stage]:
        """Events of mode `interval`, one stage each."""
        for index, (name, cfg) in enumerate(self._terms("interval")):
            yield Stage(
                f"event '{name}'",
                lambda index=index, cfg=cfg: self._interval(index, cfg),
                lambda index=index, cfg=cfg: self._plain_interval(index, cfg),
            )

    def reset_stages(self, mask: torch.Tensor, reset_ids: Any) -> Iterator[Stage]:
        """Events of mode `reset`, one stage each.

        Args:
            mask: bool `(num_envs,)`, filled before these stages run.
            reset_ids: function that returns the ids of `mask`, for fallbacks.
        """
        for index, (name, cfg) in enumerate(self._terms("reset")):
            yield Stage(
                f"event '{name}'",
                lambda index=index, cfg=cfg: self._reset(index, cfg, mask),
                lambda index=index, cfg=cfg: self._plain_reset(index, cfg, reset_ids()),
            )

    def reset_timers(self, mask: torch.Tensor) -> None:
        """`EventManager.reset` for the rows of `mask`."""
        for configs in self._manager._mode_class_term_cfgs.values():
            for cfg in configs:
                self._rows.call(lambda ids, cfg=cfg: cfg.func.reset(env_ids=ids), mask, cfg.func)
        for index, (_, cfg) in enumerate(self._terms("interval")):
            if not cfg.is_global_time:
                timer = self._manager._interval_term_time_left[index]
                torch.where(mask, _draw(timer, cfg), timer, out=timer)

    def _terms(self, mode: str) -> list[tuple[str, Any]]:
        names = self._manager._mode_term_names.get(mode, [])
        return list(zip(names, self._manager._mode_term_cfgs.get(mode, []), strict=True))

    def _call(self, cfg: Any, mask: torch.Tensor) -> None:
        if _recompute_level(cfg) != RecomputeLevel.none:
            raise NotMaskableError(
                "it changes the model, whose constants mjlab then computes anew on the host's command"
            )
        owner = None if isinstance(cfg.func, types.FunctionType) else cfg.func
        self._rows.call(lambda ids: cfg.func(self._env, ids, **cfg.params), mask, owner)

    def _call_everywhere(self, cfg: Any) -> None:
        if _recompute_level(cfg) != RecomputeLevel.none:
            raise NotMaskableError(
                "it changes the model, whose constants mjlab then computes anew on the host's command"
            )
        cfg.func(self._env, None, **cfg.params)

    def _interval(self, index: int, cfg: Any) -> None:
        if cfg.is_global_time:
            raise NotMaskableError("all environments share one timer, which is on the host")
        timer = self._manager._interval_term_time_left[index]
        timer -= self._env.step_dt
        due = timer < _DUE_BELOW_S
        torch.where(due, _draw(timer, cfg), timer, out=timer)
        self._call(cfg, due)

    def _reset(self, index: int, cfg: Any, mask: torch.Tensor) -> None:
        last_step = self._manager._reset_term_last_triggered_step_id[index]
        once = self._manager._reset_term_last_triggered_once[index]
        due = mask
        if cfg.min_step_count_between_reset:
            waited = self._step_count - last_step >= cfg.min_step_count_between_reset
            due = mask & (waited | ((last_step == 0) & ~once))
        torch.where(due, self._step_count, last_step, out=last_step)
        once |= due
        self._call(cfg, due)

    def _plain(self, cfg: Any) -> None:
        cfg.func(self._env, None, **cfg.params)
        self._recompute(cfg)

    def _plain_interval(self, index: int, cfg: Any) -> None:
        timer = self._manager._interval_term_time_left[index]
        timer -= self._env.step_dt
        if cfg.is_global_time:
            if not bool(timer < _DUE_BELOW_S):
                return
            timer[:] = torch.rand(1) * (cfg.interval_range_s[1] - cfg.interval_range_s[0]) + cfg.interval_range_s[0]
            cfg.func(self._env, None, **cfg.params)
        else:
            ids = (timer < _DUE_BELOW_S).nonzero().flatten()
            if not len(ids):
                return
            timer[ids] = _draw(timer[ids], cfg)
            cfg.func(self._env, ids, **cfg.params)
        self._recompute(cfg)

    def _plain_reset(self, index: int, cfg: Any, ids: torch.Tensor) -> None:
        if not len(ids):
            return
        last_step = self._manager._reset_term_last_triggered_step_id[index]
        once = self._manager._reset_term_last_triggered_once[index]
        if cfg.min_step_count_between_reset:
            waited = self._step_count - last_step[ids] >= cfg.min_step_count_between_reset
            ids = ids[waited | ((last_step[ids] == 0) & ~once[ids])]
            if not len(ids):
                return
        last_step[ids] = self._step_count
        once[ids] = True
        cfg.func(self._env, ids, **cfg.params)
        self._recompute(cfg)

    def _recompute(self, cfg: Any) -> None:
        level = _recompute_level(cfg)
        if level != RecomputeLevel.none:
            self._env.sim.recompute_constants(level)


def _recompute_level(cfg: Any) -> RecomputeLevel:
    return getattr(cfg.func, "recompute", RecomputeLevel.none)


def _draw(timer: torch.Tensor, cfg: Any) -> torch.Tensor:
    low, high = cfg.interval_range_s
    return torch.rand_like(timer) * (high - low) + low
