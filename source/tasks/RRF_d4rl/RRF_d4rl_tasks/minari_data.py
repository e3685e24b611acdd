"""Minari data sets by id: from the local cache, from the hub, or from a folder; and recording of new ones.

The cache is `~/.minari/datasets`, or the folder in the environment variable MINARI_DATASETS_PATH.
"""

from __future__ import annotations

import importlib
import shutil
import warnings
from collections.abc import Sequence
from pathlib import Path

import minari
from minari.data_collector import EpisodeBuffer
from minari.dataset.minari_dataset import parse_dataset_id
from minari.storage import get_dataset_path
from RoboRenForce.buffer import DatasetError, EpisodeArrays, TransitionDataset
from RoboRenForce.utils.errors import UserError, did_you_mean
from RoboRenForce.utils.optional import is_installed

from .minari_episodes import read_folder
from .recorded_space import RecordedSpaces, as_recorded, recorded_actions


def read_minari(
    source: str, *, group: str, download: bool = True, max_episode_length: int | None = None
) -> TransitionDataset:
    """Read and check a data set.

    Args:
        source: Its id, such as `mujoco/hopper/medium-v0`, or its folder.
        group: Observation group for observations that are one array.
        download: True to fetch it from the hub if it isn't in the cache.
        max_episode_length: Maximum length; longer episodes are an error. None: that of the data set's environment.

    Raises:
        DatasetError: It can't be obtained, or contradicts itself; then file, key and row are named.
    """
    folder = find_minari(source, download=download)
    return read_folder(folder, group=group, max_episode_length=max_episode_length)


def find_minari(source: str, *, download: bool) -> Path:
    """Return the folder of a data set, after downloading it if needed and allowed.

    Raises:
        DatasetError: There is none; the message has the nearest id of the cache and says how to get one.
    """
    if (Path(source) / "data").is_dir():
        return Path(source)
    if not _is_id(source):
        raise DatasetError(
            f"'{source}' is neither a file, nor a Minari folder, nor a Minari id: ids look like "
            f"mujoco/hopper/medium-v0, files end in .hdf5 or .h5."
        )
    folder = Path(get_dataset_path(source))
    if not (folder / "data").is_dir():
        if not download:
            raise DatasetError(f"There is no data set '{source}' in {_cache()}, and download is off: {_ways(source)}")
        _download(source)
    return folder


def write_minari(
    dataset_id: str, episodes: Sequence[EpisodeArrays], recorded: RecordedSpaces, notes: dict[str, str]
) -> Path:
    """Record episodes as a new data set of the local cache.

    Args:
        dataset_id: Id such as `pendulum/mixed-v0`.
        episodes: Episodes with actions as they were played.
        recorded: Spaces of the data.
        notes: `algorithm_name`, `description` and, as JSON, the texts of `instructions` by their ids.

    Raises:
        UserError: It exists or can't be written, or the id is malformed.
    """
    folder = check_new_id(dataset_id)
    buffers = [
        EpisodeBuffer(
            observations=as_recorded(episode.observations, recorded.observation),
            actions=recorded_actions(recorded, episode.actions),  # pyright: ignore[reportArgumentType]
            rewards=episode.rewards,  # pyright: ignore[reportArgumentType]
            terminations=episode.terminations,  # pyright: ignore[reportArgumentType]
            truncations=episode.truncations,  # pyright: ignore[reportArgumentType]
        )
        for episode in episodes
    ]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # author and links are for data that is published
            dataset = minari.create_dataset_from_buffers(
                dataset_id,
                buffers,
                env=recorded.env_spec,
                observation_space=recorded.observation,
                action_space=recorded.action,
                data_format="hdf5",
                jpeg_encoding=False,
                algorithm_name=notes.get("algorithm_name"),
                description=notes.get("description"),
            )
            if "instructions" in notes:
                dataset.storage.update_metadata({"instructions": notes["instructions"]})
    except (OSError, RuntimeError) as error:  # HDF5 reports some failing writes as the second
        shutil.rmtree(folder, ignore_errors=True)
        raise UserError(f"'{folder}' can't be written: {error}; choose another --output.") from error
    return folder


def check_new_id(dataset_id: str) -> Path:
    """Return the folder for a new data set.

    Raises:
        UserError: It exists, or the id is malformed.
    """
    if not _is_id(dataset_id):
        raise UserError(
            f"'{dataset_id}' is no place for a data set: name a file that ends in .hdf5 or .h5, or a Minari id such as "
            f"pendulum/mixed-v0."
        )
    folder = Path(get_dataset_path(dataset_id))
    if folder.exists():
        raise UserError(f"The data set '{dataset_id}' exists already in '{folder}': choose another id, or remove it.")
    return folder


def _is_id(text: str) -> bool:
    try:
        parse_dataset_id(text)
    except (ValueError, TypeError):  # the second where the version is missing
        return False
    return True


def _download(dataset_id: str) -> None:
    if not is_installed("huggingface_hub"):
        raise DatasetError(
            f"There is no data set '{dataset_id}' in {_cache()}, and downloading it needs huggingface_hub: run "
            f'`pip install "RRF_d4rl[hub]"`. {_ways(dataset_id)}'
        )
    try:
        minari.download_dataset(dataset_id)
    except ValueError as error:
        raise DatasetError(
            f"There is no data set '{dataset_id}' in {_cache()}, and the hub answers: {error} {_ways(dataset_id)}"
        ) from error
    except _connection_errors() as error:
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise DatasetError(
            f"There is no data set '{dataset_id}' in {_cache()}, and Minari's hub can't be reached ({reason}). "
            f"{_ways(dataset_id)}"
        ) from error


def _connection_errors() -> tuple[type[Exception], ...]:
    """Return the exceptions of a failing download, which depend on the hub client's own client."""
    clients = [importlib.import_module(name) for name in ("httpx", "httpx2") if is_installed(name)]
    return (OSError, RuntimeError, *(client.HTTPError for client in clients))


def _cache() -> str:
    return f"the cache '{get_dataset_path()}'"


def _ways(dataset_id: str) -> str:
    # Not Minari's own list, which one damaged set of the cache would keep from being made.
    cache = Path(get_dataset_path())
    known = sorted(str(path.parents[1].relative_to(cache)) for path in cache.glob("**/data/metadata.json"))
    near = did_you_mean(dataset_id, known) if known else "the cache is empty"
    return (
        f"In the cache, {near}; record one with scripts/data/collect_dataset.py --output {dataset_id}, copy one there "
        f"from another machine, or set MINARI_DATASETS_PATH to where it is."
    )
