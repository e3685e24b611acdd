"""Train an MJLab task with mjlab + rsl_rl, with ours, and with only one half exchanged; one process after the other.

    python benchmarks/mjlab_train.py --task Mjlab-Velocity-Flat-Unitree-Go1 --num_envs 4096 --iterations 40 \
        --warmup 10 --systems peer,learner,environment,ours --output benchmarks/results/mjlab_go1_4096.json
    python benchmarks/mjlab_train.py --iterations 300 --warmup 10 --seeds 2 --systems peer,ours --curves \
        --output benchmarks/results/mjlab_go1_curves.json

Systems: `peer` is mjlab's environment with rsl_rl's runner and PPO; `learner` puts our PPO into rsl_rl's runner by its
`class_name`; `environment` runs rsl_rl's runner and PPO on our environment; `ours` is our runner, PPO and environment;
`ours_bf16` is the same with `algorithm.precision=bf16`. A variant of `rsl_rl_peer.py` is `peer` with a release of
rsl_rl from a folder, and with its fast options:

    python benchmarks/mjlab_train.py --peer_site 5.4.2=FOLDER --peer_site 5.5.1=FOLDER \
        --systems rsl_rl_5.4.2,rsl_rl_5.5.1_bf16_compile,ours,ours_bf16

Throughput is the median over the iterations after the warm-up; compilation and capture happen in the warm-up and are
reported as `setup_s`. Without `--curves` rsl_rl runs without a log directory, which spares it its episode statistics;
ours always keeps them.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import rsl_rl_peer
from peer_scripts import shown_command

SYSTEMS = ("peer", "learner", "environment", "ours", "ours_bf16")
CURVES = {
    "reward": "Train/mean_reward",
    "length": "Train/mean_episode_length",
    "linear_error": "Metrics/twist/error_vel_xy",
    "angular_error": "Metrics/twist/error_vel_yaw",
}


def run_rsl_rl(args: argparse.Namespace) -> dict[str, Any]:
    """Run rsl_rl's runner on mjlab's or our environment, with rsl_rl's or our PPO."""
    import mjlab.tasks  # noqa: F401
    from mjlab.envs import ManagerBasedRlEnv
    from mjlab.rl import MjlabOnPolicyRunner, RslRlVecEnvWrapper
    from mjlab.tasks.registry import load_env_cfg, load_rl_cfg
    from mjlab.utils.torch import configure_torch_backends

    configure_torch_backends()
    if args.system == "environment":
        from RRF_mjlab_tasks import MJLabEnvCfg

        options = {"num_envs": args.num_envs, "seed": args.seed, "device": args.device}
        env = MJLabEnvCfg(task=args.task, final_observations=False, **options).build()
    else:
        cfg = load_env_cfg(args.task)
        cfg.scene.num_envs, cfg.seed = args.num_envs, args.seed
        env = RslRlVecEnvWrapper(ManagerBasedRlEnv(cfg=cfg, device=args.device))
    cfg = asdict(load_rl_cfg(args.task)) | {"logger": "tensorboard", "upload_model": False, "seed": args.seed}
    if args.system == "learner":
        cfg["algorithm"]["class_name"] = "RoboRenForce.interop.rsl_rl:PPO"
    elif rsl_rl_peer.is_variant(args.system):
        rsl_rl_peer.switch_on(cfg, args.system)
    log_dir = tempfile.mkdtemp() if args.curves else None
    import torch

    torch.manual_seed(args.seed)
    with contextlib.redirect_stdout(io.StringIO()):
        runner = MjlabOnPolicyRunner(env, cfg, log_dir, args.device)
    times: list[tuple[float, float]] = []
    log = runner.logger.log

    def timed_log(**values: Any) -> None:
        times.append((values["collect_time"], values["learn_time"]))
        with contextlib.redirect_stdout(io.StringIO()):
            log(**values)

    runner.logger.log = timed_log
    start = time.perf_counter()
    runner.learn(args.iterations, init_at_random_ep_len=True)
    result = {
        "times": times,
        "total_s": time.perf_counter() - start,
        "steps_per_iteration": args.num_envs * cfg["num_steps_per_env"],
    }
    return result | ({"curves": tensorboard_curves(log_dir)} if log_dir else {})


def tensorboard_curves(log_dir: str) -> dict[str, list[float]]:
    """Return the curves of a TensorBoard folder, one value per iteration that has one."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(log_dir, size_guidance={"scalars": 0})
    events.Reload()
    known = events.Tags()["scalars"]
    return {name: [[e.step + 1, e.value] for e in events.Scalars(tag)] for name, tag in CURVES.items() if tag in known}


def run_ours(args: argparse.Namespace) -> dict[str, Any]:
    """Run our runner, PPO and environment, as `train_mjlab.py` does."""
    from RoboRenForce.utils.registry import load_task

    task = load_task(args.task)
    task.env_cfg = task.env_cfg.replace(num_envs=args.num_envs, seed=args.seed, device=args.device)
    task.runner_cfg = task.runner_cfg.replace(seed=args.seed, max_iterations=args.iterations, report=False)
    task.apply_overrides(args.overrides)
    env = task.env_cfg.build()
    log_dir = args.log_dir or tempfile.mkdtemp()
    runner = task.runner_cfg.build(env=env, log_dir=log_dir, device=args.device, task=task.id, env_cfg=task.env_cfg)
    start = time.perf_counter()
    with contextlib.redirect_stdout(io.StringIO()):
        runner.learn()
    total = time.perf_counter() - start
    rows = [json.loads(line) for line in (Path(log_dir) / "metrics.jsonl").read_text().splitlines()]
    rows = [row for row in rows if "Perf/collection_time" in row]
    curves = {
        name: [[i + 1, row[tag]] for i, row in enumerate(rows) if tag in row and row[tag] is not None]
        for name, tag in CURVES.items()
    }
    return {
        "times": [(row["Perf/collection_time"], row["Perf/learning_time"]) for row in rows],
        "total_s": total,
        "steps_per_iteration": args.num_envs * task.runner_cfg.num_steps_per_env,
        "curves": curves,
    }


def summarize(result: dict[str, Any], warmup: int) -> dict[str, Any]:
    """Return medians of the iterations after the warm-up."""
    kept = result["times"][warmup:]
    collect, learn = (statistics.median(t[i] for t in kept) for i in (0, 1))
    wall = [collect + learn for collect, learn in result["times"]]
    return {
        "collect_ms": round(1e3 * collect, 2),
        "learn_ms": round(1e3 * learn, 2),
        "steps_per_s": round(result["steps_per_iteration"] / (collect + learn)),
        "setup_s": round(sum(wall[:warmup]) - warmup * (collect + learn), 1),
        "total_s": round(result["total_s"], 1),
        "wall_s": [round(sum(wall[: i + 1]), 3) for i in range(len(wall))],
    }


def run_in_process(args: argparse.Namespace, system: str, seed: int, environment: dict[str, str]) -> dict[str, Any]:
    """Run one system in a process of its own, so that none inherits the memory, caches or switches of another."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "result.json"
        command = [
            sys.executable,
            __file__,
            "--child",
            str(path),
            "--system",
            system,
            "--seed",
            str(seed),
            "--task",
            args.task,
        ]
        command += ["--num_envs", str(args.num_envs), "--iterations", str(args.iterations), "--device", args.device]
        command += ["--curves"] * args.curves + (
            ["--log_dir", f"{args.log_dir}/{system}_{seed}"] if args.log_dir else []
        )
        command += args.overrides if system.startswith("ours") else []
        command += ["algorithm.precision=bf16"] if system == "ours_bf16" else []
        done = subprocess.run(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=os.environ | environment
        )
        if done.returncode or not path.exists():
            return {"error": done.stdout[-3000:]}
        return json.loads(path.read_text())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--task", default="Mjlab-Velocity-Flat-Unitree-Go1")
    parser.add_argument("--num_envs", type=int, default=4096)
    parser.add_argument("--iterations", type=int, default=40)
    parser.add_argument("--warmup", type=int, default=10)
    parser.add_argument("--device", default="cuda:0")
    parser.add_argument("--systems", default=",".join(SYSTEMS))
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--first_seed", type=int, default=1)
    parser.add_argument("--curves", action="store_true", help="also keep reward and tracking error per iteration")
    rsl_rl_peer.add_peer_site(parser)
    parser.add_argument("--log_dir", help="keep the runs of ours below this folder")
    parser.add_argument("--output", default="benchmarks/results/mjlab_train.json")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    parser.add_argument("--system", help=argparse.SUPPRESS)
    parser.add_argument("--seed", type=int, default=1, help=argparse.SUPPRESS)
    args, args.overrides = parser.parse_known_args()
    os.environ.setdefault("WANDB_MODE", "disabled")
    if args.child:
        result = run_ours(args) if args.system.startswith("ours") else run_rsl_rl(args)
        Path(args.child).write_text(json.dumps(result))
        return

    from report import environment_report, write_json

    sites, systems = rsl_rl_peer.sites_of(args.peer_site), args.systems.split(",")
    del args.peer_site  # paths of this machine
    environments = {
        system: rsl_rl_peer.environment_of(system, sites) if rsl_rl_peer.is_variant(system) else {}
        for system in systems
    }
    runs: dict[str, list[dict[str, Any]]] = {}
    for seed in range(args.first_seed, args.first_seed + args.seeds):
        for system in systems:
            result = run_in_process(args, system, seed, environments[system])
            if "error" in result:
                print(system, "failed:", result["error"], flush=True)
                runs.setdefault(system, []).append({"seed": seed, **result})
                continue
            summary = {"seed": seed} | summarize(result, args.warmup)
            print(system, {k: v for k, v in summary.items() if k != "wall_s"}, flush=True)
            if args.curves:
                summary["curves"] = result.get("curves", {})
            else:
                summary.pop("wall_s")
            runs.setdefault(system, []).append(summary)
    data = {"benchmark": "mjlab_train", "arguments": vars(args), "runs": runs, **environment_report()}
    data["command"] = shown_command(sys.argv)
    peers = [system for system in systems if system == "peer" or rsl_rl_peer.is_variant(system)]
    if peers and "steps_per_s" in runs[peers[0]][0]:  # ratios are to the first of them
        peer = statistics.median(run["steps_per_s"] for run in runs[peers[0]])
        data["speedup"] = {
            system: round(statistics.median(r["steps_per_s"] for r in found) / peer, 2)
            for system, found in runs.items()
            if all("steps_per_s" in r for r in found)
        }
        print("speedup", data["speedup"], flush=True)
    write_json(args.output, data)


if __name__ == "__main__":
    main()
