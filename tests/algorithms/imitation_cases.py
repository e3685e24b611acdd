"""Teachers for the tests of distillation: checkpoints of runs that learned nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from RoboRenForce import components, networks
from RoboRenForce.algorithms import RunContext, Transition
from small_runs import ppo_cfg

STEPS = 8


def saved_teacher(folder: Path, env: Any, backbone: networks.NetworkCfg | None = None, **changes: Any) -> Any:
    """The runner of a teacher with random weights, whose checkpoint is in `folder`."""
    runner = ppo_cfg(backbone, **changes).build(env=env, log_dir=folder)
    encoder = runner.algorithm.actor.encoder
    encoder.normalizer.update(1.0 + 2.0 * torch.randn(50, encoder.flat_features))
    folder.mkdir(exist_ok=True)
    runner.save(folder / "model_1.pt")
    return runner


def built(cfg: Any, env: Any, teacher: components.TeacherCfg, **context: Any) -> Any:
    """A recurrent learner that distills `teacher` in `env`."""
    torch.manual_seed(5)
    backbone = networks.RNNCfg(hidden_size=6)
    student = components.StateIndStdActorCfg(backbone_cfg=backbone, init_std=0.1, learn_std=False)
    policy = components.StudentTeacherCfg(student_cfg=student, teacher_cfg=teacher)
    return cfg.build(policy=policy, context=RunContext(env.spec, torch.device("cpu"), STEPS, 10, **context))


def collect(learner: Any, env: Any) -> list[Transition]:
    """One rollout; returns copies of its steps."""
    obs, steps = env.get_observations(), []
    for _ in range(STEPS):
        out = learner.act(obs)
        transition = Transition.of_step(obs.clone(), out.action.clone(), dict(out.record), env.step(out.action))
        learner.process_env_step(transition)
        steps.append(transition)
        obs = transition.reset_obs
    return steps
