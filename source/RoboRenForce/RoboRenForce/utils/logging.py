"""Writers of metrics: `metrics.jsonl` always, TensorBoard, Weights & Biases and SwanLab by choice.

A writer gets plain numbers and paths, never a runner. Writers that talk to a service can fail at any time without
ending the run: the first failure is logged and the writer is left out from then on.
"""

from __future__ import annotations

import errno
import json
import logging
import os
import re
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from .errors import UserError
from .optional import require_package
from .run_dir import RunDir, replacing

logger = logging.getLogger(__name__)

LoggerName = Literal["tensorboard", "wandb", "swanlab"]

_SERVICE_FAILURES = (OSError, RuntimeError, ValueError, TypeError, AttributeError, KeyError, AssertionError)
"""Exceptions of third-party clients when a service, an account or a version fails."""


class Writer(ABC):
    """Destination of metrics."""

    name: str
    failures: tuple[type[Exception], ...] = _SERVICE_FAILURES
    """Exceptions that `scalars` and the others may raise when the destination fails, as opposed to a defect."""

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
    """Write one JSON object per iteration at once, so that a killed run keeps its curve.

    While the file can't be written, lines wait for the next iteration: a disk that is full for a while loses none.
    """

    name = "jsonl"

    def __init__(self, path: Path) -> None:
        self._path = path
        self._waiting: list[bytes] = []
        self._warned = False
        path.touch()

    def scalars(self, values: Mapping[str, float], iteration: int) -> None:
        """Append one line."""
        self._waiting.append(_line(values, iteration))
        self._write()

    def close(self) -> None:
        """Try again to write waiting lines."""
        self._write()

    def _write(self) -> None:
        if not self._waiting:
            return
        try:
            _append(self._path, b"".join(self._waiting))
            self._waiting.clear()
            self._warned = False
        except OSError as error:
            if not self._warned:
                logger.warning(
                    "'%s' can't be written (%s); its lines wait, the run goes on.", self._path, error.strerror
                )
            self._warned = True


def _append(path: Path, content: bytes) -> None:
    """Append all of `content` or nothing."""
    with open(path, "ab", buffering=0) as file:
        end = file.tell()
        try:
            if file.write(content) != len(content):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except OSError:
            file.truncate(end)
            raise


def cut_metrics(path: Path, iteration: int, last: Mapping[str, float]) -> None:
    """Truncate the `metrics.jsonl` of a run that resumes from its checkpoint of `iteration` after that iteration.

    Later lines are removed, since the run writes them again, and so are duplicates and a line that a crash has cut,
    which would corrupt the next.

    Args:
        path: File; if it does not exist, the run begins here and nothing is done.
        iteration: Iteration of the checkpoint.
        last: Metrics of `iteration`, added if the crash came between the checkpoint and its line.
    """
    if not path.is_file():
        return
    before = path.read_bytes()
    kept: dict[int, bytes] = {}
    for line in before.splitlines():
        record = _record(line)
        if record is not None and record[0] <= iteration:
            kept[record[0]] = line + b"\n"
    if last:
        kept.setdefault(iteration, _line(last, iteration))
    after = b"".join(kept[number] for number in sorted(kept))
    if after != before:
        with replacing(path) as file:
            file.write(after)


def _line(values: Mapping[str, float], iteration: int) -> bytes:
    return (json.dumps({"iteration": iteration, "time": round(time.time(), 3), **values}) + "\n").encode()


class TensorBoardWriter(Writer):
    """TensorBoard events in the run directory, with the tags that rsl_rl uses."""

    name = "tensorboard"

    def __init__(self, folder: Path, first_iteration: int) -> None:
        require_package("tensorboard")
        from torch.utils.tensorboard.writer import SummaryWriter

        # After a crash, events behind the checkpoint are hidden instead of drawn twice.
        self._writer = SummaryWriter(str(folder), purge_step=first_iteration + 1)

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
    """All writers of a run; without any (in all but the main process) it does nothing."""

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
    """Build the writers of a run: `metrics.jsonl` and those in `names`.

    Args:
        run: Run directory.
        names: Destinations besides `metrics.jsonl`.
        project: Project name at services.
        first_iteration: Iterations that are already in the log, after a resume.
    """
    chosen = [names] if isinstance(names, str) else names
    makers: dict[str, Callable[[], Writer]] = {
        "tensorboard": lambda: TensorBoardWriter(run.root, first_iteration),
        "wandb": lambda: WandbWriter(run.root, project),
        "swanlab": lambda: SwanLabWriter(run.root, project),
    }
    return RunLogger([JsonlWriter(run.metrics), *(makers[name]() for name in dict.fromkeys(chosen))])


def read_metrics(path: Path) -> dict[str, tuple[list[int], list[float]]]:
    """Read tag -> (iterations, values) from a `metrics.jsonl`.

    If an iteration occurs twice, the later line counts. Invalid lines, such as one that a crash has cut, and values
    that are no numbers are left out with a warning.

    Raises:
        UserError: The file holds something else than metrics.
    """
    lines = path.read_bytes().splitlines()
    found = [_record(line) for line in lines]
    records = dict(record for record in found if record is not None)
    bad = found.count(None)
    if bad and not records:
        raise UserError(f"'{path}' holds no metrics: expected one JSON object with an \"iteration\" per line.")
    if bad:
        logger.warning(
            "'%s': %d of %d lines are no metrics and left out, the first is %d.",
            path,
            bad,
            len(lines),
            found.index(None) + 1,
        )
    series: dict[str, tuple[list[int], list[float]]] = {}
    for iteration in sorted(records):
        for tag, value in records[iteration].items():
            iterations, values = series.setdefault(tag, ([], []))
            iterations.append(iteration)
            values.append(value)
    return series


def _record(line: bytes) -> tuple[int, dict[str, float]] | None:
    """Parse iteration and numbers of a line of `metrics.jsonl`; None if it is invalid."""
    try:
        record = json.loads(line)
        iteration = record.pop("iteration")
        if type(iteration) is not int or iteration < 0:
            return None
        return iteration, {tag: value for tag, value in record.items() if _is_number(value)}
    except (ValueError, AttributeError, LookupError, TypeError, OverflowError, RecursionError):
        return None


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and abs(value) < 1e300  # not NaN, and no integer beyond float


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__
