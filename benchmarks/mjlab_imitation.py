"""Imitation on mjlab's robots: AMP for Go1 and G1 beside PPO, and mjlab's tracking task, with motions made here.

    python benchmarks/mjlab_imitation.py --device cuda --seeds 1 2 --folder imitation --output imitation.json
    python benchmarks/plot_mjlab_arms.py imitation.json --arms AMP-G1 --curves reward style --image amp.png
    python scripts/renforce/play_mjlab.py --target imitation/AMP-G1_1 --num_envs 16 --video

Motions are made-up gaits, or with `--source policy` what the policies of the PPO arms do at one command. AMP and PPO
train mjlab's flat velocity task; PPO knows nothing of the motion. `style` is the mean reward of the
discriminator during training, in [0, 1]. `pose_distance` is independent of it: the root mean square over joints, in
rad, between the robot and the nearest frame of the motion, when the mode of the policy is played. Tracking follows the
G1's motion frame by frame; its errors are mjlab's.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import torch
from mjlab_arms import REWARD, VELOCITY, parser, played, run_arms, train
from RoboRenForce.buffer.motion import read_motion
from RoboRenForce.runners.evaluation import choose_actions, playing
from RoboRenForce.utils.registry import load_task
from RRF_mjlab_tasks.motion.files import write_motion
from RRF_mjlab_tasks.motion.gaits import make_gait
from RRF_mjlab_tasks.motion.recorded import record, recording_cfg

STYLE = {
    "style": "Amp/reward",
    "expert_accuracy": "Amp/expert_accuracy",
    "policy_accuracy": "Amp/policy_accuracy",
    "discriminator_loss": "Loss/amp",
}
TRACKING = {
    name: f"Metrics/motion/error_{name}"
    for name in ("body_pos", "body_rot", "joint_pos", "joint_vel", "anchor_pos", "anchor_rot")
}
ITERATIONS = {"PPO-Go1": 300, "PPO-G1": 1000, "AMP-Go1": 300, "AMP-G1": 1000, "Tracking-G1": 500}
"""Arm -> its iterations."""
VELOCITY_OF_MOTION = {"Go1": (0.8, 0.0, 0.0), "G1": (0.6, 0.0, 0.0)}
"""Command of the motions that are recorded."""
COMPARED = 64
"""Environments whose poses are compared with the motion."""


def run(args: argparse.Namespace, arm: str, seed: int, folder: Path) -> dict[str, Any]:
    """Train one arm and play its policy."""
    algorithm, robot = arm.split("-")
    motion = folder / f"{robot.lower()}_{args.source}.npz"
    if args.source == "gait" and not motion.exists():
        write_motion(motion, make_gait(robot, seconds=10.0))  # type: ignore[arg-type]
    task, curves, env, overrides = f"RoboRenForce-MJLab-{robot}Flat-PPO", REWARD | VELOCITY, {}, []
    if algorithm == "AMP":
        task, curves, env = f"RoboRenForce-MJLab-{robot}Flat-AMPPPO", curves | STYLE, {"motions": [str(motion)]}
        overrides = [f"algorithm.reward_terms.0.expert.files=[{motion}]"]
    elif algorithm == "Tracking":
        task, curves, env = f"Mjlab-Tracking-Flat-Unitree-{robot}", REWARD | TRACKING, {"motion_file": str(motion)}
    given = {"num_envs": 4096, "iterations": ITERATIONS[arm], "curves": curves, "env": env, "overrides": overrides}
    runner, result = train(args, task, seed, folder / f"{arm}_{seed}", **given)
    runner.algorithm.eval()
    policy = runner.policy()
    result["played"] = played(runner.env, policy, args, seed + 1000)
    if algorithm == "PPO" and not motion.exists():
        single = recording_cfg(load_task(task).env_cfg, VELOCITY_OF_MOTION[robot]).replace(device=args.device).build()
        write_motion(motion, record(single, policy, seconds=10.0))
    if algorithm != "Tracking":
        result["played"]["pose_distance"] = pose_distance(runner.env, policy, motion, args.steps, seed + 1000)
    return result


@torch.no_grad()
def pose_distance(env: Any, policy: Any, motion: Path, steps: int, seed: int) -> float:
    """Return the mean distance of the joint angles to the nearest frame of the motion."""
    robot = env.unwrapped.scene["robot"]
    frames = read_motion(motion, env.spec.step_dt, robot.joint_names).to(env.device).joint_pos
    total = torch.zeros((), device=env.device)
    finished = torch.zeros(env.num_envs, device=env.device, dtype=torch.int64)
    with playing(policy, deterministic=True, seed=seed):
        obs, _ = env.reset(seed=seed)
        for _ in range(steps):
            obs, _, done, _ = env.step(choose_actions(env, policy, obs, finished))
            policy.reset(done)
            pose = robot.data.joint_pos[:COMPARED]
            total += (torch.cdist(pose, frames).amin(-1) / pose.shape[-1] ** 0.5).mean()
    return round(float(total / steps), 4)


def main() -> None:
    options = parser(__doc__, ITERATIONS)
    options.add_argument("--source", choices=("gait", "policy"), default="gait", help="where motions come from")
    run_arms(options.parse_args(), run)


if __name__ == "__main__":
    main()
