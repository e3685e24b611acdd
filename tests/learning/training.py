"""Train registered tasks with several seeds, each in a process of its own, two at a time, and evaluate them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

TRAIN = """
import json, sys
import torch
torch.set_num_threads(1)
from RoboRenForce.runners.evaluation import evaluate
from RoboRenForce.utils.registry import load_task
task_id, seed = sys.argv[1], int(sys.argv[2])
task = load_task(task_id)
task.apply_overrides([f"seed={seed}", f"env.seed={1000 * seed}", "logger=[]", "report=false", *sys.argv[3:]])
env = task.env_cfg.build()
runner = task.runner_cfg.build(env=env, device="cpu")
runner.learn()
result = evaluate(task.env_cfg.replace(num_envs=10, seed=1000 * seed + 500).build(), runner.policy(), episodes=10)
print("RESULT " + json.dumps({"return": result.mean, "steps": runner.steps}))
"""


def train(task: str, seed: int, overrides: tuple[str, ...]) -> float:
    """The evaluated return of one seed."""
    command = [sys.executable, "-c", TRAIN, task, str(seed), *overrides]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=600, env={**os.environ, "OMP_NUM_THREADS": "1"}, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    line = next(line for line in done.stdout.splitlines() if line.startswith("RESULT "))
    return json.loads(line.removeprefix("RESULT "))["return"]


def returns(task: str, *overrides: str) -> list[float]:
    """Returns of three seeds, worst first."""
    with ThreadPoolExecutor(2) as pool:
        return sorted(pool.map(lambda seed: train(task, seed, overrides), (1, 2, 3)))
