"""Two processes under torchrun: same weights, summed statistics, one writer, a common stop and an exact resume."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from RoboRenForce.utils.logging import read_metrics

pytestmark = pytest.mark.contract

FOLDER = Path(__file__).parent


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def run_two(worker: str, folder: Path) -> tuple[dict[str, Any], str]:
    """What the worker's two processes found, and what they printed."""
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=2", f"--master_port={free_port()}"]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([p for p in sys.path if p])}
    done = subprocess.run(
        [*command, str(FOLDER / worker), str(folder)], capture_output=True, text=True, env=environment
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads((folder / "result.json").read_text()), done.stdout


def test_two_processes_train_stop_and_resume_as_one(tmp_path: Path) -> None:
    result, printed = run_two("distributed_worker.py", tmp_path)
    first, second = result["ranks"]
    assert first["straight"] == second["straight"]  # gradients and normalizers are shared
    assert first["resumed"] == first["straight"] and second["resumed"] == second["straight"]
    # The signal reached one process in iteration 2; both ended after the same, later one.
    assert first["stopped"] == second["stopped"] == 3
    assert result["steps"] == 2 * 4 * 8 * 6
    assert result["seeds"] == [[0, 1, 2, 3], [100, 101, 102, 103]]
    assert first["noise"] != second["noise"]
    assert result["files"] == ["best", "latest", "metrics.jsonl", "model_6.pt", "params"]
    straight, halves = (read_metrics(tmp_path / name / "metrics.jsonl") for name in ("straight", "halves"))
    for tag in ("Train/mean_reward", "Loss/surrogate", "Train/total_steps"):
        assert straight[tag] == halves[tag]
    assert printed.count("Learning iteration 6/6") == 2  # two runs, one voice each


def test_two_processes_learn_from_a_replay_each_and_resume_with_it(tmp_path: Path) -> None:
    """The worker compares straight and resumed states, and what both processes share; here is what it did."""
    result, _ = run_two("distributed_off_policy_worker.py", tmp_path)
    assert result.keys() == {"dsact", "flash", "memory"}
    for found in result.values():
        assert found["updates"] > 0
        assert found["experience"][0] != found["experience"][1]  # every process its own
