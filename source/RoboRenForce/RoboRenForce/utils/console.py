"""Console output of a run: log messages, and the progress display.

On a terminal the display is a panel that is redrawn in place; piped, it prints one line now and then. Only the main
process of a run has one.
"""

from __future__ import annotations

import contextlib
import logging
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TextIO

from rich.console import Console, Group
from rich.live import Live
from rich.logging import RichHandler
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from .timing import format_duration

_HEADLINE = {"Train/mean_reward": "reward", "Train/mean_episode_length": "length"}
_IN_HEADLINE = {
    *_HEADLINE,
    *("Perf/total_fps", "Perf/updates_per_second", "Perf/total_time", "Train/total_steps", "Train/updates"),
}
_LINE_LABELS = {**_HEADLINE, "Train/success_rate": "success"}


@dataclass(frozen=True)
class Progress:
    """Data of the display for one iteration."""

    iteration: int
    """Number of finished iterations."""
    total: int
    """Number of planned iterations."""
    metrics: Mapping[str, float]
    """Tag -> value, as in the logs."""
    steps: int
    """Environment steps so far, over all environments and processes."""
    elapsed: float
    """Seconds of training so far, over all sessions of the run."""
    seconds_left: float


@dataclass
class Display:
    """Display of `Progress`; calling `update` often is cheap."""

    title: str
    stream: TextIO = field(default_factory=lambda: sys.stdout)
    panel_interval: float = 0.2
    """Seconds between two drawings of the panel."""
    line_interval: float = 2.0
    """Seconds between two lines when piped; the first and the last iteration always get one."""

    def __post_init__(self) -> None:
        make_printable(self.stream)
        self.console = Console(file=self.stream, highlight=False)
        self._live: Live | None = None
        self._shown_at = float("-inf")
        self._last: Progress | None = None
        self._last_is_shown = True

    def start(self) -> None:
        """Take over the terminal; without one nothing happens until the first line."""
        if self.console.is_terminal:
            self._live = Live(console=self.console, auto_refresh=False, transient=False, redirect_stderr=False)
            self._live.start()
            _log_through(self.console)

    def update(self, progress: Progress) -> None:
        """Show an iteration, unless the last one was shown a moment ago."""
        self._last, self._last_is_shown = progress, False
        interval = self.panel_interval if self._live else self.line_interval
        is_last = progress.iteration >= progress.total
        if is_last or time.monotonic() - self._shown_at >= interval:
            self._show(progress)

    def stop(self) -> None:
        """Show the last iteration and release the terminal; safe to call twice."""
        if self._last is not None and not self._last_is_shown:
            self._show(self._last)
        if self._live is not None:
            with contextlib.suppress(OSError):
                self._live.stop()
            self._live = None
            _log_through(None)

    def _show(self, progress: Progress) -> None:
        self._shown_at, self._last_is_shown = time.monotonic(), True
        with contextlib.suppress(OSError):  # nobody reads any more (`| head`), or a disk is full: the run goes on
            if self._live is not None:
                self._live.update(render_panel(self.title, progress), refresh=True)
            else:
                self.stream.write(render_line(progress) + "\n")
                self.stream.flush()


def render_line(progress: Progress) -> str:
    """Format an iteration as one line."""
    metrics = progress.metrics
    parts = [f"Learning iteration {progress.iteration}/{progress.total}"]
    parts += [f"{label} {_number(metrics[tag])}" for tag, label in _LINE_LABELS.items() if tag in metrics]
    parts.append(" ".join(reversed(_speed(metrics))))
    collecting, learning = (metrics.get(f"Perf/{phase}_time", 0.0) for phase in ("collection", "learning"))
    collected = "" if _is_offline(metrics) else f"collect {collecting:.2f} s, "
    parts.append(f"{collected}learn {learning:.2f} s")
    losses = " ".join(
        f"{tag.split('/', 1)[1]} {_number(value)}" for tag, value in metrics.items() if tag.startswith("Loss/")
    )
    parts += [losses] if losses else []
    parts.append(f"left {format_duration(progress.seconds_left)}")
    return " | ".join(parts)


def _is_offline(metrics: Mapping[str, float]) -> bool:
    """Return True if the run learns from recorded data: it makes updates and no environment steps."""
    return "Perf/updates_per_second" in metrics


def _speed(metrics: Mapping[str, float]) -> tuple[str, str]:
    """Return unit and number of the run's work per second."""
    if _is_offline(metrics):
        return "updates/s", f"{metrics['Perf/updates_per_second']:,.0f}"
    return "steps/s", f"{metrics.get('Perf/total_fps', 0.0):,.0f}"


def render_panel(title: str, progress: Progress) -> Panel:
    """Format an iteration as a panel: headline, progress bar, and every metric by group."""
    metrics = progress.metrics
    headline = Table.grid(expand=True, padding=(0, 2))
    shown = [(label, _number(metrics[tag]) if tag in metrics else "-") for tag, label in _HEADLINE.items()]
    total = (
        ("updates", f"{metrics['Train/updates']:,.0f}") if _is_offline(metrics) else ("steps", f"{progress.steps:,}")
    )
    shown += [_speed(metrics), total]
    shown += [("elapsed", format_duration(progress.elapsed)), ("left", format_duration(progress.seconds_left))]
    for _ in shown:
        headline.add_column(justify="center", ratio=1)
    headline.add_row(*(Text.assemble((value + "\n", "bold cyan"), (label, "dim")) for label, value in shown))
    bar = Table.grid(expand=True, padding=(0, 1))
    bar.add_column(ratio=1)
    bar.add_column(justify="right", no_wrap=True)
    bar.add_row(
        ProgressBar(total=max(progress.total, 1), completed=progress.iteration),
        Text(f"iteration {progress.iteration}/{progress.total}"),
    )
    return Panel(Group(headline, bar, _details(metrics)), title=title, title_align="left", border_style="cyan")


def _details(metrics: Mapping[str, float]) -> Table:
    """Format the metrics that the headline does not show, two per row, ordered by tag group."""
    rest = [(tag, value) for tag, value in metrics.items() if tag not in _IN_HEADLINE]
    table = Table.grid(expand=True, padding=(0, 1))
    for _ in range(2):
        table.add_column(ratio=2, style="dim", no_wrap=True, overflow="ellipsis")
        table.add_column(ratio=1, justify="right", no_wrap=True)
    half = (len(rest) + 1) // 2
    for row in range(half):
        cells = rest[row::half]
        table.add_row(*(text for tag, value in cells for text in (tag, _number(value))))
    return table


def _number(value: float) -> str:
    """Format with four significant digits; small and huge numbers in exponent form."""
    if value == 0 or 1e-3 <= abs(value) < 1e6:
        return f"{value:,.1f}" if abs(value) >= 100 else f"{value:.4g}"
    return f"{value:.2e}"


def say(text: str) -> None:
    """Write a result for the user to standard output."""
    stream = make_printable(sys.stdout)
    with contextlib.suppress(OSError):
        stream.write(text + "\n")
        stream.flush()


def make_printable(stream: TextIO) -> TextIO:
    """Let a stream escape characters that its encoding lacks instead of raising; returns it."""
    if getattr(stream, "errors", None) == "strict" and hasattr(stream, "reconfigure"):
        stream.reconfigure(errors="backslashreplace")  # pyright: ignore[reportAttributeAccessIssue]
    return stream


class _StderrHandler(logging.Handler):
    """Plain messages on standard error, which is looked up at every message so that redirections hold."""

    def emit(self, record: logging.LogRecord) -> None:
        """Write one message."""
        with contextlib.suppress(OSError):
            make_printable(sys.stderr).write(self.format(record) + "\n")


def setup_logging(*, is_main: bool = True) -> None:
    """Send messages of RoboRenForce to standard error: all from the main process, warnings only from the others."""
    root = logging.getLogger("RoboRenForce")
    root.handlers = [_StderrHandler()]
    root.setLevel(logging.INFO if is_main else logging.WARNING)
    root.propagate = False


def _log_through(console: Console | None) -> None:
    """Print log messages above a panel on the screen, by the same console."""
    root = logging.getLogger("RoboRenForce")
    if not root.handlers:
        return
    root.handlers = [RichHandler(console=console, show_time=False, show_path=False)] if console else [_StderrHandler()]
