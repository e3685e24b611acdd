"""Steps per second of the tabletop tasks on one device, with random actions: numbers alone, and with pixels.

    python benchmarks/tabletop_steps.py --output benchmarks/results/tabletop_steps.json
    python benchmarks/tabletop_steps.py --device cuda --num_envs 4096 --output benchmarks/results/tabletop_cuda.json

On a CPU one thread is used. Each number is the best of several repeats, for other work on the machine can only slow it
down; `load` is how much there was (mean number of running processes of the last minute, before and after).
"""

from __future__ import annotations

import argparse
import os
import time
from pathlib import Path

import torch
from report import environment_report, write_json
from RRF_tabletop_tasks import TabletopCfg
from RRF_tabletop_tasks.goals import GOALS, TaskName
from RRF_tabletop_tasks.registration import state_cfg

CASES = {"numbers": [], "front 64x64": ["front"], "front and wrist 64x64": ["front", "wrist"]}


def steps_per_second(
    task: TaskName, cameras: list[str], num_envs: int, device: str, seconds: float, repeats: int
) -> list[dict[str, float]]:
    """Of each repeat, by the wall clock and, which other work changes less, by the CPU time of this process."""
    options = {"num_envs": num_envs, "device": device}
    env = (TabletopCfg(task=task, cameras=cameras, **options) if cameras else state_cfg(task, **options)).build()
    actions = torch.rand(16, num_envs, 3, device=device) * 2.0 - 1.0
    for action in actions:
        env.step(action)
    _wait(device)
    samples = []
    for _ in range(repeats):
        steps, wall, cpu = 0, time.perf_counter(), time.process_time()
        while time.perf_counter() - wall < seconds:
            for action in actions:
                env.step(action)
            _wait(device)
            steps += len(actions) * num_envs
        samples.append({"wall": steps / (time.perf_counter() - wall), "cpu": steps / (time.process_time() - cpu)})
    return samples


def _wait(device: str) -> None:
    if device.startswith("cuda"):
        torch.cuda.synchronize(device)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--num_envs", type=int, default=64)
    parser.add_argument("--seconds", type=float, default=1.0, help="per repeat")
    parser.add_argument("--repeats", type=int, default=5, help="per case")
    parser.add_argument("--threads", type=int, default=1, help="of torch on the CPU")
    parser.add_argument("--output", type=Path, help="JSON file")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    load, results, runs = [os.getloadavg()[0]], {}, {}
    for task in GOALS:
        for name, cameras in CASES.items():
            case = f"{task}, {name}"
            runs[case] = steps_per_second(task, cameras, args.num_envs, args.device, args.seconds, args.repeats)
            wall, cpu = (max(sample[clock] for sample in runs[case]) for clock in ("wall", "cpu"))
            results[case] = {"steps_per_second": round(wall), "by_cpu_time": round(cpu)}
            print(f"{case:30s} {wall:12,.0f} steps/s (by CPU time {cpu:,.0f})", flush=True)
    load.append(os.getloadavg()[0])
    if args.output is not None:
        options = {name: getattr(args, name) for name in ("num_envs", "device", "seconds", "repeats", "threads")}
        note = f"best of the repeats; load {load[0]:.1f} before and {load[1]:.1f} after, on {os.cpu_count()} cores"
        measured = {"arguments": options, "results": results, "runs": runs, "load": load, "note": note}
        write_json(args.output, {"benchmark": "tabletop_steps", **measured, **environment_report()})


if __name__ == "__main__":
    main()
