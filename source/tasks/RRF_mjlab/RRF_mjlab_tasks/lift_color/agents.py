"""How LiftColor is trained: the teacher by PPO, policies of pixels and language by imitating it."""

from __future__ import annotations

from RoboRenForce import runners
from RoboRenForce.algorithms.vla_training import SFTAlgorithmCfg, VLAPretrainAlgorithmCfg
from RoboRenForce.components.action_heads import FlowHeadCfg
from RoboRenForce.components.vla_policy import MLPBaselinePolicyCfg
from RoboRenForce.data import DataLoaderCfg

from ..env_cfg import import_mjlab_tasks

CHUNK = 8
"""Actions that policies predict at once, 0.4 s."""


def ppo() -> runners.OnPolicyRunnerCfg:
    """The state-based teacher: mjlab's PPO for lifting one cube, for as long as a short run needs."""
    import_mjlab_tasks()
    from mjlab.tasks.registry import load_rl_cfg

    from ..agents import runner_cfg_from_mjlab

    task = "Mjlab-Lift-Cube-Yam"
    return runner_cfg_from_mjlab(load_rl_cfg(task), task).replace(max_iterations=600, save_interval=50)


def bc() -> runners.VLAPretrainRunnerCfg:
    """From scratch: a small policy that a CPU can train."""
    return runners.VLAPretrainRunnerCfg(
        policy=policy(), algorithm=VLAPretrainAlgorithmCfg(), loader=DataLoaderCfg(batch_size=64), epochs=10.0
    )


def sft() -> runners.VLASFTRunnerCfg:
    """From the weights of a run that `algorithm.init_from` names."""
    return runners.VLASFTRunnerCfg(policy=policy(), algorithm=SFTAlgorithmCfg(), loader=DataLoaderCfg(batch_size=64))


def policy() -> MLPBaselinePolicyCfg:
    """The baseline with a flow-matching head."""
    return MLPBaselinePolicyCfg(head=FlowHeadCfg(chunk_size=CHUNK))
