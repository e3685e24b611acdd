"""Python numbers that a captured step contains as constants: a change requires a new capture."""

from __future__ import annotations

from typing import Any

from mjlab.envs import ManagerBasedRlEnv

_NUMBERS = (bool, int, float, str, type(None))


class HostValues:
    """Watch of weights, parameters and ranges of the terms of one environment."""

    def __init__(self, env: ManagerBasedRlEnv) -> None:
        self._env: Any = env
        self._last: tuple[Any, ...] = ()

    def changed(self) -> bool:
        """Return True if any value differs from the last call."""
        current = self._read()
        differs = current != self._last
        self._last = current
        return differs

    def _read(self) -> tuple[Any, ...]:
        env = self._env
        values: list[Any] = [cfg.weight for cfg in env.reward_manager._term_cfgs]
        for manager in (env.reward_manager, env.termination_manager):
            values += [_plain(cfg.params) for cfg in manager._term_cfgs]
        for configs in env.event_manager._mode_term_cfgs.values():
            values += [(_plain(cfg.params), cfg.interval_range_s) for cfg in configs]
        for term in env.command_manager._terms.values():
            values.append(_plain(vars(term.cfg)))
        return tuple(values)


def _plain(value: Any) -> Any:
    """Return numbers and nested containers of numbers; everything else by identity."""
    if isinstance(value, _NUMBERS):
        return value
    if isinstance(value, dict):
        return tuple((key, _plain(entry)) for key, entry in value.items())
    if isinstance(value, (list, tuple)):
        return tuple(_plain(entry) for entry in value)
    if type(value).__name__ in ("Ranges", "TargetPositionRangeCfg", "ObjectPoseRangeCfg"):
        return _plain(vars(value))
    return id(value)
