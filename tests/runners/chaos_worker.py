"""Run by `test_chaos.py`: a training that is killed again and again, at random moments and at every kind of write.

    python chaos_worker.py FOLDER KILLS SEED

Each life is a fork of this process, which resumes the run, trains and is killed: at its n-th change of a file, in
the middle of a checkpoint, or by the clock. What has to hold is asserted after every life and at the end.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
from pathlib import Path
from typing import Any

import torch
from RoboRenForce.algorithms import PPO
from RoboRenForce.runners.saved_run import SAVED_RUN, load_run
from RoboRenForce.utils import checkpoint
from RoboRenForce.utils.checkpoint import newest_usable
from RoboRenForce.utils.run_dir import RunDir
from small_runs import check_same, ppo_cfg, scripted

torch.set_num_threads(1)
FOLDER, KILLS, SEED = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
WRITES = ("open", "os.rename", "os.remove", "os.mkdir", "os.truncate", "fcntl.flock")
TIMES = ("time", "Perf/collection_time", "Perf/learning_time", "Perf/total_time", "Perf/total_fps")
CFG = ppo_cfg(num_steps_per_env=4, max_iterations=10_000, save_interval=2, keep_checkpoints=2)
CFG.eval_interval, CFG.eval_episodes = 3, 2
PPO.saves_directories = len(sys.argv) > 4


def train(run: RunDir, iterations: int) -> int:
    """One life that nothing ends: go on from the newest checkpoint; returns where it came to."""
    runner = CFG.build(env=scripted(), eval_env=scripted(num_envs=2), log_dir=run.root)
    newest = newest_usable(run, schema=SAVED_RUN)
    if newest is not None:
        runner.load(newest)
    runner.learn(iterations)
    return runner.iteration


def kill_at_write(root: Path, number: int) -> None:
    """Kill this process right before its `number`-th change of a file below `root`."""
    left = [number]

    def watch(event: str, args: tuple[Any, ...]) -> None:
        if event in WRITES and (event == "fcntl.flock" or str(args[0]).startswith(str(root))):
            left[0] -= 1
            if not left[0]:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(watch)


def kill_in_checkpoint(number: int) -> None:
    """Kill this process when half of its `number`-th checkpoint is written."""
    save, left = torch.save, [number]

    def half(data: Any, file: Any) -> None:
        save(data, file)
        left[0] -= 1
        if not left[0]:
            file.flush()
            file.truncate(file.tell() // 2)
            os.kill(os.getpid(), signal.SIGKILL)

    checkpoint.torch.save = half  # type: ignore[assignment]


def kill_by_clock(seconds: float) -> None:
    signal.signal(signal.SIGALRM, lambda *_: os.kill(os.getpid(), signal.SIGKILL))
    signal.signal(signal.SIGALRM, signal.SIG_DFL)  # ends the process at any moment, in the middle of a system call too
    signal.setitimer(signal.ITIMER_REAL, seconds)


def check_alive(run: RunDir) -> None:
    """After a kill: the newest checkpoint is whole."""
    there = run.checkpoints()
    assert load_run(there[max(there)])["iteration"] == max(there)


def lines(run: RunDir) -> list[dict[str, float]]:
    records = [json.loads(line) for line in run.metrics.read_text().splitlines()]
    return [{k: v for k, v in record.items() if k not in TIMES and not k.startswith("Eval/")} for record in records]


def main() -> None:
    generator = random.Random(SEED)
    killed, straight = RunDir(FOLDER / "killed"), RunDir(FOLDER / "straight")
    train(killed, 2)
    for life in range(KILLS):
        choice, number, seconds = life % 3, generator.randint(1, 40), generator.uniform(0.001, 0.3)
        child = os.fork()
        if not child:
            sys.stdout = open(os.devnull, "w")  # noqa: SIM115 - the process is killed
            if choice == 0:
                kill_at_write(killed.root, number)
            elif choice == 1:
                kill_in_checkpoint(1 + number % 3)
            else:
                kill_by_clock(seconds)
            train(killed, 1000)
            os._exit(0)
        _, status = os.waitpid(child, 0)
        assert os.WIFSIGNALED(status), f"life {life} ended by itself: {status}"
        check_alive(killed)
    iterations = train(killed, 2)
    train(straight, iterations)

    numbers = [line["iteration"] for line in lines(killed)]
    assert numbers == list(range(1, iterations + 1)), "metrics with doubled or missing lines"
    assert lines(killed) == lines(straight)
    ends = [load_run(run.checkpoints()[iterations]) for run in (killed, straight)]
    for part in ("algorithm", "local"):
        check_same(ends[0][part], ends[1][part], part)
    left = [path.name for path in killed.root.rglob("*") if path.name.endswith((".partial", ".aside", ".lock"))]
    assert not left, left
    assert killed.pointed("latest") == killed.checkpoints()[iterations]
    best = ends[0]["runner"]["best_iteration"]
    assert best is None or killed.pointed("best") == killed.checkpoints()[best]
    assert len(killed.checkpoints()) <= CFG.keep_checkpoints + 1
    print(f"{KILLS} kills, {iterations} iterations")


if __name__ == "__main__":
    main()
