"""PPO in the imagination of a robotic world model (RWM; arXiv 2501.10100) for mjlab's velocity tasks."""

from __future__ import annotations

from typing import Any

from RoboRenForce import algorithms, buffer, components, networks, runners

COMMAND = [45, 46, 47]
"""Columns of the commanded velocity in `actor` and `critic` of the flat tasks of the Go1."""
FOOT_CONTACT = [56, 57, 58, 59]
"""Columns of the feet's contacts in `critic`."""


def world_model() -> components.SystemDynamicsTransformerCfg:
    """Return a transformer over actor's and critic's observations, with five heads for their disagreement."""
    return components.SystemDynamicsTransformerCfg(
        num_members=5,
        termination=True,
        held={"actor": COMMAND, "critic": COMMAND},
        contacts={"critic": FOOT_CONTACT},
        backbone_cfg=networks.TransformerCfg(dim=256, num_layers=2, num_heads=8, window=32),
    )


def mbpo_ppo(ppo: runners.OnPolicyRunnerCfg, iterations: int = 1000) -> runners.MBPOOnPolicyRunnerCfg:
    """Return a run whose PPO, that of `ppo`, learns in imagined episodes of 96 steps.

    Args:
        ppo: PPO of the same task.
        iterations: Iterations, each of 24 real steps of all environments.
    """
    learner = ppo.algorithm.replace(entropy_coef=0.005, time_out_bootstrap="final")
    algorithm = algorithms.MBPOPPOCfg(
        learner=learner,
        model=world_model(),
        model_warmup_iterations=20,
        replay=buffer.ReplayBufferCfg(capacity=500_000),
    )
    return runners.MBPOOnPolicyRunnerCfg(
        num_steps_per_env=24,
        max_iterations=iterations,
        save_interval=50,
        obs_groups=dict(ppo.obs_groups),
        policy=ppo.policy,
        algorithm=algorithm,
    )


def go1_flat_mbpo_ppo() -> Any:
    """Return MBPO-PPO for a Go1 that follows velocity commands on flat ground."""
    from .registration import go1_flat_ppo

    return mbpo_ppo(go1_flat_ppo())
