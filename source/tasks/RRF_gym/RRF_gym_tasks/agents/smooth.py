"""PPO for Gymnasium and EnvPool tasks with a regularizer of smoothness: the agents of `ppo`, with a loss term more."""

from __future__ import annotations

from RoboRenForce import algorithms, runners

PRESETS = {
    "CAPSPPO": algorithms.CAPSPPOCfg,
    "L2C2PPO": algorithms.L2C2PPOCfg,
    "LipsPPO": algorithms.LipsPPOCfg,
}
"""Algorithm in the task id -> its preset, whose term is that of all tasks with no weights of their own."""

PENDULUM: dict[str, algorithms.loss_terms.LossTermCfg] = {
    "CAPSPPO": algorithms.CAPSCfg(temporal_weight=8.0, spatial_weight=1.0),
    "L2C2PPO": algorithms.L2C2Cfg(policy_weight=15.0, value_weight=0.01),
    "LipsPPO": algorithms.LipsCfg(weight=0.035),
}
"""Weights for Pendulum, whose single action changes by a fiftieth of its range per step: squares of it are tiny."""


def smooth(cfg: runners.OnPolicyRunnerCfg, algorithm: str, agent: str) -> runners.OnPolicyRunnerCfg:
    """Return a run of PPO with the term of `algorithm`, a key of `PRESETS`, for the agent of this name in `ppo`."""
    preset = PRESETS[algorithm]
    terms = [PENDULUM[algorithm]] if agent == "pendulum" else preset().loss_terms
    return cfg.replace(algorithm=preset.extending(cfg.algorithm, loss_terms=terms))
