"""SAC, FastSAC and FlashSAC for mjlab's velocity tasks.

Off-policy learning takes fewer environments than PPO and many more updates. An iteration, after which metrics are read,
has as many transitions as one of mjlab's PPO: 24 steps of 4,096 environments.
"""

from __future__ import annotations

import math
from typing import Any

from RoboRenForce import algorithms, components, networks, runners
from RoboRenForce.algorithms.off_policy.fast import FLASH_ENTROPY

from .registration import ACTION_BOUND, NUM_ENVS

TRANSITIONS = 24 * 4096
"""Number of transitions of an iteration."""


def runner(algorithm: Any, policy: Any, name: str, iterations: int, **options: Any) -> runners.OffPolicyRunnerCfg:
    """Return an off-policy run.

    Args:
        algorithm: Configuration of the algorithm.
        policy: Actor and critics.
        name: Name of the algorithm, a key of `NUM_ENVS`.
        iterations: Number of iterations, of 98,304 transitions each.
        options: Fields of `OffPolicyRunnerCfg`.
    """
    defaults = {"save_interval": 50, "init_at_random_ep_len": True}
    return runners.OffPolicyRunnerCfg(
        num_steps_per_env=TRANSITIONS // NUM_ENVS[name],
        max_iterations=iterations,
        policy=policy,
        algorithm=algorithm,
        **(defaults | options),
    )


def sac(iterations: int = 300) -> runners.OffPolicyRunnerCfg:
    """Plain SAC with batches and networks sized for a thousand environments."""

    def backbone() -> networks.MLPCfg:
        return networks.MLPCfg(hidden_features=[512, 256, 128], activations="ELU", layer_norm=True)

    policy = components.ActorQPackCfg(
        actor_cfg=components.TanhGaussianActorCfg(
            backbone_cfg=backbone(), std_bounds="tanh", min_std=math.exp(-5.0), max_std=1.0, init_std=0.3
        ),
        critic_cfg=components.QNetworkCfg(backbone_cfg=backbone()),
    )
    algorithm = algorithms.SACCfg(
        gamma=0.97,
        learning_starts=10_240,
        batch_size=4096,
        gradient_steps=4,
        policy_delay=2,
        tau=0.01,
        temperature=components.TemperatureCfg(initial=0.001, objective="alpha"),
    )
    return runner(algorithm, policy, "SAC", iterations)


def fast_sac(iterations: int = 150) -> runners.OffPolicyRunnerCfg:
    """FastSAC with returns scaled to the critics' support, and the entropy target in mjlab's units."""
    algorithm = algorithms.FastSACCfg(
        max_return=5.0,
        temperature=components.TemperatureCfg(
            initial=0.001, entropy_per_dim=-math.log(ACTION_BOUND), objective="alpha"
        ),
    )
    return runner(algorithm, algorithms.fast_sac_policy(max_return=5.0), "FastSAC", iterations)


def flash_sac(iterations: int = 150) -> runners.OffPolicyRunnerCfg:
    """FlashSAC with as many updates per transition as FastSAC, and a temperature that falls in time.

    As published (1,024 environments, 2 updates per step, a temperature of 0.01) it explores for most of so short a run.
    """
    temperature = components.TemperatureCfg(
        initial=0.001, entropy_per_dim=FLASH_ENTROPY, objective="alpha", learning_rate=1.0e-3
    )
    algorithm = algorithms.FlashSACCfg(gradient_steps=8, temperature=temperature)
    return runner(algorithm, algorithms.flash_sac_policy(), "FlashSAC", iterations)
