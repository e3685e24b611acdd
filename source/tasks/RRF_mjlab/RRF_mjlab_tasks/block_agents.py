"""SAPG and EPO for mjlab's velocity tasks: mjlab's PPO of each task, in blocks of environments."""

from __future__ import annotations

from RoboRenForce import runners

from . import registration


def go1_flat_sapg() -> runners.SAPGOnPolicyRunnerCfg:
    """SAPG for the task of `go1_flat_ppo`."""
    return runners.SAPGOnPolicyRunnerCfg.from_ppo(registration.go1_flat_ppo())


def go1_flat_epo() -> runners.EPOOnPolicyRunnerCfg:
    """EPO for the task of `go1_flat_ppo`."""
    return runners.EPOOnPolicyRunnerCfg.from_ppo(registration.go1_flat_ppo())


def go1_rough_sapg() -> runners.SAPGOnPolicyRunnerCfg:
    """SAPG for the task of `go1_rough_ppo`."""
    return runners.SAPGOnPolicyRunnerCfg.from_ppo(registration.go1_rough_ppo())


def go1_rough_epo() -> runners.EPOOnPolicyRunnerCfg:
    """EPO for the task of `go1_rough_ppo`."""
    return runners.EPOOnPolicyRunnerCfg.from_ppo(registration.go1_rough_ppo())


def g1_flat_sapg() -> runners.SAPGOnPolicyRunnerCfg:
    """SAPG for the task of `g1_flat_ppo`."""
    return runners.SAPGOnPolicyRunnerCfg.from_ppo(registration.g1_flat_ppo())


def g1_flat_epo() -> runners.EPOOnPolicyRunnerCfg:
    """EPO for the task of `g1_flat_ppo`."""
    return runners.EPOOnPolicyRunnerCfg.from_ppo(registration.g1_flat_ppo())


def g1_rough_sapg() -> runners.SAPGOnPolicyRunnerCfg:
    """SAPG for the task of `g1_rough_ppo`."""
    return runners.SAPGOnPolicyRunnerCfg.from_ppo(registration.g1_rough_ppo())


def g1_rough_epo() -> runners.EPOOnPolicyRunnerCfg:
    """EPO for the task of `g1_rough_ppo`."""
    return runners.EPOOnPolicyRunnerCfg.from_ppo(registration.g1_rough_ppo())
