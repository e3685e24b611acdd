"""TD3 for Gymnasium tasks with continuous actions."""

from __future__ import annotations

from RoboRenForce import algorithms, components, networks, runners

from .sac import runner


def pack(hidden: tuple[int, ...] = (256, 256)) -> components.ActorQPackCfg:
    """Return a deterministic policy and two critics, without observation normalization."""

    def backbone() -> networks.MLPCfg:
        return networks.MLPCfg(hidden_features=list(hidden), activations="ReLU")

    return components.ActorQPackCfg(
        actor_cfg=components.DeterministicActorCfg(backbone_cfg=backbone(), normalizer_cfg=None),
        critic_cfg=components.QNetworkCfg(backbone_cfg=backbone(), normalizer_cfg=None),
    )


def classic_td3(steps: int = 20_000) -> runners.OffPolicyRunnerCfg:
    """Pendulum and other small tasks: four environments, two gradient steps for their four transitions."""
    algorithm = algorithms.TD3Cfg(
        gamma=0.98, learning_starts=1000, gradient_steps=2, actor_learning_rate=1.0e-3, critic_learning_rate=1.0e-3
    )
    return runner(pack((64, 64)), algorithm, steps, num_envs=4)


def mujoco_td3(steps: int = 1_000_000) -> runners.OffPolicyRunnerCfg:
    """The paper's settings, with its 25,000 random transitions."""
    return runner(pack(), algorithms.TD3Cfg(learning_starts=25_000), steps)
