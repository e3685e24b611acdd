"""Train one arm of the comparison of smooth policies: PPO, CAPS, L2C2 or Lips, without mjlab's own action-rate penalty.

    python benchmarks/mjlab_smooth.py --arm CAPSPPO --seed 1 --device cuda --output smooth/CAPSPPO_1.json
    python benchmarks/plot_mjlab_smooth.py smooth/*.json

Curves, per iteration: `reward`, mjlab's mean episode reward; `action_rate`, the mean over the rollout of the Euclidean
norm of mu_t - mu_{t-1} within episodes, where mu is the mean that the policy had at that step: exploration noise, which
is of one size in all arms, would hide it. After training the mode is played in the same environments, an episode each.
Fields are overridden behind the options, as in `train_mjlab.py`: `algorithm.loss_terms.0.temporal_weight=0.03`.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

from peer_scripts import shown_arguments, shown_command
from report import environment_report, write_json
from RoboRenForce.algorithms.functional import masked_mean
from RoboRenForce.configclass import configclass
from RoboRenForce.runners.callbacks import Callback, CallbackCfg
from RoboRenForce.runners.evaluation import evaluate
from RoboRenForce.utils.registry import load_task

ARMS = ("PPO", "CAPSPPO", "L2C2PPO", "LipsPPO")
CURVES = {
    "reward": "Train/mean_reward",
    "action_rate": "Policy/action_rate",
    "linear_error": "Metrics/twist/error_vel_xy",
    "angular_error": "Metrics/twist/error_vel_yaw",
}


class ActionRate(Callback):
    """Adds the mean change of the policy's mean action per step of the rollout."""

    def after_iteration(self, runner: Any, metrics: dict[str, float]) -> None:
        """Read the rollout, which is there until the next one begins."""
        rows = runner.algorithm.buffer.rows
        mean, start = rows["dist/mean"], rows["start"]
        change = (mean[1:] - mean[:-1]).norm(dim=-1)
        metrics["Policy/action_rate"] = masked_mean(change, ~start[1:]).item()


@configclass
class ActionRateCfg(CallbackCfg):
    """Configuration of `ActionRate`."""

    class_type: type = ActionRate


def train(args: argparse.Namespace) -> dict[str, Any]:
    """Train one arm and play its policy."""
    task = load_task(f"RoboRenForce-MJLab-{args.robot}-{args.arm}")
    task.env_cfg = task.env_cfg.replace(num_envs=args.num_envs, seed=args.seed, device=args.device)
    task.env_cfg.mjlab = {"rewards.action_rate_l2.weight": 0.0}
    options = {"seed": args.seed, "max_iterations": args.iterations, "report": False, "callbacks": [ActionRateCfg()]}
    task.runner_cfg = task.runner_cfg.replace(**options)
    task.apply_overrides(args.overrides)
    env = task.env_cfg.build()
    with tempfile.TemporaryDirectory() as folder:
        runner = task.runner_cfg.build(env=env, log_dir=folder, device=args.device, task=task.id, env_cfg=task.env_cfg)
        begin = time.perf_counter()
        runner.learn()
        seconds = time.perf_counter() - begin
        rows = [json.loads(line) for line in (Path(folder) / "metrics.jsonl").read_text().splitlines()]
    rows = [row for row in rows if "Policy/action_rate" in row]
    curves = {name: [[i + 1, row.get(tag)] for i, row in enumerate(rows)] for name, tag in CURVES.items()}
    runner.algorithm.eval()
    found = evaluate(env, runner.policy(), args.num_envs, seed=args.seed + 1000)
    played = {"return": found.mean, "return_std": found.std, "n": found.n, "mean_length": found.mean_length}
    return {
        "loss_terms": [term.to_dict() for term in task.runner_cfg.algorithm.loss_terms],
        "seconds": round(seconds, 1),
        "steps_per_iteration": args.num_envs * task.runner_cfg.num_steps_per_env,
        "curves": curves,
        "played": played | (asdict(found.smoothness) if found.smoothness is not None else {}),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--arm", choices=ARMS, required=True)
    parser.add_argument("--robot", default="Go1Flat", help="robot and ground, as in the task ids")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--iterations", type=int, default=300)
    parser.add_argument("--num_envs", type=int, default=4096)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--output", required=True)
    parser.add_argument("overrides", nargs="*", help="path=value, as in train_mjlab.py")
    args = parser.parse_args()
    data = {"benchmark": Path(__file__).stem, "arguments": shown_arguments(vars(args)), "result": train(args)}
    write_json(args.output, data | environment_report() | {"command": shown_command(sys.argv)})


if __name__ == "__main__":
    main()
