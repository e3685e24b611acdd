"""The table of `rrf list`."""

from __future__ import annotations

import gymnasium as gym

from ..configclass import Cfg
from ..utils.errors import UserError
from ..utils.registry import ENV_KEY, list_tasks, load_task


def task_table(part: str = "") -> str:
    """Format ids, packages and algorithms of the registered tasks whose id contains `part`, in any case, one line each.

    Raises:
        UserError: No id contains it.
    """
    rows = [("TASK", "PACKAGE", "ALGORITHM")]
    for task_id in list_tasks(part):
        try:
            task = load_task(task_id)
        except UserError as error:  # a broken task is shown as such and hides no other
            rows.append((task_id, "-", f"unusable: {error}"))
            continue
        rows.append((task_id, _package(task_id, task.env_cfg), _algorithm(task.runner_cfg.algorithm)))
    if len(rows) == 1:
        wanted = f" with '{part}' in its id" if part else ""
        raise UserError(f"There is no task{wanted}; `rrf doctor` shows which task packages are installed.")
    widths = [max(len(row[column]) for row in rows) for column in range(2)]
    lines = [f"{task_id:{widths[0]}s}  {package:{widths[1]}s}  {algorithm}" for task_id, package, algorithm in rows]
    return "\n".join([*lines, f"{len(rows) - 1} tasks"])


def _algorithm(cfg: Cfg) -> str:
    """Return the preset's name: SAC and FastSAC, or DSAC and DSAC-T, are one class with different configurations."""
    return type(cfg).__name__.removesuffix("Cfg")


def _package(task_id: str, env_cfg: object) -> str:
    """Return the package that registered a task, from its entry point or the class of its configuration."""
    entry = gym.registry[task_id].kwargs[ENV_KEY]
    module = entry if type(entry) is str else type(env_cfg).__module__
    return module.partition(":")[0].partition(".")[0]
