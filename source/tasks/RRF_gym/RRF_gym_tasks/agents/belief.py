"""PPO and SAC on a belief of the hidden velocities, and the same without memory, for sensors of two rates."""

from __future__ import annotations

from typing import Any

from RoboRenForce import algorithms, buffer, components, networks, runners

from . import ppo, sac, sac_history

SENSORS = {"actor": ["policy", "slow", "arrival"], "critic": ["full"]}
"""What the policy measures, and what the critic knows in training: the hidden state that the belief is of."""


def belief(size: int, **options: Any) -> components.BeliefCfg:
    """Return the belief of a policy with two-rate sensors over what its critic observes.

    Args:
        size: Width of the belief.
        options: Further fields of `BeliefCfg`.
    """
    return components.BeliefCfg(size=size, slow=["slow"], arrival="arrival", target=["full"], **options)


def cartpole(**options: Any) -> runners.OnPolicyRunnerCfg:
    """CartPole-v1 with noisy positions, without memory."""
    policy = ppo.feed_forward("discrete")
    learning = {"learning_rate": 5.0e-4, "schedule": "linear", "normalize_value": True}
    return ppo.runner(policy, 64, 100, learning, save_interval=50, obs_groups=SENSORS, **options)


def cartpole_belief(iterations: int = 60) -> runners.OnPolicyRunnerCfg:
    """CartPole-v1 with noisy positions, on a belief of the four numbers of its state."""
    plain = ppo.feed_forward("discrete", (32,))
    policy = components.BeliefActorCriticPackCfg(
        actor_cfg=plain.actor_cfg,
        critic_cfg=ppo.feed_forward("discrete").critic_cfg,
        belief=belief(32, density=networks.GaussianDensityCfg(network=networks.MLPCfg(hidden_features=[32]))),
    )
    learning = {
        "learning_rate": 5.0e-3,
        "schedule": "linear",
        "gamma": 0.98,
        "normalize_value": True,
        "num_learning_epochs": 4,
        "num_mini_batches": 2,
        "loss_terms": [algorithms.BeliefLossCfg()],
    }
    return ppo.runner(policy, 64, iterations, learning, save_interval=50, obs_groups=SENSORS)


def pendulum() -> runners.OffPolicyRunnerCfg:
    """Pendulum-v1 with a noisy angle, without memory."""
    cfg = sac_history.masked_sac()
    cfg.obs_groups = SENSORS
    return cfg


def pendulum_belief() -> runners.OffPolicyRunnerCfg:
    """Pendulum-v1 with a noisy angle, on a belief of angle and velocity."""
    plain = sac.pack((64, 64))
    policy = components.BeliefActorQPackCfg(
        actor_cfg=plain.actor_cfg,
        critic_cfg=plain.critic_cfg,
        belief=belief(32, density=networks.GaussianDensityCfg(network=networks.MLPCfg(hidden_features=[32]))),
    )
    learning = sac_history.classic_learning(3.0e-3, loss_terms=[algorithms.BeliefLossCfg()])
    # Noise is averaged over more steps than a velocity is read off.
    learning["replay"] = buffer.SequenceReplayBufferCfg(capacity=100_000, length=16, burn_in=4)
    cfg = sac_history.classic_runner(policy, algorithms.SACSeqCfg(**learning), num_envs=10)
    cfg.obs_groups = SENSORS
    return cfg
