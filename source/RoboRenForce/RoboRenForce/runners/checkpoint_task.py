"""The task that a checkpoint was trained on, and the newest run of a task."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Any

from ..configclass.references import main_script
from ..utils.errors import UnknownTaskError, UserError
from ..utils.registry import Task, load_stored_task, load_task, names_package
from ..utils.run_dir import RunDir, newest_run


def task_of_checkpoint(data: dict[str, Any], *, trust: bool = False, task: str | None = None) -> Task:
    """Return the task of a loaded checkpoint, with the configuration that it was trained with.

    Args:
        data: Checkpoint.
        trust: True if it may name any class and import any module, False for the allow-list (SECURITY.md).
        task: Id that the user named, if any.

    Raises:
        UnknownTaskError: No installed package has registered the task; the message names the script that does.
    """
    try:
        found = load_stored_task(data["task"], trust=trust or task == data["task"])
    except UnknownTaskError as error:
        script = data.get("script")
        if script is None or script == str(main_script()) or names_package(data["task"]):
            raise
        if not script.isprintable():  # the terminal would obey it
            raise UnknownTaskError(
                f"Task {data['task']} is registered by the script {script!a}: run that one, with these arguments."
            ) from error
        arguments = shlex.join(sys.argv[1:])
        raise UnknownTaskError(
            f"Task {data['task']} is registered by {script}: run `python {shlex.quote(script)} {arguments}`."
        ) from error
    found.restore(data["config"], trust=trust)
    return found


def newest_run_of(task: str | None, log_root: str | Path, experiment: str | None = None) -> RunDir:
    """Return the run of a task whose checkpoint was written last; None: of any task.

    Raises:
        UnknownTaskError: There is neither a run of the task nor the task.
        UserError: There is no run.
    """
    try:
        return newest_run(log_root, experiment, task)
    except UserError:
        if task is not None:
            load_task(task)  # of a task that does not exist, this says so
        raise
