"""RLinf's own PPO step of pi0.5 as a process beside ours, by a script that starts its workers and prints JSON lines.

The script is called with `--rlinf CHECKOUT --iters N`, then `--sync` (weights go from the actor to the rollout before
every step), `--ray` (as Ray workers) or `--compile`, then settings as key=value. It prints, for each step after one of
warm-up, the stages

    rollout   seconds, samples_per_s, predict_samples_per_s, ...
    update    seconds, samples_per_s, step_s, sync_s, peak_gib, ratio, approx_kl, grad_norm, ...

or with `--ray` one stage `step_ray`: rollout_samples_per_s, update_samples_per_s, and times, in seconds, of
generate_rollouts, actor_training and step.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from statistics import median
from typing import Any

EXECUTED = 5
"""Actions of a chunk that are executed, in RLinf's configuration."""
PEERS: dict[str, tuple[int, list[str]]] = {
    "RLinf": (1, ["--sync"]),
    "RLinf 4 epochs": (4, ["--sync"]),
    "RLinf through Ray": (1, ["--ray"]),
    "RLinf compiled": (1, ["--sync", "--compile"]),
}
"""Row -> epochs of an update, and options of the script."""


def run_peer(name: str, args: argparse.Namespace) -> dict[str, Any]:
    """Run RLinf in this setting."""
    epochs, options = PEERS[name]
    horizon = args.decisions * EXECUTED
    settings = [
        f"env.train.total_num_envs={args.num_envs}",
        "env.train.rollout_epoch=1",
        f"env.train.max_steps_per_rollout_epoch={horizon}",
        f"env.train.max_episode_steps={horizon}",
        f"actor.global_batch_size={args.num_envs * args.decisions}",
        f"algorithm.update_epoch={epochs}",
    ]
    command = [sys.executable, args.peer, "--rlinf", args.rlinf, "--iters", str(args.peer_repeats), *options, *settings]
    environment = dict(os.environ, MUJOCO_GL="osmesa")  # RLinf asks EGL for numbers of devices otherwise
    environment |= {"PYTHONPATH": args.peer_packages} if args.peer_packages else {}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    try:
        return peer_row(done.stdout) | {"epochs": epochs}
    except (KeyError, ValueError) as error:  # it stopped early; its own words say why
        print(done.stderr[-3000:], file=sys.stderr, flush=True)
        return {"failed": done.returncode, "missing": str(error), "epochs": epochs}


def peer_row(text: str) -> dict[str, Any]:
    """Medians of what the peer's JSON lines say."""
    lines = [json.loads(line) for line in text.splitlines() if line.startswith("{")]
    by_stage: dict[str, list[dict[str, Any]]] = {}
    for line in lines:
        by_stage.setdefault(line["stage"], []).append(line)
    if ray := by_stage.get("step_ray"):
        times = [line["times"] for line in ray]
        steps = {"rollout_s": "generate_rollouts", "update_s": "actor_training", "step_s": "step"}
        found = {name: median(row[theirs] for row in times) for name, theirs in steps.items()}
        found |= {
            name: median(line[name] for line in ray) for name in ("rollout_samples_per_s", "update_samples_per_s")
        }
        return {name: round(value, 4) for name, value in found.items()}
    rollout, update = by_stage["rollout"], by_stage["update"]
    found = {
        "rollout_s": median(line["seconds"] for line in rollout),
        "update_s": median(line["seconds"] for line in update),
        "step_s": median(line["step_s"] for line in update),
        "rollout_samples_per_s": median(line["samples_per_s"] for line in rollout),
        "update_samples_per_s": median(line["samples_per_s"] for line in update),
        "predict_samples_per_s": median(line["predict_samples_per_s"] for line in rollout),
    }
    last = update[-1]
    for name in ("sync_s", "peak_gib", "prefix_tokens", "real_prefix_tokens", "ratio", "approx_kl", "grad_norm"):
        if last.get(name) is not None:
            found[name] = last[name]
    return {name: round(value, 4) for name, value in found.items()} | {"all": [*rollout, *update]}
