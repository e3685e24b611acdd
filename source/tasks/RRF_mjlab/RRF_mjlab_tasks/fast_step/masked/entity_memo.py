"""Compute each derived quantity of an entity once while nothing moves.

`root_link_lin_vel_b` costs a dozen kernels, and rewards, metrics and observations ask for it again and again in one
state. Between `begin` and `end` the properties of `EntityData` remember what they returned.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from mjlab.entity import Entity, EntityData
from mjlab.envs import ManagerBasedRlEnv


class MemoEntityData(EntityData):
    """`EntityData` whose properties can be remembered.

    Args:
        plain: mjlab's data, whose fields are taken over.
    """

    _memo: dict[str, tuple[Any, int]] | None = None
    """Name -> value, and how many in-place writes the tensor had seen."""

    def __init__(self, plain: EntityData) -> None:
        vars(self).update(vars(plain))


def _remembered(name: str, compute: Callable[[Any], Any]) -> property:
    def read(self: MemoEntityData) -> Any:
        memo = self._memo
        if memo is None:
            return compute(self)
        if name not in memo:
            value = compute(self)
            memo[name] = value, getattr(value, "_version", 0)
        return memo[name][0]

    return property(read)


for _name, _value in vars(EntityData).items():
    if isinstance(_value, property) and _value.fget is not None:
        setattr(MemoEntityData, _name, _remembered(_name, _value.fget))


class EntityMemo:
    """Switches the memories of all entities of one environment."""

    def __init__(self, env: ManagerBasedRlEnv) -> None:
        self._data: list[MemoEntityData] = []
        for entity in env.scene.entities.values():
            if isinstance(entity, Entity) and type(entity.data) is EntityData:
                entity._data = MemoEntityData(entity.data)
            if isinstance(entity.data, MemoEntityData):
                self._data.append(entity.data)
        self.written = ""
        """A property whose value a term has changed in place; nothing is remembered then."""

    def begin(self) -> None:
        """Remember from now on; nothing may change the simulation until `end`."""
        for data in self._data:
            data._memo = None if self.written else {}

    def end(self) -> None:
        """Forget everything."""
        for data in self._data:
            for name, (value, version) in (data._memo or {}).items():
                if getattr(value, "_version", 0) != version:
                    self.written = name
            data._memo = None
