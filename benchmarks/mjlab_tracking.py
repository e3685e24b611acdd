"""Train an MJLab velocity task with ours and measure how far the robots are from the commanded velocity.

    python benchmarks/mjlab_tracking.py --iterations 300 --output benchmarks/results/mjlab_go1_tracking.json

The policy's mode is played for ten seconds from standing (500 steps) in new environments of the training task, pushes
and noise included; the errors are means over all of them and all steps. `--checkpoint` measures a run that exists.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import tempfile
import time
from pathlib import Path

from report import environment_report, write_json
from RoboRenForce.runners.evaluation import evaluate, measure
from RoboRenForce.runners.play_run import MEASURED_STEPS
from RoboRenForce.utils.registry import load_task


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--task", default="RoboRenForce-MJLab-Go1Flat-PPO")
    parser.add_argument("--num_envs", type=int, default=4096, help="environments of the training")
    parser.add_argument("--iterations", type=int, default=300)
    parser.add_argument("--measured_envs", type=int, default=64)
    parser.add_argument("--steps", type=int, default=MEASURED_STEPS)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--device", default="cuda:0")
    parser.add_argument("--checkpoint", help="measure this one instead of training")
    parser.add_argument("--log_dir", help="keep the run here")
    parser.add_argument("--output", default="benchmarks/results/mjlab_go1_tracking.json")
    args = parser.parse_args()

    seconds = None
    checkpoint = args.checkpoint
    if checkpoint is None:
        start = time.perf_counter()
        checkpoint = train(args)
        seconds = round(time.perf_counter() - start, 1)
    task = load_task(args.task)
    task.env_cfg = task.env_cfg.replace(num_envs=args.measured_envs, seed=args.seed + 1000, device=args.device)
    env = task.env_cfg.build()
    runner = task.runner_cfg.build(env=env, device=args.device)
    runner.load(checkpoint, resume=False)
    runner.algorithm.eval()
    errors = measure(env, runner.policy(), args.steps, seed=args.seed + 1000)["velocity_error"]
    result = evaluate(env, runner.policy(), args.measured_envs, seed=args.seed + 2000)
    data = {
        "benchmark": "mjlab_tracking",
        "arguments": vars(args),
        "results": {
            "velocity error": {
                "linear_m_per_s": round(errors["linear"], 4),
                "angular_rad_per_s": round(errors["angular"], 4),
            }
            | {"num_envs": errors["num_envs"], "steps": errors["steps"]},
            "episodes": {"return": round(result.mean, 2), "return_std": round(result.std, 2), "n": result.n}
            | {"mean_length": round(result.mean_length, 1)},
        },
        **({} if seconds is None else {"training_s": seconds}),
        **environment_report(),
    }
    write_json(args.output, data)
    print(data["results"], "trained in", seconds, "s", flush=True)


def train(args: argparse.Namespace) -> str:
    """Train as `train_mjlab.py` does; the path of the last checkpoint."""
    task = load_task(args.task)
    task.env_cfg = task.env_cfg.replace(num_envs=args.num_envs, seed=args.seed, device=args.device)
    task.runner_cfg = task.runner_cfg.replace(seed=args.seed, max_iterations=args.iterations, report=False, logger=[])
    log_dir = Path(args.log_dir or tempfile.mkdtemp())
    env = task.env_cfg.build()
    runner = task.runner_cfg.build(env=env, log_dir=log_dir, device=args.device, task=task.id, env_cfg=task.env_cfg)
    with contextlib.redirect_stdout(io.StringIO()):
        runner.learn()
    env.close()
    return str(log_dir / f"model_{args.iterations}.pt")


if __name__ == "__main__":
    main()
