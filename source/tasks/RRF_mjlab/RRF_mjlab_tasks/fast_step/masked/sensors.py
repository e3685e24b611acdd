"""`ContactSensor` with masks: its reset, and the data that observations read after one."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
from mjlab.envs import ManagerBasedRlEnv
from mjlab.sensor import BuiltinSensor, ContactSensor, RayCastSensor, Sensor
from mjlab.sensor.camera_sensor import CameraSensor


class ContactReadings:
    """Contact data for observations after `forward()`.

    mjlab keeps the data that rewards have read, unless some environment was reset, which invalidates the cache of all.
    So a contact observation is one substep old in steps without any reset. The same choice is made here, on the device.
    """

    def __init__(self, env: ManagerBasedRlEnv) -> None:
        kept = (BuiltinSensor, RayCastSensor, CameraSensor)  # views of live data, or invalidated by sense()
        self._sensors = [sensor for sensor in env.scene.sensors.values() if not isinstance(sensor, kept)]
        self._stale: list[tuple[Sensor, Any]] = []

    def keep(self) -> None:
        """Store the cached data before the reset."""
        self._stale = [(sensor, sensor._cached_data) for sensor in self._sensors if sensor._cache_valid]

    def invalidate(self) -> None:
        """Invalidate all caches, as a reset does."""
        for sensor in self._sensors:
            sensor._invalidate_cache()

    def merge(self, any_done: torch.Tensor) -> None:
        """After `forward()`, read the sensors again if `any_done`, bool `()`, is True, else use the stored data."""
        for sensor, stale in self._stale:
            fresh = sensor._compute_data()
            sensor._cached_data = _choose(any_done, fresh, stale)
            sensor._cache_valid = True


def _choose(condition: torch.Tensor, chosen: Any, other: Any) -> Any:
    if torch.is_tensor(chosen):
        return chosen if chosen is other else torch.where(condition, chosen, other)
    if dataclasses.is_dataclass(chosen) and not isinstance(chosen, type):
        values = {
            field.name: _choose(condition, getattr(chosen, field.name), getattr(other, field.name))
            for field in dataclasses.fields(chosen)
        }
        return type(chosen)(**values)
    return chosen


def reset_contact_sensor(sensor: ContactSensor, mask: torch.Tensor) -> None:
    """Reset a `ContactSensor` in the rows of `mask`, bool `(num_envs,)`."""
    rows = mask.unsqueeze(1)
    if sensor._air_time_state is not None:
        for value in vars(sensor._air_time_state).values():
            value.masked_fill_(rows, 0.0)
    for value in (sensor._history_state or {}).values():
        value.masked_fill_(mask.view(-1, *[1] * (value.dim() - 1)), 0.0)
