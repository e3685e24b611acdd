"""Students without velocities act nearly as well as the teacher that observes them.

A student's score is its share of the way from uniformly random actions to its teacher, (R - R_random) / (R_teacher -
R_random), over 20 episodes with the same starts: the pendulum's returns are negative, and their ratio means nothing.
"""

from __future__ import annotations

import statistics
from pathlib import Path

import pytest
from RoboRenForce.algorithms import Policy
from RoboRenForce.envs.env_cfg import evaluation_cfg
from RoboRenForce.envs.spec import ActionSpec
from RoboRenForce.runners.evaluation import evaluate
from RoboRenForce.runners.recording import uniform_actions
from RoboRenForce.utils.registry import load_task
from tensordict import TensorDict
from torch import Tensor
from training import curve

pytestmark = [pytest.mark.learning, pytest.mark.slow]

pytest.importorskip("RRF_gym_tasks", reason="RRF_gym is not installed")

EPISODES = 20


class RandomPolicy(Policy):
    def __init__(self, action: ActionSpec) -> None:
        super().__init__()
        self.action = action

    def forward(self, obs: TensorDict) -> Tensor:
        return uniform_actions(self.action, obs)


def score_of_a_student(name: str, folder: Path, teacher_iterations: int, iterations: int, seed: int) -> float:
    """Train a teacher and then its student."""
    task = load_task(f"RoboRenForce-Gym-{name}-PPO")
    task.apply_overrides([f"max_iterations={teacher_iterations}", f"seed={seed}", "logger=[]", "report=false"])
    runner = task.runner_cfg.build(env=task.env_cfg.replace(seed=1000 * seed).build(), log_dir=folder, device="cpu")
    runner.learn()
    env = evaluation_cfg(task.env_cfg, EPISODES, 1000 * seed + 500).build()
    random = evaluate(env, RandomPolicy(env.spec.action), EPISODES).mean
    env = evaluation_cfg(task.env_cfg, EPISODES, 1000 * seed + 500).build()
    teacher = evaluate(env, runner.policy(), EPISODES).mean
    task = load_task(f"RoboRenForce-Gym-{name}Masked-Distill")
    task.apply_overrides([f"policy.teacher_cfg.checkpoint={folder}", f"max_iterations={iterations}"])
    student = curve(task.runner_cfg, task.env_cfg, seed, episodes=EPISODES)[-1]
    return (student - random) / (teacher - random)


def test_a_student_without_velocity_swings_up_nearly_as_well_as_its_teacher(tmp_path: Path) -> None:
    assert score_of_a_student("Pendulum", tmp_path, 40, 30, seed=1) >= 0.85


@pytest.mark.long
@pytest.mark.parametrize(
    ("name", "teacher_iterations", "iterations"),
    [("Pendulum", 40, 30), ("CartPole", 60, 30), ("InvertedPendulum", 40, 30)],
)
def test_the_median_of_three_seeds_passes_the_gate(
    name: str, teacher_iterations: int, iterations: int, tmp_path: Path
) -> None:
    found = [score_of_a_student(name, tmp_path / str(seed), teacher_iterations, iterations, seed) for seed in (1, 2, 3)]
    assert statistics.median(found) >= 0.85, found
