"""`rrf doctor`: what is installed, what is missing for what, and whether rendering and the GPU really work."""

from __future__ import annotations

import torch

from ..configclass.references import resolve
from ..utils import task_packages
from ..utils.console import say
from ..utils.environment_info import hardware, package_version, versions
from ..utils.optional import CORE
from ..utils.registry import import_task_packages, list_tasks

_FOR_DEVELOPERS = ("test", "bench", "dev")
"""Extras that users do not need."""


def doctor() -> bool:
    """Print the installation report; returns whether everything that is installed works."""
    say(f"{'machine':32s} {hardware('cpu')}")
    for name, version in versions().items():
        say(f"{name:32s} {version}")
    say("")
    healthy = _check_packages()
    say("")
    healthy &= _check_gpu()
    return _check_parts() and healthy


def _check_packages() -> bool:
    """Check the core and the task packages: their requirements, and those of each extra."""
    installed = task_packages.distributions()
    folders = {project.name: f"source/tasks/{project.name}" for project in task_packages.source_projects()}
    for package, names in {**installed, CORE: []}.items():
        tasks = f" ({', '.join(sorted(names))} tasks)" if names else ""
        for extra, needed in task_packages.requirements(package).items():
            if extra not in _FOR_DEVELOPERS:
                target = f"{folders.get(package, package)}{f'[{extra}]' if extra else ''}"
                line = f"pip install {'-e ' if package in folders else ''}'{target}'"
                say(f"{f'{package}[{extra}]' if extra else package + tasks:32s} {_readiness(needed, line)}")
    for project in task_packages.source_projects():
        if project.name not in installed:
            say(f"{project.name:32s} not installed: {project.install}")
    for sentence in task_packages.outdated():
        say(f"{'outdated installation':32s} {sentence}")
    broken = import_task_packages()
    for sentence in broken:
        say(f"{'broken task package':32s} {sentence}")
    say(f"{'tasks':32s} {len(list_tasks())} registered, `rrf list` shows them")
    return not broken


def _readiness(needed: list[str], install: str) -> str:
    found = {name: package_version(name) for name in dict.fromkeys(needed)}
    if missing := [name for name, version in found.items() if not version]:
        return f"missing {', '.join(missing)}: {install}"
    return f"ready ({', '.join(f'{name} {version}' for name, version in found.items())})"


def _check_parts() -> bool:
    """Run the checks of task packages, such as rendering."""
    healthy = True
    for name, reference in task_packages.announced(task_packages.CHECKS).items():
        works, sentence = resolve(reference)()
        healthy &= works
        say(f"{name:32s} {sentence}")
    return healthy


def _check_gpu() -> bool:
    """Multiply two matrices on the GPU and compare with the CPU."""
    if not torch.cuda.is_available():
        say(f"{'GPU':32s} none that torch {torch.__version__} can use; training runs on the CPU")
        return True
    good = True
    for index in range(torch.cuda.device_count()):
        left, right = (torch.randn(256, 256, generator=torch.Generator().manual_seed(seed)) for seed in (0, 1))
        device = torch.device("cuda", index)
        try:
            deviation = float(((left.to(device) @ right.to(device)).cpu() - left @ right).abs().max())
            works = deviation < 1e-1  # TensorFloat-32 may be on
            verdict = "works" if works else f"computes wrong numbers (deviation {deviation:.2g})"
        except RuntimeError as error:
            works, verdict = False, f"fails: {str(error).splitlines()[0]}"
        good &= works
        say(f"{f'GPU cuda:{index}':32s} {torch.cuda.get_device_name(index)} {verdict}")
    return good
