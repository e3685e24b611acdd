"""Logs, curves, report and videos: what a run leaves behind to look at."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from RoboRenForce.utils import logging as module
from RoboRenForce.utils import run_dir as run_dir_module
from RoboRenForce.utils.console import say, setup_logging
from RoboRenForce.utils.errors import MissingPackageError, UserError
from RoboRenForce.utils.logging import (
    JsonlWriter,
    RunLogger,
    SwanLabWriter,
    Writer,
    cut_metrics,
    make_logger,
    read_metrics,
)
from RoboRenForce.utils.plots import choose_tags, limits, plot_comparison, plot_curves, smooth
from RoboRenForce.utils.report import write_report
from RoboRenForce.utils.run_dir import RunDir, write_yaml
from RoboRenForce.utils.seeding import preserved_rng, rng_state, seed_everything, set_rng_state
from RoboRenForce.utils.video import write_mp4
from small_runs import check_same, counting_cfg, scripted

pytestmark = pytest.mark.contract


class Failing(Writer):
    name = "service"

    def __init__(self, works_for: int) -> None:
        self.works_for, self.calls = works_for, 0

    def scalars(self, values: Mapping[str, float], iteration: int) -> None:
        self.calls += 1
        if self.calls > self.works_for:
            raise ConnectionError("no route\nto host")


def test_a_writer_that_fails_does_not_stop_the_others(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    setup_logging()
    failing = Failing(works_for=2)
    log = RunLogger([failing, JsonlWriter(tmp_path / "metrics.jsonl")])
    for iteration in range(1, 6):
        log.scalars({"a": float(iteration)}, iteration)
    log.close()
    log.close()
    assert read_metrics(tmp_path / "metrics.jsonl")["a"] == ([1, 2, 3, 4, 5], [1.0, 2.0, 3.0, 4.0, 5.0])
    assert failing.calls == 3
    expected = "Logging to service failed and stops here (no route to host); the run goes on.\n"
    assert capsys.readouterr().err == expected


def test_a_mistake_of_our_own_is_not_swallowed(tmp_path: Path) -> None:
    class Wrong(Failing):
        def scalars(self, values: Mapping[str, float], iteration: int) -> None:
            raise NameError("typo")

    with pytest.raises(NameError):
        RunLogger([Wrong(0)]).scalars({}, 1)


def test_tensorboard_gets_the_tags_and_a_resume_hides_what_came_after(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run = RunDir(tmp_path)
    first = make_logger(run, "tensorboard", project="p")
    for iteration in (1, 2, 3, 4):
        first.scalars({"Train/mean_reward": 10.0 * iteration}, iteration)
    first.close()
    second = make_logger(run, ["tensorboard"], project="p", first_iteration=2)
    second.scalars({"Train/mean_reward": 33.0}, 3)
    second.close()
    events = EventAccumulator(str(tmp_path)).Reload().Scalars("Train/mean_reward")
    assert [(event.step, event.value) for event in events] == [(1, 10.0), (2, 20.0), (3, 33.0)]


def test_wandb_works_offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wandb = pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    run = RunDir(tmp_path / "experiment" / "2026")
    run.root.mkdir(parents=True)
    log = make_logger(run, "wandb", project="p")
    log.config({"agent": {"seed": 1}})
    log.scalars({"Train/mean_reward": 1.0}, 1)
    assert len(log.writers) == 2
    log.close()
    wandb.teardown()  # its service would run as long as these tests, and outlive them if they are killed
    assert list(run.root.glob("wandb/offline-run-*/run-experiment-2026.wandb"))


def test_swanlab_is_an_extra_and_called_as_documented(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(MissingPackageError, match=r"RoboRenForce\[swanlab\]"):
        make_logger(RunDir(tmp_path), "swanlab", project="p")
    calls: list[Any] = []
    fake = SimpleNamespace(
        init=lambda **options: calls.append(("init", options["project"], options["experiment_name"])),
        log=lambda values, step: calls.append(("log", values, step)),
        finish=lambda: calls.append("finish"),
        config=SimpleNamespace(update=lambda values: calls.append(("config", values))),
    )
    monkeypatch.setattr(module, "require_package", lambda name, **_: fake)
    log = RunLogger([SwanLabWriter(tmp_path / "e" / "r", "p")])
    log.config({"a": 1})
    log.scalars({"x": 2.0}, 3)
    log.close()
    assert calls == [("init", "p", "e-r"), ("config", {"a": 1}), ("log", {"x": 2.0}, 3), "finish"]


def test_a_service_that_does_not_start_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(**_: Any) -> None:
        raise RuntimeError("not logged in")

    monkeypatch.setattr(module, "require_package", lambda name, **_: SimpleNamespace(init=refuse))
    with pytest.raises(UserError, match=r"SwanLab did not start \(not logged in\); run `swanlab login`"):
        SwanLabWriter(tmp_path / "r", "p")


# ------------------------------------------------------------------------------- files that are not what was written

GOOD = '{"iteration": 1, "a": 1.0}'
NO_LINE = {
    "torn": '{"iteration": 2, "a"',
    "swallowed": '{"iter{"iteration": 2, "a": 2.0}',
    "a list": "[1, 2]",
    "a number": "3",
    "null": "null",
    "no iteration": '{"a": 1.0}',
    "a text": '{"iteration": "2", "a": 2.0}',
    "true": '{"iteration": true}',
    "negative": '{"iteration": -2}',
    "a fraction": '{"iteration": 2.5}',
    "deep": "[" * 100_000,
    "bytes": "\x00\x01",
    "blank": "",
}


@pytest.mark.parametrize("line", NO_LINE.values(), ids=NO_LINE)
def test_lines_that_are_no_metrics_are_left_out_with_a_warning(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], line: str
) -> None:
    setup_logging()
    path = tmp_path / "metrics.jsonl"
    path.write_text(f'{GOOD}\n{line}\n{{"iteration": 3, "a": 3.0}}\n')
    assert read_metrics(path) == {"a": ([1, 3], [1.0, 3.0])}
    assert "1 of 3 lines are no metrics and left out, the first is 2." in capsys.readouterr().err
    cut_metrics(path, 3, {"a": 9.0})
    assert read_metrics(path) == {"a": ([1, 3], [1.0, 3.0])} and capsys.readouterr().err == ""


def test_values_that_are_no_numbers_are_left_out(tmp_path: Path) -> None:
    values = '"b": "x", "c": null, "d": [1], "e": true, "f": NaN, "g": Infinity, "h": 1' + "0" * 400
    (tmp_path / "metrics.jsonl").write_text(f'{{"iteration": 1, "a": 2, {values}}}\n')
    assert read_metrics(tmp_path / "metrics.jsonl") == {"a": ([1], [2])}


@pytest.mark.parametrize("content", [b"\xff\xfe\x00", b"iteration,a\n1,2\n", b"\x89PNG"])
def test_a_file_that_holds_no_metrics_is_one_sentence(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "metrics.jsonl").write_bytes(content)
    with pytest.raises(UserError, match='holds no metrics: expected one JSON object with an "iteration" per line'):
        read_metrics(tmp_path / "metrics.jsonl")


@pytest.mark.parametrize(
    "content", ["[1]", "3", "task: [a]", "resumed: x", "versions: 1", "spec: 2", "{", "\0", "a: &a [*a]\nb: *c"]
)
def test_a_run_yaml_that_is_none_is_one_sentence(tmp_path: Path, content: str) -> None:
    run = RunDir(tmp_path)
    run.params("run").parent.mkdir()
    run.params("run").write_text(content)
    with pytest.raises(UserError) as caught:
        run.run_info()
    assert str(run.params("run")) in str(caught.value) and "\n" not in str(caught.value)


def test_lines_wait_while_the_file_cannot_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    setup_logging()
    path = tmp_path / "metrics.jsonl"
    log = RunLogger([JsonlWriter(path)])
    log.scalars({"a": 1.0}, 1)
    path.rename(tmp_path / "kept")
    path.mkdir()
    for iteration in (2, 3):
        log.scalars({"a": float(iteration)}, iteration)
    path.rmdir()
    (tmp_path / "kept").rename(path)
    log.close()
    assert read_metrics(path)["a"] == ([1, 2, 3], [1.0, 2.0, 3.0])
    assert capsys.readouterr().err.count("its lines wait, the run goes on") == 1


def test_a_replaced_file_that_fails_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.yaml"
    write_yaml(path, 1)
    for name in ("replace", "fsync"):
        with monkeypatch.context() as patch, pytest.raises(OSError, match="no"):
            patch.setattr(run_dir_module.os, name, fail)
            write_yaml(path, 2)
        assert [entry.name for entry in tmp_path.iterdir()] == ["a.yaml"] and path.read_text() == "1\n...\n"


def fail(*_: Any) -> None:
    raise OSError("no")


def test_events_of_a_crash_and_its_resume_show_no_step_twice(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    cfg = counting_cfg(logger=["tensorboard"], save_interval=2, max_iterations=3)
    cfg.build(env=scripted(), log_dir=tmp_path).learn()
    (tmp_path / "model_3.pt").unlink()  # killed after iteration 3: its events are written, its checkpoint is not
    resumed = cfg.replace(max_iterations=4).build(env=scripted(), log_dir=tmp_path)
    resumed.load(tmp_path / "model_2.pt")
    resumed.learn()
    events = EventAccumulator(str(tmp_path)).Reload().Scalars("Loss/mean")
    assert [event.step for event in events] == [1, 2, 3, 4]
    assert [line["iteration"] for line in map(json.loads, (tmp_path / "metrics.jsonl").open())] == [1, 2, 3, 4]


def test_a_terminal_that_is_full_or_gone_does_not_end_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    for stream in ("stdout", "stderr"):
        monkeypatch.setattr(f"sys.{stream}", SimpleNamespace(write=fail, flush=fail, isatty=lambda: False))
    setup_logging()
    runner = counting_cfg().build(env=scripted())
    runner.learn()
    say("done")
    assert runner.iteration == 3


# --------------------------------------------------------------------------------------------------------- curves


def test_smoothing_is_a_centered_mean() -> None:
    values = np.random.default_rng(0).normal(size=200)
    half = 5  # 200 // 40
    expected = [values[i - min(half, i, 199 - i) : i + min(half, i, 199 - i) + 1].mean() for i in range(200)]
    np.testing.assert_allclose(smooth(values), expected, atol=1e-12)
    np.testing.assert_allclose(smooth(np.arange(50.0)), np.arange(50.0), atol=1e-12)  # a line stays a line, ends too


def test_panels_show_the_outcome_first_and_the_speed_last(tmp_path: Path) -> None:
    tags = ["Perf/total_fps", "Loss/value", "Episode/x", "Train/mean_reward", *(f"Loss/{i}" for i in range(20))]
    series = {tag: ([1, 2, 3], [1.0, 2.0, 3.0]) for tag in [*tags, "Train/total_steps", "Perf/total_time"]}
    chosen = choose_tags(series)
    assert (chosen[0], chosen[1], chosen[-1], len(chosen)) == ("Train/mean_reward", "Loss/value", "Perf/total_fps", 9)
    assert plot_curves(series, tmp_path / "c.png", "title") == chosen
    plot_comparison({"a": series, "b": series}, tmp_path / "d.png")
    for name in ("c.png", "d.png"):
        assert (tmp_path / name).read_bytes().startswith(b"\x89PNG")


def test_a_first_spike_does_not_flatten_a_curve() -> None:
    spiked = np.concatenate([[1e6, 1e4], np.linspace(1.0, 2.0, 98)])
    low, high = limits(spiked)
    assert 0.9 < low < 1.05 and 2.0 < high < 3.0
    assert limits(np.linspace(0.0, 1.0, 50)) is None
    assert limits(np.zeros(5)) is None


# --------------------------------------------------------------------------------------------------------- report


def make_run(root: Path) -> RunDir:
    cfg = counting_cfg(report=True)
    cfg.build(env=scripted(image_shape=None), log_dir=root, task="Robot-<1>").learn()
    run = RunDir(root)
    write_yaml(run.params("env"), {"num_envs": 4, "html": "<script>"})
    return run


def test_the_report_is_one_page_that_needs_no_network(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    write_mp4(run.videos / "play.mp4", (np.full((32, 32, 3), 10 * i, np.uint8) for i in range(5)), fps=10)
    result = {"mean": 12.25, "std": 0.5, "n": 10, "mean_length": 100.0}
    run.evaluation.write_text(
        json.dumps(
            {"checkpoint": "model_3.pt", "deterministic": result, "sampled": result, "velocity_error": {"linear": 0.25}}
        )
    )
    page = write_report(run).read_text()
    assert not re.search(r"(src|href)=['\"]?(https?:)?//", page) and "@import" not in page
    assert page.count("data:image/png;base64,") == 1 and page.count("data:video/mp4;base64,") == 1
    assert "Robot-&lt;1&gt;" in page and "Robot-<1>" not in page
    assert "&lt;script&gt;" in page and "<script>" not in page
    for text in (
        "12.2 ± 0.5",
        "n = 10",
        "velocity error",
        "linear 0.25",
        "num_steps_per_env: 4",
        "torch",
        "policy [3]",
        "rrf play --target",
        "pytest",
    ):
        assert text in page, text


def test_the_report_of_a_run_without_anything_is_still_a_page(tmp_path: Path) -> None:
    page = write_report(RunDir(tmp_path)).read_text()
    assert "<h2>Curves" not in page and "<h2>Evaluation" not in page


def test_large_videos_are_linked_not_embedded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from RoboRenForce.utils import report

    monkeypatch.setattr(report, "_EMBED_LIMIT", 10)
    run = make_run(tmp_path)
    write_mp4(run.videos / "play.mp4", [np.zeros((32, 32, 3), np.uint8)])
    assert "src='videos/play.mp4'" in write_report(run).read_text()


# ---------------------------------------------------------------------------------------------- videos and seeds


def test_odd_sizes_lose_a_row_and_a_column(tmp_path: Path) -> None:
    import av

    assert write_mp4(tmp_path / "a.mp4", [np.zeros((33, 47, 3), np.uint8)] * 3, fps=5) == 3
    with av.open(str(tmp_path / "a.mp4")) as video:
        stream = video.streams.video[0]
        assert (stream.height, stream.width, stream.codec_context.name) == (32, 46, "h264")
        assert stream.codec_context.pix_fmt == "yuv420p"


def test_a_video_that_fails_halfway_leaves_no_file(tmp_path: Path) -> None:
    frames = [np.zeros((32, 32, 3), np.uint8), np.zeros((16, 16, 3), np.uint8)]
    with pytest.raises(ValueError, match=r"Frame 1 has the shape \(16, 16, 3\), expected \(32, 32, 3\)"):
        write_mp4(tmp_path / "a.mp4", frames)
    with pytest.raises(ValueError, match="No frames"):
        write_mp4(tmp_path / "a.mp4", [])
    assert list(tmp_path.iterdir()) == []


def draw() -> list[float]:
    import random

    import torch

    return [random.random(), float(np.random.rand()), float(np.random.randn()), float(torch.rand(()))]


def test_seeds_and_states_repeat_every_generator() -> None:
    seed_everything(5)
    first = draw()
    seed_everything(5)
    assert draw() == first
    seed_everything(6)
    assert all(a != b for a, b in zip(draw(), first, strict=True))
    state = rng_state()
    following = draw()
    set_rng_state(state)
    with preserved_rng():
        assert draw() == following
        draw()
    assert draw() == following
    set_rng_state(state)
    check_same(rng_state(), state)
