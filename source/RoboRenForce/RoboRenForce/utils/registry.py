"""Tasks by their id: what `gym.register` was told, looked up and copied.

A task package registers its ids when it is imported:

    gym.register(
        id="RoboRenForce-MySim-Robot-PPO",
        entry_point="my_sim_tasks:refuse_gym_make",
        disable_env_checker=True,
        kwargs={
            "env_cfg_entry_point": MySimEnvCfg(robot="arm"),
            "RoboRenForce_entry_point": "my_sim_tasks.agents.ppo:arm",
        },
    )

The two entry points may be instances, classes, functions without arguments or `"module:name"` of any of these.
Packages announce themselves (see `task_packages.py`) and are imported when an id of theirs is asked for.
A package that can train ids it has not registered, such as those of its simulator, adds a finder for them.
"""

from __future__ import annotations

import copy
import importlib
import logging
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import gymnasium as gym

from ..configclass import Cfg, ConfigError, resolve
from ..configclass.errors import contradiction
from ..configclass.fields import field_names
from ..configclass.overrides import apply_overrides, apply_yaml, to_yaml
from ..configclass.trust import AllowList, allowed_packages, is_covered, only
from . import task_packages
from .errors import Problem, UnknownTaskError, did_you_mean, nearest
from .run_configs import TASK

ENV_KEY = "env_cfg_entry_point"
RUNNER_KEY = "RoboRenForce_entry_point"

_log = logging.getLogger(__name__)


@dataclass
class Task:
    """A registered task: copies of its two configurations, free to be changed."""

    id: str
    env_cfg: Any
    runner_cfg: Any

    def apply_overrides(self, overrides: list[str]) -> None:
        """Assign `path=value` texts: `env.path` in the environment's, other paths in the runner's configuration."""
        apply_overrides(self._configs(), overrides)

    def apply_yaml(self, source: Any, *, trust: bool | None = None) -> None:
        """Merge a YAML file: the environment's fields below `env`, the runner's at the top level or below `agent`.

        With `trust` it may name any class or function, otherwise only those of the allow-list (SECURITY.md).
        """
        apply_yaml(self._configs(), source, trust=trust, ignore=(TASK,))

    def restore(self, config: Mapping[str, Any], *, trust: bool = False) -> None:
        """Take over the configurations in a checkpoint; `trust` is as in `apply_yaml`.

        Raises:
            ConfigError: Lists every value that does not fit and every name that a file may not contain.
        """
        problems: list[Problem] = []
        with only(AllowList.of(self.env_cfg, self.runner_cfg, everything=trust)):
            for owner, key, prefix in (("env_cfg", "env", "env"), ("runner_cfg", "agent", "")):
                if config[key] is None:
                    continue
                try:
                    setattr(self, owner, type(getattr(self, owner)).from_dict(config[key]))
                except ConfigError as error:
                    problems += [problem.below(prefix) for problem in error.problems]
        if problems:
            raise ConfigError(problems, f"The configuration in the checkpoint of {self.id}")

    def to_yaml(self) -> str:
        """Return both configurations as YAML that `apply_yaml` reads."""
        return to_yaml(self._configs())

    def refuse(self, sentences: Iterable[str]) -> None:
        """Raise an error about the runner's configuration if there are sentences like those of `Cfg.check`."""
        problems = [contradiction(sentence, field_names(type(self.runner_cfg))) for sentence in sentences]
        if problems:
            raise ConfigError(problems, f"Task {self.id}")

    def validate(self, *, may_miss: bool = False) -> None:
        """Validate both configurations and report all problems in one `ConfigError`.

        Args:
            may_miss: Whether fields without a value are no problem: the configuration is only shown.
        """
        problems = []
        for name, cfg in (("env", self.env_cfg), ("", self.runner_cfg)):
            try:
                cfg.validate()
            except ConfigError as error:
                problems += [problem.below(name) for problem in error.problems if not (may_miss and problem.is_missing)]
        if problems:
            raise ConfigError(problems, f"Task {self.id}")

    def _configs(self) -> dict[str, Cfg]:
        return {"env": self.env_cfg, "agent": self.runner_cfg, "": self.runner_cfg}


Finder = Callable[[str], Task | None]
"""Function that builds the task of an id that a simulator knows, or returns None if it does not know it."""

_finders: list[Finder] = []


def add_task_finder(finder: Finder) -> None:
    """Let `load_task` ask `finder` for ids that are not registered with our configurations."""
    if finder not in _finders:
        _finders.append(finder)


def load_task(task_id: str) -> Task:
    """Return the task registered as `task_id`, or one that a task package builds for this id of its simulator.

    Raises:
        UnknownTaskError: There is none, or it is registered without our configurations.
    """
    spec = _find(task_id)
    if spec is None or RUNNER_KEY not in spec.kwargs:
        import_task_packages()
        for finder in _finders:
            task = finder(task_id)
            if task is not None:
                return task
    if spec is None:
        raise _unknown(task_id)
    missing = [key for key in (ENV_KEY, RUNNER_KEY) if key not in spec.kwargs]
    if missing:
        related = nearest(task_id, list_tasks()) or [
            known for known in list_tasks() if task_id.partition("-")[0] in known
        ]
        hint = f"; {related[0]} trains it" if related else ""
        raise UnknownTaskError(
            f"{task_id} is a Gymnasium environment registered without {' and '.join(missing)}{hint}: "
            f"see docs/adding/environment.md for how to register a task."
        )
    return Task(task_id, *(_configuration(task_id, key, spec.kwargs[key]) for key in (ENV_KEY, RUNNER_KEY)))


def load_stored_task(task_id: str, *, trust: bool = False) -> Task:
    """Load a task by an id from a file: `module:Name-v0` imports nothing that files may not name.

    Raises:
        UnknownTaskError: There is none, or its module is refused.
    """
    module, colon, _ = task_id.rpartition(":")
    if colon and not trust and not is_covered(module, {*allowed_packages(), "gymnasium"}):
        raise UnknownTaskError(
            f"The checkpoint's task '{task_id}' imports the module '{module}', which a file may not name: "
            f"give --task {task_id} yourself, or --trust, if you trust who wrote the checkpoint."
        )
    return load_task(task_id)


def list_tasks(part: str = "") -> list[str]:
    """Return the ids of all tasks of installed packages that contain `part`, in any case, sorted."""
    import_task_packages()
    return sorted(
        name for name, spec in gym.registry.items() if RUNNER_KEY in spec.kwargs and part.lower() in name.lower()
    )


def import_task_packages(task_id: str = "") -> list[str]:
    """Import the installed task packages so that their ids are registered.

    Args:
        task_id: Restricts it to the package whose entry point has the name of the id's second word, if there is one.

    Returns:
        A sentence for every package that could not be imported.
    """
    modules, name = task_packages.announced(), _simulator(task_id)
    chosen = [modules[name]] if name in modules else list(dict.fromkeys(modules.values()))
    failures = []
    for module in chosen:
        try:
            importlib.import_module(module)
        except ImportError as error:  # one broken package must not hide the tasks of the others
            failures.append(f"{module} can't be imported: {error}")
            _log.warning("The task package %s can't be imported: %s", module, error)
    return failures


def names_package(task_id: str) -> bool:
    """Return True if the id names the package that registers it, installed or not."""
    name = _simulator(task_id)
    return name in task_packages.announced() or task_packages.project_of(name) is not None


def _simulator(task_id: str) -> str:
    """Return `gym` for `RoboRenForce-Gym-HalfCheetah-PPO`; empty for ids of another form."""
    words = task_id.lower().split("-")
    return words[1] if len(words) > 2 and words[0] == "roborenforce" else ""


def _find(task_id: str) -> Any:
    """Return Gymnasium's spec of the id after importing the package that it names, or all of them; None if unknown."""
    for named in (task_id, ""):
        if task_id not in gym.registry:
            import_task_packages(named)
    return gym.registry.get(task_id)


def _unknown(task_id: str) -> UnknownTaskError:
    project = task_packages.project_of(_simulator(task_id))
    failures = import_task_packages()
    if project is not None and not project.is_installed:
        reason = f"its package {project.name} is not installed: {project.install}"
    elif failures:
        reason = "; ".join(failures)
    else:
        known = list_tasks()
        reason = (
            f"{did_you_mean(task_id, known, limit=3)} `rrf list` shows all" if known else "no task package is installed"
        )
    return UnknownTaskError(f"There is no task {task_id!r}: {reason}.")


def _configuration(task_id: str, key: str, entry: Any) -> Any:
    """Build a fresh configuration from an entry point."""
    made = resolve(entry) if isinstance(entry, str) else entry
    if isinstance(made, type) or (callable(made) and not isinstance(made, Cfg)):
        made = made()
    if not callable(getattr(made, "build", None)):
        raise UnknownTaskError(
            f"Task {task_id} registers {entry!r} as {key}, expected a configuration: "
            f"an instance, a class or a function that returns one, or its 'module:name'."
        )
    return copy.deepcopy(made)
