"""Steps per second of the tabletop tasks on one device, with random actions: numbers alone, and with pixels.

python benchmarks/tabletop_steps.py --device cuda --num_envs 4096 --output benchmarks/results/tabletop_steps_cuda.json
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import torch
from report import environment_report, write_json
from RRF_tabletop_tasks import TabletopCfg
from RRF_tabletop_tasks.goals import GOALS, TaskName
from RRF_tabletop_tasks.registration import state_cfg

CASES = {"numbers": [], "front 64x64": ["front"], "front and wrist 64x64": ["front", "wrist"]}


def steps_per_second(
    task: TaskName, cameras: list[str], num_envs: int, device: str, seconds: float
) -> dict[str, float]:
    """By the wall clock and, which other work on the machine changes less, by the CPU time of this process."""
    options = {"num_envs": num_envs, "device": device}
    env = (TabletopCfg(task=task, cameras=cameras, **options) if cameras else state_cfg(task, **options)).build()
    actions = torch.rand(16, num_envs, 3, device=device) * 2.0 - 1.0
    for action in actions:
        env.step(action)
    _wait(device)
    steps, wall, cpu = 0, time.perf_counter(), time.process_time()
    while time.perf_counter() - wall < seconds:
        for action in actions:
            env.step(action)
        _wait(device)
        steps += len(actions) * num_envs
    return {"wall": steps / (time.perf_counter() - wall), "cpu": steps / (time.process_time() - cpu)}


def _wait(device: str) -> None:
    if device.startswith("cuda"):
        torch.cuda.synchronize(device)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--num_envs", type=int, default=64)
    parser.add_argument("--seconds", type=float, default=5.0, help="per case")
    parser.add_argument("--threads", type=int, default=1, help="of torch on the CPU")
    parser.add_argument("--output", type=Path, help="JSON file")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    results: dict[str, dict[str, dict[str, float]]] = {}
    for task in GOALS:
        results[task] = {}
        for name, cameras in CASES.items():
            measured = steps_per_second(task, cameras, args.num_envs, args.device, args.seconds)
            results[task][name] = measured
            wall, cpu = measured["wall"], measured["cpu"]
            print(f"{task:6s} {name:22s} {wall:12,.0f} steps/s (by CPU time {cpu:,.0f})", flush=True)
    if args.output is not None:
        options = {"num_envs": args.num_envs, "device": args.device}
        write_json(args.output, {**environment_report(), **options, "steps_per_second": results})


if __name__ == "__main__":
    main()
