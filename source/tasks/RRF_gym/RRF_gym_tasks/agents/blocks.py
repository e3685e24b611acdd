"""SAPG and EPO for Gymnasium and EnvPool tasks: the agents of `ppo`, in blocks of environments."""

from __future__ import annotations

from typing import Any

from RoboRenForce import algorithms, runners

_INTERVAL = 10
"""Updates between two generations: runs here have a hundred updates or a few hundred."""

_MOST_WEIGHT = 2.0
"""Bound of importance ratios: one follower's block has some hundred steps here, too few to average out large ones."""


def in_blocks(cfg: Any, algorithm: str) -> runners.SAPGOnPolicyRunnerCfg:
    """Return `cfg`, a run of PPO, as one of `algorithm`, SAPGPPO or EPO."""
    options: dict[str, Any] = {"max_importance_ratio": _MOST_WEIGHT}
    runner, learner = runners.SAPGOnPolicyRunnerCfg, algorithms.SAPGPPOCfg
    if algorithm == "EPO":
        runner, learner = runners.EPOOnPolicyRunnerCfg, algorithms.EPOCfg
        options["evolution"] = algorithms.EvolutionCfg(interval_updates=_INTERVAL, warmup_updates=_INTERVAL)
    policy = algorithms.sapg_policy(cfg.policy)
    return runner.extending(cfg, policy=policy, algorithm=learner.from_ppo(cfg.algorithm, **options))
