"""`curves.png`: the metrics of a run in one picture."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from .run_dir import replacing

Series = Mapping[str, tuple[list[int], list[float]]]

_INK, _GRID, _LINE = "#1f2933", "#e4e7eb", "#0b7285"
_PANELS = ("Train/mean_reward", "Train/mean_episode_length", "Eval/mean_reward", "Train/success_rate")
_TITLES = {
    "Train/mean_reward": "Mean return (last 100 episodes)",
    "Train/mean_episode_length": "Mean episode length",
    "Eval/mean_reward": "Evaluated return",
    "Train/success_rate": "Success rate",
    "Perf/total_fps": "Steps per second",
}
_LEARNER = ("Loss/", "Policy/")
_MAX_PANELS = 9
_LARGEST = 1e100
"""Largest value drawn, so that axes and sums stay finite; metrics of a run are nowhere near."""


def drawable(series: Mapping[str, tuple[list[int], list[Any]]]) -> dict[str, tuple[list[int], list[float]]]:
    """Return the points of metrics that can be drawn; the file may be untrusted."""
    found = {}
    for tag, (iterations, values) in series.items():
        points = [
            (iteration, float(value)) for iteration, value in zip(iterations, values, strict=True) if _fits(value)
        ]
        if points:
            found[tag] = ([iteration for iteration, _ in points], [value for _, value in points])
    return found


def _fits(value: Any) -> bool:
    return isinstance(value, int | float) and abs(value) < _LARGEST  # which NaN is not either


def plot_curves(series: Series, path: Path, title: str) -> list[str]:
    """Draw the metrics of a run and return the drawn tags.

    Args:
        series: Tag -> (iterations, values), from `read_metrics`.
        path: PNG to write.
        title: Title of the picture.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    series = drawable(series)
    tags = choose_tags(series)
    columns = min(3, max(1, len(tags)))
    rows = max(1, -(-len(tags) // columns))
    figure, axes = pyplot.subplots(rows, columns, figsize=(4.2 * columns, 2.7 * rows + 0.4), squeeze=False, dpi=110)
    for axis in axes.flat[len(tags) :]:
        axis.axis("off")
    for axis, tag in zip(axes.flat, tags, strict=False):
        iterations, values = series[tag]
        axis.plot(iterations, values, color=_LINE, alpha=0.25, linewidth=1)
        axis.plot(iterations, smooth(np.asarray(values, dtype=float)), color=_LINE, linewidth=1.6)
        shown = limits(np.asarray(values, dtype=float)) if tag.startswith(_LEARNER) else None
        if shown is not None:
            axis.set_ylim(*shown)
        axis.set_title(_TITLES.get(tag, tag.replace("_", " ")), fontsize=10, color=_INK, loc="left", parse_math=False)
        _style(axis)
    for axis in axes[-1]:
        axis.set_xlabel("iteration", fontsize=8, color=_INK)
    figure.suptitle(title, fontsize=12, color=_INK, x=0.01, ha="left", fontweight="bold", parse_math=False)
    figure.tight_layout()
    _write(figure, path)
    return tags


def plot_comparison(runs: Mapping[str, Series], path: Path) -> None:
    """Draw return and evaluation of several runs against environment steps and against training time.

    Args:
        runs: Label -> series of a run.
        path: PNG to write.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, 2, figsize=(11, 4), dpi=110, sharey=True)
    for axis, (x_tag, label) in zip(
        axes, (("Train/total_steps", "environment steps"), ("Perf/total_time", "training time [s]")), strict=True
    ):
        for name, series in runs.items():
            x, values = _against(x_tag, drawable(series))
            if x:
                axis.plot(x, smooth(np.asarray(values)), linewidth=1.6, label=name)
        axis.set_xlabel(label, fontsize=9, color=_INK)
        _style(axis)
    axes[0].set_ylabel("mean return", fontsize=9, color=_INK)
    lines = axes[0].lines
    if lines:
        # Labels are given here, since axes leave out lines whose label begins with an underscore.
        legend = axes[0].legend(lines, [str(line.get_label()) for line in lines], fontsize=7, frameon=False)
        for text in legend.get_texts():
            text.set_parse_math(False)
    figure.tight_layout()
    _write(figure, path)


def _against(x_tag: str, series: Series) -> tuple[list[float], list[float]]:
    """Return the mean return against another metric, at the iterations that have both."""
    if "Train/mean_reward" not in series or x_tag not in series:
        return [], []
    position = dict(zip(*series[x_tag], strict=True))
    points = [(position[i], value) for i, value in zip(*series["Train/mean_reward"], strict=True) if i in position]
    return [x for x, _ in points], [value for _, value in points]


def plot_lines(panels: Mapping[str, Mapping[str, list[float]]], path: Path, title: str, x_label: str) -> None:
    """Draw lines over 1, 2, 3, ..., a panel for each entry of `panels`: title -> name of the line -> values."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, len(panels), figsize=(4.6 * len(panels), 3.4), squeeze=False, dpi=110)
    for axis, (name, lines) in zip(axes.flat, panels.items(), strict=True):
        for label, values in lines.items():
            axis.plot(range(1, len(values) + 1), values, linewidth=1.6, label=label)
        axis.set_title(name, fontsize=10, color=_INK, loc="left", parse_math=False)
        axis.set_xlabel(x_label, fontsize=8, color=_INK)
        axis.set_ylim(bottom=0.0)
        axis.legend(fontsize=8, frameon=False)
        _style(axis)
    figure.suptitle(title, fontsize=12, color=_INK, x=0.01, ha="left", fontweight="bold", parse_math=False)
    figure.tight_layout()
    _write(figure, path)


def choose_tags(series: Series) -> list[str]:
    """Return the tags to draw: outcome first, then losses and policy statistics, speed last."""
    learner = [tag for tag in series if tag.startswith(_LEARNER)]
    learner.sort(key=lambda tag: "norm" in tag or "skipped" in tag)  # of interest only where something went wrong
    chosen = [tag for tag in _PANELS if tag in series] + learner
    speed = ["Perf/total_fps"] if "Perf/total_fps" in series else []
    return chosen[: _MAX_PANELS - len(speed)] + speed


def limits(values: np.ndarray) -> tuple[float, float] | None:
    """Return y-axis limits without the few values that would flatten all others; None if there are none."""
    low, high = np.quantile(values, [0.03, 0.97])
    margin = 0.5 * (high - low)
    if margin <= 0 or (values.min() >= low - 5 * margin and values.max() <= high + 5 * margin):
        return None
    bottom, top = max(values.min(), low - margin), min(values.max(), high + margin)
    return float(bottom - 0.05 * (top - bottom)), float(top + 0.05 * (top - bottom))


def smooth(values: np.ndarray) -> np.ndarray:
    """Return the centered moving average over 5% of the points; windows shrink at the ends, to avoid a bias."""
    half = max(1, len(values) // 40) if len(values) > 4 else 0
    sums = np.concatenate([[0.0], np.cumsum(values)])
    index = np.arange(len(values))
    reach = np.minimum(np.minimum(index, len(values) - 1 - index), half)
    return (sums[index + reach + 1] - sums[index - reach]) / (2 * reach + 1)


def _write(figure: Any, path: Path) -> None:
    """Write a PNG atomically and close the figure."""
    from matplotlib import pyplot

    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as file:
            figure.savefig(file, format="png")
    finally:
        pyplot.close(figure)


def _style(axis: Any) -> None:
    """Style axes: a light grid, no box."""
    axis.grid(color=_GRID, linewidth=0.8)
    axis.tick_params(labelsize=8, colors=_INK)
    axis.spines[["top", "right"]].set_visible(False)
    axis.spines[["left", "bottom"]].set_color(_GRID)
    axis.margins(x=0.01)
