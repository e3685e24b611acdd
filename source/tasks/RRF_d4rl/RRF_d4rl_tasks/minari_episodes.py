"""Episodes of a Minari data set in a folder.

Minari itself reads the metadata, after a check of everything by which an untrusted file could do harm: sizes beyond the
stored data, and missing spaces, for which Minari would build the environment that the file names. The arrays of its
usual format, HDF5, are read here.
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from gymnasium import spaces
from minari.dataset.minari_dataset import MinariDataset
from minari.dataset.minari_storage import MinariStorage, is_image_space
from minari.serialization import deserialize_space
from PIL import Image
from RoboRenForce.buffer import DatasetError, EpisodeArrays, TransitionDataset
from RoboRenForce.buffer.dataset_checks import fault, is_real, require_memory
from RoboRenForce.utils.errors import UserError

from .hdf5_file import Hdf5File
from .recorded_space import action_spec, learner_actions, observation_groups, require_observable

_MAIN_FILE = "main_data.hdf5"
_STEP_KEYS = ("rewards", "terminations", "truncations")


def read_folder(folder: Path, *, group: str, max_episode_length: int | None = None) -> TransitionDataset:
    """Read and check a data set.

    Args:
        folder: Folder of the data set, the one with `data` in it.
        group: Observation group for observations that are one array.
        max_episode_length: Maximum length; longer episodes are an error. None: that of the data set's environment.

    Raises:
        DatasetError: Names file, key and row.
    """
    dataset = _opened(folder)
    main = folder / "data" / _MAIN_FILE
    if not main.is_file():
        return _joined(dataset, _other_episodes(dataset, folder), str(folder), group, max_episode_length)
    with Hdf5File(main) as file:
        return _joined(dataset, _hdf5_episodes(dataset, file), str(main), group, max_episode_length)


def _joined(
    dataset: MinariDataset, episodes: Iterator[dict[str, Any]], source: str, group: str, max_episode_length: int | None
) -> TransitionDataset:
    require_observable(dataset.observation_space, source)
    limit = max_episode_length or (dataset.env_spec.max_episode_steps if dataset.env_spec is not None else None)
    return TransitionDataset.from_episodes(
        (_episode(dataset, raw, group, source) for raw in episodes),
        source=source,
        action=action_spec(dataset.action_space, source),
        max_episode_length=limit,
    )


def _opened(folder: Path) -> MinariDataset:
    """Open the data set and return its metadata."""
    try:
        metadata = MinariStorage.read_raw_metadata(folder / "data")
        for name in ("observation_space", "action_space"):
            _require_bounded(json.loads(metadata[name]))
        _require_count(metadata["total_episodes"], folder / "data")
        dataset = MinariDataset(folder / "data")
        steps = dataset.env_spec.max_episode_steps if dataset.env_spec is not None else None
        if not (steps is None or (isinstance(steps, int) and steps > 0)):
            raise ValueError(f"the longest episode of its environment is {steps!r}")
        return dataset
    # Broad, because Minari takes metadata.json at its word: whichever class of error, the file isn't what was written.
    except Exception as error:
        reason = f"'{error.args[0]}' is missing in its metadata" if isinstance(error, KeyError) else str(error)
        raise DatasetError(
            f"'{folder}' is not a readable Minari data set: {' '.join(reason.split())[:300] or type(error).__name__}"
        ) from error


def _require_bounded(space: Any) -> None:
    """Check that a serialized space is one that Minari knows, and no larger than its text."""
    if space["type"] not in deserialize_space.registry:
        raise ValueError(f"there is no space of type {space['type']!r}")
    parts = space.get("subspaces", ())
    for part in parts.values() if isinstance(parts, dict) else parts:
        _require_bounded(part)
    if space["type"] == "Box":
        shapes = [tuple(space["shape"]), np.shape(space["low"]), np.shape(space["high"])]
        if len(set(shapes)) > 1 or not is_real(np.dtype(space["dtype"])):
            raise ValueError(f"a Box of {space['dtype']} has the shape {shapes[0]} and bounds of {shapes[1:]}")


def _require_count(episodes: Any, data: Path) -> None:
    """Check that there are as many episodes as the metadata says."""
    if (data / _MAIN_FILE).is_file():
        with Hdf5File(data / _MAIN_FILE) as file:
            there = sum(name.startswith("episode_") for name in file.names())
    else:
        there = sum(path.is_dir() for path in data.iterdir())
    if episodes != there:
        raise ValueError(f"its metadata states {episodes} episodes, and {there:,} are there")


def _hdf5_episodes(dataset: MinariDataset, file: Hdf5File) -> Iterator[dict[str, Any]]:
    for number in dataset.episode_indices:
        key = f"episode_{number}"
        raw: dict[str, Any] = {name: file.array(f"{key}/{name}") for name in _STEP_KEYS}
        for name, space in (("observations", dataset.observation_space), ("actions", dataset.action_space)):
            raw[name] = _values(file, f"{key}/{name}", space, jpeg=dataset.storage.jpeg_encoding)
        yield {"id": number, **raw}


def _other_episodes(dataset: MinariDataset, folder: Path) -> Iterator[dict[str, Any]]:
    """Yield episodes of Minari's other formats, as Minari reads them."""
    try:
        yield from (vars(episode) for episode in dataset.iterate_episodes())
    # Broad, because the readers of those formats raise classes of their own.
    except Exception as error:
        if isinstance(error, UserError):
            raise
        raise DatasetError(f"'{folder}' is not a readable Minari data set: {' '.join(str(error).split())}") from error


def _values(file: Hdf5File, key: str, space: spaces.Space[Any], *, jpeg: bool) -> Any:
    if isinstance(space, spaces.Dict):
        return {name: _values(file, f"{key}/{name}", part, jpeg=jpeg) for name, part in space.spaces.items()}
    return _images(file, key, space.shape or ()) if jpeg and is_image_space(space) else file.array(key)


def _images(file: Hdf5File, key: str, shape: tuple[int, ...]) -> np.ndarray:
    """Decode the frames of `key` to uint8 `(L, *shape)`."""
    frames = file.frames(key)
    require_memory(file.source, key, 2 * len(frames) * int(np.prod(shape)))
    images = np.empty((len(frames), *shape), np.uint8)
    for row, frame in enumerate(frames):
        try:
            with Image.open(io.BytesIO(frame.tobytes())) as image:
                # Looked at before it is decoded: a small file may claim a large picture.
                if (image.height, image.width) != shape[:2]:
                    raise ValueError(f"a picture of {image.height} x {image.width}")
                images[row] = np.asarray(image)
        except (OSError, ValueError, SyntaxError) as error:
            raise fault(file.source, key, row, f"it is no image of the shape {shape}: {error}") from error
    return images


def _episode(dataset: MinariDataset, raw: dict[str, Any], group: str, source: str) -> EpisodeArrays:
    key = f"episode_{raw['id']}"
    observations = observation_groups(
        dataset.observation_space, raw["observations"], group, source, f"{key}/observations"
    )
    return EpisodeArrays(
        key=key,
        observations=observations,
        actions=learner_actions(dataset.action_space, raw["actions"], source, f"{key}/actions"),
        **{name: raw[name] for name in _STEP_KEYS},
    )
