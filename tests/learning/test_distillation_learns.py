"""A student without velocities balances nearly as well as the teacher that observes them."""

from __future__ import annotations

import statistics
from pathlib import Path

import pytest
from RoboRenForce.envs.env_cfg import evaluation_cfg
from RoboRenForce.runners.evaluation import evaluate
from RoboRenForce.utils.registry import load_task
from training import curve_of_task

pytestmark = [pytest.mark.learning, pytest.mark.slow]

pytest.importorskip("RRF_gym_tasks", reason="RRF_gym is not installed")


def teacher_and_student(name: str, folder: Path, teacher_iterations: int, iterations: int, seed: int) -> float:
    """Train a teacher and then its student; returns the share of the teacher's return that the student reaches."""
    task = load_task(f"RoboRenForce-Gym-{name}-PPO")
    task.apply_overrides([f"max_iterations={teacher_iterations}", f"seed={seed}", "logger=[]", "report=false"])
    runner = task.runner_cfg.build(env=task.env_cfg.replace(seed=1000 * seed).build(), log_dir=folder)
    runner.learn()
    best = evaluate(evaluation_cfg(task.env_cfg, 20, 1000 * seed + 500).build(), runner.policy(), 20).mean
    overrides = [f"policy.teacher_cfg.checkpoint={folder}", f"max_iterations={iterations}"]
    found = curve_of_task(f"{name}Masked-Distill", seed, *overrides)[-1]
    return found / best


def test_a_student_without_velocities_reaches_most_of_its_teachers_return(tmp_path: Path) -> None:
    """After 30 iterations seeds 1 and 2 reached 0.84 and 1.00 of it; a student that learned nothing about 0.05."""
    assert teacher_and_student("InvertedPendulum", tmp_path, 40, 40, seed=2) >= 0.7


@pytest.mark.long
def test_the_median_of_three_seeds_passes_the_gate(tmp_path: Path) -> None:
    found = [teacher_and_student("InvertedPendulum", tmp_path / str(seed), 60, 60, seed) for seed in (1, 2, 3)]
    assert statistics.median(found) >= 0.85, found
