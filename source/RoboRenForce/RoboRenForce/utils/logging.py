"""Where metrics go: `metrics.jsonl` always, TensorBoard, Weights & Biases and SwanLab by choice.

A writer gets plain numbers and paths, never a runner. Writers that talk to a service can fail at any time without
ending the
run: the first failure is logged and the writer is left out from then on.
"""

from __future__ import annotations

import contextlib
import json
import logging
import re
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from .errors import UserError
from .optional import require_package
from .run_dir import RunDir

logger = logging.getLogger(__name__)

LoggerName = Literal["tensorboard", "wandb", "swanlab"]

_SERVICE_FAILURES = (OSError, RuntimeError, ValueError, TypeError, AttributeError, KeyError, AssertionError)
"""What third-party clients raise when a service, an account or a version lets them down."""


class Writer(ABC):
    """One destination of metrics."""

    name: str
    failures: tuple[type[Exception], ...] = _SERVICE_FAILURES
    """What `scalars` and the others may raise when the destination fails, as opposed to a mistake in RoboRenForce."""

    @abstractmethod
    def scalars(self, values: Mapping[str, float], iteration: int) -> None:
        """Write numbers that belong to an iteration."""

    def config(self, config: Mapping[str, Any]) -> None:  # noqa: B027 - not every destination shows it
        """Write the configuration of the run once."""

    def video(self, path: Path, iteration: int) -> None:  # noqa: B027 - not every destination shows it
        """Publish a video file."""

    def close(self) -> None:  # noqa: B027 - not every destination is open
        """Flush and close; safe to call twice."""


class JsonlWriter(Writer):
    """One JSON object per iteration, flushed at once, so that a killed run keeps its curve."""

    name = "jsonl"

    def __init__(self, path: Path) -> None:
        self._file = open(path, "a", encoding="utf-8")  # noqa: SIM115 - open for the length of the run

    def scalars(self, values: Mapping[str, float], iteration: int) -> None:
        """Append one line."""
        self._file.write(json.dumps({"iteration": iteration, "time": round(time.time(), 3), **values}) + "\n")
        self._file.flush()

    def close(self) -> None:
        """Close the file."""
        self._file.close()


class TensorBoardWriter(Writer):
    """TensorBoard events in the run directory, with the tags that rsl_rl uses."""

    name = "tensorboard"

    def __init__(self, folder: Path, first_iteration: int) -> None:
        require_package("tensorboard")
        from torch.utils.tensorboard.writer import SummaryWriter

        # After a crash, events behind the checkpoint are hidden instead of drawn twice.
        self._writer = SummaryWriter(str(folder), purge_step=first_iteration or None)

    def scalars(self, values: Mapping[str, float], iteration: int) -> None:
        """Write one event per value."""
        for tag, value in values.items():
            self._writer.add_scalar(tag, value, iteration)

    def close(self) -> None:
        """Flush and close."""
        self._writer.close()


class WandbWriter(Writer):
    """Weights & Biases; a resumed run continues the same page."""

    name = "wandb"

    def __init__(self, folder: Path, project: str) -> None:
        wandb: Any = require_package("wandb", extra="wandb")
        self._wandb = wandb
        self.failures = (wandb.Error, *_SERVICE_FAILURES)
        identity = re.sub(r"[^\w-]", "-", f"{folder.parent.name}-{folder.name}")
        try:
            self._run = wandb.init(
                project=project,
                group=folder.parent.name,
                name=folder.name,
                id=identity,
                dir=str(folder),
                resume="allow",
            )
        except self.failures as error:
            raise UserError(
                f"Weights & Biases did not start ({_one_line(error)}); run `wandb login`, set WANDB_MODE=offline, or "
                "leave wandb out of --logger."
            ) from error

    def scalars(self, values: Mapping[str, float], iteration: int) -> None:
        """Log one step."""
        self._run.log(dict(values), step=iteration)

    def config(self, config: Mapping[str, Any]) -> None:
        """Show the configuration on the page of the run."""
        self._run.config.update(dict(config), allow_val_change=True)

    def video(self, path: Path, iteration: int) -> None:
        """Upload a video."""
        self._run.log({"video": self._wandb.Video(str(path), format="mp4")}, step=iteration)

    def close(self) -> None:
        """Finish the run."""
        self._run.finish()


class SwanLabWriter(Writer):
    """SwanLab; `SWANLAB_MODE=offline` writes locally."""

    name = "swanlab"

    def __init__(self, folder: Path, project: str) -> None:
        self._swanlab = require_package("swanlab", extra="swanlab")
        try:
            self._swanlab.init(
                project=project, experiment_name=f"{folder.parent.name}-{folder.name}", logdir=str(folder / "swanlab")
            )
        except _SERVICE_FAILURES as error:
            raise UserError(
                f"SwanLab did not start ({_one_line(error)}); run `swanlab login`, set SWANLAB_MODE=offline, or leave "
                "swanlab out of --logger."
            ) from error

    def scalars(self, values: Mapping[str, float], iteration: int) -> None:
        """Log one step."""
        self._swanlab.log(dict(values), step=iteration)

    def config(self, config: Mapping[str, Any]) -> None:
        """Show the configuration on the page of the run."""
        self._swanlab.config.update(dict(config))

    def close(self) -> None:
        """Finish the run."""
        self._swanlab.finish()


@dataclass
class RunLogger:
    """All writers of a run; without any it does nothing, which is what the other processes of a run use."""

    writers: list[Writer] = field(default_factory=list)

    def scalars(self, values: Mapping[str, float], iteration: int) -> None:
        """Write numbers everywhere."""
        self._each("scalars", values, iteration)

    def config(self, config: Mapping[str, Any]) -> None:
        """Write the configuration everywhere."""
        self._each("config", config)

    def video(self, path: Path, iteration: int) -> None:
        """Publish a video everywhere."""
        self._each("video", path, iteration)

    def close(self) -> None:
        """Close all writers; safe to call twice."""
        self._each("close")
        self.writers = []

    def _each(self, method: str, *args: Any) -> None:
        for writer in list(self.writers):
            try:
                getattr(writer, method)(*args)
            except writer.failures as error:
                self.writers.remove(writer)
                logger.warning(
                    "Logging to %s failed and stops here (%s); the run goes on.", writer.name, _one_line(error)
                )


def make_logger(
    run: RunDir, names: LoggerName | Iterable[LoggerName], *, project: str, first_iteration: int = 0
) -> RunLogger:
    """The writers of a run: `metrics.jsonl` and those in `names`.

    Args:
        run: The run directory.
        names: Destinations besides `metrics.jsonl`.
        project: Project name at services.
        first_iteration: Iterations that are already in the log, after a resume.
    """
    chosen = [names] if isinstance(names, str) else names
    makers: dict[str, Callable[[], Writer]] = {
        "tensorboard": lambda: TensorBoardWriter(run.root, first_iteration + 1 if first_iteration else 0),
        "wandb": lambda: WandbWriter(run.root, project),
        "swanlab": lambda: SwanLabWriter(run.root, project),
    }
    return RunLogger([JsonlWriter(run.metrics), *(makers[name]() for name in dict.fromkeys(chosen))])


def read_metrics(path: Path) -> dict[str, tuple[list[int], list[float]]]:
    """Tag -> (iterations, values) of a `metrics.jsonl`.

    After a crash and a resume an iteration can appear twice; the later line counts. A line cut by the crash is left
    out.
    """
    records: dict[int, dict[str, Any]] = {}
    for line in path.read_text(encoding="utf-8").splitlines():
        with contextlib.suppress(json.JSONDecodeError):
            record = json.loads(line)
            records[int(record.pop("iteration"))] = record
    series: dict[str, tuple[list[int], list[float]]] = {}
    for iteration in sorted(records):
        for tag, value in records[iteration].items():
            iterations, values = series.setdefault(tag, ([], []))
            iterations.append(iteration)
            values.append(value)
    return series


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__
