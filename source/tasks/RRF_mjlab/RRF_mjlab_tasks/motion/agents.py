"""AMP for mjlab's velocity tasks: mjlab's own training configuration, and a discriminator of style."""

from __future__ import annotations

from functools import cache

from mjlab.entity import Entity
from RoboRenForce import algorithms, runners
from RoboRenForce.buffer.motion import MotionDatasetCfg

from .gaits import GAITS, Robot

MOTIONS = {"Go1": "motions/go1_trot.npz", "G1": "motions/g1_walk.npz"}
"""Default motion of each robot, relative to the working directory; scripts/data/make_motion.py writes it."""

STEP_DT = 0.02
"""Control period of mjlab's velocity tasks in s."""


def amp(cfg: runners.OnPolicyRunnerCfg, robot: Robot) -> runners.OnPolicyRunnerCfg:
    """Return a run of PPO as one of AMP, with the motion of `robot`."""
    names = list(joint_names(robot))  # files may name their joints in another order
    term = algorithms.AMPCfg(expert=MotionDatasetCfg(files=[MOTIONS[robot]], step_dt=STEP_DT, joint_names=names))
    return cfg.replace(algorithm=algorithms.AMPPPOCfg.extending(cfg.algorithm, reward_terms=[term]))


@cache
def joint_names(robot: Robot) -> tuple[str, ...]:
    """Return the joints of a robot in mjlab's order."""
    return tuple(Entity(GAITS[robot].make()).joint_names)
