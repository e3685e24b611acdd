"""A run directory from anyone: no file in it makes a report run or show something else, or fail with a traceback."""

from __future__ import annotations

import json
import logging
import math
import os
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from RoboRenForce.runners.evaluation import EvalResult
from RoboRenForce.utils.plots import drawable, plot_comparison, plot_curves, smooth
from RoboRenForce.utils.report import read_evaluation, write_report
from RoboRenForce.utils.run_dir import RunDir, write_yaml

pytestmark = pytest.mark.contract

EVIL = "<script>alert('1')</script>\"><img src=x onerror=alert(2)>"
RESULT = EvalResult(12.25, 0.5, 10, 100.0, None, [1.0, -2.0]).to_dict()
EVALUATION = {
    "checkpoint": "model_3.pt",
    "task": "Robot",
    "seed": 3,
    "deterministic": RESULT,
    "sampled": RESULT | {"success_rate": 0.5},
    "velocity_error": {"linear": 0.25, "num_envs": 4, "steps": 500},
    "overrides": ["env.exchange=block"],
    "others": {"Robot": {"task": "Robot", "deterministic": RESULT, "overrides": [], "velocity_error": {"linear": 0.5}}},
}
INFO = {
    "task": "Robot",
    "command": "python train.py",
    "started": "2026-01-01",
    "seed": 1,
    "device": "cpu",
    "hardware": "a processor",
    "versions": {"torch": "2.11"},
    "commit": "abc",
    "spec": {
        "num_envs": 4,
        "max_episode_length": 10,
        "obs_groups": {"policy": [3]},
        "action": {"kind": "continuous", "dim": 2},
    },
}
ODD = [EVIL, None, True, [EVIL], {EVIL: EVIL}, {"a": [EVIL]}, -1, 0, 10**400, math.nan, math.inf, "\ud800", "\x00"]


class Page(HTMLParser):
    """What a browser would see: elements, and attributes that do something."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.sources: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        for name, value in attributes:
            assert not name.startswith("on"), name
            if name in ("src", "href"):
                self.sources.append(value or "")


def check(run: RunDir) -> str:
    """Write the report and see that the page is harmless."""
    text = write_report(run).read_text(encoding="utf-8")
    page = Page(text)
    assert not page.tags & {"script", "a", "iframe", "object", "link", "base", "form"}
    assert "<img src=x" not in text
    return text


def mutations(content: Any) -> Iterator[Any]:
    """`content` with each of its values, and itself, replaced by each odd value, and with each key gone."""
    yield from ODD
    if isinstance(content, dict):
        for key, value in content.items():
            yield {name: inner for name, inner in content.items() if name != key}
            for odd in mutations(value):
                yield content | {key: odd}


def damages() -> list[bytes]:
    """Files that are no text, no JSON, or JSON of another kind."""
    texts = [
        "",
        "{",
        "null",
        "[]",
        '"text"',
        "12",
        "NaN",
        "[" * 100_000,
        '{"deterministic": {"mean": 1}}',
        '{"a": 1e999}',
    ]
    return [*(text.encode() for text in texts), b"\xff\xfe\x00", json.dumps(EVALUATION).encode("utf-16")]


@pytest.fixture(autouse=True)
def _quiet(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    logging.disable(logging.WARNING)  # hundreds of pages, which need not survive a power failure
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)
    yield
    logging.disable(logging.NOTSET)


def test_no_evaluation_gets_markup_into_the_page_or_breaks_it(tmp_path: Path) -> None:
    run = RunDir(tmp_path)
    content = {name: value for name, value in EVALUATION.items() if name != "sampled"}
    contents = [json.dumps(content).encode() for content in mutations(content)]
    for content in [*contents, *damages()]:
        run.evaluation.write_bytes(content)
        check(run)


def test_what_an_evaluation_writes_is_all_shown(tmp_path: Path) -> None:
    run = RunDir(tmp_path)
    run.evaluation.write_text(json.dumps(EVALUATION))
    assert read_evaluation(run.evaluation) == EVALUATION
    page = check(run)
    for text in (
        "12.2 ± 0.5",
        "deterministic return, n = 10",
        "Evaluation in Robot env.exchange=block",
        "linear 0.5",
        "sampled return",
        "linear 0.25, num envs 4",
        "model_3.pt",
    ):
        assert text in page, text


def test_what_is_left_out_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: Any) -> None:
    logging.disable(logging.NOTSET)
    monkeypatch.setattr(logging.getLogger("RoboRenForce"), "propagate", True)
    run = RunDir(tmp_path)
    run.evaluation.write_text(json.dumps(EVALUATION | {"sampled": {"mean": "1"}, "velocity_error": [1]}))
    assert read_evaluation(run.evaluation).keys() == EVALUATION.keys() - {"sampled", "velocity_error"}
    assert "has entries that no evaluation writes ('sampled, velocity_error')" in caplog.records[-1].getMessage()
    run.evaluation.write_text("{")
    assert read_evaluation(run.evaluation) == {}
    assert f"'{run.evaluation}' can't be read" in caplog.records[-1].getMessage()
    assert "`rrf eval` writes it anew" in caplog.records[-1].getMessage()


def test_no_description_of_a_run_gets_markup_into_the_page_or_breaks_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for content in mutations(INFO):
        if isinstance(content, dict):  # what reading `run.yaml` lets through, and more
            monkeypatch.setattr(RunDir, "run_info", lambda run, content=content: content)
            check(RunDir(tmp_path))


def test_configurations_are_shown_as_text(tmp_path: Path) -> None:
    run = RunDir(tmp_path)
    write_yaml(run.params("env"), {"html": EVIL})
    run.params("agent").write_bytes(b"\xff" + EVIL.encode())
    assert check(run).count("&lt;script&gt;") == 2


def test_names_of_folders_and_videos_are_text_and_addresses(tmp_path: Path) -> None:
    run = RunDir(tmp_path / "<b>&'\" experiment" / "<script>run")
    run.videos.mkdir(parents=True)
    (run.videos / "a' onerror='alert(1)#?%.mp4").write_bytes(b"\0" * (12 * 2**20 + 1))
    (run.videos / "folder.mp4").mkdir()
    text = check(run)
    assert Page(text).sources == ["videos/a%27%20onerror%3D%27alert%281%29%23%3F%25.mp4"]
    assert "rrf play --target &#x27;" in text  # quoted for the shell, then for the page


@pytest.mark.parametrize("name", ["videos/a.mp4", "params/env.yaml"])
def test_what_a_link_points_to_does_not_travel_with_the_page(tmp_path: Path, name: str) -> None:
    (tmp_path / "secret").write_text("my password")
    link = tmp_path / "run" / name
    link.parent.mkdir(parents=True)
    link.symlink_to(tmp_path / "secret")
    text = check(RunDir(tmp_path / "run"))
    assert "my password" not in text and "base64" not in text


# ------------------------------------------------------------------------------------------------------------ curves


def test_only_numbers_are_drawn() -> None:
    series: Any = {
        "a": ([1, 2, 3, 4, 5, 6], [1.0, math.nan, "2", -3, math.inf, True]),
        "b": ([1], [None]),
        "c": ([1, 2], [[1], 10**400]),
        "d": ([7], [-1e99]),
    }
    assert drawable(series) == {"a": ([1, 4, 6], [1.0, -3.0, 1.0]), "d": ([7], [-1e99])}


@pytest.mark.filterwarnings("ignore:Glyph")
def test_no_metric_breaks_the_picture(tmp_path: Path) -> None:
    values = [1.0, math.nan, EVIL, 1e99, -1e99, math.inf]
    tags = ["Train/mean_reward", f"Loss/$x^ \\frac{{ {EVIL}", "Policy/_\n\t ü漢"]
    series: Any = {tag: (list(range(6)), values) for tag in tags} | {"Loss/nothing": ([1], [math.nan])}
    drawn = plot_curves(series, tmp_path / "a.png", "_$x^ \\frac{")
    assert drawn == tags
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")


def test_runs_are_compared_where_both_numbers_are_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from matplotlib.axes import Axes

    drawn: list[Any] = []
    legends: list[Any] = []
    plot, legend = Axes.plot, Axes.legend
    monkeypatch.setattr(Axes, "plot", lambda self, *a, **o: drawn.append((*a, o["label"])) or plot(self, *a, **o))
    monkeypatch.setattr(Axes, "legend", lambda self, *a, **o: legends.append(a[1]) or legend(self, *a, **o))
    steps = ([1, 2, 4], [10.0, 20.0, 40.0])
    rewards: Any = ([1, 2, 3, 4], [-1.0, 5.0, 7.0, math.nan])
    runs: Any = {
        "_one $x^": {"Train/mean_reward": rewards, "Train/total_steps": steps, "Perf/total_time": ([2], [3.0])},
        "empty": {},
        "apart": {"Train/mean_reward": ([1], [1.0]), "Train/total_steps": ([2], [1.0])},
    }
    plot_comparison(runs, tmp_path / "a.png")
    by_steps, by_time = drawn
    assert (by_steps[0], by_steps[1].tolist(), by_steps[2]) == ([10.0, 20.0], [-1.0, 5.0], "_one $x^")
    assert (by_time[0], by_time[1].tolist()) == ([3.0], [5.0])
    assert legends == [["_one $x^"]]


def test_smoothing_keeps_negative_and_single_values() -> None:
    assert smooth(np.array([-2.0])).tolist() == [-2.0]
    assert smooth(np.array([-2.0, 4.0, -6.0])).tolist() == [-2.0, 4.0, -6.0]  # too few to average
    np.testing.assert_allclose(smooth(np.array([-3.0, 0.0, 3.0, 9.0, -9.0])), [-3.0, 0.0, 4.0, 1.0, -9.0])
