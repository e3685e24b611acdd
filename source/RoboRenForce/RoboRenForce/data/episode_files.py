"""Episodes as files of their own, a parquet file and a video per camera each: how v2.1 stores a dataset.

Only lists of episodes change before `meta/info.json`, the last file, is replaced, and they only get longer: readers use
no more of them than it says, so that an interrupted merge can simply be repeated.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from . import layout
from .errors import fault
from .merge import CHUNK_SIZE, DatasetSummary, EpisodePart, write_info
from .metadata import V21, DatasetMetadata
from .video_writer import count_frames


def append_v21(
    root: Path, parts: Iterable[EpisodePart], summary: DatasetSummary, dataset: DatasetMetadata | None
) -> None:
    """Append episodes to a dataset of v2.1, which has statistics of episodes only.

    Args:
        root: Folder of the dataset.
        parts: New episodes.
        summary: The dataset with them.
        dataset: The dataset before, which `require_appendable` has checked; None: there is none yet.

    Raises:
        DatasetFileError: A part has another number of frames than it says.
    """
    first, chunks_size = (len(dataset.episodes), dataset.chunks_size) if dataset else (0, CHUNK_SIZE)
    episodes, statistics = _rows(root, layout.EPISODES_V21, first), _rows(root, layout.STATS_V21, first)
    for episode, part in enumerate(parts, first):
        part.open_table().close()
        _copy(part.table, root / _place(layout.DATA_V21, episode, chunks_size))
        for key, video in part.videos.items():
            part.require_frames(video, count_frames(video), episode)
            _copy(video, root / _place(layout.VIDEOS_V21, episode, chunks_size, video_key=key))
        episodes.append({"episode_index": episode, "tasks": part.tasks, "length": part.length})
        of_episode = {key: entry.to_json() for key, entry in part.statistics.items()}
        statistics.append({"episode_index": episode, "stats": of_episode})
    (root / layout.INFO).parent.mkdir(exist_ok=True)
    tasks = [{"task_index": number, "task": text} for number, text in summary.tasks.items()]
    layout.write_json_lines(root / layout.TASKS_V21, tasks)
    layout.write_json_lines(root / layout.EPISODES_V21, episodes)
    layout.write_json_lines(root / layout.STATS_V21, statistics)
    # Whoever computed it did not know the new episodes; without it, readers merge the statistics of all episodes.
    (root / layout.STATS).unlink(missing_ok=True)
    write_info(
        root,
        summary,
        V21,
        total_videos=summary.episodes * len(summary.videos),
        total_chunks=-(-summary.episodes // chunks_size),
        chunks_size=chunks_size,
        data_path=layout.DATA_V21,
        video_path=layout.VIDEOS_V21 if summary.videos else None,
    )


def require_appendable(dataset: DatasetMetadata) -> None:
    """Check that episodes can be appended to a dataset of v2.1.

    Raises:
        DatasetFileError: Its files have other names than LeRobot gives them, or episodes lack their statistics.
    """
    count, fix = len(dataset.episodes), "convert it with scripts/data/lerobot_v21_to_v30.py"
    last = (count - 1, dataset.chunks_size)
    found = {_place(layout.DATA_V21, *last): dataset.episodes.files[-1]}
    found |= {
        _place(layout.VIDEOS_V21, *last, video_key=key): table.files[-1]
        for key, table in dataset.episodes.videos.items()
    }
    for usual, name in found.items():
        if name != usual:
            raise fault(dataset.root, f"nothing can be appended: its last episode is in {name}, not {usual}", fix=fix)
    path = dataset.root / layout.STATS_V21
    rows = len(layout.read_json_lines(path)) if path.is_file() else 0
    if rows < count:
        raise fault(path, f"nothing can be appended: it has {rows:,} of the {count:,} episodes", fix=fix)


def _rows(root: Path, name: str, count: int) -> list[dict[str, Any]]:
    """Return the first rows of a list; what follows was written by a merge that did not come to its end."""
    return layout.read_json_lines(root / name)[:count] if count else []


def _place(template: str, episode: int, chunks_size: int, **values: str) -> str:
    place = {"episode_chunk": episode // chunks_size, "episode_index": episode}
    return layout.fill(template, Path(layout.INFO), **place, **values)


def _copy(source: Path, target: Path) -> None:
    # Not moved: until info.json counts the episode, it has to be found where it was saved.
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, target)
