"""Time PPO updates with CAPS, L2C2 and Lips as shares of plain PPO's, on synthetic rollouts of one size.

    python benchmarks/ppo_smooth_cost.py --device cuda --output benchmarks/results/ppo_smooth_cost.json

Size of a Go1 velocity task, as in `ppo_learner_vs_rsl_rl.py`. The variants take turns, each collects a rollout and
learns from it, so that all see the same machine; `share` is the median over the rounds of the additional time of an
update, in terms of the plain one of the same round. `--eager` adds the terms without CUDA graph and compilation.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from functools import partial
from pathlib import Path
from typing import Any

import torch
from peer_scripts import shown_arguments, shown_command
from ppo_learner_vs_rsl_rl import collect_ours, make_ours, make_spec, time_updates
from report import environment_report, write_json
from RoboRenForce import algorithms

TERMS: dict[str, list[Any]] = {
    "PPO": [],
    "CAPS": [algorithms.CAPSCfg()],
    "L2C2": [algorithms.L2C2Cfg()],
    "Lips jac, 1 probe": [algorithms.LipsCfg(probes=1)],
    "Lips jac, 4 probes": [algorithms.LipsCfg(probes=4)],
    "Lips lcp": [algorithms.LipsCfg(mode="lcp")],
}
WHOLE = {
    "CAPS, whole mini-batch": [algorithms.CAPSCfg(max_samples=10**9)],
    "L2C2, whole mini-batch": [algorithms.L2C2Cfg(max_samples=10**9)],
    "Lips jac, 1 probe, whole mini-batch": [algorithms.LipsCfg(probes=1, max_samples=10**9)],
}
EAGER = {"cuda_graph": "off", "compile": "off"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--num_envs", type=int, default=4096)
    parser.add_argument("--num_steps", type=int, default=24)
    parser.add_argument("--actor_obs", type=int, default=48)
    parser.add_argument("--critic_obs", type=int, default=72)
    parser.add_argument("--actions", type=int, default=12)
    parser.add_argument("--warmup", type=int, default=5, help="rounds, with compilation and capture")
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--eager", action="store_true", help="without CUDA graph and compilation too")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--output", default="benchmarks/results/ppo_smooth_cost.json")
    args = parser.parse_args()

    spec, device = make_spec(args), torch.device(args.device)
    modes: dict[str, dict[str, str]] = {"": {}} | ({", eager": EAGER} if args.eager else {})
    learners = {
        f"{name}{suffix}": make_ours(spec, device, args.num_steps, loss_terms=terms, **options)
        for suffix, options in modes.items()
        for name, terms in (TERMS | WHOLE).items()
    }
    times: dict[str, list[float]] = {name: [] for name in learners}
    for round_ in range(args.warmup + args.rounds):
        for name, learner in learners.items():
            collect = partial(collect_ours, learner, spec, device, args.num_steps)
            timed = time_updates(collect, learner.update, device, 0, 1)
            if round_ >= args.warmup:
                times[name].append(timed["update_ms"])
    results = {}
    for name, found in times.items():
        plain = times["PPO, eager" if name.endswith(", eager") else "PPO"]
        share = statistics.median(own / base - 1.0 for own, base in zip(found, plain, strict=True))
        results[name] = {"update_ms": round(statistics.median(found), 3), "share": round(share, 3)}
        results[name]["update_ms_all"] = [round(time, 3) for time in found]
        print(f"{name:40s} {results[name]['update_ms']:8.3f} ms  {100 * share:+6.1f} %", flush=True)
    data = {"benchmark": Path(__file__).stem, "arguments": shown_arguments(vars(args)), "results": results}
    write_json(args.output, data | environment_report() | {"command": shown_command(sys.argv)})


if __name__ == "__main__":
    main()
