"""Demonstrations that a policy goes on learning from while it is improved by rewards."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from ...components.vla_policy import VLAPolicy
from ...configclass import ConfigError
from ...data.loader import DataLoader
from ..algorithm import RunContext
from ..vla_training.data_spec import spec_of_dataset
from .options import PolicyGradientOptions


class CoTraining:
    """Batches of `cfg.sft_dataset` without end, in an order that a checkpoint goes on with.

    Args:
        cfg: Options; the data set is set.
        policy: What learns.
        context: Of the run.
    """

    def __init__(self, cfg: PolicyGradientOptions, policy: VLAPolicy, context: RunContext) -> None:
        if cfg.sft_dataset is None:
            raise ConfigError("algorithm.sft_dataset is not set, and there is nothing to go on learning from.")
        data = cfg.sft_dataset.for_policy(policy.chunk_size, policy.spec.cameras, "all").build()
        spec = spec_of_dataset(data)
        policy.require_data(spec)
        policy.add_instructions(spec.instructions)
        distributed = context.distributed
        self._loader: DataLoader = cfg.sft_loader.build(
            data,
            rank=distributed.rank,
            world_size=distributed.world_size,
            seed=context.seed,
            device=context.device,
        )
        self._batches: Iterator[dict[str, Any]] | None = None

    def next(self) -> Mapping[str, Any]:
        """Return the next batch."""
        if self._batches is None:
            self._batches = self._loader.endless()
        return next(self._batches)

    def close(self) -> None:
        """End the workers."""
        self._loader.close()

    def state_dict(self) -> dict[str, Any]:
        """Return the position in the data."""
        return self._loader.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go to a stored position."""
        self._batches = None
        self._loader.load_state_dict(state)
