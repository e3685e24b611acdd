"""SAPG and EPO for mjlab's velocity tasks: mjlab's PPO of each task, in blocks of environments."""

from __future__ import annotations

from RoboRenForce import algorithms, runners

BLOCK_RUNS = {
    "SAPGPPO": (runners.SAPGOnPolicyRunnerCfg, algorithms.SAPGPPOCfg),
    "EPO": (runners.EPOOnPolicyRunnerCfg, algorithms.EPOCfg),
}
"""Algorithm in the task id -> its run and its learner."""


def in_blocks(ppo: runners.OnPolicyRunnerCfg, algorithm: str) -> runners.OnPolicyRunnerCfg:
    """Return a run of PPO as one of `algorithm`, a key of `BLOCK_RUNS`."""
    runner, learner = BLOCK_RUNS[algorithm]
    policy = algorithms.sapg_policy(ppo.policy)
    return runner.extending(ppo, policy=policy, algorithm=learner.from_ppo(ppo.algorithm))
