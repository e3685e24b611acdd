"""Training configurations of reinforcement learning from the policy of another run: `algorithm.init_from`."""

from __future__ import annotations

from RoboRenForce.algorithms.vla_rl import GRPOCfg, VLAPPOCfg
from RoboRenForce.algorithms.vla_rl.options import value_rate
from RoboRenForce.components import OptimizerCfg
from RoboRenForce.components.action_heads import RegressionHeadCfg
from RoboRenForce.components.vla_policy import MLPBaselinePolicyCfg
from RoboRenForce.networks.vlm import MLPBaselineCfg
from RoboRenForce.runners import VLAGRPORunnerCfg, VLAPPORunnerCfg


def grpo() -> VLAGRPORunnerCfg:
    """The policy of behavior cloning, compared with itself in groups of eight that start alike."""
    return VLAGRPORunnerCfg(
        policy=_policy(),
        algorithm=GRPOCfg(
            freeze_backbone=False,
            num_learning_epochs=2,
            num_mini_batches=2,
            optimizer=OptimizerCfg(learning_rate=3e-4),
            length_normalization=True,
        ),
        max_iterations=50,
    )


def ppo() -> VLAPPORunnerCfg:
    """The same policy, judged by a value head, which learns faster than the policy."""
    optimizer = OptimizerCfg(learning_rate=3e-4, groups=[value_rate(1e-3)])
    algorithm = VLAPPOCfg(freeze_backbone=False, num_learning_epochs=2, optimizer=optimizer)
    return VLAPPORunnerCfg(policy=_policy(), algorithm=algorithm, num_steps_per_env=8, max_iterations=50)


def _policy() -> MLPBaselinePolicyCfg:
    """The policy of the tasks of supervised learning."""
    return MLPBaselinePolicyCfg(backbone=MLPBaselineCfg(patch=8), head=RegressionHeadCfg(chunk_size=8))
