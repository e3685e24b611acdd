"""`report.html`: one self-contained page about a run, made from the files in its directory.

Curves and short videos are embedded, so the page can be mailed; nothing is fetched from a network.
"""

from __future__ import annotations

import base64
import html
import json
import logging
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote

from .errors import RunDirectoryError, UserError
from .logging import read_metrics
from .plots import drawable, plot_curves
from .report_success import is_success, success_section
from .run_dir import RunDir, write_text_atomically
from .timing import format_duration

logger = logging.getLogger(__name__)

_EMBED_LIMIT = 12 * 2**20
"""Maximum size of embedded videos, in bytes; larger ones are linked by their relative path."""

_MODES = ("deterministic", "sampled")
_RESULT = ("mean", "std", "n", "mean_length")

PAGE_STYLE = """
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
    """Draw `curves.png` and write `report.html` from the contents of the run directory; returns the page.

    A run directory may be untrusted: files that do not look as a run writes them are left out with a warning, and no
    text reaches the page unescaped.

    Raises:
        UserError: The page can't be written, or the metrics or `run.yaml` can't be read.
    """
    info = run.run_info()
    title = f"{info.get('task', run.root.parent.name)}"
    series = drawable(read_metrics(run.metrics)) if run.metrics.is_file() else {}
    try:
        if series:
            plot_curves(series, run.curves, f"{title}  ·  {run.root.name}")
        write_text_atomically(run.report, _page(run, title, info, series))
    except OSError as error:
        raise RunDirectoryError(
            f"The report of '{run.root}' can't be written ({error.strerror}); free some space, then call "
            f"`rrf plot {shlex.quote(str(run.root))}`."
        ) from error
    return run.report


def try_to_write_report(run: RunDir) -> None:
    """Write the report at the end of a training; a failure is logged and does not fail the run."""
    try:
        write_report(run)
    except Exception as error:  # the run is finished and saved, whatever the drawing stumbles over
        logger.warning("No report: %s", error, exc_info=not isinstance(error, UserError))


def read_evaluation(path: Path) -> dict[str, Any]:
    """Read the output of `rrf eval`: results by mode, and measurements; {} if there is no such file.

    Entries of another form are left out with a warning.
    """
    if not path.is_file():
        return {}
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        logger.warning("'%s' can't be read (%s): it is left out; `rrf eval` writes it anew.", path, error)
        return {}
    if not isinstance(content, dict):
        logger.warning("'%s' is no JSON object: it is left out; `rrf eval` writes it anew.", path)
        return {}
    good = {name: value for name, value in content.items() if _is_of_evaluation(name, value)}
    if len(good) < len(content):
        odd = ", ".join(sorted(content.keys() - good.keys()))[:200]
        logger.warning("'%s' has entries that no evaluation writes (%r): they are left out.", path, odd)
    return good


def play_name(evaluation: Mapping[str, Any]) -> str:
    """Return what tells an evaluation from others of the run: its task, and what was changed in it."""
    return " ".join([str(evaluation.get("task", "")), *evaluation.get("overrides", [])])


def _is_of_evaluation(name: str, value: Any) -> bool:
    if name == "overrides":
        return isinstance(value, list) and all(isinstance(text, str) for text in value)
    if name == "others":
        return isinstance(value, dict) and all(_is_evaluation(play) for play in value.values())
    if name in _MODES:
        return isinstance(value, dict) and all(_is_number(value.get(key)) for key in _RESULT) and is_success(value)
    if isinstance(value, dict):  # what a task package measures
        return all(_is_number(number) for number in value.values())
    return isinstance(value, str | int)


def _is_evaluation(play: Any) -> bool:
    return isinstance(play, dict) and all(
        name != "others" and _is_of_evaluation(name, value) for name, value in play.items()
    )


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e300


def _page(run: RunDir, title: str, info: Mapping[str, Any], series: Mapping[str, Any]) -> str:
    evaluation, *others = _plays(read_evaluation(run.evaluation), info)
    parts = [
        f"<h1>{html.escape(title)}</h1><p class=sub>{html.escape(f'{run.root.parent.name} / {run.root.name}')}</p>",
        _cards(series, evaluation, info),
        _video(run),
        f"<h2>Curves</h2><section>{_image(run.curves)}</section>" if series else "",
        *(
            _evaluation(play) + success_section({mode: play[mode] for mode in _MODES if mode in play})
            for play in (evaluation, *others)
        ),
        _commands(run, info),
        _facts(info),
        _config(run),
    ]
    page = (
        f"<!doctype html><html lang=en><meta charset=utf-8><meta name=viewport content='width=device-width'>"
        f"<title>{html.escape(title)}</title><style>{PAGE_STYLE}</style><main>{''.join(parts)}</main></html>\n"
    )
    return page.encode(errors="replace").decode()  # halves of surrogate pairs, which JSON may hold, can't be written


def _plays(evaluation: Mapping[str, Any], info: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Return the plays of an evaluation, first the one of the run's own task without overrides, or else the last."""
    last = {name: value for name, value in evaluation.items() if name != "others"}
    plays = [last, *evaluation.get("others", {}).values()]
    return sorted(plays, key=lambda play: bool(play.get("overrides")) or play.get("task") != info.get("task"))


def _cards(series: Mapping[str, Any], evaluation: Mapping[str, Any], info: Mapping[str, Any]) -> str:
    cards = []
    for mode in _MODES:
        if mode in evaluation:
            result = evaluation[mode]
            changed = ", with overrides" if evaluation.get("overrides") else ""
            label = f"{mode} return, n = {result['n']}{changed}"
            cards.append((f"{_number(result['mean'])} ± {_number(result['std'])}", label))
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
    num_envs = _mapping(info.get("spec")).get("num_envs")
    if isinstance(num_envs, int):
        cards.append((f"{num_envs:,}", "environments"))
    shown = "".join(
        f"<div class=card><b>{html.escape(value)}</b><span>{html.escape(label)}</span></div>" for value, label in cards
    )
    return f"<div class=cards>{shown}</div>"


def _video(run: RunDir) -> str:
    videos = [path for path in run.videos.glob("**/*.mp4") if _is_own_file(run, path)]
    if not videos:
        return ""
    newest = max(videos, key=lambda path: path.stat().st_mtime)
    relative = newest.relative_to(run.root).as_posix()
    embedded = newest.stat().st_size <= _EMBED_LIMIT
    source = _data_uri(newest, "video/mp4") if embedded else html.escape(quote(relative))
    return (
        f"<h2>The policy</h2><section><video controls loop muted autoplay playsinline src='{source}'></video>"
        f"<p class=sub>{html.escape(relative)}</p></section>"
    )


def _evaluation(evaluation: Mapping[str, Any]) -> str:
    modes = [mode for mode in _MODES if mode in evaluation]
    if not modes:
        return ""
    played = play_name(evaluation)
    title = f"Evaluation in {played}" if played else "Evaluation"
    rows = ""
    for mode in modes:
        result = evaluation[mode]
        numbers = (_number(result["mean"]), _number(result["std"]), str(result["n"]), _number(result["mean_length"]))
        rows += f"<tr><td>{mode}" + "".join(f"<td class=n>{html.escape(number)}" for number in numbers)
    for name, numbers in evaluation.items():  # what a task package measures besides returns
        if isinstance(numbers, dict) and name not in modes:
            listed = ", ".join(f"{key.replace('_', ' ')} {_number(value)}" for key, value in numbers.items())
            rows += f"<tr><td>{html.escape(name.replace('_', ' '))}<td colspan=4>{html.escape(listed)}"
    return (
        f"<h2>{html.escape(title)}</h2><section><table><tr><th>actions<th class=n>mean return<th class=n>std"
        f"<th class=n>episodes<th class=n>mean length</tr>{rows}</table>"
        f"<p class=sub>{html.escape(str(evaluation.get('checkpoint', '')))}</p></section>"
    )


def _commands(run: RunDir, info: Mapping[str, Any]) -> str:
    command = str(info.get("command", ""))
    lines = f"<pre>{html.escape(command)}</pre>" if command else ""
    target = html.escape(shlex.quote(run.root.as_posix()))
    where = "" if info.get("has_env", True) else " --task TASK"
    return (
        f"<h2>Commands</h2><section>{lines}Play it, or go on training:"
        f"<pre>rrf play --target {target}{where} --video\nrrf train --resume {target}</pre></section>"
    )


def _facts(info: Mapping[str, Any]) -> str:
    spec = _mapping(info.get("spec"))
    action = _mapping(spec.get("action"))
    groups, versions = _mapping(spec.get("obs_groups")), _mapping(info.get("versions"))
    facts = {
        "Observations": ", ".join(f"{name} {shape}" for name, shape in groups.items()),
        "Actions": f"{action.get('kind')} [{action.get('dim')}]" if action else "",
        "Horizon": f"{spec['max_episode_length']} steps" if spec.get("max_episode_length") else "",
        "Seed": info.get("seed", ""),
        "Device": info.get("device", ""),
        "Hardware": info.get("hardware", ""),
        "Versions": ", ".join(f"{name} {version}" for name, version in versions.items()),
        "Commit": info.get("commit", ""),
        "Started": info.get("started", ""),
    }
    rows = "".join(f"<tr><th>{name}<td>{html.escape(str(value))}" for name, value in facts.items() if value != "")
    return f"<h2>Environment and machine</h2><section><table>{rows}</table></section>" if rows else ""


def _config(run: RunDir) -> str:
    blocks = ""
    for name, label in (("agent", "Runner, algorithm and policy"), ("env", "Environment")):
        if _is_own_file(run, run.params(name)):
            text = html.escape(run.params(name).read_text(encoding="utf-8", errors="replace"))
            blocks += f"<details><summary>{label} (params/{name}.yaml)</summary><pre>{text}</pre></details>"
    return f"<h2>Configuration</h2><section>{blocks}</section>" if blocks else ""


def _is_own_file(run: RunDir, path: Path) -> bool:
    """Return True if a file is in the run directory itself: linked content must not be embedded in the page."""
    return path.is_file() and path.resolve().is_relative_to(run.root.resolve())


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


def _image(path: Path) -> str:
    return f"<img alt='learning curves' src='{_data_uri(path, 'image/png')}'>"


def _data_uri(path: Path, kind: str) -> str:
    return f"data:{kind};base64,{base64.b64encode(path.read_bytes()).decode()}"


def _number(value: float) -> str:
    return f"{value:,.1f}" if abs(value) >= 100 else f"{value:.3g}"


def _count(value: float) -> str:
    for limit, unit in ((1e9, "B"), (1e6, "M"), (1e3, "k")):
        if value >= limit:
            return f"{value / limit:.3g} {unit}"
    return f"{value:.0f}"
