"""LiftColor from demonstrations to RL: success against demonstrations, and what GRPO and PPO add, by public commands.

    python benchmarks/lift_color.py --output benchmarks/results/lift_color.json

1. `collect_demos.py`: 500 episodes of a state-based teacher, disturbed by `--noise 0.3`: that of the package, or
   `--teacher`, a run of RoboRenForce-MJLab-LiftColor-PPO.
2. `train_single_gpu.py`: clones of 100, 200 and 500 of them, two seeds each, as many updates for all; each is played in
   384 episodes, and again with the instruction exchanged for another cube's.
3. `scripts/vla/rl/train.py`: GRPO and PPO from clones of `--rl_demonstrations`, stopped after `--rl_seconds`. Only red
   and green are asked for (and rewarded); blue is held out. Then the policy is played with all colours.

`--jobs` commands run side by side, spread over the GPUs that there are: seconds are those of machines shared so. The
result is written after each command; logs and runs stay below `--folder`.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import count
from pathlib import Path
from typing import Any

import torch
from report import environment_report, write_json

ROOT = Path(__file__).resolve().parents[1]
TASK = "RoboRenForce-MJLab-LiftColor"
TEACHER = ROOT / "source/tasks/RRF_mjlab/RRF_mjlab_tasks/lift_color/teacher.pt"
RECORDED = 500
"""Demonstrations, of which clones see some."""
FLOW = ["policy.head=RoboRenForce.components.action_heads.flow:FlowHeadCfg", "policy.head.chunk_size=8"]
MODELS: dict[str, list[str]] = {
    "regression": [],
    "flow": FLOW,
    "Qwen3-VL small": [
        *("--model_name", "qwen3_vl_small", "--lr", "3e-4", "--max_iterations", "15"),
        *("policy.backbone.shift=16", "dataset.repeat_first_frame=30"),
        "algorithm.cuda_graph=auto",
        "algorithm.parallel.mixed_precision=bf16",
        "algorithm.parallel.compile_blocks=true",
        "algorithm.parallel.blocks=[Qwen3VLVisionBlock,Qwen3VLTextDecoderLayer]",
    ],
}
"""What is cloned -> options beside those of the task. The first two have 1 million parameters, the third has 43.

It learns to find the cube that is named only where that decides, in the first frame of a demonstration: 6 frames later
the hand is there. So it sees that frame often, moved in the image lest it learns the scenes by heart."""
RL_HEADS = {"regression": [], "flow": [*FLOW, "policy.head.density=sde"]}
RL_ENVS = {"GRPO": 512, "VLAPPO": 2048}
"""A step of the simulator takes not much longer for four times as many environments. PPO learns from eight chunks of
many; GRPO waits for whole episodes, and learns more often from fewer."""
REWARDED = ("red", "green")


class Study:
    """The commands, their results so far, and the slots in which they run."""

    def __init__(self, args: argparse.Namespace) -> None:
        self.args, self.folder = args, Path(args.folder).resolve()
        self.folder.mkdir(parents=True, exist_ok=True)
        self.results: dict[str, Any] = {}
        self._lock, self._number = threading.Lock(), count()
        self._gpus = torch.cuda.device_count()

    def run(self, name: str, script: str, *options: str, seconds: float | None = None) -> Path:
        """Run a script in a folder of its own, and return that. After `seconds` it is asked to stop."""
        folder = self.folder / name.replace(",", "").replace(" ", "_")
        folder.mkdir(exist_ok=True)
        own = {"CUDA_VISIBLE_DEVICES": str(next(self._number) % self._gpus)} if self._gpus > 1 else {}
        command = [sys.executable, str(ROOT / script), *options, "--device", self.args.device]
        log = folder / f"{Path(script).stem}.log"
        with log.open("a", encoding="utf-8") as file:
            process = subprocess.Popen(
                command, cwd=folder, env={**os.environ, **own}, stdout=file, stderr=subprocess.STDOUT
            )
            try:
                code = process.wait(seconds)
            except subprocess.TimeoutExpired:
                process.send_signal(signal.SIGTERM)
                process.wait()
                code = 0
        if code:
            raise RuntimeError(f"{name}: {script} ended with {code}, see {log}")
        return folder

    def keep(self, name: str, **facts: Any) -> None:
        """Add to the results, and write them."""
        with self._lock:
            self.results.setdefault(name, {}).update(facts)
            print(
                name,
                json.dumps({key: value for key, value in facts.items() if key not in ("curve", "validation")}),
                flush=True,
            )
            if self.args.output:
                settings = {key: value for key, value in vars(self.args).items() if key not in ("output", "folder")}
                settings["teacher"] = TEACHER.name if self.args.teacher == str(TEACHER) else "RUN"
                facts = {"benchmark": "lift_color", "arguments": settings, "results": self.results}
                write_json(self.args.output, {**facts, **environment_report(), "command": _command()})

    # --------------------------------------------------------------------------------------------------- the commands

    def record(self) -> None:
        """Record the demonstrations, if they are not there."""
        started = time.monotonic()
        options = ("--checkpoint", self.args.teacher, "--output", "demos", "--noise", "0.3", "--codec", "libx264")
        where = ("--task", f"{TASK}-SFT", "--num_episodes", str(RECORDED), "--num_envs", "250", "--resume")
        self.run("recorded", "scripts/data/collect_demos.py", *where, *options, *self.args.env)
        self.keep("recorded", episodes=RECORDED, seconds=round(time.monotonic() - started))

    def clone(self, model: str, size: int, seed: int) -> Path:
        """Clone, and play with either instruction. Return the run."""
        name = f"{model}, {size} demonstrations, seed {seed}"
        chosen = [index * RECORDED // size for index in range(size)]  # short episodes end, and are saved, first
        data = [f"--dataset_path={self.folder}/recorded/demos", f"dataset.episodes={chosen}"]
        options = ["--task", f"{TASK}-BC", "--seed", str(seed), "--num_workers", "2", "eval_interval=0"]
        options += ["--max_iterations", str(self.args.updates // 100), *MODELS[model], *data]
        started = time.monotonic()
        folder = self.run(name, "scripts/vla/pretrain/train_single_gpu.py", *options)
        run = newest(folder)
        rows = metrics(run)
        seen = [row for row in rows if "Val/action_error" in row]
        self.keep(
            name,
            updates=int(rows[-1]["Train/updates"]),
            validation_error=round(seen[-1]["Val/action_error"], 4) if seen else None,
            seconds=round(time.monotonic() - started),
            validation=[validation(row) for row in seen],
        )
        self.keep(name, **self.play(name, run))
        exchanged = self.play(name, run, "env.exchange=true")
        self.keep(name, exchanged=exchanged["success"])
        return run

    def improve(self, algorithm: str, model: str, seed: int, start: Future[Path]) -> None:
        """Learn by rewards from a clone, and play with all colours."""
        name = f"{algorithm} from {model}, seed {seed}"
        run = start.result()
        options = ["--task", f"{TASK}-{algorithm}", f"algorithm.init_from={run}", *RL_HEADS[model]]
        options += ["--seed", str(seed), "--num_envs", str(RL_ENVS[algorithm]), "--max_iterations", "100000"]
        options += [f"env.targets=[{','.join(REWARDED)}]", *self.args.env]
        folder = self.run(name, "scripts/vla/rl/train.py", *options, seconds=self.args.rl_seconds)
        improved = newest(folder)
        rows = metrics(improved)
        every = max(1, len(rows) // 20)
        curve = [
            {
                "seconds": round(row["time"] - rows[0]["time"] + rows[0]["Perf/total_time"], 1),
                "env_frames": int(row["Train/total_steps"]),
                "success_sampled": round(row["env/success_once"], 3),
            }
            for row in [*rows[::every], rows[-1]]
            if "env/success_once" in row
        ]
        self.keep(name, iterations=len(rows), seconds=self.args.rl_seconds, curve=curve)
        self.keep(name, **self.play(name, improved, "env.targets=null"))

    def play(self, name: str, run: Path, *options: str) -> dict[str, Any]:
        """Success by colour, and of all."""
        episodes = str(self.args.episodes)
        where = ("--target", str(run), "--num_envs", episodes, "--episodes", episodes)
        self.run(name, "scripts/vla/play.py", *where, *options, *self.args.env)
        found = json.loads((run / "eval.json").read_text(encoding="utf-8"))["deterministic"]
        return {"success": round(found["success_rate"], 3), **by_colour(found["success_by_instruction"])}


def by_colour(instructions: dict[str, dict[str, float]]) -> dict[str, Any]:
    """Success of the colours that RL rewards, and of those that it does not."""
    found = {"success_rewarded_colours": (0.0, 0), "success_held_out_colour": (0.0, 0)}
    for text, row in instructions.items():
        key = list(found)[not any(color in text for color in REWARDED)]
        successes, episodes = found[key]
        found[key] = successes + row["rate"] * row["n"], episodes + int(row["n"])
    return {key: round(successes / max(1, episodes), 3) for key, (successes, episodes) in found.items()}


def validation(row: dict[str, Any]) -> dict[str, float]:
    """Loss, error on held-out episodes, and what is read."""
    found = {"updates": int(row["Train/updates"]), "loss": round(row["Loss/loss"], 4)}
    reads = {key.replace("Val/reads/", "reads_"): round(row[key], 3) for key in row if key.startswith("Val/reads/")}
    return {**found, "error": round(row["Val/action_error"], 3), **reads}


def _command() -> str:
    """The command without places of this machine."""
    parser = argparse.ArgumentParser()
    for name in ("--teacher", "--folder", "--output"):
        parser.add_argument(name)
    known, rest = parser.parse_known_args()
    return shlex.join(["python", "benchmarks/lift_color.py", *(["--teacher", "RUN"] if known.teacher else []), *rest])


def newest(folder: Path) -> Path:
    """Return the run directory that was made last."""
    return max(folder.glob("logs/RFRL/*/*/"), key=lambda path: path.name)


def metrics(run: Path) -> list[dict[str, Any]]:
    """Rows of `metrics.jsonl`."""
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--teacher", default=str(TEACHER), help="run or checkpoint of the teacher")
    parser.add_argument("--folder", default="lift_color", help="of demonstrations, runs and logs")
    parser.add_argument("--sizes", type=int, nargs="*", default=[100, 200, 500], help="numbers of demonstrations")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS))
    parser.add_argument("--episodes", type=int, default=384, help="in which a policy is played")
    parser.add_argument("--updates", type=int, default=2000, help="of a clone")
    parser.add_argument("--algorithms", nargs="*", default=["GRPO", "VLAPPO"], help="of RL")
    parser.add_argument("--rl_demonstrations", type=int, default=50, help="of the clones from which RL starts")
    parser.add_argument("--rl_seconds", type=int, default=540)
    parser.add_argument("--jobs", type=int, default=4, help="commands side by side")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--env", nargs="*", default=[], help="overrides for everything with an environment")
    parser.add_argument("--output", default="")
    args = parser.parse_args()
    study = Study(args)
    study.record()
    learners = [(algorithm, model) for algorithm in args.algorithms for model in args.models if model in RL_HEADS]
    with ThreadPoolExecutor(args.jobs) as pool:
        sizes = [(model, args.rl_demonstrations) for model in dict.fromkeys(model for _, model in learners)]
        sizes += [(model, size) for size in args.sizes for model in args.models]
        clones = {
            (model, size, seed): pool.submit(study.clone, model, size, seed)
            for model, size in dict.fromkeys(sizes)
            for seed in args.seeds
        }
        improved = [
            pool.submit(study.improve, algorithm, model, seed, clones[model, args.rl_demonstrations, seed])
            for algorithm, model in learners
            for seed in args.seeds
        ]
    failed = [job.exception() for job in [*clones.values(), *improved] if job.exception() is not None]
    for error in failed:
        print(error, file=sys.stderr)
    sys.exit(bool(failed))


if __name__ == "__main__":
    main()
