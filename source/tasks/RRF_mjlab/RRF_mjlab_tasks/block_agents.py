"""SAPG and EPO for mjlab's velocity tasks: mjlab's PPO of each task, in blocks of environments."""

from __future__ import annotations

from RoboRenForce import algorithms, runners

from . import registration


def _sapg(ppo: runners.OnPolicyRunnerCfg) -> runners.SAPGOnPolicyRunnerCfg:
    policy, algorithm = algorithms.sapg_policy(ppo.policy), algorithms.SAPGPPOCfg.from_ppo(ppo.algorithm)
    return runners.SAPGOnPolicyRunnerCfg.extending(ppo, policy=policy, algorithm=algorithm)


def _epo(ppo: runners.OnPolicyRunnerCfg) -> runners.EPOOnPolicyRunnerCfg:
    policy, algorithm = algorithms.sapg_policy(ppo.policy), algorithms.EPOCfg.from_ppo(ppo.algorithm)
    return runners.EPOOnPolicyRunnerCfg.extending(ppo, policy=policy, algorithm=algorithm)


def go1_flat_sapg() -> runners.SAPGOnPolicyRunnerCfg:
    """SAPG for the task of `go1_flat_ppo`."""
    return _sapg(registration.go1_flat_ppo())


def go1_flat_epo() -> runners.EPOOnPolicyRunnerCfg:
    """EPO for the task of `go1_flat_ppo`."""
    return _epo(registration.go1_flat_ppo())


def go1_rough_sapg() -> runners.SAPGOnPolicyRunnerCfg:
    """SAPG for the task of `go1_rough_ppo`."""
    return _sapg(registration.go1_rough_ppo())


def go1_rough_epo() -> runners.EPOOnPolicyRunnerCfg:
    """EPO for the task of `go1_rough_ppo`."""
    return _epo(registration.go1_rough_ppo())


def g1_flat_sapg() -> runners.SAPGOnPolicyRunnerCfg:
    """SAPG for the task of `g1_flat_ppo`."""
    return _sapg(registration.g1_flat_ppo())


def g1_flat_epo() -> runners.EPOOnPolicyRunnerCfg:
    """EPO for the task of `g1_flat_ppo`."""
    return _epo(registration.g1_flat_ppo())


def g1_rough_sapg() -> runners.SAPGOnPolicyRunnerCfg:
    """SAPG for the task of `g1_rough_ppo`."""
    return _sapg(registration.g1_rough_ppo())


def g1_rough_epo() -> runners.EPOOnPolicyRunnerCfg:
    """EPO for the task of `g1_rough_ppo`."""
    return _epo(registration.g1_rough_ppo())
