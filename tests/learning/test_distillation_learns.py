"""Students without velocities act nearly as well as the teacher that observes them.

A student's score is its share of the way from uniformly random actions to its teacher, (R - R_random) / (R_teacher -
R_random), over 20 episodes with the same starts: the pendulum's returns are negative, and their ratio means nothing.
"""

from __future__ import annotations

import tempfile
from functools import partial

import pytest
from RoboRenForce.algorithms import Policy
from RoboRenForce.envs.env_cfg import evaluation_cfg
from RoboRenForce.envs.spec import ActionSpec
from RoboRenForce.runners.evaluation import evaluate
from RoboRenForce.runners.recording import uniform_actions
from RoboRenForce.utils.registry import load_task
from tensordict import TensorDict
from torch import Tensor
from training import Gate, Run, Runs, median, trained

pytestmark = [pytest.mark.learning, pytest.mark.slow]

pytest.importorskip("RRF_gym_tasks", reason="RRF_gym is not installed")

EPISODES = 20


class RandomPolicy(Policy):
    def __init__(self, action: ActionSpec) -> None:
        super().__init__()
        self.action = action

    def forward(self, obs: TensorDict) -> Tensor:
        return uniform_actions(self.action, obs)


def student(name: str, teacher_iterations: int, iterations: int, seed: int, evaluations: int = 1) -> Run:
    """Train a teacher and then its student, whose `score` is judged beside its return."""
    task = load_task(f"RoboRenForce-Gym-{name}-PPO")
    task.apply_overrides([f"max_iterations={teacher_iterations}", f"seed={seed}", "logger=[]", "report=false"])
    env_cfg = evaluation_cfg(task.env_cfg, EPISODES, 1000 * seed + 500)
    with tempfile.TemporaryDirectory() as folder:
        runner = task.runner_cfg.build(env=task.env_cfg.replace(seed=1000 * seed).build(), log_dir=folder, device="cpu")
        runner.learn()
        distilled = load_task(f"RoboRenForce-Gym-{name}Masked-Distill")
        distilled.apply_overrides([f"policy.teacher_cfg.checkpoint={folder}", f"max_iterations={iterations}"])
        run = trained(distilled.runner_cfg, distilled.env_cfg, seed, evaluations, episodes=EPISODES)
    env = env_cfg.build()
    random = evaluate(env, RandomPolicy(env.spec.action), EPISODES).mean
    teacher = evaluate(env_cfg.build(), runner.policy(), EPISODES).mean
    for point in run.curve:
        point |= {"score": (point["return"] - random) / (teacher - random), "teacher": teacher}
    return run


def as_good_as_teachers(runs: Runs) -> None:
    """The median score of students that do not see velocities is at least 0.85, in each task."""
    for name, found in runs.items():
        assert median(found, "score") >= 0.85, (name, found)


DISTILLATION = Gate(
    {
        f"{name}Masked": partial(student, name, teacher_iterations, 30, evaluations=5)
        for name, teacher_iterations in (("Pendulum", 40), ("CartPole", 60), ("InvertedPendulum", 40))
    },
    as_good_as_teachers,
)


def test_a_student_without_velocity_swings_up_nearly_as_well_as_its_teacher() -> None:
    """The median of three seeds; two are trained only if the first misses, as one of three may on any processor."""
    scores = [student("Pendulum", 40, 30, seed=1).last["score"]]
    if scores[0] < 0.85:
        scores += [student("Pendulum", 40, 30, seed=seed).last["score"] for seed in (2, 3)]
    assert sorted(scores)[len(scores) // 2] >= 0.85, scores


@pytest.mark.long
def test_the_median_of_three_seeds_passes_the_gate() -> None:
    DISTILLATION.check(DISTILLATION.measured())
