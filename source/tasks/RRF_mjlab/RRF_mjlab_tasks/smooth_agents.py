"""PPO for mjlab's tasks with a regularizer of smoothness: mjlab's own training configuration, with a loss term more."""

from __future__ import annotations

from RoboRenForce import algorithms, runners

TERMS = {
    "CAPSPPO": (algorithms.CAPSPPOCfg, algorithms.CAPSCfg(temporal_weight=0.003, spatial_weight=0.003)),
    "L2C2PPO": (algorithms.L2C2PPOCfg, algorithms.L2C2Cfg(policy_weight=0.02, value_weight=0.002)),
    "LipsPPO": (algorithms.LipsPPOCfg, algorithms.LipsCfg(weight=5e-3)),
}
"""Algorithm in the task id -> its preset and its term."""


def smooth(cfg: runners.OnPolicyRunnerCfg, algorithm: str) -> runners.OnPolicyRunnerCfg:
    """Return a run of PPO with the term of `algorithm`, a key of `TERMS`."""
    preset, term = TERMS[algorithm]
    return cfg.replace(algorithm=preset.extending(cfg.algorithm, loss_terms=[term]))
