"""The command that calls this program again."""

from __future__ import annotations

import shlex
import shutil
import sys
from pathlib import Path


def console_command() -> str:
    """Return how to call `rrf` from here: by its name, by its path in the virtual environment, or as a module."""
    if shutil.which("rrf"):
        return "rrf"
    beside = Path(sys.executable).with_name("rrf")
    if not beside.is_file():
        return "python -m RoboRenForce.cli"
    return shlex.quote(str(beside.relative_to(Path.cwd()) if beside.is_relative_to(Path.cwd()) else beside))
