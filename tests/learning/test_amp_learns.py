"""AMP: a point mass that sees 63 states of a circle goes round it, in the circle's sense, from wherever it starts."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from circle_env import LENGTH, RADIUS, SPEED, CircleEnvCfg, CircleMotionCfg
from RoboRenForce import algorithms, components, networks, runners
from RoboRenForce.runners.evaluation import playing

pytestmark = pytest.mark.learning

STEPS = 150_000


def agent(seed: int, **options: Any) -> runners.OnPolicyRunnerCfg:
    mlp = networks.MLPCfg(hidden_features=[64, 64], activations="TANH")
    discriminator = components.DiscriminatorCfg(backbone_cfg=networks.MLPCfg(hidden_features=[128, 128]))
    amp = {"weight": 1.0, "task_weight": 0.0, "learning_rate": 3e-4, "gradient_penalty": 2.0, "batch_size": 256}
    term = algorithms.AMPCfg(
        **{**amp, "expert": CircleMotionCfg(), "discriminator_cfg": discriminator, "replay_size": 20_000, **options}
    )
    return runners.OnPolicyRunnerCfg(
        seed=seed,
        num_steps_per_env=32,
        max_iterations=STEPS // (64 * 32),
        logger=[],
        report=False,
        obs_groups={"actor": ["policy"], "critic": ["policy"]},
        policy=components.ActorCriticPackCfg(
            actor_cfg=components.StateIndStdActorCfg(backbone_cfg=mlp, init_std=0.5),
            critic_cfg=components.VNetworkCfg(backbone_cfg=mlp),
        ),
        algorithm=algorithms.AMPPPOCfg(
            reward_terms=[term], num_learning_epochs=5, num_mini_batches=4, learning_rate=1e-3, entropy_coef=0.0
        ),
    )


def circles(seed: int, **options: Any) -> tuple[float, float]:
    """Mean error of the radius as a share of it, and mean angular velocity as a share of the circle's."""
    env_cfg = CircleEnvCfg(seed=1000 * seed)
    runner = agent(seed, **options).build(env=env_cfg.build(), device="cpu")
    runner.learn()
    env = env_cfg.replace(motion_share=0.0, seed=1000 * seed + 500).build()
    policy, errors, turns = runner.policy(), [], []
    with torch.no_grad(), playing(policy, deterministic=True):
        obs, _ = env.reset(seed=1000 * seed + 500)
        for step in range(LENGTH - 1):
            obs, *_ = env.step(policy(obs))
            x, y, dx, dy = obs["policy"].unbind(1)
            if step >= LENGTH // 2:  # it starts at rest, anywhere
                errors.append((torch.hypot(x, y) - RADIUS).abs() / RADIUS)
                turns.append((x * dy - y * dx) / (x * x + y * y) * RADIUS / SPEED)
    return float(torch.stack(errors).mean()), float(torch.stack(turns).mean())


def test_a_point_mass_circles_like_the_motion() -> None:
    error, turn = circles(1)
    assert error < 0.15
    assert 0.8 < turn < 1.2
