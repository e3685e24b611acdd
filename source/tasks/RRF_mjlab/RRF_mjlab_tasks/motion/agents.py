"""AMP for mjlab's velocity tasks: mjlab's own training configuration, and a discriminator of style."""

from __future__ import annotations

from RoboRenForce import algorithms, runners
from RoboRenForce.algorithms.on_policy import with_reward_terms
from RoboRenForce.buffer.motion import MotionDatasetCfg

MOTIONS = {"Go1": "motions/go1_trot.npz", "G1": "motions/g1_walk.npz"}
"""Default motion of each robot, relative to the working directory; scripts/data/make_motion.py writes it."""

STEP_DT = 0.02
"""Control period of mjlab's velocity tasks in s."""


def amp(cfg: runners.OnPolicyRunnerCfg, robot: str) -> runners.OnPolicyRunnerCfg:
    """Return a run of PPO as one of AMP, with the motion of `robot`."""
    term = algorithms.AMPCfg(expert=MotionDatasetCfg(files=[MOTIONS[robot]], step_dt=STEP_DT))
    return cfg.replace(algorithm=with_reward_terms(cfg.algorithm, algorithms.AMPPPOCfg, term))
