"""SAPG and EPO beside PPO on an mjlab task, with as many steps of as many environments.

    python benchmarks/mjlab_blocks.py --device cuda --seeds 1 2 --robot G1Flat --output blocks.json
    python benchmarks/plot_mjlab_arms.py blocks.json --curves reward linear_error --image blocks.png

The reward of SAPG and EPO is that of the leader's episodes. `played` is the mode of the policy (the leader's) in the
environments of PPO's task. EPO begins to replace vectors after `--warmup_updates` instead of the 500 of its task, which
is as long as these runs are.
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
    "generations": "Policy/generations",
}


def run(args: argparse.Namespace, arm: str, seed: int, folder: Path) -> dict[str, Any]:
    """Train one arm and play its policy."""
    task = f"RoboRenForce-MJLab-{args.robot}-{arm}"
    run_dir, curves = folder / f"{args.robot}_{arm}_{seed}", REWARD | VELOCITY | BLOCKS
    given: dict[str, Any] = {"num_envs": 16384, "iterations": 500, "curves": curves}
    if arm == "EPO":
        given["overrides"] = [f"algorithm.evolution.warmup_updates={args.warmup_updates}"]
    runner, result = train(args, task, seed, run_dir, **given)
    runner.algorithm.eval()
    found = played_anew(f"RoboRenForce-MJLab-{args.robot}-PPO", runner.policy(), args, seed + 1000)
    return result | {"played": found}


def main() -> None:
    options = parser(__doc__, ARMS)
    options.add_argument("--robot", default="G1Flat", help="robot and ground, as in the task ids")
    options.add_argument("--warmup_updates", type=int, default=50, help="of EPO, before vectors are replaced")
    run_arms(options.parse_args(), run)


if __name__ == "__main__":
    main()
