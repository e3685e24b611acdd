"""Smooth policies on an mjlab task: CAPS, L2C2 and Lips beside PPO, all without mjlab's own action-rate penalty.

    python benchmarks/mjlab_smooth.py --device cuda --seeds 1 2 --output smooth.json
    python benchmarks/plot_mjlab_arms.py smooth.json --curves reward action_rate --image smooth.png

`action_rate` is the mean over the rollout of the Euclidean norm of mu_t - mu_{t-1} within episodes, where mu is the
mean that the policy had at that step: exploration noise, which is of one size in all arms, would hide it. After
training the mode is played in the same environments. Fields are overridden behind `--overrides`, as in
`train_mjlab.py`: `algorithm.loss_terms.0.temporal_weight=0.03`.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from mjlab_arms import REWARD, VELOCITY, parser, played, run_arms, train
from RoboRenForce.algorithms.functional import masked_mean
from RoboRenForce.runners.callbacks import Callback

ARMS = ("PPO", "CAPSPPO", "L2C2PPO", "LipsPPO")
RATE = {"action_rate": "Policy/action_rate"}
NO_PENALTY = {"rewards.action_rate_l2.weight": 0.0}


class ActionRate(Callback):
    """Adds the mean change of the policy's mean action per step of the rollout."""

    def after_iteration(self, runner: Any, metrics: dict[str, float]) -> None:
        """Read the rollout, which is there until the next one begins."""
        rows = runner.algorithm.buffer.rows
        mean, start = rows["dist/mean"], rows["start"]
        change = (mean[1:] - mean[:-1]).norm(dim=-1)
        metrics[RATE["action_rate"]] = masked_mean(change, ~start[1:]).item()


def run(args: argparse.Namespace, arm: str, seed: int, folder: Path) -> dict[str, Any]:
    """Train one arm and play its policy."""
    given = {"num_envs": 4096, "iterations": 300, "curves": REWARD | RATE | VELOCITY, "env": {"mjlab": NO_PENALTY}}
    task, run_dir = f"RoboRenForce-MJLab-{args.robot}-{arm}", folder / f"{args.robot}_{arm}_{seed}"
    runner, result = train(args, task, seed, run_dir, **given, callbacks=[ActionRate()])
    runner.algorithm.eval()
    terms = [term.to_dict() for term in runner.cfg.algorithm.loss_terms]
    return result | {"loss_terms": terms, "played": played(runner.env, runner.policy(), args, seed + 1000)}


def main() -> None:
    options = parser(__doc__, ARMS)
    options.add_argument("--robot", default="Go1Flat", help="robot and ground, as in the task ids")
    run_arms(options.parse_args(), run)


if __name__ == "__main__":
    main()
