"""Pendulum without its velocity: SAC can't, SAC-Seq and SAC-Trans can. 40,000 environment steps, three seeds each.

Each seed trains in a process of its own, two at a time, with the registered configuration of its task; returns are
those of 20 deterministic episodes. The best known mean is about -150, and hanging still about -1200.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest

pytestmark = [pytest.mark.learning, pytest.mark.slow]

pytest.importorskip("RRF_gym_tasks", reason="RRF_gym is not installed")

TRAIN = """
import json, sys
import torch
torch.set_num_threads(1)
from RoboRenForce.runners.evaluation import evaluate
from RoboRenForce.utils.registry import load_task
task = load_task(f"RoboRenForce-Gym-PendulumMasked-{sys.argv[1]}")
seed = int(sys.argv[2])
task.apply_overrides([f"seed={seed}", f"env.seed={1000 * seed}", "logger=[]", "report=false", "eval_interval=0"])
runner = task.runner_cfg.build(env=task.env_cfg.build())
runner.learn()
env = task.env_cfg.replace(num_envs=20, seed=1000 * seed + 500).build()
result = evaluate(env, runner.policy(), 20, seed=1000 * seed + 500)
print("RESULT " + json.dumps({"return": result.mean, "steps": runner.steps}))
"""


def train(task: str, seed: int) -> float:
    """The evaluated return of one seed."""
    done = subprocess.run(
        [sys.executable, "-c", TRAIN, task, str(seed)],
        capture_output=True,
        text=True,
        timeout=600,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    line = next(line for line in done.stdout.splitlines() if line.startswith("RESULT "))
    found = json.loads(line.removeprefix("RESULT "))
    assert found["steps"] == 40_000
    return found["return"]


def returns(task: str) -> list[float]:
    """Returns of three seeds, worst first."""
    with ThreadPoolExecutor(2) as pool:
        return sorted(pool.map(lambda seed: train(task, seed), (1, 2, 3)))


@pytest.mark.parametrize("task", ["SACSeq", "SACTrans"])
def test_a_memory_stands_in_for_the_velocity(task: str):
    found = returns(task)
    assert statistics.median(found) >= -300.0, found


def test_without_a_memory_the_velocity_is_missed():
    found = returns("SAC")
    assert statistics.median(found) <= -700.0, found
