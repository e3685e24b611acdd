"""A Go1 that learns in the imagination of a world model alone (RWM), against PPO in mjlab.

    python benchmarks/mjlab_world_model.py --jobs 2 --folder logs/world_model

Each `--run` is an algorithm of the registered tasks, then any overrides: `--run "MBPOPPO algorithm.num_starts=8192"`.
Runs are processes of their own, `--jobs` of them at a time. One learns until its last iteration, or for
`--train_seconds`; what is said below comes afterwards. Their run directories are kept in `--folder`, for
`play_mjlab.py --target ... --video`.

- reward: mjlab's mean episode reward in the real environments while learning, exploration included.
- evaluation: mean return of the deterministic policy in mjlab, and its share of PPO's.
- open loop: the model's predictions that read their own predictions, from steps that nothing learned from, taken by
  the final policy with exploration; beside those of the last recorded change that goes on (`velocity`).
"""

from __future__ import annotations

import argparse
import contextlib
import os
import shlex
import sys
import time
from pathlib import Path
from typing import Any

from children import Child, on_gpu, run_children, write_child
from peer_scripts import shown_arguments, shown_command

RUNS = ("PPO max_iterations=300", "MBPOPPO")
TAGS = {
    "steps": "Train/total_steps",
    "seconds": "Perf/total_time",
    "reward": "Train/mean_reward",
    "length": "Train/mean_episode_length",
    "model_nll": "Model/nll",
    "validation": "Model/validation_error",
    "disagreement": "Model/disagreement",
    "learning": "Perf/learning_time",
}
HORIZONS = (1, 2, 4, 8, 16, 32, 64, 96)
"""Steps ahead that the table has; the curves have all."""


# ------------------------------------------------------------------------------------------------ one run


def train(args: argparse.Namespace) -> None:
    """Train one run; writes curves in every iteration, then the evaluation and the errors of the model."""
    from RoboRenForce.runners.callbacks import Callback
    from RoboRenForce.runners.evaluation import evaluate
    from RoboRenForce.utils.registry import load_task

    begin = time.perf_counter()
    name, *overrides = shlex.split(args.child_run)
    task = load_task(f"RoboRenForce-MJLab-Go1Flat-{name}")
    task.env_cfg = task.env_cfg.replace(num_envs=args.num_envs, seed=args.seed, device=args.device)
    task.runner_cfg = task.runner_cfg.replace(seed=args.seed, report=False, save_interval=50)
    task.apply_overrides(overrides)
    env = task.env_cfg.build()
    cfg = task.runner_cfg
    runner = cfg.build(env=env, log_dir=args.folder, device=args.device, task=task.id, env_cfg=task.env_cfg)
    result: dict[str, Any] = {"build_s": round(time.perf_counter() - begin, 1), "num_envs": env.num_envs}
    curves: dict[str, list[float | None]] = {key: [] for key in TAGS}

    class Curves(Callback):
        def after_iteration(self, runner: Any, metrics: dict[str, float]) -> None:
            for key, tag in TAGS.items():
                curves[key].append(None if tag not in metrics else round(metrics[tag], 4))
            write_child(args.child, result | {"curves": known(curves)})
            if args.train_seconds and time.perf_counter() - begin > args.train_seconds:
                runner.target = runner.iteration

    runner.callbacks.append(Curves())
    with contextlib.redirect_stdout(open(os.devnull, "w")):
        runner.learn()
    result["curves"] = known(curves)
    result["iterations"] = runner.iteration
    runner.algorithm.eval()
    played = evaluate(env, runner.policy(), args.episodes, seed=args.seed)
    result["evaluation"] = {"return": played.mean, "std": played.std, "n": played.n, "length": played.mean_length}
    write_child(args.child, result)
    if hasattr(runner.algorithm, "model"):
        result["open_loop"] = judge_model(runner, args.horizon)
        write_child(args.child, result)


def judge_model(runner: Any, horizon: int) -> dict[str, Any]:
    """Take new steps with the final policy, and return the errors of the model's predictions of them."""
    import torch
    from RoboRenForce.algorithms.model_based.open_loop import open_loop
    from RoboRenForce.algorithms.model_based.step_table import StepTable
    from RoboRenForce.buffer.transition import Transition

    learner = runner.algorithm
    model, replay = learner.model.eval(), learner.replay
    steps = model.cfg.history + horizon + 1
    cfg = learner.cfg.replay.replace(capacity=steps * runner.env.num_envs)
    learner.replay = cfg.build(spec=replay.spec, gamma=1.0, batch_size=1, device=runner.device)
    obs, _ = runner.env.reset()
    learner.restart_episodes()
    for _ in range(steps):
        out = learner.act(obs)
        transition = Transition.of_step(obs, out.action, out.record, runner.env.step(out.action))
        learner.process_env_step(transition)
        obs = transition.reset_obs
    table = StepTable(model.layout, runner.env.spec, learner.replay.num_slots, runner.device)
    table.fill_from_replay(learner.replay)
    learner.replay = replay
    first = torch.arange(runner.env.num_envs, device=table.device) * steps + model.cfg.history  # whose history is whole
    return open_loop(model, table, first, horizon)


def known(curves: dict[str, list[float | None]]) -> dict[str, list[float | None]]:
    """Return the curves that have a value."""
    return {key: values for key, values in curves.items() if any(value is not None for value in values)}


# ------------------------------------------------------------------------------------------------ all runs


def summarize(found: dict[str, Any]) -> dict[str, dict[str, float]]:
    """Return the last numbers of every run, and the share of PPO's evaluation, of the same seed if it has one."""
    evaluations = {name: result["evaluation"]["return"] for name, result in found.items() if "evaluation" in result}
    ppo = {name.rpartition(" seed ")[2]: value for name, value in evaluations.items() if name.split()[0] == "PPO"}
    rows: dict[str, dict[str, float]] = {}
    for name, result in found.items():
        curves = result.get("curves", {})
        rows[name] = {key: curves[key][-1] for key in ("steps", "seconds", "reward") if curves.get(key)}
        if name in evaluations:
            rows[name]["evaluation"] = round(evaluations[name], 2)
        reference = ppo.get(name.rpartition(" seed ")[2], max(ppo.values(), default=0.0))
        if name in evaluations and reference:
            rows[name]["share_of_ppo"] = round(evaluations[name] / reference, 3)
    return rows


def errors(found: dict[str, Any]) -> dict[str, dict[str, float]]:
    """Return the relative errors of the models and of the constant velocity, a row for each of `HORIZONS`."""
    rows: dict[str, dict[str, float]] = {}
    for name, result in found.items():
        relative = result.get("open_loop", {}).get("relative", {})
        for step in HORIZONS:
            if relative and step <= len(relative["model"]):
                model, guess = relative["model"][step - 1], relative["velocity"][step - 1]
                row = {"model": round(model, 4), "velocity": round(guess, 4), "ratio": round(model / guess, 4)}
                rows[f"{name}, {step} steps"] = row
    return rows


def write(args: argparse.Namespace, found: dict[str, Any]) -> None:
    """Write what was measured so far."""
    from report import environment_report, write_json

    data = {
        "benchmark": "mjlab_world_model",
        "arguments": shown_arguments(vars(args)),
        "results": summarize(found),
        "relative_errors": errors(found),
        "runs": {name: {key: value for key, value in run.items() if key != "error"} for name, run in found.items()},
        **environment_report(),
        "command": shown_command(sys.argv),
    }
    failed = {name: result["error"] for name, result in found.items() if "error" in result}
    extra = {"note": args.note} if args.note else {}
    write_json(args.output, data | extra | ({"failed": failed} if failed else {}))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", action="append", default=[], help="algorithm and overrides; may be given repeatedly")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--num_envs", type=int, default=4096)
    parser.add_argument("--episodes", type=int, default=512, help="of the evaluation")
    parser.add_argument("--horizon", type=int, default=96, help="steps that the model predicts")
    parser.add_argument("--train_seconds", type=float, default=0.0, help="end learning so long after the start")
    parser.add_argument("--seconds", type=float, default=0.0, help="end all processes after so long; 0: never")
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--gpus", type=int, default=0, help="GPUs that runs are spread over; 0: all see the same")
    parser.add_argument("--device", default="cuda:0")
    parser.add_argument("--folder", default="logs/world_model", help="of the run directories")
    parser.add_argument("--note", default="")
    parser.add_argument("--output", default="benchmarks/results/mjlab_world_model.json")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    parser.add_argument("--child_run", help=argparse.SUPPRESS)
    parser.add_argument("--seed", type=int, default=1, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        train(args)
        return
    args.run = args.run or list(RUNS)
    children: dict[str, Child] = {}
    for seed in range(1, args.seeds + 1):
        for index, run in enumerate(args.run):
            folder = Path(args.folder) / f"{run.split()[0]}_{index}_seed_{seed}"
            words = ["--child_run", run, "--seed", str(seed), "--folder", str(folder)]
            for key in ("num_envs", "episodes", "horizon", "train_seconds", "device"):
                words += [f"--{key}", str(getattr(args, key))]
            gpu = on_gpu(len(children) % args.gpus) if args.gpus else {}
            children[f"{run} seed {seed}"] = Child(words, gpu)
    found: dict[str, Any] = {}
    for found in run_children(str(Path(__file__)), children, args.jobs, args.seconds, poll=2.0):
        write(args, found)
    for rows in (summarize(found), errors(found)):
        for name, row in rows.items():
            print(name, row, flush=True)


if __name__ == "__main__":
    main()
