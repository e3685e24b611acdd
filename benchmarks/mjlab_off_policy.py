"""Reward of PPO, FastSAC and FlashSAC on an MJLab task, against environment steps and against seconds.

    python benchmarks/mjlab_off_policy.py --task Go1Flat --gpus 4 \
        --output benchmarks/results/mjlab_off_policy_go1.json --plot docs/images/mjlab_off_policy_go1.png

Each `--run` is an algorithm of the registered tasks, or another task and an algorithm (`G1Flat-FastSAC`), then any
overrides: `--run "FlashSAC env.num_envs=2048"`. `--run "mjlab 300"` is mjlab's environment with rsl_rl's PPO for 300
iterations. Runs are processes of their own, one on each GPU at a time. The reward is that of `mjlab_train.py`: the mean
return of the last 100 episodes that ended while training, exploration included; `evaluation` is the mean return of the
deterministic policy afterwards. Seconds are those of stepping, learning, compilation and capture, without building the
environment. The summary gives for each run the first point at which it reaches `--share` of the reference: a number, or
the final reward of the algorithm named by `--reference`.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import math
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from itertools import accumulate
from pathlib import Path
from typing import Any

TAGS = {
    "steps": "Train/total_steps",
    "seconds": "Perf/total_time",
    "reward": "Train/mean_reward",
    "length": "Train/mean_episode_length",
    "linear_error": "Metrics/twist/error_vel_xy",
    "entropy": "Policy/entropy",
    "alpha": "Policy/alpha",
    "q_value": "Policy/q_value",
    "edge_mass_low": "Loss/edge_mass_low",
    "edge_mass_high": "Loss/edge_mass_high",
    "collection": "Perf/collection_time",
    "learning": "Perf/learning_time",
}
POLL = 0.2
PEER = "mjlab"
RUNS = ("PPO max_iterations=300", "FastSAC max_iterations=100", "FlashSAC max_iterations=100")
"""Off-policy learning gets a third of PPO's environment steps."""


def train(args: argparse.Namespace) -> None:
    """Train one run; writes its curves, one value per iteration, and the evaluation of the final policy."""
    from RoboRenForce.runners.evaluation import evaluate
    from RoboRenForce.utils.registry import load_task

    name, *overrides = args.child_run.split()
    if name == PEER:
        train_peer(args, int(overrides[0]))
        return
    task = load_task(f"RoboRenForce-MJLab-{name if '-' in name else f'{args.task}-{name}'}")
    task.env_cfg = task.env_cfg.replace(seed=args.seed, device="cuda:0")
    task.runner_cfg = task.runner_cfg.replace(seed=args.seed, report=False, logger=[], save_interval=100_000)
    if args.iterations:
        task.runner_cfg.max_iterations = args.iterations
    task.apply_overrides(overrides)
    begin = time.perf_counter()
    env = task.env_cfg.build()
    log_dir = tempfile.mkdtemp()
    runner = task.runner_cfg.build(env=env, log_dir=log_dir, device="cuda:0", task=task.id, env_cfg=task.env_cfg)
    built = time.perf_counter()
    with contextlib.redirect_stdout(io.StringIO()):
        runner.learn()
    learned = time.perf_counter()
    rows = [json.loads(line) for line in (Path(log_dir) / "metrics.jsonl").read_text().splitlines()]
    rows = [row for row in rows if TAGS["steps"] in row]
    result = {
        "run": args.child_run,
        "seed": args.seed,
        "num_envs": env.num_envs,
        "build_s": round(built - begin, 1),
        "learn_s": round(learned - built, 1),
        "curves": {name: [row.get(tag) for row in rows] for name, tag in TAGS.items()},
    }
    Path(args.child).write_text(json.dumps(result))  # kept if the evaluation is interrupted
    if args.episodes:
        result["evaluation"] = evaluate(env, runner.policy(), args.episodes, seed=args.seed).mean
        Path(args.child).write_text(json.dumps(result))
    runner.algorithm.close()


def train_peer(args: argparse.Namespace, iterations: int) -> None:
    """Run mjlab's own training, and write curves like ours."""
    from mjlab_train import run_rsl_rl

    robot, terrain = args.task[: args.task.index("1") + 1], args.task[args.task.index("1") + 1 :]
    task = f"Mjlab-Velocity-{terrain}-Unitree-{robot}"
    options = {"num_envs": 4096, "system": "peer", "curves": True, "device": "cuda:0"}
    result = run_rsl_rl(argparse.Namespace(task=task, iterations=iterations, seed=args.seed, **options))
    ends = list(accumulate(map(sum, result["times"])))
    rewards = dict(result["curves"]["reward"])
    curves = {
        "steps": [result["steps_per_iteration"] * (i + 1) for i in range(len(ends))],
        "seconds": ends,
        "reward": [rewards.get(i + 1) for i in range(len(ends))],
    }
    facts = {"run": args.child_run, "seed": args.seed, "num_envs": options["num_envs"], "build_s": 0.0}
    facts |= {"learn_s": round(result["total_s"], 1), "curves": curves}
    Path(args.child).write_text(json.dumps(facts))


def run_all(args: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Run every configuration with every seed, `args.gpus` at a time; results are written as they come."""
    waiting = [(run, seed) for seed in range(1, args.seeds + 1) for run in args.run]
    busy: dict[int, tuple[subprocess.Popen[str], Path, float, str]] = {}
    with tempfile.TemporaryDirectory() as folder:
        while waiting or busy:
            for gpu in sorted(set(range(args.gpus)) - busy.keys()):
                if waiting:
                    run, seed = waiting.pop(0)
                    path = Path(folder) / f"{gpu}_{len(waiting)}.json"
                    busy[gpu] = start(args, run, seed, gpu, path), path, time.perf_counter(), run
            time.sleep(POLL)
            for gpu, (process, path, begin, run) in list(busy.items()):
                if process.poll() is None:
                    if args.seconds and time.perf_counter() - begin > args.seconds:
                        process.send_signal(signal.SIGTERM)  # it finishes its iteration and reports
                        busy[gpu] = process, path, float("inf"), run
                    continue
                del busy[gpu]
                log = path.with_suffix(".log").read_text()
                result = json.loads(path.read_text()) if path.exists() else {"run": run, "error": log[-4000:]}
                slow = [line for line in log.splitlines() if "without a CUDA graph" in line or "steps as mjlab" in line]
                print(describe(result), *slow, sep="\n", flush=True)
                yield result


def start(args: argparse.Namespace, run: str, seed: int, gpu: int, path: Path) -> subprocess.Popen[str]:
    """Start a process that trains one configuration on one GPU."""
    command = [sys.executable, __file__, "--child", str(path), "--child_run", run, "--seed", str(seed)]
    command += ["--task", args.task, "--iterations", str(args.iterations), "--episodes", str(args.episodes)]
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    device = visible.split(",")[gpu] if visible else str(gpu)
    with path.with_suffix(".log").open("w") as log:
        return subprocess.Popen(
            command, stdout=log, stderr=subprocess.STDOUT, text=True, env=os.environ | {"CUDA_VISIBLE_DEVICES": device}
        )


def describe(result: dict[str, Any]) -> str:
    """Describe a run in a few lines, for the terminal."""
    if "error" in result:
        return f"{result['run']} failed: {result['error']}"
    curves, rows = result["curves"], len(result["curves"]["steps"])
    lines = [f"{result['run']} seed {result['seed']}: {result['num_envs']} envs, build {result['build_s']} s, "]
    lines[0] += f"learn {result['learn_s']} s, evaluation {result.get('evaluation')}"
    for index in sorted({*range(0, rows, max(rows // 12, 1)), rows - 1}):
        values = {name: values[index] for name, values in curves.items() if values[index] is not None}
        lines.append("  " + ", ".join(f"{name} {value:.4g}" for name, value in values.items()))
    return "\n".join(lines)


def summarize(runs: list[dict[str, Any]], reference: float, share: float) -> dict[str, dict[str, float | None]]:
    """Return where every run first reaches `share` of the reference, and its final numbers."""
    summary = {}
    for run in runs:
        curves = run["curves"]
        reached = [i for i, reward in enumerate(curves["reward"]) if reward is not None and reward >= share * reference]
        summary[f"{run['run']}, seed {run['seed']}"] = {
            "steps_to_share": curves["steps"][reached[0]] if reached else None,
            "seconds_to_share": curves["seconds"][reached[0]] if reached else None,
            "final_reward": curves["reward"][-1],
            "evaluation": run.get("evaluation"),
            "total_steps": curves["steps"][-1],
            "total_seconds": curves["seconds"][-1],
            "num_envs": run["num_envs"],
        }
    return summary


def reference_reward(runs: list[dict[str, Any]], reference: str) -> float:
    """Return `reference` as a number, or the mean final reward of the runs of that algorithm; NaN if there is none."""
    try:
        return float(reference)
    except ValueError:
        finals = [run["curves"]["reward"][-1] for run in runs if run["run"].split()[0] == reference]
        return sum(finals) / len(finals) if finals else math.nan


def plot(data: dict[str, Any], path: Path) -> None:
    """Plot reward against steps and against seconds; dashed: the summary's share of the reference."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 2, figsize=(10, 3.6), sharey=True)
    runs = list(dict.fromkeys(result["run"] for result in data["runs"]))
    share, machine = data["arguments"]["share"], (data["hardware"]["gpus"] or ["CPU"])[0]
    for result in data["runs"]:
        color, curves = f"C{runs.index(result['run'])}", result["curves"]
        label = f"{result['run'].split()[0]}, {result['num_envs']:,} environments" if result["seed"] == 1 else None
        axes[0].plot([x / 1e6 for x in curves["steps"]], curves["reward"], color=color, label=label)
        axes[1].plot(curves["seconds"], curves["reward"], color=color)
    for axis, words in zip(axes, ("million environment steps", f"training seconds, {machine}"), strict=True):
        axis.axhline(share * data["reference_reward"], color="gray", linestyle="--", linewidth=0.8)
        axis.set_xlabel(words)
        axis.grid(alpha=0.3)
    axes[0].set_ylabel("mean episode reward")
    axes[0].legend(fontsize=8)
    reference = data["arguments"]["reference"]
    figure.suptitle(f"{data['arguments']['task']}; dashed: {100 * share:.0f} % of the final reward of {reference}")
    figure.tight_layout()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=90)
    plt.close(figure)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--task", default="Go1Flat", help="Go1Flat, G1Flat, Go1Rough or G1Rough")
    parser.add_argument("--run", action="append", default=[], help="algorithm and overrides; may be given repeatedly")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--iterations", type=int, default=0, help="length of every run; 0: that of its configuration")
    parser.add_argument("--seconds", type=float, default=0.0, help="stop runs so long after their start; 0: never")
    parser.add_argument("--episodes", type=int, default=512, help="of the evaluation; 0: none")
    parser.add_argument("--gpus", type=int, default=1)
    parser.add_argument("--reference", default="PPO", help="a run, or a reward")
    parser.add_argument("--share", type=float, default=0.95)
    parser.add_argument("--output", default="benchmarks/results/mjlab_off_policy.json")
    parser.add_argument("--add", action="store_true", help="keep the runs that the output file has")
    parser.add_argument("--note", default="", help="conditions, for the page")
    parser.add_argument("--plot", help="picture to write")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    parser.add_argument("--child_run", help=argparse.SUPPRESS)
    parser.add_argument("--seed", type=int, default=1, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        train(args)
        return

    from peer_scripts import shown_arguments, shown_command
    from report import environment_report, write_json

    args.run = args.run or list(RUNS)
    output = Path(args.output)
    earlier = json.loads(output.read_text()) if args.add and output.is_file() else {"runs": [], "command": ""}
    commands = [*filter(None, [earlier["command"]]), shown_command(sys.argv)]
    results = [*earlier["runs"], *earlier.get("failed", [])]
    for result in run_all(args):
        results.append(result)
        runs = [result for result in results if "error" not in result]
        reference = reference_reward(runs, args.reference)
        data = {
            "benchmark": "mjlab_off_policy",
            "arguments": shown_arguments(vars(args)),
            "reference_reward": reference,
            "results": summarize(runs, reference, args.share),
            "runs": runs,
            "failed": [result for result in results if "error" in result],
            **environment_report(),
            "command": "\n".join(commands),
        }
        write_json(output, data | ({"note": args.note} if args.note else {}))
        if args.plot and runs:
            plot(data, Path(args.plot))
    for name, row in data["results"].items():
        print(name, row, flush=True)


if __name__ == "__main__":
    main()
