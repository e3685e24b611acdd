"""Off-policy reinforcement learning of policies that were trained on demonstrations; give `algorithm.init_from`."""

from __future__ import annotations

from RoboRenForce.algorithms.off_policy import SACCfg
from RoboRenForce.algorithms.vla_rl import DSRLCfg, ResidualChunkCfg, RLPDCfg, VLASACCfg
from RoboRenForce.buffer import FeatureReplayBufferCfg
from RoboRenForce.components.action_heads import ActionHeadCfg, FlowHeadCfg, RegressionHeadCfg
from RoboRenForce.components.temperature import TemperatureCfg
from RoboRenForce.components.vla_policy import MLPBaselinePolicyCfg
from RoboRenForce.networks.vlm import MLPBaselineCfg
from RoboRenForce.runners import VLASACRunnerCfg


def reach_vla_sac() -> VLASACRunnerCfg:
    """SAC that corrects the chunks of a policy with a regression head."""
    return _run(RegressionHeadCfg(chunk_size=8), VLASACCfg(actions=ResidualChunkCfg(scale=1.0), learner=_learner()))


def reach_dsrl() -> VLASACRunnerCfg:
    """SAC over the start noise of a policy with a flow head."""
    return _run(FlowHeadCfg(chunk_size=8), DSRLCfg(learner=_learner()))


def reach_rlpd() -> VLASACRunnerCfg:
    """SAC that corrects chunks, with demonstrations in half of every batch: those of `make quickstart-vla`."""
    algorithm = RLPDCfg(
        actions=ResidualChunkCfg(scale=1.0),
        learner=_learner().replace(policy_delay=4, target_members=2),
        demonstrations="data/tabletop_reach",
    )
    return _run(RegressionHeadCfg(chunk_size=8), algorithm)


def _run(head: ActionHeadCfg, algorithm: VLASACCfg) -> VLASACRunnerCfg:
    return VLASACRunnerCfg(
        max_iterations=20,
        save_interval=10,
        eval_interval=10,
        eval_episodes=50,
        policy=MLPBaselinePolicyCfg(backbone=MLPBaselineCfg(num_layers=1), head=head),
        algorithm=algorithm,
    )


def _learner() -> SACCfg:
    return SACCfg(
        gamma=0.95,
        replay=FeatureReplayBufferCfg(capacity=50_000),
        learning_starts=320,
        batch_size=128,
        gradient_steps=4,
        actor_learning_rate=1e-3,
        critic_learning_rate=1e-3,
        final_learning_rate=0.1,
        temperature=TemperatureCfg(initial=0.01),
    )
