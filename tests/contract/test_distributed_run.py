"""Two processes under torchrun: same weights, summed statistics, one writer, a common stop and an exact resume."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

from RoboRenForce.utils.logging import read_metrics

WORKER = Path(__file__).with_name("distributed_worker.py")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def test_two_processes_train_stop_and_resume_as_one(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=2", f"--master_port={free_port()}"]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([p for p in sys.path if p])}
    done = subprocess.run(
        [*command, str(WORKER), str(tmp_path)], capture_output=True, text=True, timeout=180, env=environment
    )
    assert done.returncode == 0, done.stderr[-3000:]
    result = json.loads((tmp_path / "result.json").read_text())
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
    assert done.stdout.count("Learning iteration 6/6") == 2  # two runs, one voice each
