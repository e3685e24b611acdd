"""`EventManager` with masks: due events are determined per environment on the device.

Event functions themselves are mjlab's (or a third party's) and run on all rows; see `rows`. If one can't, the same
masks become indices, with a sync, and the function gets those.
"""

from __future__ import annotations

import types
from collections.abc import Callable, Iterator
from typing import Any

import torch
from mjlab.envs import ManagerBasedRlEnv
from mjlab.managers.event_manager import RecomputeLevel

from ..capture.stages import Stage
from ..errors import NotMaskableError
from .rows import RowCaller

_DUE_BELOW_S = 1e-6
"""mjlab's tolerance on the timers of interval events."""

Call = Callable[[Any, torch.Tensor], None]
"""Function that runs an event in the rows of a mask."""


class MaskedEvents:
    """Step, interval and reset events of one environment."""

    def __init__(self, env: ManagerBasedRlEnv, rows: RowCaller, step_count: torch.Tensor) -> None:
        self._env = env
        self._manager: Any = env.event_manager
        self._rows = rows
        self._step_count = step_count
        """int32 `()`: environment steps so far; mjlab passes it as a Python number."""

    def step_stages(self) -> Iterator[Stage]:
        """Return the events of mode `step`, one stage each."""
        for name, cfg in self._terms("step"):
            yield Stage(
                f"event '{name}'",
                lambda cfg=cfg: self._call_everywhere(_unless_it_recomputes(cfg)),
                lambda cfg=cfg: self._call_everywhere(cfg),
            )

    def interval_stages(self) -> Iterator[Stage]:
        """Return the events of mode `interval`, one stage each."""
        for index, (name, cfg) in enumerate(self._terms("interval")):
            timer = self._manager._interval_term_time_left[index]
            yield Stage(
                f"event '{name}'",
                lambda timer=timer, cfg=cfg: self._interval(timer, cfg, self._call_masked),
                lambda timer=timer, cfg=cfg: self._plain_interval(timer, cfg),
            )

    def reset_stages(self, mask: torch.Tensor, reset_ids: Callable[[], torch.Tensor]) -> Iterator[Stage]:
        """Return the events of mode `reset`, one stage each.

        Args:
            mask: bool `(num_envs,)`, filled before these stages run.
            reset_ids: Returns the ids of `mask`, for fallbacks.
        """

        def call_plain(cfg: Any, due: torch.Tensor) -> None:
            self._call_ids(cfg, reset_ids() if due is mask else due.nonzero().flatten())

        for index, (name, cfg) in enumerate(self._terms("reset")):
            yield Stage(
                f"event '{name}'",
                lambda index=index, cfg=cfg: self._reset(index, cfg, mask, self._call_masked),
                lambda index=index, cfg=cfg: self._reset(index, cfg, mask, call_plain),
            )

    def reset_timers(self, mask: torch.Tensor) -> None:
        """Reset the `EventManager` in the rows of `mask`."""
        for configs in self._manager._mode_class_term_cfgs.values():
            for cfg in configs:
                self._rows.call(lambda ids, cfg=cfg: cfg.func.reset(env_ids=ids), mask, cfg.func)
        for index, (_, cfg) in enumerate(self._terms("interval")):
            if not cfg.is_global_time:
                _draw_rows(self._manager._interval_term_time_left[index], cfg, mask)

    def _terms(self, mode: str) -> list[tuple[str, Any]]:
        names = self._manager._mode_term_names.get(mode, [])
        return list(zip(names, self._manager._mode_term_cfgs.get(mode, []), strict=True))

    def _interval(self, timer: torch.Tensor, cfg: Any, call: Call) -> None:
        if cfg.is_global_time:
            raise NotMaskableError("all environments share one timer, which is on the host")
        timer -= self._env.step_dt
        due = timer < _DUE_BELOW_S
        _draw_rows(timer, cfg, due)
        call(cfg, due)

    def _plain_interval(self, timer: torch.Tensor, cfg: Any) -> None:
        if not cfg.is_global_time:
            self._interval(timer, cfg, lambda cfg, due: self._call_ids(cfg, due.nonzero().flatten()))
            return
        timer -= self._env.step_dt
        if timer < _DUE_BELOW_S:
            _draw_rows(timer, cfg, torch.ones_like(timer, dtype=torch.bool))
            self._call_everywhere(cfg)

    def _reset(self, index: int, cfg: Any, mask: torch.Tensor, call: Call) -> None:
        last_step = self._manager._reset_term_last_triggered_step_id[index]
        once = self._manager._reset_term_last_triggered_once[index]
        due = mask
        if cfg.min_step_count_between_reset:
            waited = self._step_count - last_step >= cfg.min_step_count_between_reset
            due = mask & (waited | ((last_step == 0) & ~once))
        torch.where(due, self._step_count, last_step, out=last_step)
        once |= due
        call(cfg, due)

    def _call_masked(self, cfg: Any, mask: torch.Tensor) -> None:
        cfg = _unless_it_recomputes(cfg)
        owner = None if isinstance(cfg.func, types.FunctionType) else cfg.func
        self._rows.call(lambda ids: cfg.func(self._env, ids, **cfg.params), mask, owner)

    def _call_ids(self, cfg: Any, ids: torch.Tensor) -> None:
        if len(ids):
            cfg.func(self._env, ids, **cfg.params)
            self._recompute(cfg)

    def _call_everywhere(self, cfg: Any) -> None:
        cfg.func(self._env, None, **cfg.params)
        self._recompute(cfg)

    def _recompute(self, cfg: Any) -> None:
        level = _recompute_level(cfg)
        if level != RecomputeLevel.none:
            self._env.sim.recompute_constants(level)


def _unless_it_recomputes(cfg: Any) -> Any:
    if _recompute_level(cfg) != RecomputeLevel.none:
        raise NotMaskableError("it changes the model, whose constants mjlab then computes anew on the host's command")
    return cfg


def _recompute_level(cfg: Any) -> RecomputeLevel:
    return getattr(cfg.func, "recompute", RecomputeLevel.none)


def _draw_rows(timer: torch.Tensor, cfg: Any, mask: torch.Tensor) -> None:
    """Draw the time to the next event in the rows of `mask`."""
    low, high = cfg.interval_range_s
    torch.where(mask, torch.rand_like(timer) * (high - low) + low, timer, out=timer)
