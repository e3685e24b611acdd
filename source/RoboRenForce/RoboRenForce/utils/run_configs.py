"""Run configurations by name: one YAML per run, in the folder `configs` of a task package.

task: RoboRenForce-Tabletop-Reach-SFT    # its typed configuration; every other key is a field of it
env:
num_envs: 64
max_iterations: 100
"""

from __future__ import annotations

import importlib.util
from pathlib import Path

from ..configclass import yaml_text
from . import task_packages
from .errors import ConfigError, did_you_mean

TASK = "task"
"""Key of a run configuration that names its task."""


def run_configs() -> dict[str, Path]:
    """Return name -> file of the run configurations of all installed task packages, none of which is imported."""
    found: dict[str, Path] = {}
    for module in dict.fromkeys(task_packages.announced().values()):
        spec = importlib.util.find_spec(module.partition(":")[0].partition(".")[0])
        for folder in (spec and spec.submodule_search_locations) or ():
            found |= {file.stem: file for file in sorted(Path(folder, "configs").glob("*.yaml"))}
    return found


def find_run_config(name: str, folder: Path | None = None) -> Path:
    """Return the file of a run configuration.

    Args:
        name: Without `.yaml`.
        folder: Looked in before the task packages.

    Raises:
        ConfigError: there is none of this name; the message has the nearest.
    """
    name = name.removesuffix(".yaml")
    here = {file.stem: file for file in sorted(folder.glob("*.yaml"))} if folder is not None else {}
    known = {**run_configs(), **here}
    if name not in known:
        where = "the installed task packages" if folder is None else f"'{folder}' and the installed task packages"
        hint = did_you_mean(name, known, limit=3) if known else "install a task package that brings some."
        raise ConfigError(f"There is no run configuration '{name}' in {where}: {hint}")
    return known[name]


def task_in(path: Path) -> str | None:
    """Return the task that a YAML file names; None if it leaves that to the command line.

    Raises:
        ConfigError: it can't be read, or names something else than a task.
    """
    task = yaml_text.load_mapping(path).get(TASK)
    if not isinstance(task, str | None):
        raise ConfigError(f"'{path}' has task: {task!r:.60}, expected the id of a task; `rrf list` shows all.")
    return task
