"""Training configurations: one function per task and algorithm."""

from __future__ import annotations

from typing import Any

from RoboRenForce import algorithms, components, networks, runners
from RoboRenForce.algorithms.vla_training import DAggerAlgorithmCfg, SFTAlgorithmCfg, VLAPretrainAlgorithmCfg
from RoboRenForce.components import OptimizerCfg, ScheduleCfg
from RoboRenForce.components.action_heads import RegressionHeadCfg
from RoboRenForce.components.vla_policy import MLPBaselinePolicyCfg
from RoboRenForce.data import DataLoaderCfg
from RoboRenForce.networks.vlm import MLPBaselineCfg
from RoboRenForce.runners.dagger_runner import DAggerRunnerCfg
from RoboRenForce.runners.vla_pretrain_runner import VLAPretrainRunnerCfg
from RoboRenForce.runners.vla_sft_runner import VLASFTRunnerCfg


def reach_ppo() -> runners.OnPolicyRunnerCfg:
    """Reach from numbers, in seconds: shows that rewards, endings and bounds are what RL expects."""

    def backbone(output_gain: float) -> networks.MLPCfg:
        return networks.MLPCfg(hidden_features=[64, 64], activations="Tanh", init="orthogonal", output_gain=output_gain)

    return runners.OnPolicyRunnerCfg(
        num_steps_per_env=32,
        max_iterations=60,
        obs_groups={"actor": ["robot", "task"], "critic": ["robot", "task"]},
        policy=components.ActorCriticPackCfg(
            actor_cfg=components.StateIndStdActorCfg(backbone_cfg=backbone(0.01), init_std=0.6, use_log_std=True),
            critic_cfg=components.VNetworkCfg(backbone_cfg=backbone(1.0)),
        ),
        algorithm=algorithms.PPOCfg(learning_rate=1.0e-3, gamma=0.95, num_learning_epochs=5, num_mini_batches=4),
    )


def behavior_cloning() -> VLAPretrainRunnerCfg:
    """A small policy that learns from demonstrations from scratch; give `dataset.data_root`, what was recorded."""
    return VLAPretrainRunnerCfg(algorithm=VLAPretrainAlgorithmCfg(optimizer=_optimizer(1.0e-3)), **_policy_and_data())


def fine_tuning() -> VLASFTRunnerCfg:
    """The same policy, from the weights of `algorithm.init_from`: a run of behavior cloning, for example."""
    return VLASFTRunnerCfg(algorithm=SFTAlgorithmCfg(optimizer=_optimizer(2.0e-4)), **_policy_and_data())


def dagger() -> DAggerRunnerCfg:
    """The same policy, corrected where it comes to; give `dataset.data_root`, a few recorded demonstrations."""
    return DAggerRunnerCfg(
        algorithm=DAggerAlgorithmCfg(optimizer=_optimizer(1.0e-3), beta_decay=0.5),
        **_policy_and_data() | {"epochs": None},
        max_iterations=10,
        updates_per_iteration=200,
    )


def _policy_and_data() -> dict[str, Any]:
    """Chunks of eight actions, of which the environment executes four. Pictures of 64 pixels are read by one worker."""
    return {
        "policy": MLPBaselinePolicyCfg(
            backbone=MLPBaselineCfg(num_layers=1, shift=4, sharpness=2.0), head=RegressionHeadCfg(chunk_size=8)
        ),
        "loader": DataLoaderCfg(batch_size=64, num_workers=1),
        "epochs": 28.0,
    }


def _optimizer(learning_rate: float) -> OptimizerCfg:
    schedule = ScheduleCfg(kind="cosine", warmup_steps=100, total_steps="run")
    return OptimizerCfg(learning_rate=learning_rate, weight_decay=1.0e-4, schedule=schedule)
