"""Evaluations, videos and the report never end, delay or change the training that they belong to."""

from __future__ import annotations

import logging
import os
import random
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from RoboRenForce import runners
from RoboRenForce.envs.scripted_env import ScriptedEnv, ScriptedEnvCfg
from RoboRenForce.runners.during_training import most_steps
from RoboRenForce.utils import report
from RoboRenForce.utils.logging import read_metrics
from RoboRenForce.utils.run_dir import RunDir
from small_runs import counting_cfg, ppo_cfg, scripted

pytestmark = pytest.mark.contract


class Watched(ScriptedEnv):
    """Calls `what` at step `at` since it was made, and counts."""

    def __init__(self, what: Callable[[], Any] = lambda: None, at: int = 3, **options: Any) -> None:
        self.what, self.at, self.count, self.renders = what, at, 0, 0
        super().__init__(ScriptedEnvCfg(**{"num_envs": 1, "script": [["time_out@5"]], **options}))

    def step(self, actions: torch.Tensor) -> Any:
        self.count += 1
        if self.count == self.at:
            self.what()
        return super().step(actions)

    def render(self) -> Any:
        self.renders += 1
        return super().render()


def endless(**options: Any) -> Watched:
    return Watched(script=[["time_out@1000000000"]], **{"max_episode_length": 0, **options})


def fails(error: Exception) -> Callable[[], None]:
    def raises() -> None:
        raise error

    return raises


def metrics_of(folder: Path) -> dict[str, tuple[list[int], list[float]]]:
    return read_metrics(RunDir(folder).metrics)


@pytest.fixture
def messages(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    monkeypatch.setattr(logging.getLogger("RoboRenForce"), "propagate", True)
    caplog.set_level(logging.WARNING, "RoboRenForce")
    return caplog


# ----------------------------------------------------------------------------------------------------- evaluations


def test_episodes_that_do_not_end_are_given_up(tmp_path: Path, messages: pytest.LogCaptureFixture) -> None:
    env = endless()
    cfg = counting_cfg(max_iterations=4, eval_interval=2, eval_episodes=1, eval_max_steps=7)
    runner = cfg.build(env=scripted(), eval_env=env, log_dir=tmp_path)
    runner.learn()
    assert runner.iteration == 4 and env.count == 2 * 7 and runner.algorithm.mode == "train"
    assert not [tag for tag in metrics_of(tmp_path) if tag.startswith("Eval/")]
    (said,) = [record.getMessage() for record in messages.records]  # once
    assert "The evaluation of iteration 2 failed (Scripted did not finish 1 episodes within 7 steps: " in said
    assert "training goes on" in said


@pytest.mark.parametrize(
    ("horizon", "num_envs", "episodes", "steps"),
    [(0, 1, 1, 10_001), (0, 4, 10, 30_001), (10, 4, 10, 31), (10, 4, 8, 21), (10**9, 1, 1, 10_001)],
)
def test_without_a_word_they_get_what_the_horizon_allows_within_reason(
    horizon: int, num_envs: int, episodes: int, steps: int
) -> None:
    assert most_steps(scripted(num_envs=num_envs, max_episode_length=horizon), episodes) == steps


def test_an_environment_that_raises_ends_its_evaluation_only(
    tmp_path: Path, messages: pytest.LogCaptureFixture
) -> None:
    """The message has the traceback, since the mistake is in the user's code; the next evaluation is tried again."""
    env = Watched(fails(ZeroDivisionError("a slip")))
    cfg = counting_cfg(max_iterations=3, eval_interval=1, eval_episodes=1)
    cfg.build(env=scripted(), eval_env=env, log_dir=tmp_path).learn()
    assert metrics_of(tmp_path)["Eval/mean_reward"] == ([2, 3], [5.0, 5.0])
    (record,) = messages.records
    assert "The evaluation of iteration 1 failed (ZeroDivisionError: a slip)" in record.getMessage()
    assert record.exc_info and record.exc_info[0] is ZeroDivisionError


def stop() -> None:
    os.kill(os.getpid(), signal.SIGTERM)


@pytest.fixture
def _terminable() -> Iterator[None]:
    """SIGTERM as a shell leaves it, whatever the parent ignores."""
    before = signal.signal(signal.SIGTERM, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGTERM, before)


@pytest.mark.usefixtures("_terminable")
def test_a_signal_ends_an_evaluation_between_two_steps_and_the_run_saves(tmp_path: Path) -> None:
    env = endless(what=stop)
    runner = counting_cfg(max_iterations=50, save_interval=50, eval_interval=2).build(
        env=scripted(), eval_env=env, log_dir=tmp_path
    )
    runner.learn()
    assert (runner.iteration, env.count) == (3, 3)  # one iteration more, in which all processes hear of it
    assert list(RunDir(tmp_path).checkpoints()) == [3]
    assert metrics_of(tmp_path)["Loss/mean"][0] == [1, 2, 3] and "Eval/mean_reward" not in metrics_of(tmp_path)


class Noisy(ScriptedEnv):
    """Draws from every generator whenever it is used."""

    def draw(self) -> None:
        random.random(), np.random.rand(), torch.rand(3)

    def reset(self, *, seed: int | None = None) -> Any:
        self.draw()
        return super().reset(seed=seed)

    def step(self, actions: torch.Tensor) -> Any:
        self.draw()
        return super().step(actions)

    def render(self) -> Any:
        self.draw()
        return super().render()


class Forgetful(Noisy):
    def step(self, actions: torch.Tensor) -> Any:
        self.draw()
        raise RuntimeError("no step")


@pytest.mark.parametrize(
    ("env", "changes"),
    [
        (Noisy, {"eval_interval": 2, "eval_episodes": 3}),
        (Noisy, {"video_interval": 2, "video_steps": 4}),
        (Forgetful, {"eval_interval": 1}),
        (Forgetful, {"video_interval": 1}),
    ],
)
def test_the_random_numbers_of_training_are_the_same_with_it(
    env: type[ScriptedEnv], changes: dict[str, int], tmp_path: Path
) -> None:
    def trained(folder: Path, **options: Any) -> list[torch.Tensor]:
        eval_env = env(ScriptedEnvCfg(num_envs=2)) if options else None
        runner = ppo_cfg(**options).build(env=scripted(), eval_env=eval_env, log_dir=folder)
        runner.learn()
        return [*runner.policy().parameters(), torch.tensor([random.random(), np.random.rand()]), torch.rand(1)]

    for plain, watched in zip(trained(tmp_path / "plain"), trained(tmp_path / "a", **changes), strict=True):
        assert torch.equal(plain, watched)


def test_without_an_environment_for_it_nothing_is_invented(tmp_path: Path) -> None:
    counting_cfg(eval_interval=1).build(env=scripted(), log_dir=tmp_path).learn()
    assert "Eval/mean_reward" not in metrics_of(tmp_path)
    assert RunDir(tmp_path).pointed("best") is not None  # by the training return


# ----------------------------------------------------------------------------------------------------------- videos


def film(folder: Path, env: ScriptedEnv, **changes: Any) -> runners.Trainer:
    options = {"max_iterations": 3, "video_interval": 1, "video_steps": 6} | changes
    runner = counting_cfg(**options).build(env=scripted(), eval_env=env, log_dir=folder)
    runner.learn()
    return runner


def test_videos_are_made_every_interval(tmp_path: Path) -> None:
    film(tmp_path, Watched(image_shape=[16, 16, 3]), max_iterations=5, video_interval=2)
    assert sorted(path.name for path in RunDir(tmp_path).videos.iterdir()) == ["iteration_2.mp4", "iteration_4.mp4"]


@pytest.mark.parametrize("error", [RuntimeError("no renderer"), OSError(28, "No space left"), KeyError("camera")])
def test_after_a_video_that_failed_there_are_no_more_and_no_parts(
    tmp_path: Path, error: Exception, messages: pytest.LogCaptureFixture
) -> None:
    env = Watched(fails(error), image_shape=[16, 16, 3])
    runner = film(tmp_path, env)
    assert runner.iteration == 3 and env.count == 3 and runner.algorithm.mode == "train"
    assert list(RunDir(tmp_path).videos.iterdir()) == []
    (said,) = [record.getMessage() for record in messages.records]
    assert "The video of iteration 1 failed" in said and "no more are made in this run" in said


def test_a_folder_that_can_t_be_written_costs_the_video_only(tmp_path: Path) -> None:
    RunDir(tmp_path).videos.write_text("a file where the folder should be")
    assert film(tmp_path, Watched(image_shape=[16, 16, 3])).iteration == 3


@pytest.mark.usefixtures("_terminable")
def test_a_signal_ends_a_video_between_two_steps(tmp_path: Path) -> None:
    env = Watched(stop, image_shape=[16, 16, 3])
    runner = film(tmp_path, env, video_interval=2, video_steps=10**6, max_iterations=50, save_interval=50)
    assert env.count == 3 and runner.iteration <= 3
    assert list(RunDir(tmp_path).videos.iterdir()) == []
    assert list(RunDir(tmp_path).checkpoints()) == [runner.iteration]


# ------------------------------------------------------------------------------------------------------- the report


def disk_is_full(*_: Any, **__: Any) -> None:
    raise OSError(28, "No space left on device")


@pytest.mark.parametrize("place", ["plot_curves", "write_text_atomically", "_facts"])
def test_a_finished_run_whose_report_fails_is_finished(
    tmp_path: Path, place: str, monkeypatch: pytest.MonkeyPatch, messages: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(report, place, disk_is_full)
    runner = counting_cfg(report=True).build(env=scripted(), log_dir=tmp_path)
    runner.learn()
    assert runner.iteration == 3 and not RunDir(tmp_path).report.exists()
    (said,) = [record.getMessage() for record in messages.records]
    assert "No report: The report of" in said and "can't be written (No space left on device)" in said


def test_a_mistake_while_drawing_costs_the_report_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, messages: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(report, "plot_curves", lambda *_: 1 / 0)
    counting_cfg(report=True).build(env=scripted(), log_dir=tmp_path).learn()
    assert messages.records[0].exc_info is not None  # with its traceback


@pytest.mark.parametrize("name", ["report.html", "curves.png"])
def test_no_part_of_a_report_is_left(tmp_path: Path, name: str) -> None:
    (tmp_path / name / "in the way").mkdir(parents=True)  # so that the last rename fails
    counting_cfg(report=True).build(env=scripted(), log_dir=tmp_path).learn()
    assert not list(tmp_path.glob(".*")) and not list(tmp_path.glob("*.partial"))
