"""A cache with a budget that evicts the least recently used values, and is empty in every forked process."""

from __future__ import annotations

import os
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

Value = TypeVar("Value")


def one(_: object) -> int:
    """Return cost 1, for a budget that counts values."""
    return 1


class LRUCache(Generic[Value]):
    """Key -> value, within a budget.

    Open files must not be shared between a process and its forks (they share the position), so a fork starts with an
    empty cache, and so does an unpickled copy.

    Args:
        budget: Maximum sum of costs; the newest value stays even if it alone costs more.
        cost: Function that returns the cost of a value, in the unit of the budget.
        close: Function called for evicted values.
    """

    def __init__(
        self, budget: int, cost: Callable[[Value], int] = one, close: Callable[[Value], None] | None = None
    ) -> None:
        self.budget, self._cost, self._close = budget, cost, close
        self._values: OrderedDict[Hashable, tuple[Value, int]] = OrderedDict()
        self._used = 0
        self._process = os.getpid()

    def get(self, key: Hashable) -> Value | None:
        """Return the value and mark it as used, or None."""
        self._own()
        if key not in self._values:
            return None
        self._values.move_to_end(key)
        return self._values[key][0]

    def put(self, key: Hashable, value: Value) -> Value:
        """Store a value and evict the oldest ones beyond the budget; returns it."""
        self._own()
        if key in self._values:
            self._used -= self._values.pop(key)[1]
        cost = self._cost(value)
        self._values[key] = (value, cost)
        self._used += cost
        while self._used > self.budget and len(self._values) > 1:
            _, (oldest, its_cost) = self._values.popitem(last=False)
            self._used -= its_cost
            if self._close is not None:
                self._close(oldest)
        return value

    def pop(self, key: Hashable) -> None:
        """Evict one value, for example a file that failed."""
        self._own()
        if key in self._values:
            value, cost = self._values.pop(key)
            self._used -= cost
            if self._close is not None:
                self._close(value)

    def __len__(self) -> int:
        self._own()
        return len(self._values)

    def _own(self) -> None:
        if self._process != os.getpid():
            self._values, self._used, self._process = OrderedDict(), 0, os.getpid()

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "_values": OrderedDict(), "_used": 0, "_process": os.getpid()}
