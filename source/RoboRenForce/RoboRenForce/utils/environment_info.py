"""Description of the machine: versions of relevant packages, and the hardware."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import torch

_PACKAGES = (
    "RoboRenForce",
    "torch",
    "tensordict",
    "numpy",
    "gymnasium",
    "mujoco",
    "envpool",
    "mjlab",
    "mujoco-warp",
    "warp-lang",
)


def versions() -> dict[str, str]:
    """Return package -> version of the installed relevant packages, and of Python."""
    found = {"python": platform.python_version()}
    for package in _PACKAGES:
        version = package_version(package)
        if version:
            found[package] = version
    if torch.version.cuda:
        found["cuda"] = torch.version.cuda
    return found


def package_version(package: str) -> str:
    """Return the installed version of a distribution; empty if it is not installed."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return ""


def hardware(device: torch.device | str) -> str:
    """Describe the machine in one line."""
    cores = len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count()
    line = f"{platform.system()} {platform.machine()}, {cores} CPU cores"
    if torch.device(device).type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        line += f", {properties.name} ({properties.total_memory / 2**30:.0f} GiB)"
    return line


def git_commit() -> str:
    """Return the commit of RoboRenForce's repository, with `+` if it has changes; empty outside of one."""
    folder = Path(__file__).resolve().parent
    try:
        commit = _git(folder, "rev-parse", "--short=12", "HEAD")
        return commit + ("+" if _git(folder, "status", "--porcelain", "--untracked-files=no") else "")
    except (OSError, subprocess.SubprocessError):
        return ""


def _git(folder: Path, *command: str) -> str:
    done = subprocess.run(["git", "-C", str(folder), *command], capture_output=True, text=True, check=True, timeout=5)
    return done.stdout.strip()
