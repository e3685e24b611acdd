"""Training configurations of reinforcement learning from the policy of another run: `algorithm.init_from`."""

from __future__ import annotations

from RoboRenForce.algorithms.vla_rl import GRPOCfg, ReinforcePPCfg, VLAPPOCfg
from RoboRenForce.algorithms.vla_rl.options import value_rate
from RoboRenForce.components import OptimizerCfg
from RoboRenForce.components.action_heads import RegressionHeadCfg
from RoboRenForce.components.vla_policy import MLPBaselinePolicyCfg, VLAPolicyCfg
from RoboRenForce.networks.vlm import MLPBaselineCfg
from RoboRenForce.runners import VLAGRPORunnerCfg, VLAPPORunnerCfg


def grpo() -> VLAGRPORunnerCfg:
    """The policy of behavior cloning, compared with itself in groups of eight that start alike.

    All of it is trained: what so few demonstrations did not teach it to see it has to learn now.
    """
    algorithm = GRPOCfg(
        freeze_backbone=False, num_learning_epochs=2, num_mini_batches=1, optimizer=_optimizer(), desired_kl=0.01
    )
    return VLAGRPORunnerCfg(policy=_policy(), algorithm=algorithm, max_iterations=60)


def reinforce_pp() -> VLAGRPORunnerCfg:
    """The same policy, compared with the mean of all that it did: no groups, and no value head."""
    algorithm = ReinforcePPCfg(
        freeze_backbone=False, num_learning_epochs=2, num_mini_batches=1, optimizer=_optimizer(), desired_kl=0.01
    )
    return VLAGRPORunnerCfg(policy=_policy(), algorithm=algorithm, max_iterations=60)


def ppo() -> VLAPPORunnerCfg:
    """The same policy, judged by a value head, which learns faster than the policy."""
    return vla_ppo(_policy(), _optimizer(1e-4))


def vla_ppo(policy: VLAPolicyCfg, optimizer: OptimizerCfg) -> VLAPPORunnerCfg:
    """PPO of a policy on tasks of some twenty steps.

    Args:
        policy: As in the run that learning begins with.
        optimizer: Of the policy; the value head has a rate of its own.
    """
    algorithm = VLAPPOCfg(
        gamma=0.9,
        lam=0.8,
        value_clip=None,
        num_learning_epochs=4,
        num_mini_batches=2,
        optimizer=optimizer.replace(groups=[value_rate(1e-3)]),
        desired_kl=0.01,
    )
    return VLAPPORunnerCfg(policy=policy, algorithm=algorithm, num_steps_per_env=8, max_iterations=60)


def _policy() -> MLPBaselinePolicyCfg:
    """The policy of the tasks of supervised learning; its std is that of exploration."""
    return MLPBaselinePolicyCfg(backbone=MLPBaselineCfg(num_layers=1), head=RegressionHeadCfg(chunk_size=8, std=0.3))


def _optimizer(rate: float = 5e-4) -> OptimizerCfg:
    """Where the adaptation of the rate to the KL begins: too high, and Adam's first steps undo what was cloned."""
    return OptimizerCfg(learning_rate=rate)
