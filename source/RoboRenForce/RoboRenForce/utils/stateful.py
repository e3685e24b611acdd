"""The protocol of objects that are part of a checkpoint."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol


class Stateful(Protocol):
    """Object that a checkpoint contains and a resumed run restores."""

    def state_dict(self) -> Mapping[str, Any]:
        """Return the state as tensors and plain data."""
        ...

    def load_state_dict(self, state: Any, /) -> Any:
        """Restore `state_dict`."""
        ...
