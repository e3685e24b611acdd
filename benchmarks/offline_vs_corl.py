"""Offline gradient updates a second: our IQL, TD3+BC, CQL and ReBRAC against CORL's scripts, on the same data.

    python benchmarks/offline_vs_corl.py --corl CORL/algorithms/offline --data halfcheetah_medium.hdf5 \
        --output benchmarks/results/offline_updates.json

CORL's `iql.py`, `td3_bc.py` and `cql.py` (PyTorch) and `rebrac.py` (JAX) run unchanged with their default networks and
batch sizes, and ours get the same ones: 256 transitions and two layers of 256; CQL three layers and 3 x 10 sampled
actions; ReBRAC 1,024 transitions, three layers of 256 and layer norm in the critics. Only data loading, logging and
argument parsing are answered from here (see peer_scripts.py), and nothing is evaluated. Each variant runs in a process
of its own with one CPU thread; the number is the median over the repeats after a warm-up.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import sys
import time
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from peer_scripts import run_child, write_rates

ALGORITHMS = {"iql": "IQL", "td3_bc": "TD3BC", "cql": "CQL", "rebrac": "ReBRAC"}
"""Name of CORL's script -> last word of our task's id."""
OBS, ACTIONS, HORIZON = 17, 6, 1000
KEYS = ("observations", "actions", "rewards", "terminals", "timeouts")


def load(path: str, size: int) -> dict[str, np.ndarray]:
    """Load transitions with D4RL's keys from an .npz or .hdf5 file; random ones of HalfCheetah's size without a path.

    Successors that a file does not have are taken from the next row.
    """
    if path:
        import h5py

        with np.load(path) if path.endswith(".npz") else h5py.File(path) as file:
            data = {key: file[key][:] for key in KEYS}
            known = "next_observations" in file
            successors = file["next_observations"][:] if known else data["observations"][1:]
        if not known:
            data = {key: values[:-1] for key, values in data.items()}
        return data | {"next_observations": successors}
    draw = np.random.default_rng(0)
    observations = draw.standard_normal((size + 1, OBS), dtype=np.float32)
    return {
        "observations": observations[:-1],
        "actions": np.tanh(draw.standard_normal((size, ACTIONS), dtype=np.float32)),
        "rewards": draw.standard_normal(size, dtype=np.float32),
        "next_observations": observations[1:],
        "terminals": np.zeros(size, bool),
        "timeouts": np.arange(1, size + 1) % HORIZON == 0,
    }


class Clock:
    """Times blocks of `updates` updates after `warmup` of them."""

    def __init__(self, args: argparse.Namespace) -> None:
        self.warmup, self.updates, self.count, self.times = args.warmup, args.updates, 0, []

    def tick(self, updates: int = 1) -> None:
        """Count further updates."""
        self.count += updates
        if self.count >= self.warmup and (self.count - self.warmup) % self.updates == 0:
            synchronize()
            self.times.append(time.perf_counter())

    def result(self) -> dict[str, Any]:
        """Return updates per second of every block, and their median."""
        pairs = zip(self.times, self.times[1:], strict=False)
        rates = [round(self.updates / (after - before), 1) for before, after in pairs]
        rate = round(median(rates), 1)
        return {"updates_per_s": rate, "ms_per_update": round(1e3 / rate, 4), "updates_per_s_all": rates}


def synchronize() -> None:
    """Wait for torch's GPU work, if torch is used."""
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        torch.cuda.synchronize()


def run_corl(args: argparse.Namespace) -> dict[str, Any]:
    """Run one of CORL's scripts, whose calls of `wandb.log` mark finished updates (ReBRAC: epochs of them)."""
    from peer_scripts import PeerScript, gym_with_dataset, record_wandb

    clock = Clock(args)
    data = load(args.data, args.transitions)
    gym_with_dataset(data)
    name, blocks = args.algorithm, args.repeats
    if name == "rebrac":
        import jax

        jax.tree_map = jax.tree_util.tree_map  # removed from jax since
        # The first epoch compiles, the second begins with an evaluation: both are warm-up.
        clock.warmup = 2 * args.updates
        record_wandb(lambda values: clock.tick(args.updates) if "ReBRAC/critic_loss" in values else None)
        values: dict[str, Any] = {
            "num_updates_on_epoch": args.updates,
            "num_epochs": blocks + 2,
            "eval_every": 10**9,
        }
    else:
        import torch

        record_wandb(lambda values: clock.tick())
        values = {
            "device": "cuda" if torch.cuda.is_available() else "cpu",
            "max_timesteps": args.warmup + blocks * args.updates,
            "eval_freq": 10**9,
            "env": "halfcheetah-medium-v2",
        }
    with contextlib.redirect_stdout(open(os.devnull, "w")):
        PeerScript(Path(args.corl) / f"{name}.py", values).run()
    return clock.result()


def run_ours(args: argparse.Namespace) -> dict[str, Any]:
    """Run our algorithm, with the settings of its task, on the same data and without a runner."""
    import torch
    from RoboRenForce.algorithms import RunContext
    from RoboRenForce.buffer.dataset import TransitionDataset
    from RoboRenForce.envs.spec import ActionSpec, EnvSpec
    from RoboRenForce.utils.registry import load_task

    data = load(args.data, args.transitions)
    device = torch.device(args.device if torch.cuda.is_available() else "cpu")
    task = load_task(f"RoboRenForce-D4RL-HalfCheetah-{ALGORITHMS[args.algorithm]}")
    task.apply_overrides(args.overrides)
    state, action = data["observations"].shape[1], data["actions"].shape[1]
    bound = (1.0,) * action
    actions = ActionSpec("continuous", action, tuple(-value for value in bound), bound)
    context = RunContext(
        spec=EnvSpec("synthetic", 1, {"policy": (state,)}, actions, HORIZON),
        device=device,
        max_updates=args.warmup + args.repeats * args.updates,
        obs_groups=task.runner_cfg.obs_groups,
        data=TransitionDataset.from_rows(data, source="benchmark"),
    )
    cfg = task.runner_cfg.algorithm.replace(precision=args.precision)
    learner = cfg.build(policy=task.runner_cfg.policy, context=context)
    clock = Clock(args)
    for _ in range(args.warmup + args.repeats * args.updates):
        learner.update()
        clock.tick()
    return clock.result()


def run_in_process(args: argparse.Namespace, system: str, algorithm: str) -> dict[str, Any]:
    """Run one variant in a process of its own."""
    words = ["--system", system, "--algorithm", algorithm, *(args.overrides if system == "ours" else [])]
    for key in ("corl", "data"):
        words += [f"--{key}", str(Path(getattr(args, key)).resolve())] if getattr(args, key) else []
    for key in ("updates", "repeats", "warmup", "transitions", "device", "precision"):
        words += [f"--{key}", str(getattr(args, key))]
    python = args.jax_python if (system, algorithm) == ("corl", "rebrac") else ""
    return run_child(__file__, words, {"XLA_PYTHON_CLIENT_PREALLOCATE": "false"}, python)


def ratios(results: dict[str, dict[str, Any]]) -> dict[str, dict[str, float]]:
    """Return the speed of each variant relative to CORL's script of the same algorithm."""
    rates = {name: result["updates_per_s"] for name, result in results.items() if "error" not in result}
    bases = {name: rates.get(f"{name.rpartition('_')[0]}_corl") for name in rates}
    columns = {name: round(rate / base, 2) for name, rate in rates.items() if (base := bases[name])}
    return {"times_corl": columns} if columns else {}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--corl", default="", help="folder with CORL's iql.py, td3_bc.py, cql.py and rebrac.py")
    parser.add_argument("--algorithms", default=",".join(ALGORITHMS))
    parser.add_argument("--data", default="", help=".npz or .hdf5 with D4RL's keys; random transitions if not given")
    parser.add_argument("--transitions", type=int, default=100_000, help="number of random transitions")
    parser.add_argument("--updates", type=int, default=1000, help="updates in one repeat")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--warmup", type=int, default=200)
    parser.add_argument("--device", default="cuda:0")
    parser.add_argument("--precision", default="fp32", help="of ours: fp32 as the peers, or tf32")
    parser.add_argument("--jax_python", default="", help="the Python that has JAX and Flax, for ReBRAC")
    parser.add_argument("--note", default="")
    parser.add_argument("--output", default="benchmarks/results/offline_updates.json")
    for name in ("--child", "--system", "--algorithm"):
        parser.add_argument(name, help=argparse.SUPPRESS)
    args, args.overrides = parser.parse_known_args()
    if args.child:
        result = (run_ours if args.system == "ours" else run_corl)(args)
        Path(args.child).write_text(json.dumps(result))
        return

    results: dict[str, dict[str, Any]] = {}
    for algorithm in args.algorithms.split(","):
        for system in ("corl", "ours") if args.corl else ("ours",):
            name = f"{algorithm}_{system}"
            results[name] = run_in_process(args, system, algorithm)
            print(name, results[name].get("error", results[name]), flush=True)
            write_rates(args, "offline_updates", results, ratios(results))


if __name__ == "__main__":
    main()
