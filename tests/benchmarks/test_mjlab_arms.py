"""Comparisons on mjlab's tasks: runs of several files become one result file and a plot; SIGTERM ends them in order."""

from __future__ import annotations

import argparse
import importlib
import json
import os
import signal
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from RoboRenForce.runners.callbacks import Callback, LogCallback

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.contract


def a_run(args: argparse.Namespace, arm: str, seed: int, folder: Path) -> dict[str, Any]:
    """Return what training and playing give, without either."""
    if seed == 3:  # the machine's time ends: the whole process group is asked to
        os.kill(os.getppid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGTERM)
    reward = {"PPO": 10.0, "CAPSPPO": 9.0}[arm] + seed
    found: dict[str, Any] = {"task": f"RoboRenForce-MJLab-Go1Flat-{arm}", "num_envs": 16, "steps_per_iteration": 384}
    found |= {"curves": {"reward": [[1, 0.0], [2, reward]]}, "last": {"reward": reward}, "played": {"return": reward}}
    return found


@pytest.fixture
def arms(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT / "benchmarks"), os.environ.get("PYTHONPATH", "")]))
    before, module = signal.getsignal(signal.SIGTERM), importlib.import_module("mjlab_arms")
    yield module
    signal.signal(signal.SIGTERM, before)
    module._stops.clear()


def write(arms: Any, path: Path, *words: str) -> dict[str, Any]:
    args = arms.parser(None, ["PPO", "CAPSPPO"]).parse_args([*words, "--output", str(path)])
    arms.run_arms(args, a_run)
    return json.loads(path.read_text())


def test_files_of_single_runs_become_one_with_shares_of_the_first_arm(
    arms: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    files = []
    for arm, seed in (("CAPSPPO", "2"), ("PPO", "1"), ("CAPSPPO", "1"), ("PPO", "2")):
        files.append(tmp_path / f"{arm}_{seed}.json")
        write(arms, files[-1], "--arms", arm, "--seeds", seed)
    plot, result, image = importlib.import_module("plot_mjlab_arms"), tmp_path / "all.json", tmp_path / "all.png"
    words = ["--arms", "PPO", "CAPSPPO", "--output", str(result), "--image", str(image)]
    monkeypatch.setattr("sys.argv", ["plot_mjlab_arms.py", *map(str, files), *words])
    plot.main()
    data = json.loads(result.read_text())
    assert list(data["results"]) == ["PPO", "CAPSPPO"]
    assert data["results"]["CAPSPPO"] == {"reward": 10.5, "played_return": 10.5, "reward_share": round(10.5 / 11.5, 3)}
    assert [run["seed"] for run in data["runs"]["PPO"]] == [1, 2]
    assert image.stat().st_size > 1000
    with pytest.raises(SystemExit, match=r"PPO with the seeds \[1, 1\]"):
        plot.joined([json.loads(files[1].read_text())] * 2, ["reward"])
    with pytest.raises(SystemExit, match="no run of EPO, but of PPO"):
        plot.joined([json.loads(files[1].read_text())], ["reward"], ["PPO", "EPO"])


def test_after_sigterm_the_running_arm_is_written_and_no_other_begins(arms: Any, tmp_path: Path) -> None:
    data = write(arms, tmp_path / "stopped.json", "--seeds", "2", "3", "4")
    assert {arm: [run["seed"] for run in runs] for arm, runs in data["runs"].items()} == {"PPO": [2, 3], "CAPSPPO": [2]}
    assert data["results"]["PPO"]["reward"] == 12.5


class Part:
    """A configuration that any fields can be set on."""

    groups, num_steps_per_env = None, 24

    def replace(self, **fields: Any) -> Part:
        return self

    def build(self, **fields: Any) -> Any:
        return None


class StoppedRunner(Part):
    """Learns two iterations, in the second of which SIGTERM comes, for which learning has a handler of its own."""

    iteration, fields = 2, ()

    def replace(self, **fields: Any) -> Part:
        self.fields = tuple(fields)
        return self

    def build(self, *, log_dir: str, **fields: Any) -> Any:
        self.log, self.stop = Path(log_dir) / "metrics.jsonl", SimpleNamespace(signal=None)
        self.callbacks = [Callback(), LogCallback(), Callback()]
        return self

    def learn(self) -> None:
        self.stop.signal = signal.SIGTERM
        rows = [{"iteration": i, "Perf/total_fps": 100.0, "Train/mean_reward": float(i)} for i in (1, 2)]
        self.log.parent.mkdir(parents=True)
        self.log.write_text("".join(f"{json.dumps(row)}\n" for row in rows))


def test_after_sigterm_nothing_begins_to_learn(arms: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    task = SimpleNamespace(id="Go1", env_cfg=Part(), runner_cfg=StoppedRunner(), apply_overrides=lambda given: None)
    monkeypatch.setattr(arms, "load_task", lambda name: task)
    args = arms.parser(None, ["PPO"]).parse_args(["--output", "unused.json"])
    given = {"num_envs": 16, "iterations": 5, "curves": arms.REWARD}
    _, found = arms.train(args, "Go1", 1, tmp_path / "first", **given)
    assert (found["iterations"], found["last"]["reward"]) == (2, 1.5)
    with pytest.raises(RuntimeError, match="before the training began"):
        arms.train(args, "Go1", 1, tmp_path / "second", **given)
    assert not (tmp_path / "second").exists()


def test_what_a_callback_of_a_script_adds_is_logged_and_its_class_is_in_no_file(
    arms: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cfg, own = StoppedRunner(), Callback()
    task = SimpleNamespace(id="Go1", env_cfg=Part(), runner_cfg=cfg, apply_overrides=lambda given: None)
    monkeypatch.setattr(arms, "load_task", lambda name: task)
    args = arms.parser(None, ["PPO"]).parse_args(["--output", "unused.json"])
    given = {"num_envs": 16, "iterations": 5, "curves": arms.REWARD}
    runner, _ = arms.train(args, "Go1", 1, tmp_path / "run", **given, callbacks=[own])
    before_log = [type(callback) for callback in runner.callbacks].index(LogCallback) - 1
    assert runner.callbacks[before_log] is own
    assert "callbacks" not in cfg.fields


def test_a_teacher_that_sigterm_ended_is_written_without_a_student(
    arms: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    distill, begun = importlib.import_module("mjlab_distill"), []
    runner = SimpleNamespace(
        algorithm=SimpleNamespace(eval=lambda: None), policy=lambda: None, env=SimpleNamespace(close=lambda: None)
    )

    def train(args: argparse.Namespace, task: str, *given: Any, **fields: Any) -> tuple[Any, dict[str, Any]]:
        begun.append(task)
        arms._note_stop(signal.SIGTERM, None)
        return runner, {"task": task}

    monkeypatch.setattr(distill, "train", train)
    monkeypatch.setattr(distill, "played_anew", lambda *given: {"return": 3.0})
    found = distill.run(argparse.Namespace(student_iterations=2), "Go1Rough", 1, tmp_path)
    assert begun == ["RoboRenForce-MJLab-Go1Rough-PPO"]
    assert found["teacher"]["played"] == {"return": 3.0}
    assert "student was not trained" in found["error"]
