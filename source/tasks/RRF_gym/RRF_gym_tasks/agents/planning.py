"""TD-MPC and TD-MPC2 for Gymnasium and EnvPool tasks with continuous actions."""

from __future__ import annotations

from typing import Any

from RoboRenForce import algorithms, components, runners

from . import sac

SMALL_PLANNER = components.MPPICfg(num_samples=64, num_policy_samples=8, num_elites=8, iterations=4)
"""Planner for a few action dimensions on a CPU."""


def runner(policy: Any, algorithm: Any, steps: int, num_envs: int = 1, **options: Any) -> runners.NNModelBasedRunnerCfg:
    """Return an off-policy run, see `sac.runner`, whose policy is a world model."""
    return runners.NNModelBasedRunnerCfg.extending(sac.runner(policy, algorithm, steps, num_envs, **options))


def classic_tdmpc2(steps: int = 10_000) -> runners.NNModelBasedRunnerCfg:
    """Pendulum and other small tasks: four environments, two gradient steps for their four transitions."""
    algorithm = algorithms.TDMPC2Cfg(
        gamma=algorithms.discount_for(200),
        planner=SMALL_PLANNER.copy(),
        batch_size=128,
        learning_starts=1000,
        first_updates=500,
        learning_rate=1.0e-3,
        gradient_steps=2,
    )
    return runner(algorithms.tdmpc2_policy(64, 64, 64), algorithm, steps, num_envs=4)


def classic_tdmpc(steps: int = 10_000) -> runners.NNModelBasedRunnerCfg:
    """The same with TD-MPC, whose exploration falls over the first half of the run."""
    planner = SMALL_PLANNER.replace(horizon=5, momentum=0.1, first_min_std=0.5, min_std_steps=steps // 4)
    algorithm = algorithms.TDMPCCfg(
        gamma=algorithms.discount_for(200),
        planner=planner,
        batch_size=128,
        learning_starts=1000,
        first_updates=500,
        gradient_steps=2,
    )
    return runner(algorithms.tdmpc_policy(32, 64, 64), algorithm, steps, num_envs=4)


def mujoco_tdmpc2(steps: int = 1_000_000) -> runners.NNModelBasedRunnerCfg:
    """The authors' settings for episodes of 1,000 steps, five of which are random at first."""
    algorithm = algorithms.TDMPC2Cfg(gamma=algorithms.discount_for(1000), learning_starts=5000, first_updates=5000)
    return runner(algorithms.tdmpc2_policy(), algorithm, steps)


def falling_tdmpc2(steps: int = 1_000_000) -> runners.NNModelBasedRunnerCfg:
    """The same for robots that can fall, with the head that predicts it."""
    cfg = mujoco_tdmpc2(steps)
    cfg.policy = algorithms.tdmpc2_policy(terminates=True)
    return cfg


def mujoco_tdmpc(steps: int = 1_000_000) -> runners.NNModelBasedRunnerCfg:
    """TD-MPC's settings."""
    return runner(algorithms.tdmpc_policy(), algorithms.TDMPCCfg(), steps)


def _dmc(policy: Any, algorithm: Any, groups: list[str], steps: int) -> runners.NNModelBasedRunnerCfg:
    return runner(policy, algorithm, steps, obs_groups={"actor": groups, "critic": groups})


def dmc_tdmpc2(groups: list[str], steps: int = 250_000) -> runners.NNModelBasedRunnerCfg:
    """DeepMind Control by the authors' settings: episodes of 500 decisions, each of two frames.

    Args:
        groups: Observation groups of the task.
        steps: Decisions of the whole run.
    """
    algorithm = algorithms.TDMPC2Cfg(gamma=algorithms.discount_for(500), learning_starts=2500, first_updates=2500)
    return _dmc(algorithms.tdmpc2_policy(), algorithm, groups, steps)


def dmc_tdmpc(groups: list[str], steps: int = 250_000) -> runners.NNModelBasedRunnerCfg:
    """The same with TD-MPC."""
    return _dmc(algorithms.tdmpc_policy(), algorithms.TDMPCCfg(), groups, steps)
