"""The run directory: what lies where, how a run is made and how one is found again.

logs/RFRL/<experiment>/<timestamp>[_<run>]/
    params/{env,agent,run}.yaml   configuration, and the task, command and versions of the run
    model_<iteration>.pt          checkpoints; the iteration is the number of finished iterations
    global_step_<iteration>/      checkpoints of sharded learners and of VLA RL, which are directories
    latest, best                  one line each: the name of a checkpoint (text files survive copying, links do not)
    metrics.jsonl                 one line per iteration; TensorBoard events lie beside it
    videos/  exported/  eval.json  curves.png  report.html
    .lock                         while a process trains in it
    .<name>.<process>.partial     what is being written or deleted; what a killed process left goes at the next start
    <name>.aside                  what did not belong to a run that began here, see `set_aside`
"""

from __future__ import annotations

import contextlib
import itertools
import os
import re
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from ..configclass import yaml_text
from .errors import RunDirectoryError, UserError

DEFAULT_LOG_ROOT = "logs/RFRL"
_CHECKPOINT_NAME = re.compile(r"model_(\d+)\.pt|global_step_(\d+)")
_PARTIAL_NAME = re.compile(r"\..+\.(\d{1,9})\.partial")
_RUN_INFO = {"task": str, "command": str, "started": str, "resumed": list, "versions": dict, "spec": dict}
_RUN_INFO |= {"has_env": bool}
"""Fields of `run.yaml` that are read again, with their types."""


@dataclass(frozen=True)
class RunDir:
    """The files of one run below `root`."""

    root: Path

    def checkpoint(self, iteration: int, *, directory: bool = False) -> Path:
        """Return the path of an iteration's checkpoint: a file, or a directory."""
        return self.root / (f"global_step_{iteration}" if directory else f"model_{iteration}.pt")

    def checkpoints(self) -> dict[int, Path]:
        """Iteration -> checkpoint, oldest first; files and directories."""
        found = {
            int(match[1] or match[2]): path
            for pattern in ("model_*.pt", "global_step_*")
            for path in self.root.glob(pattern)
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
        """Results of the last evaluation, and of the last one of every other task or with other overrides."""
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
        """The checkpoint that `latest` or `best` names; None if there is no such pointer, or it names none."""
        with contextlib.suppress(OSError, UnicodeDecodeError):
            named = (self.root / name).read_text(encoding="utf-8").strip()
            return self.root / named if _CHECKPOINT_NAME.fullmatch(named) else None
        return None

    def run_info(self) -> dict[str, Any]:
        """Task, command, seed and versions of the run; empty for a folder that another tool wrote.

        Raises:
            UserError: the file is not what a run writes.
        """
        path = self.params("run")
        info = read_yaml(path) if path.is_file() else {}
        if not isinstance(info, dict):
            raise UserError(
                f"'{path}' holds a {type(info).__name__}, expected fields such as task and seed: remove it."
            )
        for name, kind in _RUN_INFO.items():
            if not isinstance(info.get(name, kind()), kind):
                raise UserError(
                    f"'{path}': {name} is {str(info[name])[:50]!r}, expected a {kind.__name__}: correct or remove it."
                )
        return info

    def set_aside(self, path: Path) -> Path:
        """Rename a file that does not belong to the run that begins here; returns where it is."""
        names = (f"{path.name}.aside" + (f"-{number}" if number > 1 else "") for number in itertools.count(1))
        aside = next(place for name in names if not (place := path.with_name(name)).exists())
        path.rename(aside)
        return aside

    def remove_partial_files(self) -> None:
        """Delete what killed processes left half-written, but not what a living one is writing."""
        for path in list(self.root.rglob(".*.partial")):
            if _is_written(path):
                continue
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)


def create_run_dir(log_root: str | Path, experiment: str, run_name: str = "") -> RunDir:
    """Make a new, empty run directory named by the time; runs that start within one second get `-2`, `-3`, ...

    Raises:
        UserError: a name is not that of one folder.
        RunDirectoryError: the directory can't be written.
    """
    _require_folder_name("experiment_name", experiment)
    if run_name:
        _require_folder_name("run_name", run_name)
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


def _require_folder_name(field: str, name: str) -> None:
    """Refuse names that would put a run somewhere else than into a folder of its own below `log_root`."""
    if name in ("", ".", "..") or re.search(r"[/\\]", name) or not name.isprintable():
        raise UserError(
            f"{field} is {name!r}, expected the name of one folder, without slashes and control characters; "
            "--log_root says below which directory it lies."
        )


def find_runs(log_root: str | Path, experiment: str | None = None, task: str | None = None) -> list[RunDir]:
    """Runs below `log_root` that hold a checkpoint, newest first."""
    found = []
    for folder in _folders(Path(log_root)):
        for root in _folders(folder) if experiment in (None, "", folder.name) else ():
            run = RunDir(root)
            with contextlib.suppress(OSError, UserError):  # a run that is being deleted, or without a readable run.yaml
                times = [path.stat().st_mtime for path in run.checkpoints().values()]
                if times and (task is None or run.run_info().get("task") == task):
                    found.append((max(times), root.name, run))
    return [run for _, _, run in sorted(found, key=lambda entry: entry[:2], reverse=True)]


def _folders(parent: Path) -> list[Path]:
    try:
        return [path for path in parent.iterdir() if path.is_dir()]
    except OSError:  # absent, or somebody else's
        return []


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
    if target.is_file() or (is_checkpoint_directory(target) and target.is_dir()):
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
    if path is None or not path.exists():
        raise UserError(f"'{target}' has no checkpoint '{which}': {listed}.")
    return path


def is_checkpoint_directory(path: Path) -> bool:
    """Return True if a checkpoint of this name is a directory, and not a file."""
    return path.name.startswith("global_step_") and _CHECKPOINT_NAME.fullmatch(path.name) is not None


def run_of(checkpoint: Path) -> RunDir:
    """The run that a checkpoint belongs to."""
    return RunDir(checkpoint.parent)


def write_text_atomically(path: Path, text: str) -> None:
    """Replace a small file so that a crash leaves the old or the new text, never a part."""
    with replacing(path) as file:
        # A path that the locale can't decode has lone surrogates, which UTF-8 lacks.
        file.write(text.encode(errors="backslashreplace"))


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """A file to write that becomes `path` when the block is done; whatever happens, `path` is the old file or the new.

    Raises:
        OSError: it can't be written; `path` is as before and nothing is left over.
    """
    partial = partial_path(path)
    try:
        with open(partial, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    except BaseException:
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)
        raise


def partial_path(path: Path) -> Path:
    """Return the temporary path that becomes `path` by a rename; `RunDir.remove_partial_files` removes leftovers."""
    return path.with_name(f".{path.name}.{os.getpid()}.partial")


def _is_written(partial: Path) -> bool:
    """Return True if the process in the name of a partial file, another one than this, is alive on this machine."""
    match = _PARTIAL_NAME.fullmatch(partial.name)
    process = int(match[1]) if match else os.getpid()
    if process == os.getpid() or os.name != "posix":  # elsewhere, asking for a process ends it
        return False
    try:
        os.kill(process, 0)
    except PermissionError:
        return True
    except (OSError, OverflowError):
        return False
    return True


def write_yaml(path: Path, data: Any) -> None:
    """Write plain data as YAML, keys in the given order."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text_atomically(path, yaml_text.dump(data))


def read_yaml(path: Path) -> Any:
    """Read YAML as plain data, as bounded as a configuration: the file may come from anybody.

    Raises:
        UserError: the file is absent, is not YAML, or is larger than what a run writes.
    """
    return yaml_text.load_file(path)
