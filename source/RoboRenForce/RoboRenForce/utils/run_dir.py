"""The run directory: what lies where, how a run is made and how one is found again.

logs/RFRL/<experiment>/<timestamp>[_<run>]/
    params/{env,agent,run}.yaml   configuration, and the task, command and versions of the run
    model_<iteration>.pt          checkpoints; the iteration is the number of finished iterations
    latest, best                  one line each: the name of a checkpoint (text files survive copying, links do not)
    metrics.jsonl                 one line per iteration; TensorBoard events lie beside it
    videos/  exported/  eval.json  curves.png  report.html
"""

from __future__ import annotations

import contextlib
import os
import re
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from .errors import RunDirectoryError, UserError

DEFAULT_LOG_ROOT = "logs/RFRL"
_CHECKPOINT_NAME = re.compile(r"model_(\d+)\.pt")


@dataclass(frozen=True)
class RunDir:
    """The files of one run below `root`."""

    root: Path

    def checkpoint(self, iteration: int) -> Path:
        """Where the checkpoint of an iteration lies."""
        return self.root / f"model_{iteration}.pt"

    def checkpoints(self) -> dict[int, Path]:
        """Iteration -> checkpoint, oldest first."""
        found = {
            int(match[1]): path
            for path in self.root.glob("model_*.pt")
            if (match := _CHECKPOINT_NAME.fullmatch(path.name))
        }
        return dict(sorted(found.items()))

    def params(self, name: str) -> Path:
        """`params/<name>.yaml`; name is `env`, `agent` or `run`."""
        return self.root / "params" / f"{name}.yaml"

    @property
    def metrics(self) -> Path:
        """One JSON object per iteration."""
        return self.root / "metrics.jsonl"

    @property
    def evaluation(self) -> Path:
        """Results of the last evaluation."""
        return self.root / "eval.json"

    @property
    def videos(self) -> Path:
        """Folder of videos."""
        return self.root / "videos"

    @property
    def exported(self) -> Path:
        """Folder of exported policies."""
        return self.root / "exported"

    @property
    def curves(self) -> Path:
        """The picture of the learning curves."""
        return self.root / "curves.png"

    @property
    def report(self) -> Path:
        """The page to look at."""
        return self.root / "report.html"

    def point(self, name: str, checkpoint: Path) -> None:
        """Make `latest` or `best` name a checkpoint."""
        write_text_atomically(self.root / name, checkpoint.name + "\n")

    def pointed(self, name: str) -> Path | None:
        """The checkpoint that `latest` or `best` names; None if there is no such pointer."""
        pointer = self.root / name
        return self.root / pointer.read_text().strip() if pointer.is_file() else None

    def run_info(self) -> dict[str, Any]:
        """Task, command, seed and versions of the run; empty for a folder that another tool wrote."""
        return read_yaml(self.params("run")) if self.params("run").is_file() else {}


def create_run_dir(log_root: str | Path, experiment: str, run_name: str = "") -> RunDir:
    """Make a new, empty run directory named by the time; runs that start within one second get `-2`, `-3`, ...

    Raises:
        RunDirectoryError: the directory can't be written.
    """
    stamp = time.strftime("%Y-%m-%d_%H-%M-%S") + (f"_{run_name}" if run_name else "")
    parent = Path(log_root) / experiment
    try:
        parent.mkdir(parents=True, exist_ok=True)
        for attempt in range(1, 1000):
            root = parent / (stamp if attempt == 1 else f"{stamp}-{attempt}")
            with contextlib.suppress(FileExistsError):  # another run started in the same second
                root.mkdir()
                (root / "params").mkdir()
                return RunDir(root)
    except OSError as error:
        raise RunDirectoryError(
            f"The log directory '{parent}' can't be written ({error.strerror}); choose another one with --log_root."
        ) from error
    raise RunDirectoryError(f"'{parent}' already holds a thousand runs named {stamp}; choose another --run_name.")


def open_run_dir(root: str | Path) -> RunDir:
    """The run directory at `root`, made if it does not exist.

    Raises:
        RunDirectoryError: the directory can't be written.
    """
    run = RunDir(Path(root))
    try:
        (run.root / "params").mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunDirectoryError(
            f"The run directory '{root}' can't be written ({error.strerror}); choose another one."
        ) from error
    return run


def find_runs(log_root: str | Path, experiment: str | None = None, task: str | None = None) -> list[RunDir]:
    """Runs below `log_root` that hold a checkpoint, newest first."""
    pattern = f"{experiment}/*" if experiment else "*/*"
    found = []
    for root in Path(log_root).glob(pattern):
        run = RunDir(root)
        times = [path.stat().st_mtime for path in run.checkpoints().values()]
        if times and (task is None or run.run_info().get("task") == task):
            found.append((max(times), root.name, run))
    return [run for _, _, run in sorted(found, key=lambda entry: entry[:2], reverse=True)]


def newest_run(log_root: str | Path, experiment: str | None = None, task: str | None = None) -> RunDir:
    """The run whose checkpoint was written last.

    Raises:
        UserError: there is none.
    """
    runs = find_runs(log_root, experiment, task)
    if runs:
        return runs[0]
    wanted = f" of task '{task}'" if task else ""
    raise UserError(
        f"No run{wanted} with a checkpoint lies below '{Path(log_root)}': train one first, or name a run directory or "
        "a checkpoint."
    )


def resolve_checkpoint(target: str | Path, which: str = "latest") -> Path:
    """The checkpoint that a user means.

    Args:
        target: A checkpoint, or a run directory.
        which: For a run directory: `latest`, `best` or the number of an iteration.

    Raises:
        UserError: there is no such checkpoint; the message lists what there is.
    """
    target = Path(target)
    if target.is_file():
        return target
    if not target.is_dir():
        raise UserError(f"'{target}' is neither a run directory nor a checkpoint; give the path of one.")
    run = RunDir(target)
    there = run.checkpoints()
    listed = f"it holds the iterations {', '.join(map(str, there))}" if there else "it holds no checkpoint"
    if which.isdecimal():
        path = there.get(int(which))
    elif which in ("latest", "best"):
        path = run.pointed(which)
        if path is None and which == "latest" and there:  # a run that another tool copied without the pointer
            path = there[max(there)]
    else:
        raise UserError(f"There is no checkpoint '{which}'; say latest, best or the number of an iteration.")
    if path is None or not path.is_file():
        raise UserError(f"'{target}' has no checkpoint '{which}': {listed}.")
    return path


def run_of(checkpoint: Path) -> RunDir:
    """The run that a checkpoint belongs to."""
    return RunDir(checkpoint.parent)


def write_text_atomically(path: Path, text: str) -> None:
    """Replace a small file so that a crash leaves the old or the new text, never a part."""
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    # A path that the locale can't decode has lone surrogates, which UTF-8 lacks.
    with open(partial, "w", encoding="utf-8", errors="backslashreplace") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    os.replace(partial, path)


def write_yaml(path: Path, data: Any) -> None:
    """Write plain data as YAML, keys in the given order."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text_atomically(path, yaml.safe_dump(data, sort_keys=False, allow_unicode=True, width=120))


def read_yaml(path: Path) -> Any:
    """Read YAML as plain data.

    Raises:
        UserError: the file is absent or is not YAML.
    """
    try:
        return yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise UserError(f"'{path}' can't be read as YAML: {' '.join(str(error).split())}.") from error
