"""The display: a panel on a terminal, a line now and then in a pipe."""

from __future__ import annotations

import io
import logging

import pytest
from rich.console import Console
from RoboRenForce.utils import console
from RoboRenForce.utils.console import Display, Progress, render_line, render_panel
from RoboRenForce.utils.timing import format_duration

pytestmark = pytest.mark.contract

METRICS = {
    "Loss/value": 12.34567,
    "Loss/surrogate": -0.00012345,
    "Train/mean_reward": 1234.56,
    "Train/mean_episode_length": 987.0,
    "Perf/collection_time": 0.52,
    "Perf/learning_time": 0.311,
    "Perf/total_fps": 25123.4,
}


def progress(iteration: int, total: int = 100) -> Progress:
    return Progress(iteration, total, METRICS, steps=iteration * 1000, elapsed=75.0, seconds_left=3723.0)


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


class Clock:
    now = 0.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(console, "time", made)
    return made


def test_a_line_shows_what_matters() -> None:
    assert render_line(progress(10)) == (
        "Learning iteration 10/100 | reward 1,234.6 | length 987.0 | 25,123 steps/s | collect 0.52 s, learn 0.31 s | "
        "value 12.35 surrogate -1.23e-04 | left 1:02:03"
    )


def test_before_the_first_episode_ends_the_reward_is_left_out() -> None:
    early = Progress(1, 9, {"Perf/total_fps": 10.0}, 10, 1.0, 5.0)
    assert render_line(early) == "Learning iteration 1/9 | 10 steps/s | collect 0.00 s, learn 0.00 s | left 0:05"


def test_offline_runs_count_updates_and_collect_nothing() -> None:
    metrics = {"Perf/updates_per_second": 1234.4, "Perf/learning_time": 0.8, "Train/updates": 2000.0}
    offline = Progress(2, 9, metrics, 0, 1.0, 5.0)
    assert render_line(offline) == "Learning iteration 2/9 | 1,234 updates/s | learn 0.80 s | left 0:05"
    panel = io.StringIO()
    Console(file=panel, width=100).print(render_panel("title", offline))
    assert "1,234" in panel.getvalue() and "2,000" in panel.getvalue() and "steps" not in panel.getvalue()


def test_piped_lines_are_limited_but_the_first_and_the_last_are_always_there(clock: Clock) -> None:
    stream = io.StringIO()
    display = Display("title", stream=stream, line_interval=20.0)
    display.start()
    for iteration in range(1, 101):
        clock.now = float(iteration)
        display.update(progress(iteration))
    display.stop()
    lines = stream.getvalue().splitlines()
    assert [line.split()[2] for line in lines] == ["1/100", "21/100", "41/100", "61/100", "81/100", "100/100"]
    assert "\x1b" not in stream.getvalue()


def test_an_interrupted_run_shows_its_last_iteration(clock: Clock) -> None:
    stream = io.StringIO()
    display = Display("title", stream=stream)
    display.start()
    for iteration in (1, 2, 3):
        display.update(progress(iteration))
    display.stop()
    display.stop()
    assert [line.split()[2] for line in stream.getvalue().splitlines()] == ["1/100", "3/100"]


def test_a_reader_that_leaves_does_not_stop_the_run() -> None:
    class Closed(io.StringIO):
        def write(self, text: str) -> int:
            raise BrokenPipeError

    display = Display("title", stream=Closed(), line_interval=0.0)
    display.update(progress(1))
    display.update(progress(100))
    display.stop()
    assert display._last_is_shown


def test_a_terminal_gets_a_panel_and_messages_above_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("COLUMNS", "100")
    stream = Terminal()
    console.setup_logging()
    display = Display("RoboRenForce-Gym-Robot-PPO", stream=stream, panel_interval=0.0)
    display.start()
    display.update(progress(10))
    logging.getLogger("RoboRenForce.test").info("a message")
    display.update(progress(100))
    display.stop()
    shown = stream.getvalue()
    for text in (
        "RoboRenForce-Gym-Robot-PPO",
        "1,234.6",
        "25,123",
        "1:02:03",
        "iteration 10/100",
        "Loss/value",
        "a message",
    ):
        assert text in shown
    assert logging.getLogger("RoboRenForce").handlers[0].__class__.__name__ == "_StderrHandler"


def test_the_panel_shows_every_metric_once() -> None:
    from rich.console import Console

    stream = io.StringIO()
    Console(file=stream, width=120).print(render_panel("t", progress(50)))
    for tag in ("Loss/value", "Loss/surrogate", "Perf/collection_time", "Perf/learning_time"):
        assert stream.getvalue().count(tag) == 1
    assert "Train/mean_reward" not in stream.getvalue()  # it is in the headline


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "0:00"), (59.6, "1:00"), (754, "12:34"), (3723, "1:02:03"), (-5, "0:00")]
)
def test_durations(seconds: float, text: str) -> None:
    assert format_duration(seconds) == text


def test_other_processes_of_a_run_are_quiet(capsys: pytest.CaptureFixture[str]) -> None:
    console.setup_logging(is_main=False)
    logging.getLogger("RoboRenForce.test").info("not shown")
    logging.getLogger("RoboRenForce.test").warning("shown")
    console.setup_logging()
    assert capsys.readouterr().err == "shown\n"
