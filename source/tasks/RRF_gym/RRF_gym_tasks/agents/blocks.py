"""SAPG and EPO for Gymnasium and EnvPool tasks: the PPO of each task, in blocks of environments."""

from __future__ import annotations

from collections.abc import Callable

from RoboRenForce import algorithms, runners

from . import ppo

_INTERVAL = 10
"""Updates between two generations: runs here have a hundred updates or a few hundred."""


_MOST_WEIGHT = 2.0
"""Bound of importance ratios: one follower's block has some hundred steps here, too few to average out large ones."""


def _sapg(task: Callable[[], runners.OnPolicyRunnerCfg]) -> runners.SAPGOnPolicyRunnerCfg:
    return runners.SAPGOnPolicyRunnerCfg.from_ppo(task(), max_importance_ratio=_MOST_WEIGHT)


def _epo(task: Callable[[], runners.OnPolicyRunnerCfg]) -> runners.EPOOnPolicyRunnerCfg:
    evolution = algorithms.EvolutionCfg(interval_updates=_INTERVAL, warmup_updates=_INTERVAL)
    return runners.EPOOnPolicyRunnerCfg.from_ppo(task(), evolution=evolution, max_importance_ratio=_MOST_WEIGHT)


def cartpole_sapg() -> runners.SAPGOnPolicyRunnerCfg:
    """SAPG for the tasks of `ppo.cartpole`."""
    return _sapg(ppo.cartpole)


def cartpole_epo() -> runners.EPOOnPolicyRunnerCfg:
    """EPO for the tasks of `ppo.cartpole`."""
    return _epo(ppo.cartpole)


def pendulum_sapg() -> runners.SAPGOnPolicyRunnerCfg:
    """SAPG for the tasks of `ppo.pendulum`."""
    return _sapg(ppo.pendulum)


def pendulum_epo() -> runners.EPOOnPolicyRunnerCfg:
    """EPO for the tasks of `ppo.pendulum`."""
    return _epo(ppo.pendulum)


def acrobot_sapg() -> runners.SAPGOnPolicyRunnerCfg:
    """SAPG for the tasks of `ppo.acrobot`."""
    return _sapg(ppo.acrobot)


def acrobot_epo() -> runners.EPOOnPolicyRunnerCfg:
    """EPO for the tasks of `ppo.acrobot`."""
    return _epo(ppo.acrobot)


def mountain_car_sapg() -> runners.SAPGOnPolicyRunnerCfg:
    """SAPG for the tasks of `ppo.mountain_car`."""
    return _sapg(ppo.mountain_car)


def mountain_car_epo() -> runners.EPOOnPolicyRunnerCfg:
    """EPO for the tasks of `ppo.mountain_car`."""
    return _epo(ppo.mountain_car)


def balance_sapg() -> runners.SAPGOnPolicyRunnerCfg:
    """SAPG for the tasks of `ppo.balance`."""
    return _sapg(ppo.balance)


def balance_epo() -> runners.EPOOnPolicyRunnerCfg:
    """EPO for the tasks of `ppo.balance`."""
    return _epo(ppo.balance)


def half_cheetah_sapg() -> runners.SAPGOnPolicyRunnerCfg:
    """SAPG for the tasks of `ppo.half_cheetah`."""
    return _sapg(ppo.half_cheetah)


def half_cheetah_epo() -> runners.EPOOnPolicyRunnerCfg:
    """EPO for the tasks of `ppo.half_cheetah`."""
    return _epo(ppo.half_cheetah)


def locomotion_sapg() -> runners.SAPGOnPolicyRunnerCfg:
    """SAPG for the tasks of `ppo.locomotion`."""
    return _sapg(ppo.locomotion)


def locomotion_epo() -> runners.EPOOnPolicyRunnerCfg:
    """EPO for the tasks of `ppo.locomotion`."""
    return _epo(ppo.locomotion)


def humanoid_sapg() -> runners.SAPGOnPolicyRunnerCfg:
    """SAPG for the tasks of `ppo.humanoid`."""
    return _sapg(ppo.humanoid)


def humanoid_epo() -> runners.EPOOnPolicyRunnerCfg:
    """EPO for the tasks of `ppo.humanoid`."""
    return _epo(ppo.humanoid)


def reaching_sapg() -> runners.SAPGOnPolicyRunnerCfg:
    """SAPG for the tasks of `ppo.reaching`."""
    return _sapg(ppo.reaching)


def reaching_epo() -> runners.EPOOnPolicyRunnerCfg:
    """EPO for the tasks of `ppo.reaching`."""
    return _epo(ppo.reaching)


def joystick_sapg() -> runners.SAPGOnPolicyRunnerCfg:
    """SAPG for the tasks of `ppo.joystick`."""
    return _sapg(ppo.joystick)


def joystick_epo() -> runners.EPOOnPolicyRunnerCfg:
    """EPO for the tasks of `ppo.joystick`."""
    return _epo(ppo.joystick)
