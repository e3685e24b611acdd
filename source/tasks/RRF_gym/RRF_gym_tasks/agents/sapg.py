"""SAPG for Gymnasium and EnvPool tasks: the PPO of each task, in blocks of environments."""

from __future__ import annotations

from RoboRenForce import runners

from . import ppo


def cartpole() -> runners.SAPGOnPolicyRunnerCfg:
    """CartPole-v1."""
    return runners.SAPGOnPolicyRunnerCfg.from_ppo(ppo.cartpole())


def pendulum() -> runners.SAPGOnPolicyRunnerCfg:
    """Pendulum-v1."""
    return runners.SAPGOnPolicyRunnerCfg.from_ppo(ppo.pendulum())
