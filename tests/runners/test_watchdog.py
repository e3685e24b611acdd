"""A run that hangs ends: with a line, the stacks, and what was learned; wherever it hangs, asked to stop or not."""

from __future__ import annotations

import ctypes
import os
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from forked import PATIENCE, exit_code, forked
from RoboRenForce import runners
from RoboRenForce.configclass import configclass
from RoboRenForce.envs.scripted_env import ScriptedEnv, ScriptedEnvCfg
from RoboRenForce.runners import watchdog
from RoboRenForce.utils.checkpoint import load_checkpoint
from RoboRenForce.utils.errors import HangError
from RoboRenForce.utils.run_dir import RunDir
from small_runs import CountingAlgorithm, DoingAt, counting_cfg, scripted

pytestmark = pytest.mark.contract

LIMIT = 1.0


def hanging(what: Callable[[], Any]) -> DoingAt:
    """Does something at the second step of the third iteration."""
    return DoingAt(10, what)


def hangs_in_foreign_code(library: Any = None) -> None:
    """Waits for a lock that it has itself, which no signal interrupts."""
    library = library or ctypes.CDLL(None)
    mutex = ctypes.create_string_buffer(256)
    for _ in range(2):
        library.pthread_mutex_lock(mutex)


def hangs_and_swallows_exceptions() -> None:
    while True:
        try:
            time.sleep(PATIENCE)
        except Exception:  # noqa: BLE001 - as environments do
            continue


@pytest.mark.parametrize("hang", [lambda: threading.Event().wait(PATIENCE), hangs_and_swallows_exceptions])
def test_a_step_that_hangs_is_interrupted_with_a_sentence_and_the_stacks(
    hang: Callable[[], Any], capfd: pytest.CaptureFixture[str]
) -> None:
    before = signal.getsignal(signal.SIGURG)
    runner = counting_cfg(max_iterations=5, step_timeout=LIMIT).build(env=hanging(hang))
    with pytest.raises(
        HangError, match=r"Scripted: step 2 of iteration 3 has not finished for 1 s \(step_timeout 1 s\)"
    ):
        runner.learn()
    assert (runner.iteration, runner.env.count) == (2, 10)
    told = capfd.readouterr().err
    assert "Scripted: step 2 of iteration 3 has not finished" in told
    assert 'test_watchdog.py", line' in told and "in step" in told  # the stacks
    assert signal.getsignal(signal.SIGURG) == before
    assert "watchdog" not in [thread.name for thread in threading.enumerate()]


def test_an_update_that_hangs_is_interrupted_too() -> None:
    runner: Any = counting_cfg(step_timeout=LIMIT).build(env=scripted())
    runner.algorithm.update = lambda: time.sleep(PATIENCE)
    with pytest.raises(HangError, match=r"iteration 1, after step 4, has not finished"):
        runner.learn()


class Sleeping(runners.Callback):
    def after_iteration(self, runner: runners.Trainer, metrics: dict[str, float]) -> None:
        time.sleep(PATIENCE)


@configclass
class SleepingCfg(runners.CallbackCfg):
    class_type: type = Sleeping


def test_a_callback_that_hangs_is_named() -> None:
    runner = counting_cfg(step_timeout=LIMIT, callbacks=[SleepingCfg()]).build(env=scripted())
    with pytest.raises(HangError, match="Sleeping after iteration 1 has not finished"):
        runner.learn()


def test_an_evaluation_is_alive_while_it_steps() -> None:
    """It may take longer than the limit for a step, and may not hang either."""

    class Slow(ScriptedEnv):
        def step(self, actions: torch.Tensor) -> Any:
            time.sleep(LIMIT / 4)
            return super().step(actions)

    slow = Slow(ScriptedEnvCfg(num_envs=1, script=[["time_out@8"]]))
    cfg = counting_cfg(max_iterations=1, eval_interval=1, eval_episodes=1, step_timeout=LIMIT)
    cfg.build(env=scripted(), eval_env=slow).learn()
    stuck = hanging(lambda: time.sleep(PATIENCE))
    runner = cfg.replace(eval_episodes=10).build(env=scripted(), eval_env=stuck)
    with pytest.raises(HangError, match="The evaluation after iteration 1 has not finished"):
        runner.learn()


# ------------------------------------------------------------------------------------------ where no signal comes in


def train(folder: Path, hang: Callable[[], Any], **changes: Any) -> None:
    os.fsync = lambda descriptor: None  # a busy disk takes its time; this process is of its own
    options = {"max_iterations": 5, "save_interval": 5, "step_timeout": LIMIT} | changes
    runner = counting_cfg(**options).build(env=hanging(hang), log_dir=folder)
    runner.watchdog.grace = 0.5
    runner.learn()


def test_what_was_learned_is_saved_where_the_main_thread_waits_in_foreign_code(tmp_path: Path) -> None:
    with forked(train, tmp_path / "run", hangs_in_foreign_code, log=tmp_path / "log") as process:
        assert exit_code(process) == watchdog.EXIT_CODE
    saved = load_checkpoint(tmp_path / "run" / "model_2.pt")
    assert saved["iteration"] == 2 and saved["algorithm"]["updates"] == 2
    assert saved["local"][0]["env"] == {}  # it was not asked
    assert RunDir(tmp_path / "run").pointed("latest") == tmp_path / "run" / "model_2.pt"
    told = (tmp_path / "log").read_text()
    assert "the main thread can't be interrupted; this process ends (saved: " in told and "in step" in told
    resumed = counting_cfg(max_iterations=3).build(env=scripted(num_envs=2), log_dir=tmp_path / "run")
    resumed.load(tmp_path / "run" / "model_2.pt")
    resumed.learn()
    assert resumed.iteration == 3


class StuckInUpdate(CountingAlgorithm):
    def update(self) -> dict[str, torch.Tensor]:
        if int(self.updates) == 2:
            self.updates += 0.5
            hangs_in_foreign_code()
        return super().update()


def test_a_learner_in_the_middle_of_an_update_is_not_saved(tmp_path: Path) -> None:
    changes = {"save_interval": 2}
    cfg = counting_cfg(**changes)
    cfg.algorithm.class_type = StuckInUpdate
    changes["algorithm"] = cfg.algorithm
    with forked(lambda: train(tmp_path / "run", int, **changes), log=tmp_path / "log") as process:
        assert exit_code(process) == watchdog.EXIT_CODE
    assert list(RunDir(tmp_path / "run").checkpoints()) == [2]
    assert load_checkpoint(tmp_path / "run" / "model_2.pt")["algorithm"]["updates"] == 2
    assert "(the newest checkpoint is what is left)" in (tmp_path / "log").read_text()


def test_foreign_code_that_keeps_the_interpreter_s_lock_is_shown_at_least(tmp_path: Path) -> None:
    hang = lambda: hangs_in_foreign_code(ctypes.PyDLL(None))  # noqa: E731
    with forked(train, tmp_path / "run", hang, log=tmp_path / "log"):
        for _ in range(int(10 * PATIENCE)):
            time.sleep(0.1)
            if "in hangs_in_foreign_code" in (tmp_path / "log").read_text():
                break
        else:
            raise AssertionError((tmp_path / "log").read_text())


# ------------------------------------------------------------------------------------------------ signals and stops


def stop_and_sleep() -> None:
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(PATIENCE)


def handled() -> Any:
    """SIGTERM as a shell leaves it, whatever the parent ignores."""
    return signal.signal(signal.SIGTERM, signal.SIG_DFL)


def test_a_step_that_hangs_when_the_run_is_asked_to_stop_gets_a_grace_time_only() -> None:
    before = handled()
    runner = counting_cfg(step_timeout=None).build(env=hanging(stop_and_sleep))
    runner.watchdog.grace = 0.5
    try:
        with pytest.raises(HangError, match=r"has not finished for 0\.5 s after a signal asked the run to stop"):
            runner.learn()
    finally:
        signal.signal(signal.SIGTERM, before)
    assert runner.stop.signal == signal.SIGTERM and runner.iteration == 2


class SlowAndAskedToStop(CountingAlgorithm):
    def update(self) -> dict[str, torch.Tensor]:
        if self.updates == 1:
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(1.0)
        return super().update()


def test_an_evaluation_that_hangs_then_gets_no_more_either() -> None:
    before = handled()
    cfg = counting_cfg(step_timeout=None, eval_interval=1, eval_episodes=9)
    runner = cfg.build(env=scripted(), eval_env=hanging(stop_and_sleep))
    runner.watchdog.grace = 0.5
    try:
        with pytest.raises(HangError, match="The evaluation after iteration 1 has not finished"):
            runner.learn()
    finally:
        signal.signal(signal.SIGTERM, before)


class TakesItsTime(runners.Callback):
    def after_iteration(self, runner: runners.Trainer, metrics: dict[str, float]) -> None:
        time.sleep(1.0 if runner.stop.signal else 0.0)


@configclass
class TakesItsTimeCfg(runners.CallbackCfg):
    class_type: type = TakesItsTime


def test_an_update_and_what_is_written_after_it_get_the_time_they_need_when_the_run_is_asked_to_stop(
    tmp_path: Path,
) -> None:
    before = handled()
    cfg = counting_cfg(max_iterations=9, save_interval=9, callbacks=[TakesItsTimeCfg()])
    cfg.algorithm.class_type = SlowAndAskedToStop
    runner = cfg.build(env=scripted(), log_dir=tmp_path)
    runner.watchdog.grace = 0.3
    try:
        runner.learn()
    finally:
        signal.signal(signal.SIGTERM, before)
    assert list(RunDir(tmp_path).checkpoints()) == [2]


def test_a_process_that_was_stopped_goes_on_where_it_was(tmp_path: Path) -> None:
    def stopped() -> None:
        (tmp_path / "stopped").touch()
        os.kill(os.getpid(), signal.SIGSTOP)

    with forked(train, tmp_path / "run", stopped, log=tmp_path / "log") as process:
        while not (tmp_path / "stopped").exists():
            time.sleep(0.05)
            assert process.is_alive()
        time.sleep(2 * LIMIT)
        os.kill(process.pid or 0, signal.SIGCONT)
        assert exit_code(process) == 0, (tmp_path / "log").read_text()
    assert list(RunDir(tmp_path / "run").checkpoints()) == [5]


def test_outside_of_the_main_thread_it_only_speaks(capfd: pytest.CaptureFixture[str]) -> None:
    runner = counting_cfg(step_timeout=0.5).build(env=hanging(lambda: time.sleep(1.5)))
    thread = threading.Thread(target=runner.learn)
    thread.start()
    thread.join()
    assert runner.iteration == 3
    assert "step 2 of iteration 3 has not finished" in capfd.readouterr().err
