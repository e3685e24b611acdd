"""SAC on HalfCheetah-v5 against CleanRL's `sac_continuous_action.py` (and LeanRL's), all seeds of all systems at once.

    python benchmarks/sac_vs_peers.py start --cleanrl cleanrl/sac_continuous_action.py --folder logs/sac
    python benchmarks/sac_vs_peers.py collect --folder logs/sac --output benchmarks/results/sac_halfcheetah.json

Every run is a process of its own with one CPU thread (`cleanrl_cpu`, which learns on the CPU, with four); they start
together and outlive the command that started them, so `collect` may be asked at any time. The peers' scripts run
unchanged (see peer_scripts.py). The deterministic policy plays `--episodes` episodes every `--eval_every` steps; the
clock stands still meanwhile. Seconds count from the first step of the environment, compilation included.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import mean, median
from typing import Any

TASK = "RoboRenForce-Gym-HalfCheetah-SAC"
CPU_THREADS = 4
"""Threads of each run of CleanRL that learns on the CPU, where it is faster than on a large GPU."""


class Record:
    """One line of JSON for every evaluation and every finished training episode, and a clock that can be stopped."""

    def __init__(self, path: str, args: argparse.Namespace) -> None:
        self._file, self._next, self._every = open(path, "a", buffering=1), args.eval_every, args.eval_every  # noqa: SIM115
        self._start, self._paused = 0.0, 0.0

    def start(self) -> None:
        """Start the clock."""
        self._start = time.perf_counter()

    def seconds(self) -> float:
        """Return the training time."""
        return round(time.perf_counter() - self._start - self._paused, 3)

    def episode(self, step: int, value: float) -> None:
        """Record a finished training episode."""
        self._write(kind="train", step=step, seconds=self.seconds(), value=round(value, 2))

    def evaluation(self, step: int, evaluate: Callable[[], float]) -> None:
        """Evaluate if it is time."""
        if step < self._next:
            return
        self._next += self._every
        seconds, before = self.seconds(), time.perf_counter()
        value = evaluate()
        self._paused += time.perf_counter() - before
        self._write(kind="eval", step=step, seconds=seconds, value=round(value, 2))

    def end(self, **facts: Any) -> None:
        """Record that the run is complete."""
        self._write(kind="end", **facts)

    def _write(self, **row: Any) -> None:
        self._file.write(json.dumps(row) + "\n")


# ------------------------------------------------------------------------------------------------ one run of one system


def run_peer(args: argparse.Namespace, record: Record) -> None:
    """Run CleanRL's or LeanRL's script unchanged; its environment reports steps and triggers evaluations."""
    import torch
    from peer_scripts import PeerScript, infos_of_old_gymnasium, modules_of_old_tensordict, record_wandb

    values = {"seed": args.seed, "env_id": args.env, "total_timesteps": args.steps}
    if args.system == "leanrl":
        values |= {"compile": True, "cudagraphs": torch.cuda.is_available()}
        modules_of_old_tensordict()
    if args.system == "cleanrl_cpu":
        values["cuda"] = False
    record_wandb(lambda values: None)
    script = PeerScript(args.script, values)
    steps = 0

    def on_step(rewards: Any, episodes: list[dict[str, float]]) -> None:
        nonlocal steps
        if not steps:
            record.start()
        steps += len(rewards)
        for episode in episodes:
            record.episode(steps, episode["r"])
        record.evaluation(steps, lambda: play_peer(script.namespace, args))

    infos_of_old_gymnasium(on_step)
    os.chdir(tempfile.mkdtemp())
    script.run()
    record.end(steps=steps, train_s=record.seconds())


def play_peer(namespace: dict[str, Any], args: argparse.Namespace) -> float:
    """Return the mean return of whole episodes with the mean of a peer's policy."""
    import gymnasium
    import numpy as np
    import torch

    actor, device = namespace["actor"], namespace["device"]
    envs = [gymnasium.make(args.env) for _ in range(args.episodes)]
    obs = np.stack([env.reset(seed=args.seed + 1000 + i)[0] for i, env in enumerate(envs)])
    returns, running = np.zeros(len(envs)), np.ones(len(envs), bool)
    while running.any():
        with torch.no_grad():
            center = torch.tanh(actor(torch.as_tensor(obs, dtype=torch.float32, device=device))[0])
            actions = (center * actor.action_scale + actor.action_bias).cpu().numpy().reshape(len(envs), -1)
        for i in np.flatnonzero(running):
            obs[i], reward, terminated, truncated, _ = envs[i].step(actions[i])
            returns[i] += reward
            running[i] = not (terminated or truncated)
    return float(returns.mean())


def run_ours(args: argparse.Namespace, record: Record) -> None:
    """Run our registered task through the public interface, as `train_gym.py` does."""
    import torch
    from RoboRenForce.runners.callbacks import Callback
    from RoboRenForce.runners.evaluation import evaluate
    from RoboRenForce.utils.registry import load_task
    from RoboRenForce.utils.seeding import preserved_rng

    task = load_task(args.task)
    task.apply_overrides(args.overrides)
    device = args.device if torch.cuda.is_available() else "cpu"
    task.env_cfg = task.env_cfg.replace(env_id=args.env, seed=args.seed, device=device)
    per_iteration = task.runner_cfg.num_steps_per_env * task.env_cfg.num_envs
    task.runner_cfg = task.runner_cfg.replace(
        seed=args.seed, max_iterations=-(-args.steps // per_iteration), logger=[], report=False
    )
    eval_env = task.env_cfg.replace(num_envs=args.episodes, seed=args.seed + 1000).build()

    class RecordCallback(Callback):
        def on_start(self, runner: Any) -> None:
            record.start()

        def after_iteration(self, runner: Any, metrics: dict[str, float]) -> None:
            if "Train/mean_reward" in metrics:
                record.episode(runner.steps, metrics["Train/mean_reward"])
            record.evaluation(runner.steps, lambda: self.play(runner))

        def play(self, runner: Any) -> float:
            runner.algorithm.eval()
            with preserved_rng():
                result = evaluate(eval_env, runner.policy(), args.episodes, seed=args.seed + 1000)
            runner.algorithm.train()
            return result.mean

    runner = task.runner_cfg.build(env=task.env_cfg.build(), device=device, task=task.id, env_cfg=task.env_cfg)
    runner.callbacks.append(RecordCallback())
    with contextlib.redirect_stdout(open(os.devnull, "w")):
        runner.learn()
    record.end(steps=runner.steps, train_s=record.seconds())


# ------------------------------------------------------------------------------------------------ all runs


def start(args: argparse.Namespace) -> None:
    """Start every run in a session of its own and return."""
    from peer_scripts import ONE_THREAD, environment_with, shown_command

    folder = Path(args.folder)
    folder.mkdir(parents=True, exist_ok=True)
    scripts = {"cleanrl": args.cleanrl, "cleanrl_cpu": args.cleanrl, "leanrl": args.leanrl}
    options = {name: getattr(args, name) for name in ("env", "steps", "eval_every", "episodes", "device")}
    for system in args.systems.split(","):
        task = args.task if system == "ours" else system
        name = f"ours_{task.rpartition('-')[2].lower()}" if system.startswith("RoboRenForce-") else system
        for seed in range(args.first_seed, args.first_seed + args.seeds) if scripts.get(system, True) else ():
            path = folder / f"{name}_{seed}.jsonl"
            words = ["--record", str(path), "--system", system, "--seed", str(seed)]
            words += [word for key, value in options.items() for word in (f"--{key}", str(value))]
            if system in scripts:
                words += ["--script", str(Path(scripts[system]).resolve())]
            else:
                words += ["--task", task, *args.overrides]
            environment = os.environ | ONE_THREAD | (environment_with(args.leanrl_site) if system == "leanrl" else {})
            if system == "cleanrl_cpu":
                environment |= dict.fromkeys(ONE_THREAD, str(CPU_THREADS))
            command = [sys.executable, str(Path(__file__).resolve()), "child", *words]
            with open(path.with_suffix(".log"), "w") as log:
                subprocess.Popen(command, stdout=log, stderr=log, env=environment, start_new_session=True)
            print("started", path.stem, flush=True)
    facts = options | {"task": args.task, "seeds": args.seeds, "overrides": args.overrides}
    file = folder / "start.json"
    earlier = [json.loads(file.read_text())["command"]] if file.is_file() else []
    file.write_text(json.dumps(facts | {"command": "\n".join([*earlier, shown_command(sys.argv)])}))


def collect(args: argparse.Namespace) -> None:
    """Print the results so far, and write them to a result file."""
    from peer_scripts import shown_arguments
    from report import environment_report, write_json

    folder = Path(args.folder)
    facts = json.loads((folder / "start.json").read_text())
    runs: dict[str, list[dict[str, Any]]] = {}
    for path in sorted(folder.glob("*.log")):
        system, seed = path.stem.rsplit("_", 1)
        runs.setdefault(system, []).append({"seed": int(seed)} | read_run(path))
    good = {system: [run for run in found if "error" not in run] for system, found in runs.items()}
    medians = {system: medians_of([summary(run) for run in found]) for system, found in good.items()}
    for system, found in runs.items():
        print(system, [run["steps"] for run in found], medians[system], flush=True)
    command = facts.pop("command")
    data = {"benchmark": "sac_halfcheetah", "arguments": shown_arguments(facts), "medians": medians}
    peers = [system for system in good if not system.startswith("ours") and good[system] and good.get("ours")]
    if peers:
        data["ours_against"] = {peer: comparison(good["ours"], good[peer]) for peer in peers}
        print(json.dumps(data["ours_against"], indent=2), flush=True)
    data |= {"runs": runs, **environment_report(), "command": command} | ({"note": args.note} if args.note else {})
    data["hardware"]["torch_threads"] = 1  # of every run but those of cleanrl_cpu
    write_json(args.output, data)


def read_run(log: Path, points: int = 60) -> dict[str, Any]:
    """Read the curves of a run as `[step, seconds, return]`: all evaluations, training averaged to `points`."""
    path = log.with_suffix(".jsonl")
    rows = [json.loads(line) for line in path.read_text().splitlines()] if path.is_file() else []
    curves = {
        kind: [[row["step"], row["seconds"], row["value"]] for row in rows if row["kind"] == kind]
        for kind in ("eval", "train")
    }
    width = max(1, -(-len(curves["train"]) // points))
    blocks = [curves["train"][i : i + width] for i in range(0, len(curves["train"]), width)]
    curves["train"] = [[*block[-1][:2], round(mean(value for _, _, value in block), 1)] for block in blocks]
    end = next((row for row in rows if row["kind"] == "end"), None)
    steps = max([row.get("step", 0) for row in rows] + [end["steps"] if end else 0])
    found: dict[str, Any] = {"steps": steps, "complete": end is not None, **curves}
    if end is not None:
        found |= {"train_s": end["train_s"], "final_return": curves["eval"][-1][2]}
    elif "Traceback" in (text := log.read_text()[-4000:]):
        print(log.stem, "failed:", text, flush=True)
        found["error"] = text.strip().splitlines()[-1]
    return found


def summary(run: dict[str, Any]) -> dict[str, float]:
    """Return the numbers of a run, and its steps per second over the second half."""
    numbers = {key: run[key] for key in ("steps", "train_s", "final_return") if key in run}
    if run["eval"]:
        (middle, middle_s, _), (last, last_s, _) = run["eval"][(len(run["eval"]) - 1) // 2], run["eval"][-1]
        numbers["env_steps_per_s"] = round((last - middle) / (last_s - middle_s) if last > middle else last / last_s, 1)
    return numbers


def comparison(ours: list[dict[str, Any]], peer: list[dict[str, Any]]) -> dict[str, float]:
    """Return medians of both over their seeds at the last common evaluation, and their ratios."""
    common = min(run["eval"][-1][0] if run["eval"] else 0 for run in [*ours, *peer])
    found: dict[str, float] = {"steps": common}
    if not common:
        return found
    for name, runs in (("ours", ours), ("peer", peer)):
        known = [[point for point in run["eval"] if point[0] <= common] for run in runs]
        found[f"{name}_return"] = round(median(points[-1][2] for points in known), 1)
        found[f"{name}_return_of_last_5"] = round(median(mean(p[2] for p in points[-5:]) for points in known), 1)
        found[f"{name}_seconds"] = round(median(points[-1][1] for points in known), 1)
    for name in ("return", "return_of_last_5"):
        found[f"{name}_ratio"] = round(found[f"ours_{name}"] / found[f"peer_{name}"], 3)
    return found | {"speedup": round(found["peer_seconds"] / found["ours_seconds"], 2)}


def medians_of(samples: list[dict[str, float]]) -> dict[str, float]:
    """Return medians of the numbers that all samples have."""
    names = [name for name in (samples[0] if samples else {}) if all(name in sample for sample in samples)]
    return {name: median(sample[name] for sample in samples) for name in names}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("mode", choices=("start", "collect", "child"))
    parser.add_argument("--folder", default="logs/sac_vs_peers")
    parser.add_argument(
        "--systems",
        default="ours,cleanrl,leanrl",
        help="ours is --task, further ones of our task ids are allowed; a peer without a path is left out",
    )
    parser.add_argument("--cleanrl", default="", help="path of CleanRL's sac_continuous_action.py")
    parser.add_argument("--leanrl", default="", help="path of LeanRL's sac_continuous_action_torchcompile.py")
    parser.add_argument("--leanrl_site", default="", help="folder with TorchRL and its TensorDict, for LeanRL only")
    parser.add_argument("--task", default=TASK)
    parser.add_argument("--env", default="HalfCheetah-v5")
    parser.add_argument("--steps", type=int, default=300_000)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--first_seed", type=int, default=1)
    parser.add_argument("--eval_every", type=int, default=10_000)
    parser.add_argument("--episodes", type=int, default=10)
    parser.add_argument("--device", default="cuda:0")
    parser.add_argument("--note", default="")
    parser.add_argument("--output", default="benchmarks/results/sac_halfcheetah.json")
    for name in ("--record", "--system", "--script"):
        parser.add_argument(name, help=argparse.SUPPRESS)
    parser.add_argument("--seed", type=int, help=argparse.SUPPRESS)
    args, args.overrides = parser.parse_known_args()
    if args.mode != "child":
        (start if args.mode == "start" else collect)(args)
        return
    (run_peer if args.script else run_ours)(args, Record(args.record, args))


if __name__ == "__main__":
    main()
