"""Memoization of an entity's derived quantities while nothing moves.

`root_link_lin_vel_b` costs a dozen kernels, and rewards, metrics and observations read it again and again in one state.
Between `begin` and `end` the properties of `EntityData` keep their results.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from mjlab.entity import Entity, EntityData
from mjlab.envs import ManagerBasedRlEnv


class MemoEntityData(EntityData):
    """`EntityData` whose properties can be memoized.

    Args:
        plain: mjlab's data, whose fields are taken over.
    """

    _memo: dict[str, tuple[Any, int]] | None = None
    """Name -> value, and the number of in-place writes to the tensor so far."""

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
    """Switch of the memoization of all entities of one environment."""

    def __init__(self, env: ManagerBasedRlEnv) -> None:
        self._data: list[MemoEntityData] = []
        for entity in env.scene.entities.values():
            if isinstance(entity, Entity) and type(entity.data) is EntityData:
                entity._data = MemoEntityData(entity.data)
            if isinstance(entity.data, MemoEntityData):
                self._data.append(entity.data)
        self.written = ""
        """Property whose value a term has changed in place; nothing is memoized then."""

    def begin(self) -> None:
        """Start memoizing; nothing may change the simulation until `end`."""
        for data in self._data:
            data._memo = None if self.written else {}

    def end(self) -> None:
        """Drop all memoized values."""
        for data in self._data:
            for name, (value, version) in (data._memo or {}).items():
                if getattr(value, "_version", 0) != version:
                    self.written = name
            data._memo = None
