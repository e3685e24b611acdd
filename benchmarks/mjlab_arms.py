"""Training of arms of a comparison on mjlab's tasks, each in a process of its own; see the scripts that import it."""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict
from multiprocessing import get_context
from pathlib import Path
from statistics import fmean, median
from typing import Any

from peer_scripts import shown_arguments, shown_command
from report import environment_report, write_json
from RoboRenForce.runners.callbacks import Callback, LogCallback
from RoboRenForce.runners.evaluation import evaluate, measure
from RoboRenForce.utils.registry import load_task

REWARD = {"reward": "Train/mean_reward", "length": "Train/mean_episode_length"}
VELOCITY = {"linear_error": "Metrics/twist/error_vel_xy", "angular_error": "Metrics/twist/error_vel_yaw"}
SPEED = {"steps_per_s": "Perf/total_fps"}
LAST = 20
"""Iterations over which the end of a curve is averaged."""


def parser(doc: str | None, arms: Iterable[str]) -> argparse.ArgumentParser:
    """Return a parser with the options that all comparisons have."""
    found = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    found.add_argument("--arms", nargs="+", choices=list(arms), default=list(arms))
    found.add_argument("--seeds", type=int, nargs="+", default=[1])
    found.add_argument("--iterations", type=int, help="of every arm (default: those of the arm)")
    found.add_argument("--num_envs", type=int, help="of every arm (default: those of the arm)")
    found.add_argument("--steps", type=int, default=500, help="over which a trained policy is measured")
    found.add_argument("--device", default="cuda")
    found.add_argument("--overrides", nargs="*", default=[], help="path=value for all arms, as in train_mjlab.py")
    found.add_argument("--folder", help="keep motions and runs here, to play and film them")
    found.add_argument("--output", required=True)
    return found


_stops: list[int] = []


def _note_stop(number: int, frame: Any) -> None:
    _stops.append(number)


def is_stopped() -> bool:
    """Return True if SIGTERM has come to this process: what it has is still played and written, nothing else begins."""
    return bool(_stops)


def run_arms(args: argparse.Namespace, run: Callable[[argparse.Namespace, str, int, Path], dict[str, Any]]) -> None:
    """Call `run(args, arm, seed, folder)` for all arms and seeds; the results so far are written after each.

    Every call has a process of its own, so that none inherits memory, caches or graphs; one that fails is in the
    results with its error. SIGTERM for the whole process group is the end of the machine's time: the training that
    runs ends after its iteration, what it learned is played and written, and no other arm begins. One that has not
    begun to learn by then fails, which is in the results too.
    """
    runs: dict[str, list[dict[str, Any]]] = {}
    signal.signal(signal.SIGTERM, _note_stop)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(args.folder or temporary).resolve()
        folder.mkdir(parents=True, exist_ok=True)
        for seed in args.seeds:
            for arm in args.arms:
                if _stops:
                    return
                found = _in_own_process(run, args, arm, seed, folder)
                runs.setdefault(arm, []).append({"seed": seed, **found})
                results = {name: means(each) for name, each in runs.items()}
                print(arm, seed, json.dumps(found.get("error") or found["last"] | found["played"]), flush=True)
                shown = {key: value for key, value in vars(args).items() if key not in ("folder", "output")}
                data = {"benchmark": Path(sys.argv[0]).stem, "arguments": shown_arguments(shown), "results": results}
                write_json(
                    args.output, data | {"runs": runs} | environment_report() | {"command": shown_command(sys.argv)}
                )


def means(runs: list[dict[str, Any]]) -> dict[str, float]:
    """Return means over seeds of the ends of curves and of what was played; runs that failed are left out."""
    good = [run["last"] | {f"played_{name}": v for name, v in run["played"].items()} for run in runs if "last" in run]
    names = dict.fromkeys(name for run in good for name in run)
    found = {name: round(fmean(run[name] for run in good if name in run), 5) for name in names}
    return found or {"runs_that_ended": 0}


def _in_own_process(run: Callable[..., dict[str, Any]], *args: Any) -> dict[str, Any]:
    # Outside of training, which has a handler of its own, the signal does not end the process either.
    handler = {"initializer": signal.signal, "initargs": (signal.SIGTERM, _note_stop)}
    with ProcessPoolExecutor(1, mp_context=get_context("spawn"), **handler) as pool:
        try:
            return pool.submit(run, *args).result()
        except Exception as error:  # noqa: BLE001 - the other arms are worth their time, and the result names it
            traceback.print_exc()
            return {"error": f"{type(error).__name__}: {error}"[:500]}


def train(
    args: argparse.Namespace,
    task_id: str,
    seed: int,
    run_dir: Path,
    *,
    num_envs: int,
    iterations: int,
    curves: Mapping[str, str],
    env: Mapping[str, Any] | None = None,
    overrides: Iterable[str] = (),
    callbacks: Iterable[Callback] = (),
) -> tuple[Any, dict[str, Any]]:
    """Train one task.

    Args:
        args: Options of the script.
        task_id: Task.
        seed: Seed.
        run_dir: Run directory.
        num_envs: Environments, unless `args` say otherwise; rounded up to whole blocks.
        iterations: Iterations, unless `args` say otherwise.
        curves: Name of a curve -> its tag.
        env: Further fields of the environment.
        overrides: `path=value` of this arm, before those of `args`.
        callbacks: Further callbacks. The configuration does not name them: that of a file may name no script's class.

    Returns:
        The runner, and what is known of its training.
    """
    os.environ.setdefault("WANDB_MODE", "disabled")
    task = load_task(task_id)
    blocks = task.env_cfg.groups.num_blocks if task.env_cfg.groups is not None else 1
    num_envs = -(-(args.num_envs or num_envs) // blocks) * blocks
    iterations = args.iterations or iterations
    task.env_cfg = task.env_cfg.replace(num_envs=num_envs, seed=seed, device=args.device, **(env or {}))
    task.runner_cfg = task.runner_cfg.replace(seed=seed, max_iterations=iterations, report=False)
    task.apply_overrides([*overrides, *args.overrides])
    runner = task.runner_cfg.build(
        env=task.env_cfg.build(), log_dir=str(run_dir), device=args.device, task=task.id, env_cfg=task.env_cfg
    )
    log = next(i for i, callback in enumerate(runner.callbacks) if isinstance(callback, LogCallback))
    runner.callbacks[log:log] = callbacks  # what they add is logged
    if is_stopped():  # nothing would end this training, which takes the time that playing the others needs
        raise RuntimeError("SIGTERM came before the training began.")
    begin = time.perf_counter()
    runner.learn()
    seconds = time.perf_counter() - begin
    if runner.stop.signal is not None:  # while it learns it has a handler of its own
        _stops.append(runner.stop.signal)
    rows = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    rows = [row for row in rows if "Perf/total_fps" in row]
    found = {name: _curve(rows, tag) for name, tag in (*curves.items(), *SPEED.items())}
    last = {name: round(fmean(v for _, v in points[-LAST:]), 5) for name, points in found.items() if points}
    last["steps_per_s"] = round(median(value for _, value in found.pop("steps_per_s")))
    result = {
        "task": task_id,
        "num_envs": num_envs,
        "iterations": runner.iteration,  # fewer than asked for after SIGTERM
        "steps_per_iteration": num_envs * task.runner_cfg.num_steps_per_env,
        "seconds": round(seconds, 1),
        "last": last,
        "curves": found,
    }
    return runner, result


def played(env: Any, policy: Any, args: argparse.Namespace, seed: int) -> dict[str, float]:
    """Play the mode of a policy: an episode in each environment, and its errors over `args.steps` steps."""
    found = evaluate(env, policy, env.num_envs, seed=seed)
    values = {"return": found.mean, "return_std": found.std, "mean_length": found.mean_length, "episodes": found.n}
    values |= {} if found.smoothness is None else asdict(found.smoothness)
    for subject, parts in measure(env, policy, args.steps, seed=seed).items():
        values |= {f"{subject}_{part}": value for part, value in parts.items() if part not in ("num_envs", "steps")}
    return {name: round(value, 5) for name, value in values.items() if value is not None}


def played_anew(task_id: str, policy: Any, args: argparse.Namespace, seed: int) -> dict[str, float]:
    """`played` in new environments of a task, at most 1,024: at the beginning of its curricula, for whatever policy."""
    task = load_task(task_id)
    task.env_cfg = task.env_cfg.replace(num_envs=min(args.num_envs or 1024, 1024), seed=seed, device=args.device)
    task.apply_overrides([override for override in args.overrides if override.startswith("env.")])
    env = task.env_cfg.build()
    found = played(env, policy, args, seed)
    env.close()
    return found


def _curve(rows: list[dict[str, Any]], tag: str) -> list[list[float]]:
    points = [(row["iteration"], row.get(tag)) for row in rows]
    return [[iteration, round(value, 5)] for iteration, value in points if value is not None]
