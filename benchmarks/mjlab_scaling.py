"""Weak scaling of a training script over the GPUs of one host: the same number of environments on each.

    python benchmarks/mjlab_scaling.py --gpus 1,2,4 --output benchmarks/results/mjlab_scaling.json
    python benchmarks/mjlab_scaling.py --task RoboRenForce-MJLab-Go1Flat-FastSAC --output fast_sac_scaling.json
    python benchmarks/mjlab_scaling.py --script scripts/vla/rl/train.py --task RoboRenForce-MJLab-LiftColor-VLAPPO \
        --num_envs 2048 --output lift_color_scaling.json algorithm.init_from=RUN

Each size is `torchrun --nproc_per_node=N SCRIPT`, read from the metrics that the run writes, `--runs` times in turn
with the other sizes. `exchange_ms` is what learning takes longer than on one GPU: sums over all of them, and waiting
for the slowest. What follows the options is passed on.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shlex
import signal
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from report import environment_report, write_json

ROOT = Path(__file__).parent.parent
GOALS = {"reward": "Train/mean_reward", "success": "env/success_once"}
"""Curve -> metric."""


def train(gpus: int, args: argparse.Namespace) -> dict[str, Any]:
    """Train on `gpus` GPUs and return the medians after the warm-up, with the reward curve."""
    with tempfile.TemporaryDirectory() as folder:
        command = [
            sys.executable,
            "-m",
            "torch.distributed.run",
            "--standalone",
            f"--nproc_per_node={gpus}",
            str(ROOT / args.script),
        ]
        command += ["--task", args.task, "--num_envs", str(args.num_envs), "--device", args.device]
        command += ["--max_iterations", str(args.iterations), "--log_root", folder, "report=false", *args.overrides]
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
        )
        try:
            output, _ = process.communicate(timeout=args.timeout)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            output, _ = process.communicate()
        metrics = list(Path(folder).rglob("metrics.jsonl"))
        if process.returncode or not metrics:
            print(output[-3000:], file=sys.stderr)
            return {"gpus": gpus, "error": f"exit code {process.returncode}"}
        rows = [json.loads(line) for line in metrics[0].read_text().splitlines()]
    rows = [row for row in rows if "Perf/total_fps" in row]
    kept = rows[args.warmup :]
    medians = {
        name: statistics.median(row[f"Perf/{name}"] for row in kept)
        for name in ("total_fps", "collection_time", "learning_time")
    }
    curves = {
        f"{name}_over_steps": [[row["Train/total_steps"], row[metric]] for row in rows if row.get(metric) is not None]
        for name, metric in GOALS.items()
    }
    return {
        "gpus": gpus,
        "steps_per_s": round(medians["total_fps"]),
        "collect_ms": round(1e3 * medians["collection_time"], 2),
        "learn_ms": round(1e3 * medians["learning_time"], 2),
        **{name: curve for name, curve in curves.items() if curve},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--script", default="scripts/renforce/train_mjlab.py")
    parser.add_argument("--task", default="RoboRenForce-MJLab-Go1Flat-PPO")
    parser.add_argument("--gpus", default="1,2,4")
    parser.add_argument("--num_envs", type=int, default=4096, help="per GPU")
    parser.add_argument("--runs", type=int, default=2, help="of each size")
    parser.add_argument("--iterations", type=int, default=60)
    parser.add_argument("--warmup", type=int, default=20)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--timeout", type=float, default=150.0, help="seconds of a run")
    parser.add_argument("--output", default="benchmarks/results/mjlab_scaling.json")
    parser.add_argument("overrides", nargs="*", help="field=value of the run")
    args = parser.parse_intermixed_args()
    runs: list[dict[str, Any]] = []
    shown = [re.sub(r"init_from=.*", "init_from=RUN", text) for text in sys.argv[1:]]  # no place of this machine
    settings = {key: value for key, value in vars(args).items() if key not in ("output", "overrides")}
    for gpus in args.runs * [int(text) for text in args.gpus.split(",")]:
        runs.append(train(gpus, args))
        compare(runs)
        print({key: value for key, value in runs[-1].items() if not key.endswith("_over_steps")}, flush=True)
        facts = {"benchmark": "mjlab_scaling", "arguments": settings, "runs": runs, **environment_report()}
        write_json(args.output, facts | {"command": shlex.join(["python", "benchmarks/mjlab_scaling.py", *shown])})


def compare(runs: list[dict[str, Any]]) -> None:
    """Add what several GPUs gain, and what their exchange takes, by the medians of one GPU."""
    alone = [run for run in runs if run["gpus"] == 1 and "steps_per_s" in run]
    if not alone:
        return
    steps, learn = (statistics.median(run[name] for run in alone) for name in ("steps_per_s", "learn_ms"))
    for run in runs:
        if "steps_per_s" in run:
            run["scaling"] = round(run["steps_per_s"] / steps, 2)
            run["exchange_ms"] = round(run["learn_ms"] - learn, 2)


if __name__ == "__main__":
    main()
