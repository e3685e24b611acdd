"""MBPO against our SAC on a Gymnasium robot: return of the deterministic policy at equal numbers of real steps.

    python benchmarks/mbpo_vs_sac.py --steps 20000 --seeds 2 --jobs 4 algorithm.learner.gradient_steps=20

Both are the registered tasks; overrides behind the options are MBPO's. Each run is a process of its own, and `--jobs`
of them share the GPU. Seconds are those of stepping and learning, without evaluations, whose episodes are of an
environment of their own. After `--seconds` all runs are ended, and what they reached counts.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
import time
from pathlib import Path
from statistics import median
from typing import Any

from children import Child, on_gpu, run_children, write_child
from peer_scripts import shown_arguments, shown_command

ALGORITHMS = ("SAC", "MBPO")
Curve = list[tuple[int, float, float]]
"""(real steps, return, seconds) of every evaluation."""


def train(args: argparse.Namespace) -> None:
    """Train one run; writes its curve after every evaluation."""
    import torch
    from RoboRenForce.envs.env_cfg import evaluation_cfg
    from RoboRenForce.runners.evaluation import evaluate
    from RoboRenForce.utils.registry import load_task
    from RoboRenForce.utils.seeding import preserved_rng

    task = load_task(f"RoboRenForce-Gym-{args.env}-{args.algorithm}")
    task.apply_overrides(args.overrides)
    task.env_cfg = task.env_cfg.replace(seed=1000 * args.seed, device=args.device)
    env = task.env_cfg.build()
    iterations = args.steps // args.eval_every
    sizes = {"num_steps_per_env": args.eval_every // env.num_envs, "max_iterations": iterations}
    cfg = task.runner_cfg.replace(seed=args.seed, logger=[], report=False, save_interval=10**9, **sizes)
    runner = cfg.build(env=env, device=args.device, task=task.id, env_cfg=task.env_cfg)
    eval_env = evaluation_cfg(task.env_cfg, args.episodes, 1000 * args.seed + 500).build()
    curve: Curve = []
    seconds = 0.0
    for part in range(1, iterations + 1):
        start = time.perf_counter()
        with contextlib.redirect_stdout(open(os.devnull, "w")):
            runner.learn(1)
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        seconds += time.perf_counter() - start
        runner.algorithm.eval()
        with preserved_rng():
            found = evaluate(eval_env, runner.policy(), args.episodes, seed=1000 * args.seed + 500)
        runner.algorithm.train()
        curve.append((part * args.eval_every, round(found.mean, 1), round(seconds, 1)))
        write_child(args.child, {"curve": curve})


def medians_at_equal_steps(curves: dict[str, Curve]) -> dict[str, dict[str, float]]:
    """Return the medians of each algorithm at every step that all runs have reached; names are `algorithm at step`."""
    common = set.intersection(*({step for step, *_ in curve} for curve in curves.values())) if curves else set()
    rows: dict[str, dict[str, float]] = {}
    for step in sorted(common):
        for algorithm in ALGORITHMS:
            runs = [curve for name, curve in curves.items() if name.startswith(f"{algorithm} ")]
            points = [point for curve in runs for point in curve if point[0] == step]
            if points:
                row = {"return": median(p[1] for p in points), "seconds": median(p[2] for p in points)}
                rows[f"{algorithm} at {step:,}"] = {name: round(value, 1) for name, value in row.items()}
    return rows


def write(args: argparse.Namespace, found: dict[str, Any]) -> None:
    """Write the curves so far."""
    from report import environment_report, write_json

    curves = {name: result["curve"] for name, result in found.items() if "curve" in result}
    data = {
        "benchmark": "mbpo_vs_sac",
        "arguments": shown_arguments(vars(args)),
        "medians": medians_at_equal_steps(curves),
        "curves": curves,
        **environment_report(),
        "command": shown_command(sys.argv),
    }
    data["hardware"]["torch_threads"] = 1  # of every run
    failed = {name: result["error"] for name, result in found.items() if "error" in result}
    extra = {"note": args.note} if args.note else {}
    write_json(args.output, data | extra | ({"failed": failed} if failed else {}))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--env", default="HalfCheetah", help="as in the task ids")
    parser.add_argument("--steps", type=int, default=20_000, help="real steps of a run")
    parser.add_argument("--eval_every", type=int, default=2500)
    parser.add_argument("--episodes", type=int, default=5)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--gpus", type=int, default=0, help="GPUs that runs are spread over; 0: all see the same")
    parser.add_argument("--seconds", type=float, default=0.0, help="end all runs after so long; 0: never")
    parser.add_argument("--device", default="cuda:0")
    parser.add_argument("--note", default="")
    parser.add_argument("--output", default="benchmarks/results/mbpo_vs_sac.json")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    parser.add_argument("--algorithm", help=argparse.SUPPRESS)
    parser.add_argument("--seed", type=int, default=1, help=argparse.SUPPRESS)
    args, args.overrides = parser.parse_known_args()
    if args.child:
        train(args)
        return
    children = {}
    for seed in range(1, args.seeds + 1):
        for algorithm in reversed(ALGORITHMS):  # the longer runs first
            words = ["--algorithm", algorithm, "--seed", str(seed)]
            for key in ("env", "steps", "eval_every", "episodes", "device"):
                words += [f"--{key}", str(getattr(args, key))]
            words += args.overrides if algorithm == "MBPO" else []
            gpu = on_gpu((seed - 1) % args.gpus) if args.gpus else {}
            children[f"{algorithm} seed {seed}"] = Child(words, gpu)
    for found in run_children(str(Path(__file__)), children, args.jobs, args.seconds):
        write(args, found)
        print({name: result["curve"][-1] for name, result in found.items() if "curve" in result}, flush=True)


if __name__ == "__main__":
    main()
