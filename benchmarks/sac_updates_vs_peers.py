"""SAC gradient updates a second: ours against CleanRL's and LeanRL's, on the same random transitions, no simulator.

    python benchmarks/sac_updates_vs_peers.py --cleanrl cleanrl/sac_continuous_action.py \
        --leanrl leanrl/sac_continuous_action_torchcompile.py --output benchmarks/results/sac_updates.json

One update is what each does between two environment steps: draw 256 transitions, update two critics of two layers of
256, the policy as often on average, the temperature and the target critics. Sizes are those of HalfCheetah (17
observations, 6 actions). Each variant runs in a process of its own with one CPU thread; the number is the median over
the repeats, after a warm-up in which compilation and capture happen. The peers' update code runs unchanged, cut out of
their training loop (see peer_scripts.py).
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import tempfile
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any

import torch
from peer_scripts import environment_with, run_child, write_rates

OBS, ACTIONS, BATCH = 17, 6, 256
TASK = "RoboRenForce-Gym-HalfCheetah-SAC"
"""Ours takes its networks and settings from this task; they are CleanRL's."""
VARIANTS = (
    "cleanrl",
    "leanrl_eager",
    "leanrl_compile",
    "leanrl_compile_graphs",
    "leanrl_compile_graphs_fixed_batch",
    "ours_fp32",
    "ours_tf32",
)
Update = Callable[[int], None]
"""Do that many updates."""


def random_transitions(size: int) -> dict[str, torch.Tensor]:
    """Return the same random data for all variants, on the CPU."""
    generator = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator)

    return {
        "observations": normal(size, OBS),
        "next_observations": normal(size, OBS),
        "actions": normal(size, ACTIONS).tanh(),
        "rewards": normal(size),
        "terminations": torch.rand(size, generator=generator) < 0.001,
    }


def make_cleanrl(args: argparse.Namespace) -> Update:
    """Run CleanRL's script up to its loop, fill its replay, and return the learning part of its loop."""
    script, run = prepare_peer(args.cleanrl, {}, "data = rb.sample(args.batch_size)")
    replay = script.namespace["rb"]
    data = {name: values.numpy() for name, values in random_transitions(args.transitions).items()}
    for i in range(args.transitions):
        rows = {name: values[i : i + 1] for name, values in data.items()}
        replay.add(
            rows["observations"],
            rows["next_observations"],
            rows["actions"],
            rows["rewards"],
            rows["terminations"],
            [{}],
        )
    return run


def make_leanrl(args: argparse.Namespace, **options: bool) -> Update:
    """Run LeanRL's script up to its loop, fill its replay, and return the learning part of its loop."""
    fixed = options.pop("fixed_batch", False)
    script, run = prepare_peer(args.leanrl, options, "pass" if fixed else "data = rb.sample(args.batch_size)")
    names, device = script.namespace, script.namespace["device"]
    from tensordict import TensorDict

    data = random_transitions(args.transitions)
    data["dones"] = data["terminations"]
    replay = names["rb"]
    replay.extend(TensorDict(data, batch_size=[args.transitions]).to(device))
    names["start_time"] = None  # the loop logs from the moment this is set
    names["data"] = replay.sample(BATCH)
    return run


def prepare_peer(path: str, options: dict[str, Any], before: str) -> tuple[Any, Update]:
    """Run a peer's script up to its loop; returns it, and a function that continues to count its steps."""
    from peer_scripts import PeerScript, infos_of_old_gymnasium, record_wandb

    record_wandb(lambda values: None)
    infos_of_old_gymnasium(lambda rewards, episodes: None)
    script = PeerScript(path, {"env_id": "HalfCheetah-v5", **options})
    os.chdir(tempfile.mkdtemp())
    script.run_until_loop()
    loop, step = script.updates(before), 10_000

    def run(count: int) -> None:
        nonlocal step
        with contextlib.redirect_stdout(open(os.devnull, "w")):
            loop(range(step, step + count))
        step += count

    return script, run


def make_ours(args: argparse.Namespace, **options: Any) -> Update:
    """Build our algorithm as a runner does, and fill its replay through `act` and `process_env_step`."""
    from RoboRenForce.algorithms import RunContext, Transition
    from RoboRenForce.envs.spec import ActionSpec, EnvSpec
    from RoboRenForce.utils.registry import load_task
    from tensordict import TensorDict

    envs, device = 1000, torch.device(args.device if torch.cuda.is_available() else "cpu")
    spec = EnvSpec(
        "synthetic", envs, {"policy": (OBS,)}, ActionSpec("continuous", ACTIONS), 1000, ("final_observations",)
    )
    task = load_task(TASK)
    task.apply_overrides(args.overrides)
    cfg = task.runner_cfg.algorithm.replace(learning_starts=args.transitions, batch_size=BATCH, **options)
    sac = cfg.build(policy=task.runner_cfg.policy, context=RunContext(spec=spec, device=device))
    data = {name: values.to(device) for name, values in random_transitions(args.transitions).items()}
    for start in range(0, args.transitions, envs):
        rows = {name: values[start : start + envs] for name, values in data.items()}
        obs, successors = (
            TensorDict({"policy": rows[name]}, batch_size=[envs]) for name in ("observations", "next_observations")
        )
        out = sac.act(obs)
        flags = {"terminated": rows["terminations"], "time_outs": torch.zeros_like(rows["terminations"])}
        extras = {**flags, "final_observations": successors}
        step = successors, rows["rewards"], rows["terminations"].long(), extras
        sac.process_env_step(Transition.of_step(obs, out.action, out.record, step))

    def run(count: int) -> None:
        for _ in range(count):
            sac.update()

    return run


def measure(run: Update, args: argparse.Namespace) -> dict[str, Any]:
    """Return updates per second of every repeat, and their median."""

    def synchronize() -> None:
        if torch.cuda.is_available():
            torch.cuda.synchronize()

    start = time.perf_counter()
    run(args.warmup)
    synchronize()
    rates, warmup_s = [], time.perf_counter() - start
    for _ in range(args.repeats):
        start = time.perf_counter()
        run(args.updates)
        synchronize()
        rates.append(round(args.updates / (time.perf_counter() - start), 1))
    rate = round(median(rates), 1)
    return {
        "updates_per_s": rate,
        "ms_per_update": round(1e3 / rate, 4),
        "warmup_s": round(warmup_s, 1),
        "updates_per_s_all": rates,
    }


def run_variant(args: argparse.Namespace) -> dict[str, Any]:
    """Run one variant in this process."""
    torch.manual_seed(0)
    name = args.variant
    if name == "cleanrl":
        return measure(make_cleanrl(args), args)
    if name.startswith("leanrl"):
        options = {"compile": "compile" in name, "cudagraphs": "graphs" in name, "fixed_batch": "fixed" in name}
        packages = ", ".join(f"{package} {version(package)}" for package in ("torchrl", "tensordict"))
        return measure(make_leanrl(args, **options), args) | {"packages": packages}
    return measure(make_ours(args, precision=name.removeprefix("ours_")), args)


def run_in_process(args: argparse.Namespace, name: str) -> dict[str, Any]:
    """Run one variant in a process of its own."""
    words = ["--variant", name]
    for key in ("cleanrl", "leanrl"):
        words += [f"--{key}", str(Path(getattr(args, key)).resolve())] if getattr(args, key) else []
    for key in ("updates", "repeats", "warmup", "transitions", "device"):
        words += [f"--{key}", str(getattr(args, key))]
    environment = environment_with(args.leanrl_site) if name.startswith("leanrl") else {}
    return run_child(__file__, [*words, *args.overrides], environment)


def ratios(results: dict[str, dict[str, Any]]) -> dict[str, dict[str, float]]:
    """Return the speed of each variant relative to CleanRL, and to the fastest LeanRL variant that draws batches."""
    rates = {name: result["updates_per_s"] for name, result in results.items() if "error" not in result}
    columns = {}
    for column, peer in (("times_cleanrl", "cleanrl"), ("times_leanrl", "leanrl")):
        base = [rate for name, rate in rates.items() if name.startswith(peer) and "fixed" not in name]
        if base:
            columns[column] = {name: round(rate / max(base), 2) for name, rate in rates.items()}
    return columns


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cleanrl", default="", help="path of CleanRL's sac_continuous_action.py")
    parser.add_argument("--leanrl", default="", help="path of LeanRL's sac_continuous_action_torchcompile.py")
    parser.add_argument("--leanrl_site", default="", help="folder with TorchRL and its TensorDict, for LeanRL only")
    parser.add_argument("--variants", default=",".join(VARIANTS), help="those of a peer without a path are left out")
    parser.add_argument("--updates", type=int, default=1000, help="updates in one repeat")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--warmup", type=int, default=200)
    parser.add_argument("--transitions", type=int, default=100_000)
    parser.add_argument("--device", default="cuda:0")
    parser.add_argument("--note", default="")
    parser.add_argument("--output", default="benchmarks/results/sac_updates.json")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    parser.add_argument("--variant", help=argparse.SUPPRESS)
    args, args.overrides = parser.parse_known_args()
    if args.child:
        result = run_variant(args)
        Path(args.child).write_text(json.dumps(result))
        return

    results: dict[str, dict[str, Any]] = {}
    for name in args.variants.split(","):
        peer = name.partition("_")[0]
        if peer != "ours" and not getattr(args, peer):
            continue
        results[name] = run_in_process(args, name)
        print(name, results[name].get("error", results[name]), flush=True)
        write_rates(args, "sac_updates", results, ratios(results))


if __name__ == "__main__":
    main()
