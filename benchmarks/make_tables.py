"""Write docs/benchmarks.md from benchmarks/results/*.json.

    python benchmarks/make_tables.py            # write the pages
    python benchmarks/make_tables.py --check    # fail if a page is not what the files say

A result file is shown by what it holds: top-level numbers as a sentence, every mapping of names to numbers (`medians`,
`results`) as a table with one row per name, samples (`runs`, lists) by their number and, where nothing else is given,
by their medians. A number without a file is not on the page. The table of memory in docs/vla/models.md is written too.
"""

from __future__ import annotations

import argparse
import ast
import json
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from statistics import median
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs/benchmarks.md"
MODELS_PAGE = ROOT / "docs/vla/models.md"
MEMORY = re.compile(
    r"(?<=<!-- memory: written by benchmarks/make_tables.py -->\n).*?(?=<!-- end of memory -->)", re.DOTALL
)
_LEAST = "weights, gradients and the state of AdamW by their types"
USES = {"acting": "acting", "LoRA": "LoRA, rank 16", "full": "all weights"}
HEAD = """# Benchmarks

Written by `benchmarks/make_tables.py` from `benchmarks/results/*.json`, which hold the raw samples too. Numbers are
medians over the samples of a row, unless its conditions say otherwise, on the machine that is named: compare rows of
one table, not tables of two machines.
"""
EMPTY = "\nThe repository holds no result files.\n"
FACTS = ("benchmark", "command", "versions", "hardware", "arguments")
CURVES = ("curve", "curves", "validation")
"""Lists of one run over its time: not samples."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="only compare; exit code 1 if the page is out of date")
    args = parser.parse_args()
    results = ROOT / "benchmarks/results"
    models = MODELS_PAGE.read_text(encoding="utf-8")
    pages = {PAGE: render(results), MODELS_PAGE: MEMORY.sub(lambda _: memory(results), models)}
    for page, text in pages.items():
        if not args.check:
            page.write_text(text, encoding="utf-8")
        elif not page.is_file() or page.read_text(encoding="utf-8") != text:
            sys.exit(f"{page.relative_to(ROOT)} is out of date: run python benchmarks/make_tables.py")


def render(results: Path) -> str:
    """Return the whole page for the result files in a folder."""
    files = sorted(results.glob("*.json"))
    return HEAD + ("".join(section(path) for path in files) if files else EMPTY)


def memory(results: Path) -> str:
    """Return the table of what policies need in GiB: measured, or computed until it has been measured."""
    computed = json.loads((results / "vla_memory_computed.json").read_text(encoding="utf-8"))["results"]
    file = results / "vla_memory.json"
    if file.is_file():
        data = json.loads(file.read_text(encoding="utf-8"))
        found, gpu, batch = data["results"], data["hardware"]["gpus"][0], data["arguments"]["batch_size"]
        text = f"Peak in GiB, measured on one {gpu}, training with batches of {batch}; in brackets {_LEAST} alone."
    else:
        found = {}
        text = f"In GiB, not measured yet but computed: {_LEAST}. Activations come on top."
    lines = ["| Model | " + " | ".join(USES.values()) + " |", "|---|" + "---:|" * len(USES)]
    for model, least in computed.items():
        cells = [_memory_cell(use, found.get(model), least) for use in USES]
        lines.append(f"| {model.removeprefix('Qwen/').removesuffix('-Instruct')} | {' | '.join(cells)} |")
    return f"{text}\n\n" + "\n".join(lines) + "\n"


def _memory_cell(use: str, measured: Mapping[str, Any] | None, computed: Mapping[str, Any]) -> str:
    least = f"{computed[f'{use}_gib']:.1f}"
    if measured is None or "failed" in measured:
        return least
    peak = measured[f"{use}_gib"]
    return f"{'does not fit' if peak is None else f'{peak:.1f}'} ({least})"


def section(path: Path) -> str:
    """Return one result file's section: what was measured, tables, command, machine and versions."""
    data = json.loads(path.read_text(encoding="utf-8"))
    command = _without_output(str(data.get("command", "")))
    parts = [f"\n## {path.stem}\n"]
    if purpose := _purpose(command):
        parts.append(purpose + "\n")
    tables = {name: value for name, value in data.items() if name not in FACTS and _is_table(value)}
    if not tables and (medians := _medians(data.get("runs", {}))):
        tables = {"runs": medians}
    parts += [table(_with_columns(rows, data), _samples(data, rows)) for rows in tables.values()]
    numbers = [f"{_words(name)} {number(value)}" for name, value in data.items() if _is_number(value)]
    for title, facts in (
        ("Result", numbers),
        ("Arguments", [f"{name}={value}" for name, value in data.get("arguments", {}).items() if _is_short(value)]),
        ("Machine", [f"{_words(name)} {_plain(value)}" for name, value in data.get("hardware", {}).items()]),
        ("Versions", [f"{name} {version}" for name, version in data.get("versions", {}).items()]),
    ):
        if facts:
            parts.append(f"{title}: {', '.join(facts)}.\n")
    if note := data.get("note"):
        parts.append(f"Conditions: {note}\n")
    if command:
        parts.append(f"```bash\n{command}\n```\n")
    parts.append(f"Raw numbers: [`{path.name}`](../benchmarks/results/{path.name}).\n")
    return "\n".join(parts)


def table(rows: Mapping[str, Mapping[str, Any]], samples: Mapping[str, str]) -> str:
    """Return a table with one row per name; columns are the numbers that any row has, in order of appearance."""
    columns = list(dict.fromkeys(key for row in rows.values() for key, value in row.items() if _is_number(value)))
    lines = [["", *(_words(column) for column in columns)]]
    lines += [[name, *(number(row.get(column)) for column in columns)] for name, row in rows.items()]
    if samples:
        lines = [
            [*line, samples.get(name, "") if name else "samples"] for name, line in zip(["", *rows], lines, strict=True)
        ]
    rule = "|---|" + "---:|" * (len(lines[0]) - 1)
    text = ["| " + " | ".join(line) + " |" for line in lines]
    return "\n".join([text[0], rule, *text[1:]]) + "\n"


def number(value: Any) -> str:
    """Format with four significant digits, thousands separated; empty for anything else."""
    if not _is_number(value):
        return ""
    if float(value).is_integer() and abs(value) < 1e15:
        return f"{int(value):,}"
    return f"{value:,.0f}" if abs(value) >= 1e4 else f"{value:.4g}"


def _medians(runs: Any) -> dict[str, dict[str, float]]:
    """Return medians over each name's samples, if only samples are given; none if all of a name's samples failed."""
    found = {}
    for name, samples in runs.items() if isinstance(runs, Mapping) else ():
        good = [sample for sample in samples if "error" not in sample]
        keys = [key for key in (good[0] if good else {}) if key != "seed"]
        found[name] = {key: median([s[key] for s in good]) for key in keys if all(_is_number(s.get(key)) for s in good)}
    return found


def _with_columns(rows: Mapping[str, Mapping[str, Any]], data: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Add the file's further mappings as columns, as in `"speedup": {"peer": 1.0, "ours": 1.5}`."""
    wide = {name: dict(row) for name, row in rows.items()}
    for column, values in data.items():
        if column not in FACTS and isinstance(values, Mapping) and values and all(map(_is_number, values.values())):
            for name in values.keys() & wide.keys():
                wide[name][column] = values[name]
    return wide


def _samples(data: Mapping[str, Any], rows: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
    """Count the samples behind each row: entries of `runs`, of which some may have failed, or of a list in it."""
    runs = data.get("runs", {})
    found = {}
    for name, row in rows.items():
        samples = runs.get(name) if isinstance(runs, Mapping) else None
        if isinstance(samples, list):
            failed = sum("error" in sample for sample in samples)
            found[name] = f"{len(samples)}" if not failed else f"{len(samples) - failed}, {failed} failed"
        elif lists := [len(value) for key, value in row.items() if isinstance(value, list) and key not in CURVES]:
            found[name] = f"{max(lists)}"
    return found


def _without_output(command: str) -> str:
    """Remove the output path, which is of the machine that measured."""
    return re.sub(r" --output[= ]\S+", "", command)


def _purpose(command: str) -> str:
    """Return the first paragraph of the docstring of the script that a command ran."""
    script = next((word for word in command.split() if word.endswith(".py")), "")
    path = ROOT / script
    if not script or not path.is_file():
        return ""
    docstring = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
    return " ".join(docstring.partition("\n\n")[0].split())


def _is_table(value: Any) -> bool:
    """Return True for a mapping of names to mappings that hold at least one number."""
    return (
        isinstance(value, Mapping)
        and bool(value)
        and all(isinstance(row, Mapping) and any(map(_is_number, row.values())) for row in value.values())
    )


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _words(name: str) -> str:
    return name.replace("_", " ")


def _plain(value: Any) -> str:
    return ", ".join(map(str, value)) or "none" if isinstance(value, list) else str(value)


def _is_short(value: Any) -> bool:
    """Return True if a command-line argument is shown: a number, or a text that is no path."""
    return _is_number(value) or (isinstance(value, str) and "/" not in value)


if __name__ == "__main__":
    main()
