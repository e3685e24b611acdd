"""A run that is killed at random moments ends as one that was not."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.contract

WORKER = Path(__file__).with_name("chaos_worker.py")


def check_kills(folder: Path, kills: int, seed: int) -> None:
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(entry for entry in sys.path if entry)}
    command = [sys.executable, str(WORKER), str(folder), str(kills), str(seed)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.splitlines()[-1].startswith(f"{kills} kills, ")


def test_a_few_kills_leave_no_trace(tmp_path: Path) -> None:
    check_kills(tmp_path, 6, seed=1)


@pytest.mark.long
def test_a_hundred_kills_leave_no_trace(tmp_path: Path) -> None:
    check_kills(tmp_path, 100, seed=2)
