"""Validation: distance of a policy's actions from held-out demonstrations, in the units of the data."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from ..components.vla_preprocessing import IMAGES, PRESENT, STATE
from ..data.loader import to_device
from ..utils.run_dir import write_text_atomically
from ..utils.seeding import preserved_rng
from ..utils.side_activity import side_activity
from .callbacks import Callback
from .checkpointing import VALIDATION_ERROR

if TYPE_CHECKING:
    from .trainer import Trainer

logger = logging.getLogger(__name__)

_MOST_TASKS = 20
"""Instructions with a curve of their own; `validation.json` has all."""
_READ = {"images": (IMAGES, PRESENT), "state": (STATE,), "instruction": ("instruction_id", "task")}
"""What a policy reads -> how its names in a batch begin."""
_SHARE = 4
"""Every so many samples are looked at again with parts of other samples."""
_UNREAD = 1.02
"""Times the error with a part of other samples below which that part is hardly read."""
_REMEDY = {
    "images": "policy.preprocessing.state_dropout keeps it from reading proprioception alone",
    "instruction": "dataset.repeat_first_frame shows more often where the instruction decides",
}


class ValidationCallback(Callback):
    """Mean |predicted - demonstrated action| over episodes that are kept apart, and what the policy reads.

    `Val/reads/images` is how many times the error is as large with the images of other samples; so are `state` and
    `instruction`. Where it is 1 that part is not read: a policy that continues the motion that it feels has small
    errors and fails in an environment.

    Every process predicts a part of the samples. Under FSDP their forward passes have to be the same number, so that a
    process without samples repeats one that does not count.

    Args:
        data: The validation episodes.
        interval: Iterations between two validations.
        samples: How many frames are looked at, evenly spread.
        batch_size: Frames at once.
    """

    def __init__(self, data: Any, *, interval: int, samples: int, batch_size: int) -> None:
        super().__init__()
        self.data, self.interval, self.batch_size = data, interval, batch_size
        count = min(sum(data.lengths), samples)
        self.indices = np.linspace(0, sum(data.lengths) - 1, count).round().astype(np.int64)

    def after_iteration(self, runner: Trainer, metrics: dict[str, float]) -> None:
        """Validate if it is time; all processes get the result."""
        if runner.iteration % self.interval and runner.should_continue():
            return
        runner.algorithm.eval()
        runner.watchdog.enter("The validation")
        try:
            with preserved_rng():
                torch.manual_seed(runner.cfg.seed)  # generative heads draw the same noise every time
                errors = self._errors(runner, self.indices)
                reads = self._reads(runner)
        finally:
            runner.algorithm.train()
        metrics.update(errors.metrics() | {f"Val/reads/{name}": value for name, value in reads.items()})
        for part in () if runner.should_continue() else _REMEDY:
            if reads.get(part, _UNREAD) < _UNREAD:
                logger.warning(
                    "The policy predicts as well from the %s of other samples (Val/reads/%s is %.2f), which it hardly "
                    "reads: %s.",
                    *(part, part, reads[part], _REMEDY[part]),
                )
        if runner.is_main and runner.run_dir is not None:
            with side_activity("Writing 'validation.json'"):
                errors.write(runner.run_dir.root / "validation.json", runner.iteration, reads)

    def _reads(self, runner: Trainer) -> dict[str, float]:
        """Times the error with a part of other samples, by part; empty where there are too few, or of one episode."""
        chosen = self.indices[::_SHARE]
        episodes = sum(len(part.episodes) for part in self.data.datasets)
        if len(chosen) < 2 * runner.distributed.world_size or episodes < 2:
            return {}
        plain = self._errors(runner, chosen).mean()[0]
        if not plain > 0:
            return {}
        parts = {name: names for name, names in _READ.items() if name != "instruction" or len(_texts(self.data)) > 1}
        return {name: self._errors(runner, chosen, names).mean()[0] / plain for name, names in parts.items()}

    def _errors(self, runner: Trainer, indices: np.ndarray, exchanged: tuple[str, ...] = ()) -> ActionErrors:
        """Errors at some samples, where entries whose names begin with `exchanged` are those of another sample."""
        rank, world_size = runner.distributed.rank, runner.distributed.world_size
        learner: Any = runner.algorithm
        mine = indices[rank::world_size]
        steps = -(-len(indices[::world_size]) // self.batch_size)
        errors = ActionErrors(self.data, learner.action_names, runner.device)
        for step in range(steps):
            chosen = mine[step * self.batch_size : (step + 1) * self.batch_size]
            counts = len(chosen) > 0
            texts, batch = self._read(chosen if counts else indices[:1], runner.device)
            if exchanged:
                batch |= {name: _rolled(value) for name, value in batch.items() if name.startswith(exchanged)}
            predicted, mask = learner.validate(batch)
            errors.add(texts, (predicted - batch["action"]).abs(), mask & counts)
            runner.watchdog.beat()
        for tensor in (errors.total, errors.count):
            runner.distributed.sum_(tensor)
        return errors

    def _read(self, indices: np.ndarray, device: torch.device) -> tuple[list[str], dict[str, Any]]:
        batch = self.data.get_batch(indices)
        return batch["task"], to_device(batch, device)


def _texts(data: Any) -> list[str]:
    """All instructions of the datasets, sorted."""
    return sorted({text for part in data.datasets for text in part.metadata.tasks.values()})


def _rolled(value: Any) -> Any:
    """Entries, of a tensor or a list, that lie half a batch further on, in another episode."""
    half = len(value) // 2
    return torch.cat([value[half:], value[:half]]) if torch.is_tensor(value) else [*value[half:], *value[:half]]


class ActionErrors:
    """Sums of |error| by instruction, step of the chunk and dimension."""

    def __init__(self, data: Any, names: Sequence[str], device: torch.device) -> None:
        self.rows = {text: row for row, text in enumerate(_texts(data))}
        self.names = names
        self.device = device
        self.total = self.count = torch.zeros(0)

    def add(self, texts: list[str], error: Tensor, mask: Tensor) -> None:
        """Count a batch: `error` and bool `mask` are `(B, H, A)`."""
        if not self.total.numel():
            shape = (len(self.rows), *error.shape[1:])
            self.total = torch.zeros(shape, dtype=torch.float64, device=self.device)
            self.count = torch.zeros_like(self.total)
        rows = torch.tensor([self.rows[text] for text in texts], device=self.device)
        self.total.index_add_(0, rows, torch.where(mask, error, 0.0).double())
        self.count.index_add_(0, rows, mask.double())

    def mean(self, *dims: int) -> list[float]:
        """Means over all axes but `dims`, of (instruction, step, dimension); NaN where there is nothing."""
        others = [axis for axis in range(3) if axis not in dims]
        return (self.total.sum(others) / self.count.sum(others)).cpu().reshape(-1).tolist()

    def metrics(self) -> dict[str, float]:
        """Means for the logs: over all, by dimension, by step of the chunk, by instruction."""
        dimensions, steps, tasks = self.mean(2), self.mean(1), self.mean(0)
        names = self.names or list(map(str, range(len(dimensions))))
        found = {VALIDATION_ERROR: self.mean()[0]}
        found |= {f"Val/dimension/{name}": value for name, value in zip(names, dimensions, strict=True)}
        found |= {f"Val/step/{number}": value for number, value in enumerate(steps)}
        if len(self.rows) <= _MOST_TASKS:
            found |= {f"Val/task/{text}": value for text, value in zip(self.rows, tasks, strict=True)}
        return found

    def write(self, path: Path, iteration: int, reads: dict[str, float]) -> None:
        """Write all means, by instruction and step and dimension, and what the policy reads."""
        table = (self.total / self.count).cpu().tolist()
        content = {"iteration": iteration, "action_error": self.mean()[0], "dimensions": list(self.names)}
        content["reads"] = reads
        content |= {"by_task_step_dimension": dict(zip(self.rows, table, strict=True))}
        write_text_atomically(path, json.dumps(content, indent=1) + "\n")
