"""Optimizer of off-policy learners: a scheduled learning rate, Adam, and the constraints of the networks."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor, nn

from ..networks.constraints import constrain_, constrained_parts
from .optimizer import FlatAdam


class ScheduledAdam:
    """Take one step per loss; everything after the gradients is compiled as one.

    Args:
        parts: Modules to train, by the names of their gradients in the metrics.
        compiled: `torch.compile`, or the identity.
        schedule: `schedule(lr)` sets the learning rate in place before every step; None: constant.
        options: Options of `FlatAdam`.
    """

    def __init__(
        self,
        parts: Mapping[str, nn.Module],
        compiled: Callable[[Callable[..., Any]], Callable[..., Any]],
        schedule: Callable[[Tensor], None] | None = None,
        **options: Any,
    ) -> None:
        adam = self.adam = FlatAdam({name: part.parameters() for name, part in parts.items()}, **options)
        constrained = constrained_parts(*parts.values())

        def apply() -> dict[str, Tensor]:
            if schedule is not None:
                schedule(adam.lr)
            norms = adam.apply()
            constrain_(*constrained)
            return norms

        self._apply = compiled(apply)

    def step(self, loss: Tensor) -> dict[str, Tensor]:
        """Take a gradient step on `loss`, averaged over processes; returns the norm of each part's gradient."""
        self.adam.backward(loss)
        self.adam.reduce()
        return {f"Policy/grad_norm_{part}": norm for part, norm in self._apply().items()}

    def state_dict(self) -> dict[str, Any]:
        """Return moments, step count and learning rate."""
        return self.adam.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore `state_dict` in place."""
        self.adam.load_state_dict(state)
