"""Tensors at fixed addresses, which CUDA graphs require.

mjlab often binds an attribute to a new tensor (`self.peak = torch.where(...)`). Such a tensor is copied to the old
address, and the old one is bound again.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import torch

from ...state_slots import Slot, tensor_slots


class StableTensors:
    """Keep every tensor of the state at the address where it was first seen."""

    def __init__(self, roots: dict[str, Any]) -> None:
        self._roots = roots
        self._home: dict[tuple[int, Any], torch.Tensor] = {}
        self._movable: dict[tuple[int, Any], Slot] = {}
        """Slots that are sometimes bound to new tensors."""
        self.remember()

    def remember(self) -> None:
        """Record the current addresses as the fixed ones."""
        self._home = {(id(slot.owner), slot.key): slot.get() for slot in tensor_slots(self._roots)}

    def stabilize_if_moved(self) -> None:
        """Call `stabilize` if other code (a plain `reset` or `step` of mjlab) has run in between."""
        if any(slot.get() is not self._home[key] for key, slot in self._movable.items()):
            self.stabilize()

    def stabilize(self) -> None:
        """Copy newly bound tensors to their fixed addresses.

        Two slots that share a new tensor share an address afterwards, because a write through one has to be visible in
        the other.
        """
        moved: dict[int, torch.Tensor] = {}
        for slot in tensor_slots(self._roots):
            key, value = (id(slot.owner), slot.key), slot.get()
            home = self._home.get(key)
            if home is value:
                continue
            self._movable[key] = slot
            if id(value) in moved:
                home = moved[id(value)]
            elif home is None or home.shape != value.shape or home.dtype != value.dtype or home.device != value.device:
                self._home[key] = value
                continue
            else:
                home.copy_(value)
                moved[id(value)] = home
            self._home[key] = home
            slot.set(home)


class StableCaches:
    """Keep cached sensor data at one address per field, for captured code after code that is not captured."""

    def __init__(self, sensors: Mapping[str, Any]) -> None:
        self._sensors = sensors
        self._homes: dict[tuple[str, str], torch.Tensor] = {}

    def stabilize(self) -> None:
        """Copy cached tensors to their fixed addresses and let the sensors return those."""
        for name, sensor in self._sensors.items():
            data = sensor._cached_data
            if not sensor._cache_valid or not dataclasses.is_dataclass(data):
                continue
            for field in dataclasses.fields(data):
                value = getattr(data, field.name)
                if isinstance(value, torch.Tensor):
                    setattr(data, field.name, self._at_home((name, field.name), value))

    def _at_home(self, key: tuple[str, str], value: torch.Tensor) -> torch.Tensor:
        if key not in self._homes:
            self._homes[key] = value.clone()
        elif self._homes[key] is not value:
            self._homes[key].copy_(value)
        return self._homes[key]
