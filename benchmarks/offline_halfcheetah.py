"""Offline algorithms on our own data: HalfCheetah-v5 "medium", from a SAC run's first checkpoint above 5,000.

    python scripts/renforce/train_gym.py --task RoboRenForce-Gym-HalfCheetah-SAC --max_iterations 300 save_interval=10 \
        keep_checkpoints=null eval_interval=10
    python scripts/data/collect_dataset.py --target logs/RFRL/... --policy medium --medium_return 5000 \
        --steps 500000 --output halfcheetah_medium.hdf5
    python benchmarks/offline_halfcheetah.py --data halfcheetah_medium.hdf5 --updates 200000

Each algorithm trains in a process of its own, all of them at once, with the registered configuration of its task; the
return is that of ten deterministic episodes after the last update, the behavior's the mean over the recorded episodes.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ALGORITHMS = ("BC", "IQL", "TD3BC", "ReBRAC", "CQL")


def train(args: argparse.Namespace) -> dict[str, Any]:
    """Train one algorithm with one seed."""
    from RoboRenForce.runners.evaluation import evaluate
    from RoboRenForce.utils.logging import read_metrics
    from RoboRenForce.utils.registry import load_task

    task = load_task(f"RoboRenForce-D4RL-HalfCheetah-{args.algorithm}")
    task.apply_overrides(
        [
            f"dataset.source={args.data}",
            f"max_iterations={args.updates // 1000}",
            f"eval_interval={max(1, args.updates // 10_000)}",
            f"seed={args.seed}",
            "logger=[]",
            "report=false",
            *args.overrides,
        ]
    )
    task.env_cfg = task.env_cfg.replace(device=args.device)
    env = task.env_cfg.build()
    with tempfile.TemporaryDirectory() as folder:
        runner = task.runner_cfg.build(
            env=env, eval_env=task.env_cfg.replace(num_envs=10).build(), device=args.device, log_dir=folder
        )
        start = time.perf_counter()
        runner.learn()
        seconds = time.perf_counter() - start
        metrics = read_metrics(Path(folder) / "metrics.jsonl")
    result = evaluate(task.env_cfg.replace(num_envs=10, seed=1000 + args.seed).build(), runner.policy(), 10)
    kept = {
        name: round(metrics[name][1][-1], 3)
        for name in ("Policy/q_gap", "Policy/q_value", "Loss/critic")
        if name in metrics
    }
    curve = [list(point) for point in zip(*metrics.get("Eval/mean_reward", ([], [])), strict=True)]
    return {
        "return": round(result.mean, 1),
        "std": round(result.std, 1),
        "seconds": round(seconds),
        "curve": curve,
    } | kept


def behavior(path: str) -> dict[str, float]:
    """Return number and mean return of the recorded episodes."""
    from RRF_d4rl_tasks import OfflineDatasetCfg

    data = OfflineDatasetCfg(source=path).build()
    ends = (data.terminated | data.truncated).nonzero().flatten().tolist()
    starts = [0, *(end + 1 for end in ends[:-1])]
    returns = [float(data.reward[start : end + 1].sum()) for start, end in zip(starts, ends, strict=True)]
    return {"transitions": len(data.reward), "episodes": len(returns), "return": round(sum(returns) / len(returns), 1)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="what dataset.source may be")
    parser.add_argument("--updates", type=int, default=200_000)
    parser.add_argument("--algorithms", default=",".join(ALGORITHMS))
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--device", default="cuda:0")
    parser.add_argument("--note", default="")
    parser.add_argument("--output", default="benchmarks/results/offline_halfcheetah.json")
    parser.add_argument("--algorithm", help=argparse.SUPPRESS)
    parser.add_argument("--seed", type=int, help=argparse.SUPPRESS)
    args, args.overrides = parser.parse_known_args()
    if args.algorithm:
        sys.stdout.write("RESULT " + json.dumps(train(args)) + "\n")
        return
    from peer_scripts import shown_command
    from report import environment_report, write_json

    running = {
        (algorithm, seed): subprocess.Popen(
            [sys.executable, *sys.argv, "--algorithm", algorithm, "--seed", str(seed)],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
        for algorithm in args.algorithms.split(",")
        for seed in range(1, args.seeds + 1)
    }
    runs: dict[str, list[dict[str, Any]]] = {}
    for (algorithm, seed), process in running.items():
        text = process.communicate()[0]
        lines = [line for line in text.splitlines() if line.startswith("RESULT ")]
        found = json.loads(lines[-1].removeprefix("RESULT ")) if lines else {"error": text[-1500:]}
        runs.setdefault(algorithm, []).append({"seed": seed} | found)
        sys.stdout.write(f"{algorithm} {seed} {json.dumps({k: v for k, v in found.items() if k != 'curve'})}\n")
    facts = behavior(args.data)
    data = {
        "benchmark": "offline_halfcheetah",
        "arguments": {"updates": args.updates, "seeds": args.seeds, "overrides": args.overrides},
        "behavior": facts,
        "runs": runs,
        "share_of_behavior": {
            algorithm: [round(run["return"] / facts["return"], 3) for run in found if "return" in run]
            for algorithm, found in runs.items()
        },
        **environment_report(),
        "command": shown_command(sys.argv),
    }
    write_json(args.output, data | ({"note": args.note} if args.note else {}))


if __name__ == "__main__":
    main()
