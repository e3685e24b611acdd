"""Offline algorithms beat the behavior that recorded their data, and its imitation, on Pendulum.

The data is our own, made once per session: a SAC run is stopped as soon as its policy samples a return above -800 (the
optimum is about -150), and then recorded. `half` are 100 episodes of that policy, `mixed` are 50 of them and 50 of
random actions. Every algorithm learns from both with the registered configuration of its task, shortened, with three
seeds; gates are on their median over 20 deterministic episodes. About six minutes of two cores; the short one is
`test_offline_learns.py`.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

pytestmark = [pytest.mark.learning, pytest.mark.slow, pytest.mark.long]

pytest.importorskip("RRF_gym_tasks", reason="RRF_gym is not installed")
pytest.importorskip("RRF_d4rl_tasks", reason="RRF_d4rl is not installed")

ALGORITHMS = ("IQL", "CQL", "TD3BC", "ReBRAC")
SEEDS = ("1", "2", "3")
ITERATIONS = {"CQL": 4, "TD3BC": 8, "ReBRAC": 4, "IQL": 5, "BC": 3}
"""Thousands of updates."""

RECORD = """
import json, sys
from pathlib import Path
import torch
torch.set_num_threads(1)
from RoboRenForce.runners.evaluation import evaluate
from RoboRenForce.runners.recording import PolicyBehavior, RandomBehavior, record_episodes
from RoboRenForce.utils.registry import load_task
from RRF_d4rl_tasks.hdf5_rows import write_rows
from RRF_d4rl_tasks.recorded_space import spaces_to_record
folder = Path(sys.argv[1])
task = load_task("RoboRenForce-Gym-Pendulum-SAC")
task.apply_overrides(["seed=1", "env.seed=1", "logger=[]", "report=false", "num_steps_per_env=100"])
runner = task.runner_cfg.build(env=task.env_cfg.build())
env = task.env_cfg.replace(num_envs=20, seed=100).build()
for _ in range(200):
    if evaluate(env, runner.policy(), 20, deterministic=False, seed=100).mean >= -800:
        break
    runner.learn(1)
action = env.spec.action
half = record_episodes(env, PolicyBehavior(runner.policy(), action, deterministic=False), 20_000, seed=200)
random = record_episodes(env, RandomBehavior(action), 10_000, seed=300)
returns = {}
for name, episodes in {"half": half, "mixed": half[::2] + random}.items():
    write_rows(folder / f"{name}.hdf5", episodes, spaces_to_record(env.spec), {})
    returns[name] = sum(float(episode.rewards.sum()) for episode in episodes) / len(episodes)
print("RESULT " + json.dumps(returns))
"""

TRAIN = """
import json, sys
import torch
torch.set_num_threads(1)
from RoboRenForce.runners.evaluation import evaluate
from RoboRenForce.utils.registry import load_task
name, source, iterations, *seeds = sys.argv[1:]
results = []
for seed in seeds:
    task = load_task(f"RoboRenForce-D4RL-Pendulum-{name}")
    task.apply_overrides([
        f"seed={seed}", f"dataset.source={source}", f"max_iterations={iterations}", "eval_interval=0", "logger=[]",
        "report=false",
    ])
    runner = task.runner_cfg.build()
    runner.learn()
    env = task.env_cfg.replace(num_envs=20, seed=500).build()
    metrics = {tag: float(value) for tag, value in runner.algorithm.update().items()}
    results.append({"return": evaluate(env, runner.policy(), 20, seed=500).mean, **metrics})
print("RESULT " + json.dumps(results))
"""


def run(script: str, *arguments: str) -> Any:
    """What a script in a process of its own found out."""
    command = [sys.executable, "-c", script, *arguments]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    line = next(line for line in done.stdout.splitlines() if line.startswith("RESULT "))
    return json.loads(line.removeprefix("RESULT "))


def train_all(folder: Path) -> tuple[dict[str, float], dict[tuple[str, str], Any]]:
    """Mean returns in the data, and the results of all seeds by (algorithm, data)."""
    behavior = run(RECORD, str(folder))
    jobs = [(name, data) for name in ITERATIONS for data in behavior]  # longest first

    def train(job: tuple[str, str]) -> Any:
        name, data = job
        return run(TRAIN, name, str(folder / f"{data}.hdf5"), str(ITERATIONS[name]), *SEEDS)

    with ThreadPoolExecutor(2) as pool:
        return behavior, dict(zip(jobs, pool.map(train, jobs), strict=True))


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """What `train_all` found, once for all tests."""
    return train_all(tmp_path_factory.mktemp("pendulum"))


def returns(results: list[dict[str, float]]) -> list[float]:
    return [result["return"] for result in results]


@pytest.mark.parametrize("data", ["half", "mixed"])
@pytest.mark.parametrize("name", ALGORITHMS)
def test_better_than_behavior_and_imitation(runs: Any, name: str, data: str) -> None:
    behavior, results = runs
    assert -1200.0 < behavior[data] < -400.0, behavior
    found, imitation = returns(results[name, data]), returns(results["BC", data])
    assert statistics.median(found) >= behavior[data] + 150.0, (behavior, found)
    assert statistics.median(found) >= statistics.median(imitation) + 100.0, (imitation, found)
    assert min(found) >= behavior[data], (behavior, found)


@pytest.mark.parametrize("data", ["half", "mixed"])
def test_values_stay_in_proportion(runs: Any, data: str) -> None:
    """The worst return is about -1,800 undiscounted, -1,400 with gamma 0.99: no critic leaves ten times that."""
    _, results = runs
    for name in ("CQL", "TD3BC", "ReBRAC"):
        assert all(abs(result["Policy/q_value"]) < 1.4e4 for result in results[name, data]), name
    assert all(result["Policy/q_gap_random"] > 0.0 for result in results["CQL", data])


if __name__ == "__main__":  # python tests/learning/test_offline_pendulum.py <folder for the data>
    recorded, trained = train_all(Path(sys.argv[1]))
    print(recorded)
    for job, found in trained.items():
        print(*job, [round(value) for value in returns(found)])
