"""MBPO for Gymnasium tasks, with the numbers of the paper where it has the task (Janner et al. 2019, appendix C)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from RoboRenForce import algorithms, buffer, components, networks, runners
from torch import Tensor

from .sac import pack

Groups = dict[str, Tensor]

# --- where episodes terminate ----------------------------------------------------------------------------------------


def never(obs: Groups, action: Tensor, next_obs: Groups) -> Tensor:
    """Return False `(N,)`: episodes are only cut."""
    return torch.zeros(len(action), dtype=torch.bool, device=action.device)


def pole_fell(obs: Groups, action: Tensor, next_obs: Groups) -> Tensor:
    """Return True `(N,)` where the pole of InvertedPendulum-v5 leans by more than 0.2 rad."""
    return next_obs["policy"][:, 1].abs() > 0.2


def hopper_fell(obs: Groups, action: Tensor, next_obs: Groups) -> Tensor:
    """Return True `(N,)` where Hopper-v5 is unhealthy: too low, leaning, or a state beyond 100."""
    state = next_obs["policy"]
    healthy = (state[:, 0] > 0.7) & (state[:, 1].abs() < 0.2) & (state[:, 1:].abs() < 100.0).all(1)
    return ~healthy


def walker_fell(obs: Groups, action: Tensor, next_obs: Groups) -> Tensor:
    """Return True `(N,)` where Walker2d-v5 is unhealthy: its height is not in (0.8, 2), or its lean not in (-1, 1)."""
    height, lean = next_obs["policy"][:, 0], next_obs["policy"][:, 1]
    return ~((height > 0.8) & (height < 2.0) & (lean.abs() < 1.0))


def ant_fell(obs: Groups, action: Tensor, next_obs: Groups) -> Tensor:
    """Return True `(N,)` where the height of Ant-v5 is not within [0.2, 1]."""
    height = next_obs["policy"][:, 0]
    return (height < 0.2) | (height > 1.0)


# --- tasks -----------------------------------------------------------------------------------------------------------


def classic(termination: Callable[..., Tensor], steps: int) -> runners.OffPolicyRunnerCfg:
    """Return MBPO with small networks, for tasks with few dimensions: minutes on a CPU.

    The critics are normalized: without, a policy that was found is lost again for a thousand steps.
    """
    learner = algorithms.SACCfg(
        replay=buffer.ReplayBufferCfg(capacity=50_000),
        learning_starts=500,
        gradient_steps=4,
        actor_learning_rate=1.0e-3,
        critic_learning_rate=1.0e-3,
        temperature=components.TemperatureCfg(learning_rate=1.0e-3),
    )
    backbone = networks.MLPCfg(hidden_features=[128, 128], activations="SiLU")
    algorithm = algorithms.MBPOCfg(
        learner=learner,
        model=components.SystemDynamicsMLPCfg(num_members=5, num_elites=3, backbone_cfg=backbone),
        fit=algorithms.DynamicsFitCfg(learning_rate=3.0e-3, batch_size=64, max_epochs=40),
        imagination=algorithms.ImaginationCfg(termination=termination),
        num_rollouts=10_000,
    )
    policy = pack((64, 64))
    policy.critic_cfg.backbone_cfg = policy.critic_cfg.backbone_cfg.replace(layer_norm=True)
    return _runner(policy, algorithm, steps, 200)


def robot(
    termination: Callable[..., Tensor],
    steps: int,
    gradient_steps: int,
    *,
    final: int = 1,
    growth: tuple[int, int] = (0, 1),
    entropy_per_dim: float = -0.5,
) -> runners.OffPolicyRunnerCfg:
    """Return MBPO for a MuJoCo robot.

    Args:
        termination: Where episodes terminate.
        steps: Real steps of the run.
        gradient_steps: G, updates per real step.
        final: k, the length of rollouts, at the end of their growth from 1.
        growth: Real steps at which k begins and ends to grow.
        entropy_per_dim: Target of the policy's entropy per dimension of its actions.
    """
    learner = algorithms.SACCfg(
        replay=buffer.ReplayBufferCfg(capacity=max(steps, 1000)),
        learning_starts=5000,
        gradient_steps=gradient_steps,
        temperature=components.TemperatureCfg(entropy_per_dim=entropy_per_dim),
    )
    algorithm = algorithms.MBPOCfg(
        learner=learner,
        imagination=algorithms.ImaginationCfg(termination=termination),
        final_rollout_length=final,
        growth=growth,
    )
    return _runner(pack(), algorithm, steps, 1000)


def _runner(policy: Any, algorithm: Any, steps: int, per_iteration: int) -> runners.OffPolicyRunnerCfg:
    return runners.OffPolicyRunnerCfg(
        num_steps_per_env=per_iteration, max_iterations=steps // per_iteration, policy=policy, algorithm=algorithm
    )


def pendulum() -> runners.OffPolicyRunnerCfg:
    """Pendulum."""
    return classic(never, 5000)


def inverted_pendulum() -> runners.OffPolicyRunnerCfg:
    """InvertedPendulum."""
    return classic(pole_fell, 5000)


def half_cheetah() -> runners.OffPolicyRunnerCfg:
    """HalfCheetah: rollouts of one step."""
    return robot(never, 400_000, 40)


def hopper() -> runners.OffPolicyRunnerCfg:
    """Hopper: rollouts that grow from 1 to 15 steps."""
    return robot(hopper_fell, 125_000, 20, final=15, growth=(20_000, 100_000), entropy_per_dim=-1.0 / 3.0)


def walker2d() -> runners.OffPolicyRunnerCfg:
    """Walker2d: rollouts of one step."""
    return robot(walker_fell, 300_000, 20)


def ant() -> runners.OffPolicyRunnerCfg:
    """Ant: rollouts that grow from 1 to 25 steps."""
    return robot(ant_fell, 300_000, 20, final=25, growth=(20_000, 100_000))
