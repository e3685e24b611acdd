"""`report.html`: one self-contained page about a run, made from the files in its directory.

Curves and short videos are embedded, so the page can be mailed; nothing is fetched from a network.
"""

from __future__ import annotations

import base64
import html
import json
import logging
import math
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .logging import read_metrics
from .plots import plot_curves
from .run_dir import RunDir, write_text_atomically
from .timing import format_duration

logger = logging.getLogger(__name__)

_EMBED_LIMIT = 12 * 2**20
"""Larger videos are linked by their relative path."""

_STYLE = """
:root { --ink: #1f2933; --dim: #616e7c; --line: #e4e7eb; --card: #fff; --page: #f5f7fa; --accent: #0b7285 }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e4e7eb; --dim: #9aa5b1; --line: #323f4b; --card: #1f2933; --page: #11181f; --accent: #66d9e8 }
}
* { box-sizing: border-box }
body { margin: 0; background: var(--page); color: var(--ink); font: 15px/1.5 system-ui, sans-serif }
main { max-width: 1040px; margin: 0 auto; padding: 32px 20px }
h1 { font-size: 24px; margin: 0 }
h2 { font-size: 17px; margin: 32px 0 10px }
p.sub { color: var(--dim); margin: 4px 0 20px }
.cards { display: grid; grid-template-columns: repeat(auto-fit, minmax(150px, 1fr)); gap: 12px }
.card, section { background: var(--card); border: 1px solid var(--line); border-radius: 10px; padding: 14px 16px }
.card b { display: block; font-size: 21px; color: var(--accent); font-variant-numeric: tabular-nums }
.card span { color: var(--dim); font-size: 13px }
img, video { width: 100%; border-radius: 6px; display: block; background: #fff }
video { max-width: 640px; margin: 0 auto; background: #000 }
table { border-collapse: collapse; width: 100%; font-size: 14px }
td, th { padding: 5px 10px 5px 0; border-bottom: 1px solid var(--line); text-align: left; vertical-align: top }
td.n, th.n { text-align: right; font-variant-numeric: tabular-nums }
th { color: var(--dim); font-weight: 500 }
tr:last-child > * { border-bottom: 0 }
pre { background: var(--page); border: 1px solid var(--line); border-radius: 6px; padding: 10px 12px; margin: 6px 0;
  overflow: auto; font-size: 13px }
summary { cursor: pointer; color: var(--accent); margin-top: 8px }
"""


def write_report(run: RunDir) -> Path:
    """Draw `curves.png` and write `report.html` from what the run directory holds; returns the page."""
    info = run.run_info()
    title = f"{info.get('task', run.root.parent.name)}"
    series = read_metrics(run.metrics) if run.metrics.is_file() else {}
    if series:
        plot_curves(series, run.curves, f"{title}  ·  {run.root.name}")
    evaluation = json.loads(run.evaluation.read_text()) if run.evaluation.is_file() else {}
    parts = [
        f"<h1>{html.escape(title)}</h1><p class=sub>{html.escape(f'{run.root.parent.name} / {run.root.name}')}</p>",
        _cards(series, evaluation, info),
        _video(run),
        f"<h2>Curves</h2><section>{_image(run.curves)}</section>" if series else "",
        _evaluation(evaluation),
        _commands(run, info),
        _facts(info),
        _config(run),
    ]
    page = (
        f"<!doctype html><html lang=en><meta charset=utf-8><meta name=viewport content='width=device-width'>"
        f"<title>{html.escape(title)}</title><style>{_STYLE}</style><main>{''.join(parts)}</main></html>\n"
    )
    write_text_atomically(run.report, page)
    return run.report


def _cards(series: Mapping[str, Any], evaluation: Mapping[str, Any], info: Mapping[str, Any]) -> str:
    cards = []
    for mode in ("deterministic", "sampled"):
        if mode in evaluation:
            result = evaluation[mode]
            cards.append((f"{_number(result['mean'])} ± {_number(result['std'])}", f"{mode} return, n = {result['n']}"))
    last = {tag: values[-1] for tag, (_, values) in series.items()}
    if "Train/mean_reward" in last:
        cards.append((_number(last["Train/mean_reward"]), "return in training, last 100 episodes"))
    if "Train/success_rate" in last:
        cards.append((f"{last['Train/success_rate']:.0%}", "success in training"))
    if "Train/total_steps" in last:
        cards.append((_count(last["Train/total_steps"]), "environment steps"))
    if "Perf/total_time" in last:
        cards.append((format_duration(last["Perf/total_time"]), "training time"))
    speeds = series.get("Perf/total_fps", ([], []))[1]
    if speeds:
        cards.append((f"{sorted(speeds)[len(speeds) // 2]:,.0f}", "steps per second (median)"))
    if "num_envs" in info.get("spec", {}):
        cards.append((f"{info['spec']['num_envs']:,}", "environments"))
    shown = "".join(
        f"<div class=card><b>{html.escape(value)}</b><span>{html.escape(label)}</span></div>" for value, label in cards
    )
    return f"<div class=cards>{shown}</div>"


def _video(run: RunDir) -> str:
    videos = sorted(run.videos.glob("**/*.mp4"), key=lambda path: path.stat().st_mtime) if run.videos.is_dir() else []
    if not videos:
        return ""
    newest = videos[-1]
    relative = newest.relative_to(run.root).as_posix()
    source = _data_uri(newest, "video/mp4") if newest.stat().st_size <= _EMBED_LIMIT else html.escape(relative)
    return (
        f"<h2>The policy</h2><section><video controls loop muted autoplay playsinline src='{source}'></video>"
        f"<p class=sub>{html.escape(relative)}</p></section>"
    )


def _evaluation(evaluation: Mapping[str, Any]) -> str:
    modes = [mode for mode in ("deterministic", "sampled") if mode in evaluation]
    if not modes:
        return ""
    rows = "".join(
        f"<tr><td>{mode}<td class=n>{_number(result['mean'])}<td class=n>{_number(result['std'])}"
        f"<td class=n>{result['n']}<td class=n>{_number(result['mean_length'])}"
        for mode in modes
        for result in (evaluation[mode],)
    )
    checkpoint = html.escape(str(evaluation.get("checkpoint", "")))
    for name, numbers in evaluation.items():  # what a task package measures besides returns
        if isinstance(numbers, dict) and name not in modes:
            listed = ", ".join(f"{key.replace('_', ' ')} {_number(value)}" for key, value in numbers.items())
            rows += f"<tr><td>{html.escape(name.replace('_', ' '))}<td colspan=4>{html.escape(listed)}"
    return (
        "<h2>Evaluation</h2><section><table><tr><th>actions<th class=n>mean return<th class=n>std<th class=n>episodes"
        f"<th class=n>mean length</tr>{rows}</table><p class=sub>{checkpoint}</p></section>"
    )


def _commands(run: RunDir, info: Mapping[str, Any]) -> str:
    command = info.get("command", "")
    lines = f"<pre>{html.escape(command)}</pre>" if command else ""
    target = shlex.quote(run.root.as_posix())
    return (
        f"<h2>Commands</h2><section>{lines}Play it, or go on training:"
        f"<pre>rrf play --target {html.escape(target)} --video\nrrf train --resume {html.escape(target)}</pre>"
        "</section>"
    )


def _facts(info: Mapping[str, Any]) -> str:
    spec = info.get("spec", {})
    action = spec.get("action", {})
    facts = {
        "Observations": ", ".join(f"{name} {shape}" for name, shape in spec.get("obs_groups", {}).items()),
        "Actions": f"{action.get('kind')} [{action.get('dim')}]" if action else "",
        "Horizon": f"{spec['max_episode_length']} steps" if spec.get("max_episode_length") else "",
        "Seed": info.get("seed", ""),
        "Device": info.get("device", ""),
        "Hardware": info.get("hardware", ""),
        "Versions": ", ".join(f"{name} {version}" for name, version in info.get("versions", {}).items()),
        "Commit": info.get("commit", ""),
        "Started": info.get("started", ""),
    }
    rows = "".join(f"<tr><th>{name}<td>{html.escape(str(value))}" for name, value in facts.items() if value != "")
    return f"<h2>Environment and machine</h2><section><table>{rows}</table></section>" if rows else ""


def _config(run: RunDir) -> str:
    blocks = ""
    for name, label in (("agent", "Runner, algorithm and policy"), ("env", "Environment")):
        if run.params(name).is_file():
            text = html.escape(run.params(name).read_text(encoding="utf-8"))
            blocks += f"<details><summary>{label} (params/{name}.yaml)</summary><pre>{text}</pre></details>"
    return f"<h2>Configuration</h2><section>{blocks}</section>" if blocks else ""


def _image(path: Path) -> str:
    return f"<img alt='learning curves' src='{_data_uri(path, 'image/png')}'>"


def _data_uri(path: Path, kind: str) -> str:
    return f"data:{kind};base64,{base64.b64encode(path.read_bytes()).decode()}"


def _number(value: float) -> str:
    if not math.isfinite(value):
        return "-"
    return f"{value:,.1f}" if abs(value) >= 100 else f"{value:.3g}"


def _count(value: float) -> str:
    for limit, unit in ((1e9, "B"), (1e6, "M"), (1e3, "k")):
        if value >= limit:
            return f"{value / limit:.3g} {unit}"
    return f"{value:.0f}"
