"""Distillation of a walker that sees the terrain into one that does not."""

from __future__ import annotations

from RoboRenForce import algorithms, components, networks, runners

ITERATIONS = 300


def blind() -> runners.OnPolicyRunnerCfg:
    """A GRU that reads the group `student`; the teacher is a run of the task's PPO, which reads `actor`."""
    backbone = networks.RNNCfg(cell="gru", hidden_size=256, head_cfg=networks.MLPCfg(hidden_features=[256, 128]))
    return runners.OnPolicyRunnerCfg(
        num_steps_per_env=30,
        max_iterations=ITERATIONS,
        save_interval=50,
        obs_groups={"actor": ["student"]},
        policy=components.StudentTeacherCfg(
            student_cfg=components.StateIndStdActorCfg(backbone_cfg=backbone, init_std=0.1, learn_std=False)
        ),
        algorithm=algorithms.DistillationCfg(num_learning_epochs=2, num_mini_batches=4, max_grad_norm=1.0),
    )
