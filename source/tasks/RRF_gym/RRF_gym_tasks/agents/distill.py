"""Distillation for Gymnasium and EnvPool tasks; the teacher is named as `policy.teacher_cfg.checkpoint`."""

from __future__ import annotations

from typing import Any

from RoboRenForce import algorithms, components, networks, runners

FULL = "full"
"""Group with nothing hidden, which the teacher reads."""


_LEARNING = {"num_learning_epochs": 8, "learning_rate": 3e-3, "schedule": "linear"}
"""Classic control: runs are short, so a rollout of 1,024 steps is worth 32 gradient steps, large ones at first."""


def _runner(student: components.ActorCfg, iterations: int, teacher: components.TeacherCfg, **learning: Any) -> Any:
    options = {"num_learning_epochs": 4, "gradient_length": 16, "max_grad_norm": 1.0, **learning}
    return runners.OnPolicyRunnerCfg(
        num_steps_per_env=64,
        max_iterations=iterations,
        policy=components.StudentTeacherCfg(student_cfg=student, teacher_cfg=teacher),
        algorithm=algorithms.DistillationCfg(**options),
    )


def _gru(hidden_size: int = 64) -> networks.RNNCfg:
    return networks.RNNCfg(cell="gru", hidden_size=hidden_size)


def cartpole_masked() -> runners.OnPolicyRunnerCfg:
    """CartPole-v1 without velocities, from a teacher that observes them."""
    student = components.CategoricalActorCfg(backbone_cfg=_gru())
    return _runner(student, 60, components.TeacherCfg(groups={"policy": FULL}), loss="nll", **_LEARNING)


def _continuous(iterations: int) -> runners.OnPolicyRunnerCfg:
    student = components.StateIndStdActorCfg(backbone_cfg=_gru(), init_std=0.1, learn_std=False)
    return _runner(student, iterations, components.TeacherCfg(groups={"policy": FULL}), **_LEARNING)


def pendulum_masked() -> runners.OnPolicyRunnerCfg:
    """Pendulum-v1 without its velocity, from a teacher that observes it."""
    return _continuous(200)


def inverted_pendulum_masked() -> runners.OnPolicyRunnerCfg:
    """InvertedPendulum-v5 without velocities, from a teacher that observes them."""
    return _continuous(60)


def joystick() -> runners.OnPolicyRunnerCfg:
    """Legged robots that follow a joystick, from a teacher trained with `obs_groups.actor=[critic]`."""
    student = components.StateIndStdActorCfg(backbone_cfg=_gru(128), init_std=0.1, learn_std=False)
    return _runner(student, 300, components.TeacherCfg())
