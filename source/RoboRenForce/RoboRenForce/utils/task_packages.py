"""Discovery of task packages, which announce themselves, so the core depends on none.

A package names its parts in its pyproject.toml:

    [project.entry-points."roborenforce.tasks"]    # second word of its task ids -> module that registers them
    mysim = "my_sim_tasks"
    [project.entry-points."roborenforce.doctor"]   # check of `rrf doctor` -> function that returns (works, sentence)
    rendering = "my_sim_tasks.doctor:check_rendering"

Installed packages are found through their metadata. If the core runs from its source tree, the projects beside it
are read too: they work from `PYTHONPATH`, and a missing one can be named together with the command that installs it.
"""

from __future__ import annotations

import importlib.util
import re
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from importlib import metadata
from pathlib import Path

from ..configclass.trust import TASK_PACKAGES, allow_package

TASKS = TASK_PACKAGES
CHECKS = "roborenforce.doctor"

_PROJECTS = Path(__file__).resolve().parents[3] / "tasks"
"""Folder of the task packages if the core runs from its source tree."""
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_EXTRA = re.compile(r"""extra\s*==\s*["']([^"']+)["']""")


@dataclass(frozen=True)
class Project:
    """A task package in the source tree."""

    name: str
    folder: Path
    entry_points: dict[str, dict[str, str]]
    """Group -> name -> module or `module:function`."""

    @property
    def is_installed(self) -> bool:
        """True if all modules that it announces can be imported."""
        return all(_can_import(value) for value in self.entry_points.get(TASKS, {}).values())

    @property
    def install(self) -> str:
        """Commands that install it, as a part of a sentence."""
        return f"run `./setup_ext.sh {self.name}` or `pip install -e source/tasks/{self.name}`"


@cache
def source_projects() -> tuple[Project, ...]:
    """Return the task packages beside the core in its source tree; none if the core was installed from a wheel."""
    found = []
    for file in sorted(_PROJECTS.glob("*/pyproject.toml")):
        project = tomllib.loads(file.read_text(encoding="utf-8"))["project"]
        found.append(Project(project["name"], file.parent, project.get("entry-points", {})))
    return tuple(found)


def announced(group: str = TASKS) -> dict[str, str]:
    """Return lower-case name -> module or `module:function`, of packages that are importable or claim to be."""
    found = {point.name.lower(): point.value for point in metadata.entry_points(group=group)}
    for project in source_projects():
        for name, value in project.entry_points.get(group, {}).items():
            if name.lower() not in found and _can_import(value):
                found[name.lower()] = value
                allow_package(value.partition(":")[0].partition(".")[0])
    return found


def project_of(name: str) -> Project | None:
    """Return the package in the source tree that announces tasks under `name`, in lower case."""
    for project in source_projects():
        if name in (known.lower() for known in project.entry_points.get(TASKS, {})):
            return project
    return None


def distributions() -> dict[str, list[str]]:
    """Return installed packages that announce tasks -> the second words of their ids."""
    found: dict[str, list[str]] = {}
    for point in metadata.entry_points(group=TASKS):
        if point.dist is not None:
            found.setdefault(point.dist.name, []).append(point.name)
    return found


def requirements(distribution: str) -> dict[str, list[str]]:
    """Return the requirements of an installed distribution: extra -> names, `""` for those always needed.

    Requirements that depend on the machine, by another marker than an extra, are left out.
    """
    found: dict[str, list[str]] = {}
    for line in metadata.requires(distribution) or ():
        requirement, _, marker = line.partition(";")
        name, extra = _NAME.match(requirement.strip()), _EXTRA.fullmatch(marker.strip())
        if name and (extra or not marker.strip()):
            found.setdefault(extra[1] if extra else "", []).append(name[0])
    return found


def outdated() -> Iterator[str]:
    """Return a sentence for each package whose installed metadata differs from its source tree."""
    for project in source_projects():
        try:
            points = metadata.distribution(project.name).entry_points
        except metadata.PackageNotFoundError:
            continue
        installed = {(point.group, point.name, point.value) for point in points}
        declared = {
            (group, name, value) for group, entries in project.entry_points.items() for name, value in entries.items()
        }
        if installed != declared:
            yield (
                f"{project.name} was installed before its entry points changed: run "
                f"`pip install -e source/tasks/{project.name}` again."
            )


def _can_import(value: str) -> bool:
    return importlib.util.find_spec(value.partition(":")[0].partition(".")[0]) is not None
