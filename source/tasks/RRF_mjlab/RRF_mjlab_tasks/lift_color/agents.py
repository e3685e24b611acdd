"""Training configurations of LiftColor: the teacher by PPO, policies of pixels and language by imitation."""

from __future__ import annotations

from typing import Any

from RoboRenForce import runners
from RoboRenForce.algorithms.vla_rl import GRPOCfg, VLAPPOCfg
from RoboRenForce.algorithms.vla_rl.options import value_rate
from RoboRenForce.algorithms.vla_training import SFTAlgorithmCfg, VLAPretrainAlgorithmCfg
from RoboRenForce.components import OptimizerCfg, ScheduleCfg
from RoboRenForce.components.action_heads import RegressionHeadCfg
from RoboRenForce.components.vla_policy import MLPBaselinePolicyCfg
from RoboRenForce.data import DataLoaderCfg, LeRobotDatasetCfg
from RoboRenForce.networks.vlm import MLPBaselineCfg

from ..env_cfg import import_mjlab_tasks

PARENT = "Mjlab-Lift-Cube-Yam"
"""mjlab's task whose PPO trains the teacher."""

CHUNK = 8
"""Actions that policies predict at once, 0.4 s; the environment executes the first half."""

SHARPNESS, SHIFT = 2.0, 4
"""Of the small backbone: with both, words find their cube."""

FIRST_FRAMES = 15
"""Times that a first frame is a sample: the teacher decides in it, later ones tell by motion which cube is meant."""


def ppo() -> runners.OnPolicyRunnerCfg:
    """The state-based teacher: mjlab's PPO for lifting one cube, for as long as a short run needs."""
    import_mjlab_tasks()
    from mjlab.tasks.registry import load_rl_cfg

    from ..agents import runner_cfg_from_mjlab

    cfg = runner_cfg_from_mjlab(load_rl_cfg(PARENT), PARENT)
    # Returns are larger than the range that clipping leaves to values in an update: they would take long to get there.
    cfg.algorithm = cfg.algorithm.replace(use_clipped_value_loss=False, num_mini_batches=8)
    cfg.policy.actor_cfg = cfg.policy.actor_cfg.replace(init_std=0.7)
    return cfg.replace(max_iterations=250, save_interval=50)


def bc() -> runners.VLAPretrainRunnerCfg:
    """Behavior cloning from scratch; give `dataset.data_root`, what the teacher recorded."""
    return runners.VLAPretrainRunnerCfg(
        algorithm=VLAPretrainAlgorithmCfg(optimizer=_optimizer(1.0e-3)), epochs=20.0, **_policy_and_data()
    )


def sft() -> runners.VLASFTRunnerCfg:
    """The same policy from the weights of `algorithm.init_from`, a run of behavior cloning for example."""
    return runners.VLASFTRunnerCfg(
        algorithm=SFTAlgorithmCfg(optimizer=_optimizer(2.0e-4)), epochs=10.0, **_policy_and_data()
    )


def grpo() -> runners.VLAGRPORunnerCfg:
    """Better than its demonstrations: give `algorithm.init_from`, the run of `bc` or `sft`."""
    algorithm = GRPOCfg(
        score="success",
        freeze_backbone=False,
        num_learning_epochs=4,
        optimizer=_rates(),
        desired_kl=0.02,
        kl_stop=0.1,
    )
    return runners.VLAGRPORunnerCfg(policy=_rl_policy(), algorithm=algorithm, max_iterations=100, save_interval=10)


def vla_ppo() -> runners.VLAPPORunnerCfg:
    """The same with a value head, and chunks of episodes that go on from one iteration to the next.

    Rewards say in every step how far the cube is, and an episode ends with success: who is paid for each step lingers.
    What is learned from is their change, which adds up to how far it came.
    """
    algorithm = VLAPPOCfg(
        relative_reward=True,
        reward_coef=10.0,
        freeze_backbone=False,
        value_clip=None,
        critic_warmup=3,
        num_learning_epochs=4,
        optimizer=_rates().replace(groups=[value_rate(1.0e-3)]),
        desired_kl=0.01,
        kl_stop=0.05,
    )
    return runners.VLAPPORunnerCfg(
        policy=_rl_policy(), algorithm=algorithm, num_steps_per_env=8, max_iterations=100, save_interval=10
    )


def _rl_policy() -> MLPBaselinePolicyCfg:
    backbone = MLPBaselineCfg(sharpness=SHARPNESS)
    return MLPBaselinePolicyCfg(backbone=backbone, head=RegressionHeadCfg(chunk_size=CHUNK))


def _rates() -> OptimizerCfg:
    """Where the adaptation to the KL divergence begins: precise grasps are lost in one update at 1e-4."""
    return OptimizerCfg(learning_rate=2.0e-5, weight_decay=0.01)


def _policy_and_data() -> dict[str, Any]:
    return {
        "policy": MLPBaselinePolicyCfg(
            backbone=MLPBaselineCfg(sharpness=SHARPNESS, shift=SHIFT), head=RegressionHeadCfg(chunk_size=CHUNK)
        ),
        "dataset": LeRobotDatasetCfg(repeat_first_frame=FIRST_FRAMES),
        "loader": DataLoaderCfg(batch_size=128, num_workers=4),
    }


def _optimizer(learning_rate: float) -> OptimizerCfg:
    schedule = ScheduleCfg(kind="cosine", warmup_steps=200, total_steps="run")
    return OptimizerCfg(learning_rate=learning_rate, weight_decay=1.0e-4, schedule=schedule)
