"""PPO and SAC for an inverted pendulum that is seen by a camera, with the velocities as proprioception.

Neither is enough alone: one picture shows no velocity, velocities show no angle. Two actions are executed for every
picture. The sizes are for a CPU.
"""

from __future__ import annotations

from typing import Any

from RoboRenForce import algorithms, components, networks, runners
from RoboRenForce.buffer import ReplayBufferCfg

from . import ppo, sac

OBSERVED = {"actor": ["camera", "proprio"], "critic": ["camera", "proprio"]}


def with_camera(policy: Any) -> Any:
    """Return the policy with a small CNN of its own for each network's 64x64 pixels."""
    for name in ("actor_cfg", "critic_cfg"):
        getattr(policy, name).cnn_cfg = networks.CNNCfg(
            channels=[16, 32], kernel_sizes=[8, 4], strides=[4, 2], features=64
        )
    return policy


def pendulum_ppo() -> runners.OnPolicyRunnerCfg:
    """PPO: a return of about 100 after 5,000 pictures."""
    learning = {"learning_rate": 1.0e-3, "schedule": "linear", "gamma": 0.98, "lam": 0.9, "normalize_value": True}
    learning |= {"num_learning_epochs": 6, "num_mini_batches": 4}
    policy = with_camera(ppo.feed_forward(init_std=0.6))
    return ppo.runner(policy, 64, 60, learning, obs_groups=OBSERVED, init_at_random_ep_len=False)


def pendulum_sac(steps: int = 10_000) -> runners.OffPolicyRunnerCfg:
    """SAC: pictures stay uint8 in the replay, 24 kB for each transition."""
    algorithm = algorithms.SACCfg(
        learning_starts=200,
        batch_size=64,
        actor_learning_rate=1.0e-3,
        critic_learning_rate=1.0e-3,
        temperature=components.TemperatureCfg(learning_rate=1.0e-3),
        replay=ReplayBufferCfg(capacity=20_000),
    )
    policy = with_camera(sac.pack((64, 64)))
    return sac.runner(policy, algorithm, steps, num_envs=2, obs_groups=OBSERVED, init_at_random_ep_len=False)
