"""Conversion of LeRobot v2.1 to v3.0: joins files of single episodes to large ones, videos without re-encoding."""

from __future__ import annotations

from pathlib import Path

from .. import layout
from ..errors import fault
from ..merge import DatasetSummary, EpisodePart, append_v30
from ..metadata import V21, DatasetMetadata, read_metadata
from ..statistics import FeatureStatistics, parse_statistics
from ..totals import columns_of, number_statistics
from .target import whole_or_nothing


def convert_v21(source: str | Path, target: str | Path) -> DatasetMetadata:
    """Convert a v2.1 (or v2.0) dataset to v3.0.

    Every number is checked on the way.

    Args:
        source: Folder of the dataset.
        target: Folder that must not exist.

    Raises:
        UserError: The target exists.
        DatasetFileError: The source is of another version, or damaged.
    """
    metadata = read_metadata(source)
    if metadata.version != V21:
        raise fault(source, f"its version is {metadata.version}, expected v2.1", fix="it needs no conversion")
    with whole_or_nothing(target) as root:
        _write(metadata, root)
    return read_metadata(target)


def _write(metadata: DatasetMetadata, root: Path) -> None:
    of_episodes = _episode_statistics(metadata)
    parts = (_part(metadata, episode, of_episodes.get(episode, {})) for episode in range(len(metadata.episodes)))
    summary = DatasetSummary(
        features=metadata.features,
        fps=metadata.fps,
        robot_type=metadata.robot_type,
        tasks=metadata.tasks,
        episodes=len(metadata.episodes),
        frames=metadata.total_frames,
    )
    # Those of cameras can't be computed without decoding everything: they are what the recorder stored.
    statistics = metadata.statistics | number_statistics(metadata.features, columns_of(metadata))
    append_v30(root, parts, summary, statistics)


def _part(metadata: DatasetMetadata, episode: int, statistics: dict[str, FeatureStatistics]) -> EpisodePart:
    table = metadata.episodes
    info = metadata.root / layout.INFO
    videos = {
        key: layout.resolve(metadata.root, videos.files[int(videos.file[episode])], info)
        for key, videos in table.videos.items()
    }
    return EpisodePart(
        table=layout.resolve(metadata.root, table.files[int(table.file[episode])], info),
        videos=videos,
        length=int(table.length[episode]),
        tasks=list(table.tasks[episode]),
        statistics=statistics,
    )


def _episode_statistics(metadata: DatasetMetadata) -> dict[int, dict[str, FeatureStatistics]]:
    path = metadata.root / layout.STATS_V21
    if not path.is_file():
        return {}
    return {
        row.get("episode_index", -1): parse_statistics(path, row.get("stats", {}), metadata.features)
        for row in layout.read_json_lines(layout.resolve(metadata.root, layout.STATS_V21))
    }
