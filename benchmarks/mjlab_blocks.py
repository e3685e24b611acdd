"""SAPG and EPO beside PPO on an mjlab task, with as many steps of as many environments.

    python benchmarks/mjlab_blocks.py --device cuda --seeds 1 2 --robot G1Flat --output blocks.json

The reward of SAPG and EPO is that of the leader's episodes. `played` is the mode of the policy (the leader's) in the
environments of PPO's task.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from mjlab_arms import REWARD, VELOCITY, parser, played_anew, run_arms, train

ARMS = ("PPO", "SAPGPPO", "EPO")
BLOCKS = {
    "importance_ratio": "Policy/importance_ratio",
    "kl": "Policy/kl",
    "mean_std": "Policy/mean_std",
    "learning_rate": "Loss/learning_rate",
}


def run(args: argparse.Namespace, arm: str, seed: int, folder: Path) -> dict[str, Any]:
    """Train one arm and play its policy."""
    task = f"RoboRenForce-MJLab-{args.robot}-{arm}"
    run_dir, curves = folder / f"{args.robot}_{arm}_{seed}", REWARD | VELOCITY | BLOCKS
    runner, result = train(args, task, seed, run_dir, num_envs=16384, iterations=500, curves=curves)
    runner.algorithm.eval()
    found = played_anew(f"RoboRenForce-MJLab-{args.robot}-PPO", runner.policy(), args, seed + 1000)
    return result | {"played": found}


def main() -> None:
    options = parser(__doc__, ARMS)
    options.add_argument("--robot", default="G1Flat", help="robot and ground, as in the task ids")
    run_arms(options.parse_args(), run)


if __name__ == "__main__":
    main()
