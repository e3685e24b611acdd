"""Weak scaling of MJLab training over the GPUs of one host: the same number of environments on each.

    python benchmarks/mjlab_scaling.py --gpus 1,2,4 --output benchmarks/results/mjlab_scaling.json

Each size is `torchrun --nproc_per_node=N scripts/renforce/train_mjlab.py`, read from the metrics that the run writes.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from report import environment_report, write_json

SCRIPT = Path(__file__).parent.parent / "scripts" / "renforce" / "train_mjlab.py"


def train(gpus: int, args: argparse.Namespace) -> dict[str, Any]:
    """Train on `gpus` GPUs and return the medians after the warm-up, with the reward curve."""
    with tempfile.TemporaryDirectory() as folder:
        command = [
            sys.executable,
            "-m",
            "torch.distributed.run",
            "--standalone",
            f"--nproc_per_node={gpus}",
            str(SCRIPT),
        ]
        command += ["--task", args.task, "--num_envs", str(args.num_envs), "--device", "cuda"]
        command += ["--max_iterations", str(args.iterations), "--log_root", folder, "report=false"]
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
            return {"gpus": gpus, "error": f"exit code {process.returncode}: {output[-3000:]}"}
        rows = [json.loads(line) for line in metrics[0].read_text().splitlines()]
    rows = [row for row in rows if "Perf/total_fps" in row]
    kept = rows[args.warmup :]
    medians = {
        name: statistics.median(row[f"Perf/{name}"] for row in kept)
        for name in ("total_fps", "collection_time", "learning_time")
    }
    reward = [
        [row["Train/total_steps"], row["Train/mean_reward"]] for row in rows if row.get("Train/mean_reward") is not None
    ]
    return {
        "gpus": gpus,
        "steps_per_s": round(medians["total_fps"]),
        "collect_ms": round(1e3 * medians["collection_time"], 2),
        "learn_ms": round(1e3 * medians["learning_time"], 2),
        "reward_over_steps": reward,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--task", default="RoboRenForce-MJLab-Go1Flat-PPO")
    parser.add_argument("--gpus", default="1,2,4")
    parser.add_argument("--num_envs", type=int, default=4096, help="per GPU")
    parser.add_argument("--iterations", type=int, default=60)
    parser.add_argument("--warmup", type=int, default=20)
    parser.add_argument("--timeout", type=float, default=150.0)
    parser.add_argument("--output", default="benchmarks/results/mjlab_scaling.json")
    args = parser.parse_args()
    runs = []
    for gpus in (int(text) for text in args.gpus.split(",")):
        runs.append(train(gpus, args))
        print({key: value for key, value in runs[-1].items() if key != "reward_over_steps"}, flush=True)
    single = next((run["steps_per_s"] for run in runs if run["gpus"] == 1 and "steps_per_s" in run), None)
    if single:
        for run in runs:
            if "steps_per_s" in run:
                run["scaling"] = round(run["steps_per_s"] / single, 2)
    write_json(
        args.output, {"benchmark": "mjlab_scaling", "arguments": vars(args), "runs": runs, **environment_report()}
    )


if __name__ == "__main__":
    main()
