"""Two processes, of which one stops, hangs, dies or loses its parent: the other one ends in time and says why."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from forked import PATIENCE, be_rank, exit_code, forked, free_port
from RoboRenForce import runners
from RoboRenForce.envs.scripted_env import ScriptedEnv, ScriptedEnvCfg
from RoboRenForce.utils.checkpoint import load_checkpoint
from RoboRenForce.utils.distributed import DistributedContext
from RoboRenForce.utils.errors import HangError, ProcessesLostError
from RoboRenForce.utils.logging import read_metrics
from RoboRenForce.utils.run_dir import RunDir
from small_runs import DoingAt, counting_cfg, scripted

pytestmark = pytest.mark.contract

LIMIT = 4.0


def build(folder: Path, what: Callable[[], Any] = lambda: None, **changes: Any) -> runners.Trainer:
    options = {"max_iterations": 4, "save_interval": 4, "step_timeout": LIMIT} | changes
    env = DoingAt(6, what)  # the second step of the second iteration
    return counting_cfg(**options).build(env=env, log_dir=folder)


def survive(port: int, folder: Path) -> None:
    """Rank 0 of a run whose other process gets lost; it can save what it has."""
    be_rank(0, port)
    runner = build(folder)
    try:
        runner.learn()
    except ProcessesLostError as error:
        (folder / "said").write_text(str(error))
        runner.save()


def stop_in_a_step(port: int, folder: Path) -> None:
    be_rank(1, port)
    build(folder, lambda: os.kill(os.getpid(), signal.SIGSTOP)).learn()


def hang_in_a_step(port: int, folder: Path) -> None:
    be_rank(1, port)
    runner = build(folder, lambda: time.sleep(PATIENCE), step_timeout=1.0)
    try:
        runner.learn()
    except HangError as error:
        (folder / "hung").write_text(str(error))
        assert runner.save() is None  # asks nobody


def die_in_a_step(port: int, folder: Path) -> None:
    be_rank(1, port)
    build(folder, lambda: os.kill(os.getpid(), signal.SIGKILL)).learn()


def run_against(other: Callable[[int, Path], None], folder: Path) -> str:
    """What rank 0 says when it is left alone; it has to end by itself."""
    port, log, run = free_port(), folder / "log", folder / "run"
    with forked(other, port, run, log=log), forked(survive, port, run, log=log) as main:
        assert exit_code(main) == 0, log.read_text()
    saved = load_checkpoint(run / "model_1.pt")
    assert saved["iteration"] == 1 and len(saved["local"]) == 1
    return (run / "said").read_text()


def test_a_process_that_is_stopped_is_named_by_the_one_that_waits(tmp_path: Path) -> None:
    said = run_against(stop_in_a_step, tmp_path)
    assert said.startswith("Rank 0 of 2 waited in to_host (metrics.py:")
    assert "rank 1 does not answer (step_timeout 4 s)" in said


def test_a_process_that_hangs_ends_and_so_does_the_other(tmp_path: Path) -> None:
    said = run_against(hang_in_a_step, tmp_path)
    assert said.startswith("Rank 0 of 2 waited in to_host")
    assert "step 2 of iteration 2 has not finished" in (tmp_path / "run" / "hung").read_text()


def test_a_process_that_dies_is_noticed_at_once(tmp_path: Path) -> None:
    assert run_against(die_in_a_step, tmp_path).startswith("Rank 0 of 2 waited in to_host")


# ---------------------------------------------------------------------------------------------- the parent goes away


def be_trained_by_torchrun(rank: int, port: int, folder: Path) -> None:
    """Trains until it is told to stop."""
    be_rank(rank, port)
    runner = build(folder, (folder / f"rank{rank}").touch, max_iterations=10**9, save_interval=10**9)
    runner.learn()
    (folder / f"ended{rank}").write_text(f"{runner.iteration} {runner.stop.agreed}")


def torchrun(port: int, folder: Path) -> None:
    with (
        forked(be_trained_by_torchrun, 0, port, folder, log=folder.parent / "log") as first,
        forked(be_trained_by_torchrun, 1, port, folder, log=folder.parent / "log") as second,
    ):
        exit_code(first), exit_code(second)


def wait_for(*paths: Path, log: Path) -> None:
    for _ in range(int(20 * PATIENCE)):
        if all(path.is_file() for path in paths):
            return
        time.sleep(0.05)
    raise AssertionError(log.read_text())


def test_processes_whose_parent_died_save_and_end(tmp_path: Path) -> None:
    run, log = tmp_path / "run", tmp_path / "log"
    run.mkdir()
    with forked(torchrun, free_port(), run, log=log) as agent:
        wait_for(run / "rank0", run / "rank1", log=log)
        os.kill(agent.pid or 0, signal.SIGKILL)
        wait_for(run / "ended0", run / "ended1", log=log)
    ended = [(run / f"ended{rank}").read_text().split() for rank in range(2)]
    assert ended[0] == ended[1] and ended[0][1] == "True"
    assert list(RunDir(run).checkpoints()) == [int(ended[0][0])]
    assert "the process that started this one (torchrun) is gone" in log.read_text()


# ------------------------------------------------------------------------------- what is collective stays in step


class Endless(ScriptedEnv):
    def step(self, actions: torch.Tensor) -> Any:
        obs, reward, done, extras = super().step(actions)
        return obs, reward, torch.zeros_like(done), extras


def evaluate_on_the_main_process(rank: int, port: int, folder: Path) -> None:
    """As `rrf train` does: only the main process has an environment to evaluate in."""
    be_rank(rank, port)
    contexts = DistributedContext.from_environment(timeout=60.0)
    for name, env in (("good", scripted(num_envs=2)), ("endless", Endless(ScriptedEnvCfg(num_envs=2)))):
        cfg = counting_cfg(max_iterations=5, save_interval=3, eval_interval=1, eval_episodes=2, step_timeout=60.0)
        runner = cfg.build(env=scripted(), eval_env=env if rank == 0 else None, log_dir=folder / name)
        runner.learn()
        gathered = contexts.gather_objects([runner.iteration, runner.evaluates, runner.best_score])
        assert gathered is None or gathered[0] == gathered[1], gathered
    check_arithmetic(contexts)
    contexts.close()


def check_arithmetic(distributed: DistributedContext) -> None:
    """Numbers that are not alike in both processes, and not only positive."""
    rank = distributed.rank
    mine = torch.tensor([1.0, -4.0]) if rank == 0 else torch.tensor([5.0, 1.0])
    assert distributed.mean_(mine.clone()).tolist() == [3.0, -1.5]
    assert distributed.sum_(mine.clone()).tolist() == [6.0, -3.0]
    assert distributed.broadcast_(mine.clone()).tolist() == [1.0, -4.0]
    assert distributed.broadcast_object({"rank": rank}) == {"rank": 0}
    assert distributed.gather_objects(rank) == ([0, 1] if rank == 0 else None)
    distributed.barrier()


def test_evaluations_that_only_the_main_process_makes_keep_both_in_step(tmp_path: Path) -> None:
    port, log = free_port(), tmp_path / "log"
    with (
        forked(evaluate_on_the_main_process, 0, port, tmp_path, log=log) as main,
        forked(evaluate_on_the_main_process, 1, port, tmp_path, log=log) as other,
    ):
        assert (exit_code(main), exit_code(other)) == (0, 0), log.read_text()
    # The first evaluation is the best so far and no checkpoint is due; both processes have to come to that.
    assert list(RunDir(tmp_path / "good").checkpoints()) == [1, 3, 5]
    assert read_metrics(tmp_path / "good" / "metrics.jsonl")["Eval/mean_reward"][0] == [1, 2, 3, 4, 5]
    assert "Eval/mean_reward" not in read_metrics(tmp_path / "endless" / "metrics.jsonl")
    assert list(RunDir(tmp_path / "endless").checkpoints()) == [3, 5]


def test_a_run_of_one_process_that_gives_up_leaves_later_ones_their_processes() -> None:
    """Several runs may follow in one process, as in a notebook or a test."""
    DistributedContext().give_up()
    with pytest.raises(ValueError, match="process group"):  # torch is asked, instead of a ProcessesLostError
        DistributedContext(0, 0, 2).barrier()
