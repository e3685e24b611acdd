"""Paths of a dataset's files: its metadata names them, but may not lead out of the dataset's folder."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from pathlib import Path, PurePosixPath
from typing import Any

from ..utils.run_dir import write_text_atomically
from .errors import fault

INFO = "meta/info.json"
STATS = "meta/stats.json"
TASKS = "meta/tasks.parquet"
EPISODES = "meta/episodes/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet"
DATA = "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet"
VIDEOS = "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4"

TASKS_V21, EPISODES_V21, STATS_V21 = "meta/tasks.jsonl", "meta/episodes.jsonl", "meta/episodes_stats.jsonl"
DATA_V21 = "data/chunk-{episode_chunk:03d}/episode_{episode_index:06d}.parquet"
VIDEOS_V21 = "videos/chunk-{episode_chunk:03d}/{video_key}/episode_{episode_index:06d}.mp4"

_FIELD = re.compile(r"\{(\w+)(?::0?(\d)d)?\}")
_MAX_JSON = 2**28


def fill(template: str, source: Path, **values: int | str) -> str:
    """Fill values into a path template of `info.json`; unlike `str.format` it knows names and digit counts only.

    Raises:
        DatasetFileError: It contains anything else.
    """

    def value(match: re.Match[str]) -> str:
        name, digits = match.groups()
        if name not in values:
            raise fault(source, f"path template {template[:120]!r} has '{name}', expected {', '.join(values)}")
        return str(values[name]).zfill(int(digits or 0))

    filled = _FIELD.sub(value, template)
    if "{" in filled or "}" in filled:
        raise fault(source, f"path template {template[:120]!r} can't be read", fix="write {name} or {name:03d}")
    return filled


def resolve(root: Path, relative: str, source: Path | None = None) -> Path:
    """Return the existing file `relative` of a dataset.

    Links may lead to the store of a Hugging Face cache that `root` belongs to, and nowhere else outside of `root`.

    Args:
        root: Folder of the dataset.
        relative: Path below it, from its metadata.
        source: File that names it, for errors.

    Raises:
        DatasetFileError: It leads elsewhere, or does not exist.
    """
    path = PurePosixPath(relative)
    if path.is_absolute() or ".." in path.parts or "\\" in relative or "\0" in relative:
        raise fault(source or root, f"path {relative[:160]!r} leaves the dataset's folder")
    home = root.resolve()
    real = (home / path).resolve()
    allowed = [home]
    if home.parent.name == "snapshots":
        allowed.append(home.parent.parent / "blobs")
    if not any(real.is_relative_to(folder) for folder in allowed):
        raise fault(home / path, "it is a link that leaves the dataset's folder", fix="copy the file there")
    if not real.is_file():
        named = f" (named by '{source}')" if source else ""
        raise fault(root / path, f"it does not exist{named}", fix="download or convert the dataset again")
    return root / path


def read_json(path: Path) -> Any:
    """Read a metadata file.

    Raises:
        DatasetFileError: It is no JSON.
    """
    try:
        if path.stat().st_size > _MAX_JSON:
            raise fault(path, f"it has {path.stat().st_size / 2**20:,.0f} MiB, expected a small file")
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        if isinstance(error, type(fault(path, ""))):
            raise
        raise fault(path, f"it can't be read as JSON ({error})", fix="download or convert the dataset again") from None


def read_json_lines(path: Path) -> list[dict[str, Any]]:
    """Read a metadata file of v2.1: one JSON object per line.

    Raises:
        DatasetFileError: Names the line.
    """
    rows = []
    try:
        with open(path, encoding="utf-8") as file:
            for number, line in enumerate(file, 1):
                if line.strip():
                    rows.append((number, json.loads(line)))
    except (OSError, ValueError, RecursionError) as error:
        raise fault(path, f"line {len(rows) + 1} can't be read as JSON ({error})") from None
    for number, row in rows:
        if not isinstance(row, dict):
            raise fault(path, f"line {number} is {type(row).__name__}, expected an object")
    return [row for _, row in rows]


def write_json_lines(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    """Replace a metadata file of v2.1: one JSON object per line."""
    write_text_atomically(path, "".join(f"{json.dumps(row)}\n" for row in rows))
