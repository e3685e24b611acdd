"""TD-MPC2: ours against the authors' code on one task of DeepMind Control and one GPU.

    python benchmarks/tdmpc2_peer.py --peer tdmpc2 --steps 50000 --seeds 3 --output benchmarks/results/tdmpc2_peer.json

`--peer` is a checkout of github.com/nicklashansen/tdmpc2, whose code runs unchanged: its configuration, environment
(dm_control), buffer, agent and training loop; only its logger is answered from here. `--peer_site` is a folder with
packages that only it needs (torchrl, dm_control, hydra). Ours is the registered task, whose physics is EnvPool's.

Each run is a process of its own. Speed is measured in one after the other; learning runs share the GPUs, `--jobs` at
a time, the two of a seed on the same one. After `--seconds` they are ended, and what they reached counts.

- speed: gradient updates per second at batches of 256, and milliseconds from an observation on the device to an action
  on the host, after a warm-up in which compilation and capture happen. Medians over the repeats.
- learn: return of ten episodes of the planner without exploration at every `--eval_every` steps, and the seconds until
  then, without evaluations. A step is a decision of two frames, for both; the authors' csv files count frames.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import torch
from children import Child, on_gpu, run_children, write_child
from peer_scripts import environment_with, shown_arguments, shown_command

TASKS = {
    "CartpoleSwingup": "cartpole-swingup",
    "PendulumSwingup": "pendulum-swingup",
    "BallInCupCatch": "cup-catch",
    "ReacherEasy": "reacher-easy",
    "WalkerWalk": "walker-walk",
    "CheetahRun": "cheetah-run",
    "HopperHop": "hopper-hop",
}
"""Our name -> the authors'."""
FILLED = 1500
"""Random steps in the replay when speed is measured."""
EPISODES = 10
RUNS = ("ours", "peer")
PEER_ENVIRONMENT = {"LAZY_LEGACY_OP": "0", "TORCHDYNAMO_INLINE_INBUILT_NN_MODULES": "1"}
"""What the peer's `train.py` sets before it imports torch."""
Curve = list[tuple[int, float, float]]
"""(step, return, seconds) of every evaluation."""


# ------------------------------------------------------------------------------------------------------------- ours


def our_runner(args: argparse.Namespace, *overrides: str) -> Any:
    """Build the registered task with this seed."""
    from RoboRenForce.utils.registry import load_task

    task = load_task(f"RoboRenForce-EnvPool-{args.task}-TDMPC2")
    task.apply_overrides([*overrides, *args.overrides])
    task.env_cfg = task.env_cfg.replace(seed=1000 * args.seed, device=args.device)
    cfg = task.runner_cfg.replace(seed=args.seed, logger=[], report=False, save_interval=10**9)
    return cfg.build(env=task.env_cfg.build(), device=args.device, task=task.id, env_cfg=task.env_cfg)


def our_speed(args: argparse.Namespace) -> dict[str, Any]:
    """Measure our learner after `FILLED` random steps."""
    sizes = [f"{name}={FILLED}" for name in ("algorithm.learning_starts", "num_steps_per_env")]
    runner = our_runner(args, *sizes, "algorithm.first_updates=0")
    obs, learner = runner.first_observations(), runner.algorithm
    learner.train()
    for _ in range(FILLED):
        obs = runner.step(obs)
    return speed(learner.updates, lambda: learner.act(obs).action.cpu(), args)


def our_learning(args: argparse.Namespace) -> dict[str, Any]:
    """Train, and evaluate at every `eval_every` steps."""
    from RoboRenForce.envs.env_cfg import evaluation_cfg
    from RoboRenForce.runners.evaluation import evaluate

    runner = our_runner(args, f"num_steps_per_env={args.eval_every}", f"max_iterations={args.steps // args.eval_every}")
    eval_cfg = evaluation_cfg(runner.env.cfg, EPISODES, 1000 * args.seed + 500)
    curve: Curve = []
    seconds = 0.0
    for part in range(args.steps // args.eval_every):
        start = time.perf_counter()
        runner.learn(1)
        synchronize()
        seconds += time.perf_counter() - start
        env = eval_cfg.build()
        found = evaluate(env, runner.policy(), EPISODES).mean
        env.close()
        curve.append(((part + 1) * args.eval_every, round(found, 1), round(seconds, 1)))
        write_child(args.child, {"curve": curve})
    return {"curve": curve}


# ------------------------------------------------------------------------------------------------------------ the peer


class PeerLogger:
    """What the peer's training loop asks of its logger; keeps the evaluations, and the time without them.

    Args:
        on_curve: Called with the curve after every evaluation of a trained agent.
    """

    def __init__(self, on_curve: Callable[[Curve], None] = lambda curve: None) -> None:
        self.curve: Curve = []
        self._on_curve = on_curve
        self.video = None
        self._start, self._evaluating = time.perf_counter(), 0.0

    def watch(self, trainer: Any) -> None:
        """Subtract the time of the trainer's evaluations."""
        evaluate = trainer.eval

        def timed() -> dict[str, Any]:
            synchronize()
            start = time.perf_counter()
            found = evaluate()
            self._evaluating += time.perf_counter() - start
            return found

        trainer.eval = timed

    def log(self, values: dict[str, Any], category: str = "train") -> None:
        """Keep an evaluation, if the agent has learned before it."""
        if category == "eval" and values["step"]:
            synchronize()
            seconds = time.perf_counter() - self._start - self._evaluating
            self.curve.append((int(values["step"]), round(float(values["episode_reward"]), 1), round(seconds, 1)))
            self._on_curve(self.curve)

    def finish(self, agent: Any) -> None:
        """Do nothing at the end."""


def make_peer(args: argparse.Namespace, **options: Any) -> Any:
    """Build the peer's trainer as its `train.py` does, with options of its configuration."""
    folder = Path(args.peer).resolve() / "tdmpc2"
    if not (folder / "config.yaml").exists():
        sys.exit(f"--peer {args.peer}: found no tdmpc2/config.yaml, expected a checkout of nicklashansen/tdmpc2.")
    sys.path.insert(0, str(folder))
    import hydra
    from omegaconf import OmegaConf

    hydra.utils.get_original_cwd = lambda: args.scratch  # a working directory that only Hydra's own start knows
    raw = OmegaConf.load(folder / "config.yaml")
    del raw["defaults"]
    settings = {"task": TASKS[args.task], "seed": args.seed, "model_size": 5, "enable_wandb": False} | options
    settings |= {"save_video": False, "save_agent": False, "save_csv": False, "data_dir": "", "checkpoint": ""}

    from common.parser import parse_cfg
    from common.seed import set_seed

    cfg = parse_cfg(OmegaConf.merge(raw, settings))
    set_seed(cfg.seed)
    torch.backends.cudnn.benchmark = True
    torch.set_float32_matmul_precision("high")
    from common.buffer import Buffer
    from envs import make_env
    from tdmpc2 import TDMPC2
    from trainer.online_trainer import OnlineTrainer

    env = make_env(cfg)
    logger = PeerLogger(lambda curve: write_child(args.child, {"curve": curve}))
    trainer = OnlineTrainer(cfg=cfg, env=env, agent=TDMPC2(cfg), buffer=Buffer(cfg), logger=logger)
    logger.watch(trainer)
    return trainer


def peer_speed(args: argparse.Namespace) -> dict[str, Any]:
    """Measure the peer's agent after `FILLED` random steps."""
    trainer = make_peer(args, steps=FILLED, eval_episodes=1, eval_freq=10**9)
    trainer.train()  # fewer steps than its random phase
    agent, obs = trainer.agent, trainer.env.reset()

    def act() -> Any:
        torch.compiler.cudagraph_mark_step_begin()  # as its loop does
        return agent.act(obs, t0=False)

    return speed(lambda: agent.update(trainer.buffer), act, args)


def peer_learning(args: argparse.Namespace) -> dict[str, Any]:
    """Run the peer's training."""
    trainer = make_peer(args, steps=args.steps + 501, eval_episodes=EPISODES, eval_freq=args.eval_every)
    trainer.train()  # it evaluates between two episodes
    return {"curve": trainer.logger.curve}


# ------------------------------------------------------------------------------------------------------------ measuring


def synchronize() -> None:
    """Wait for the device."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def speed(update: Callable[[], Any], act: Callable[[], Any], args: argparse.Namespace) -> dict[str, Any]:
    """Return updates per second, and the milliseconds of a planned action."""

    def seconds(function: Callable[[], Any], count: int) -> float:
        synchronize()
        start = time.perf_counter()
        for _ in range(count):
            function()
        synchronize()
        return (time.perf_counter() - start) / count

    start = time.perf_counter()
    seconds(update, args.warmup)
    seconds(act, args.warmup)
    warmup = time.perf_counter() - start
    updates = [round(1.0 / seconds(update, args.updates), 1) for _ in range(args.repeats)]
    plans = [round(1e3 * seconds(act, args.updates), 3) for _ in range(args.repeats)]
    return {
        "updates_per_s": median(updates),
        "plan_ms": median(plans),
        "warmup_s": round(warmup, 1),
        "updates_per_s_all": updates,
        "plan_ms_all": plans,
    }


CHILDREN: dict[str, Callable[[argparse.Namespace], dict[str, Any]]] = {
    "ours speed": our_speed,
    "peer speed": peer_speed,
    "ours learn": our_learning,
    "peer learn": peer_learning,
}


def child(args: argparse.Namespace, kind: str, seed: int) -> Child:
    """Return the process of one of `CHILDREN`."""
    words = ["--run", kind, "--seed", str(seed)]
    for key in ("task", "device", "steps", "eval_every", "updates", "repeats", "warmup"):
        words += [f"--{key}", str(getattr(args, key))]
    environment = {"MUJOCO_GL": args.gl} | (on_gpu((seed - 1) % args.gpus) if args.gpus else {})
    if not kind.startswith("peer"):
        return Child([*words, *args.overrides], environment)
    words += ["--peer", str(Path(args.peer).resolve())]
    return Child(words, {**environment, **PEER_ENVIRONMENT, **environment_with(args.peer_site)}, args.peer_python)


def at_equal_steps(curves: dict[str, Curve]) -> dict[str, dict[str, float]]:
    """Return every run's return and seconds at the last step at which all were evaluated; empty if there is none."""
    common = set.intersection(*({step for step, *_ in curve} for curve in curves.values())) if curves else set()
    if not common:
        return {}
    last = max(common)
    points = {name: next(point for point in curve if point[0] == last) for name, curve in curves.items()}
    return {name: {"steps": step, "return": value, "seconds": s} for name, (step, value, s) in points.items()}


def write(args: argparse.Namespace, results: dict[str, Any]) -> None:
    """Write what was measured so far, with the ratios of the speeds."""
    from report import environment_report, write_json

    data: dict[str, Any] = {"benchmark": "tdmpc2_peer", "arguments": shown_arguments(vars(args))}
    failed = {name: found["error"][-1500:] for name, found in results.items() if "error" in found}
    fine = {name: found for name, found in results.items() if "error" not in found}
    data["results"] = {name: found for name, found in fine.items() if "updates_per_s" in found}
    data["curves"] = {name: found["curve"] for name, found in fine.items() if "curve" in found}
    data["at_equal_steps"] = at_equal_steps(data["curves"])
    ours, peer = fine.get("ours speed"), fine.get("peer speed")
    if ours and peer:
        data["ours_over_peer"] = {key: round(ours[key] / peer[key], 3) for key in ("updates_per_s", "plan_ms")}
    data |= {**environment_report(), "command": shown_command(sys.argv)}
    if args.note:
        data["note"] = args.note
    write_json(args.output, data | ({"failed": failed} if failed else {}))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peer", default="", help="checkout of nicklashansen/tdmpc2; without it only ours runs")
    parser.add_argument("--peer_site", default="", help="folder with packages for the peer only")
    parser.add_argument("--peer_python", default="", help="interpreter of the peer, if not this one")
    parser.add_argument("--task", default="CartpoleSwingup", choices=TASKS)
    parser.add_argument("--parts", default="speed,learn")
    parser.add_argument("--steps", type=int, default=50_000, help="decisions of a training run")
    parser.add_argument("--eval_every", type=int, default=5000, help="between evaluations, episodes of 500")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--jobs", type=int, default=1, help="learning runs at a time")
    parser.add_argument("--gpus", type=int, default=0, help="GPUs that they are spread over; 0: all see the same")
    parser.add_argument("--seconds", type=float, default=0.0, help="end learning runs after so long; 0: never")
    parser.add_argument("--add", action="store_true", help="keep the runs that the output file has")
    parser.add_argument("--updates", type=int, default=500, help="updates, and plans, in one repeat")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--warmup", type=int, default=50)
    parser.add_argument("--device", default="cuda:0")
    parser.add_argument("--gl", default="disable", help="MUJOCO_GL; nothing is rendered")
    parser.add_argument("--note", default="")
    parser.add_argument("--output", default="benchmarks/results/tdmpc2_peer.json")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    parser.add_argument("--run", help=argparse.SUPPRESS)
    parser.add_argument("--seed", type=int, default=1, help=argparse.SUPPRESS)
    args, args.overrides = parser.parse_known_args()
    if args.child:
        args.scratch = str(Path(args.child).parent)
        write_child(args.child, CHILDREN[args.run](args))
        return
    output, earlier = Path(args.output), {}
    if args.add and output.is_file():
        written = json.loads(output.read_text())
        curves = {name: {"curve": curve} for name, curve in written["curves"].items()}
        earlier = written["results"] | curves
    systems = [name for name in RUNS if name == "ours" or args.peer]
    for part in args.parts.split(","):
        seeds = range(1, args.seeds + 1) if part == "learn" else [1]
        ending = " seed {}" if part == "learn" else ""
        children = {  # beside each other in time
            f"{system} {part}{ending.format(seed)}": child(args, f"{system} {part}", seed)
            for seed in seeds
            for system in systems
        }
        is_quiet = part != "learn"
        found: dict[str, Any] = {}
        for found in run_children(__file__, children, 1 if is_quiet else args.jobs, 0 if is_quiet else args.seconds):
            write(args, earlier | found)
        for name, result in found.items():
            print(name, {key: value for key, value in result.items() if "_all" not in key}, flush=True)
        earlier |= found


if __name__ == "__main__":
    main()
