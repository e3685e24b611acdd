"""Random access to the frames of one LeRobot dataset."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Annotated, Any, NamedTuple, Self

import numpy as np
import torch
from torch import Tensor
from typing_extensions import override

from ..configclass import MISSING, Cfg, Range, configclass
from ..envs.instructions import instruction_id
from ..utils.errors import UserError, did_you_mean
from . import layout
from .errors import fault
from .features import STANDARD, Feature
from .frames import Columns, FrameReader
from .lru import LRUCache
from .metadata import DatasetMetadata, read_metadata
from .pictures import BadPicture, decode_picture
from .selection import Split, select_episodes
from .video import BadVideo, VideoFile, close_video
from .windows import window, window_offsets

Batch = dict[str, Any]
"""Key -> tensor `(B, ...)`; `task` is a list of B texts."""

ACTION, IMAGES = "action", "observation.images."

_NOW = np.zeros(1, np.int64)


class _Rows(NamedTuple):
    """Location of the samples of a batch."""

    episodes: np.ndarray
    frames: np.ndarray
    """Indices within the episode."""
    lengths: np.ndarray


class LeRobotDataset(torch.utils.data.Dataset[Batch]):
    """The frames of the chosen episodes, one item each, with history and action chunks around it.

    An item, and with a leading B a batch, holds

    - every number feature, `(*shape)`, or `(T, *shape)` with `delta_timestamps`; standard columns such as `timestamp`
      have no shape of their own;
    - every camera, uint8 `(H, W, 3)` or `(T, H, W, 3)`;
    - `<key>_is_pad`, bool `(T,)`, for every key with `delta_timestamps`;
    - `task`, the instruction, and `instruction_id`, its int64 hash.

    It can be given to `torch.utils.data.DataLoader`, which gets whole batches at once (`__getitems__`).

    Args:
        cfg: Selection of frames.
        check: True to raise an error if numbers contradict the metadata or are NaN.
    """

    spec = None
    """It says nothing about an environment, see `Samples.spec`."""

    def __init__(self, cfg: LeRobotDatasetCfg, *, check: bool = True) -> None:
        self.cfg = cfg
        self.metadata: DatasetMetadata = read_metadata(cfg.data_root)
        features = self.metadata.features
        self.episodes = select_episodes(
            self.metadata,
            episodes=cfg.episodes,
            instructions=cfg.instructions,
            split=cfg.split,
            validation_fraction=cfg.validation_fraction,
            split_seed=cfg.split_seed,
        )
        self.cameras = _chosen_cameras(self.metadata, cfg.cameras)
        self.keys = [key for key, feature in features.items() if not feature.is_camera]
        self.offsets = window_offsets(cfg.delta_timestamps, self.metadata.fps, [*self.keys, *self.cameras])
        self.image_size = _image_size(cfg.image_size)
        self._ends = np.cumsum(self.metadata.episodes.length[self.episodes] + cfg.repeat_first_frame - 1)
        self._ids = {number: instruction_id(text) for number, text in self.metadata.tasks.items()}
        self._reader = FrameReader(
            self.metadata, self.keys, budget=cfg.cache_mb * 2**20, tolerance_s=cfg.tolerance_s, check=check
        )
        self._videos: LRUCache[VideoFile] = LRUCache(cfg.open_videos, close=close_video)

    def __len__(self) -> int:
        return int(self._ends[-1])

    @property
    def lengths(self) -> list[int]:
        """Number of frames, as a mixture of one dataset."""
        return [len(self)]

    @property
    def datasets(self) -> list[LeRobotDataset]:
        """Itself, as a mixture of one."""
        return [self]

    @property
    def weights(self) -> None:
        """None; see `MixtureDataset`."""
        return

    def picture_size(self, camera: str) -> tuple[int, int]:
        """Return height and width of a camera's images in items."""
        return self.image_size or self.metadata.features[camera].picture_size

    def __getitem__(self, index: int) -> Batch:
        batch = self.get_batch(np.asarray([index], np.int64))
        return {key: value[0] for key, value in batch.items()}

    def __getitems__(self, indices: Sequence[int] | np.ndarray) -> Batch:
        return self.get_batch(np.asarray(indices, np.int64))

    def get_batch(self, indices: np.ndarray) -> Batch:
        """Read some frames as one batch.

        Args:
            indices: int64 `(B,)`, counted over the chosen episodes; repetitions of a first frame come behind its last.

        Raises:
            DatasetFileError: Names file, episode and frame.
        """
        rows = self._locate(indices)
        columns = [self._reader.episode(int(episode)) for episode in rows.episodes]
        batch: Batch = {}
        for key in self.keys:
            feature, offsets = self.metadata.features[key], self.offsets.get(key)
            batch |= _gather(key, feature, offsets, rows, columns)
        for camera in self.cameras:
            batch |= self._see(camera, rows, columns)
        numbers = batch["task_index"] if "task_index" not in self.offsets else batch["task_index"][:, 0]
        batch["task"] = [self.metadata.tasks[number] for number in numbers.tolist()]
        batch["instruction_id"] = torch.tensor([self._ids[number] for number in numbers.tolist()], dtype=torch.int64)
        return batch

    def _locate(self, indices: np.ndarray) -> _Rows:
        if len(indices) and not (-len(self) <= indices.min() and indices.max() < len(self)):
            raise IndexError(f"index {int(indices.max())} is out of range for {len(self):,} samples")
        indices = indices % len(self)
        place = np.searchsorted(self._ends, indices, side="right")
        episodes = self.episodes[place]
        lengths, again = self.metadata.episodes.length[episodes], self.cfg.repeat_first_frame - 1
        frames = indices - (self._ends[place] - lengths - again)
        return _Rows(episodes, np.where(frames < lengths, frames, 0), lengths)

    def _see(self, camera: str, rows: _Rows, columns: Sequence[Columns]) -> dict[str, Tensor]:
        """Decode the images of one camera."""
        offsets = self.offsets.get(camera)
        windows = [window(int(f), _NOW if offsets is None else offsets, int(n)) for f, n in zip(*rows[1:], strict=True)]
        frames = np.stack([inside for inside, _ in windows])
        is_video = self.metadata.features[camera].dtype == "video"
        images = torch.from_numpy((self._see_videos if is_video else self._see_pictures)(camera, rows, columns, frames))
        if offsets is None:
            return {camera: images[:, 0]}
        return {camera: images, f"{camera}_is_pad": torch.from_numpy(np.stack([outside for _, outside in windows]))}

    def _see_videos(self, camera: str, rows: _Rows, columns: Sequence[Columns], frames: np.ndarray) -> np.ndarray:
        """Decode file by file in the order of time, so that neighbors share the way from their keyframe."""
        table = self.metadata.episodes.videos[camera]
        files = table.file[rows.episodes]
        times = np.stack([column["timestamp"].reshape(-1)[row] for column, row in zip(columns, frames, strict=True)])
        seconds = table.start[rows.episodes][:, None] + times.astype(np.float64)
        images: np.ndarray | None = None
        for number in np.unique(files).tolist():
            slots = np.argwhere(np.broadcast_to((files == number)[:, None], frames.shape))
            slots = slots[np.argsort(seconds[slots[:, 0], slots[:, 1]], kind="stable")]
            try:
                video = self._open_video(camera, number)
                if images is None:  # allocated when a file has confirmed the size that the metadata claims
                    images = np.empty((*frames.shape, *self.picture_size(camera), 3), np.uint8)
                targets = [images[sample, step] for sample, step in slots]
                video.read(seconds[slots[:, 0], slots[:, 1]], targets, self.cfg.tolerance_s)
            except BadVideo as error:
                self._videos.pop((camera, number))
                sample, step = slots[error.index or 0]
                raise fault(
                    self.metadata.root / table.files[number],
                    f"camera '{camera}': {error}",
                    episode=int(rows.episodes[sample]),
                    frame=int(frames[sample, step]),
                    fix="leave the episode out with 'episodes', or record it again",
                ) from None
        if images is None:
            raise IndexError("a batch needs at least one sample, got none")
        return images

    def _open_video(self, camera: str, number: int) -> VideoFile:
        video = self._videos.get((camera, number))
        if video is None:
            root, name = self.metadata.root, self.metadata.episodes.videos[camera].files[number]
            path = layout.resolve(root, name, root / layout.INFO)
            video = VideoFile(path, self.metadata.features[camera].picture_size, self.image_size)
            self._videos.put((camera, number), video)
        return video

    def _see_pictures(self, camera: str, rows: _Rows, columns: Sequence[Columns], frames: np.ndarray) -> np.ndarray:
        """Decode the pictures stored in parquet."""
        size = self.metadata.features[camera].picture_size
        images = []
        for episode, wanted in zip(rows.episodes.tolist(), frames.tolist(), strict=True):
            for frame, data in zip(wanted, self._reader.pictures(camera, episode, wanted), strict=True):
                try:
                    images.append(decode_picture(data, size, self.image_size))
                except BadPicture as error:
                    path = self.metadata.root / self.metadata.episodes.files[int(self.metadata.episodes.file[episode])]
                    raise fault(path, f"camera '{camera}': {error}", episode=episode, frame=frame) from None
        return np.stack(images).reshape(*frames.shape, *self.picture_size(camera), 3)


def _gather(
    key: str, feature: Feature, offsets: np.ndarray | None, rows: _Rows, columns: Sequence[Columns]
) -> dict[str, Any]:
    """Return the values of one feature that is not a camera."""
    if offsets is None:
        values = [column[key][frame] for column, frame in zip(columns, rows.frames, strict=True)]
        padding = None
    else:
        windows = [window(int(f), offsets, int(n)) for f, n in zip(rows.frames, rows.lengths, strict=True)]
        values = [column[key][inside] for column, (inside, _) in zip(columns, windows, strict=True)]
        padding = np.stack([outside for _, outside in windows])
    if not feature.is_number:
        return {key: [value if isinstance(value, str) else value.tolist() for value in values]}
    stacked = torch.from_numpy(np.stack(values))
    if key in STANDARD:
        stacked = stacked.reshape(len(columns), *(() if offsets is None else (len(offsets),)))
    return {key: stacked} | ({} if padding is None else {f"{key}_is_pad": torch.from_numpy(padding)})


def _image_size(size: Sequence[int] | None) -> tuple[int, int] | None:
    if size is None:
        return None
    if len(size) != 2:
        raise UserError(f"image_size is {list(size)}, expected height and width.")
    return size[0], size[1]


def _chosen_cameras(metadata: DatasetMetadata, wanted: Sequence[str] | None) -> list[str]:
    if wanted is None:
        return metadata.cameras
    for camera in wanted:
        if camera not in metadata.cameras:
            hint = did_you_mean(camera, metadata.cameras) if metadata.cameras else "it has none."
            raise UserError(f"'{metadata.root}' has no camera '{camera}': {hint}")
    return list(wanted)


@configclass
class DemonstrationsCfg(Cfg, ABC):
    """Base of the data that a VLA policy learns from: a `LeRobotDatasetCfg` or a `MixtureDatasetCfg`."""

    @abstractmethod
    def for_policy(self, chunk_size: int, cameras: Sequence[str], split: Split) -> Self:
        """Return the same data as a policy reads it; settings of actions, cameras and split that are given stay.

        Args:
            chunk_size: Actions per sample.
            cameras: Names without `observation.images.`; empty: all.
            split: Which episodes.
        """


@configclass
class LeRobotDatasetCfg(DemonstrationsCfg):
    """Selection of a dataset's frames, and options for reading them."""

    class_type: type = LeRobotDataset
    data_root: str = MISSING
    """Folder of the dataset, the one with `meta/` in it."""
    split: Split = "all"
    """`train` or `validation`, by episode, or `all`."""
    validation_fraction: Annotated[float, Range(gt=0, lt=1)] = 0.1
    """Share of the episodes used for validation."""
    split_seed: int = 0
    """Seed of the choice of validation episodes."""
    episodes: list[int] | None = None
    """Indices of the episodes to choose from; None: all."""
    instructions: list[str] | None = None
    """Instructions of the episodes to keep; None: all."""
    cameras: list[str] | None = None
    """Cameras to decode; None: all. The others cost nothing."""
    image_size: list[Annotated[int, Range(ge=1)]] | None = None
    """Height and width to which images are scaled while decoding; None: as recorded."""
    delta_timestamps: dict[str, list[float]] = {}
    """Key -> seconds relative to the frame: history (negative) and chunks (0, 1 / fps, ...)."""
    repeat_first_frame: Annotated[int, Range(ge=1, le=10_000)] = 1
    """Times that the first frame of an episode is a sample; once for validation. As soon as a robot moves, its motion
    tells where the demonstration goes: often the first frame alone makes a policy read what it is asked for."""
    tolerance_s: Annotated[float, Range(ge=0)] = 1e-4
    """Maximum deviation of a frame from its time, in seconds."""
    cache_mb: Annotated[int, Range(ge=1)] = 256
    """Memory for numbers, and the same amount for encoded pictures, in every worker."""
    open_videos: Annotated[int, Range(ge=1)] = 64
    """Number of videos that every worker keeps open."""

    @override
    def for_policy(self, chunk_size: int, cameras: Sequence[str], split: Split) -> Self:
        metadata, changed = read_metadata(self.data_root), self.copy()
        if self.split == "all":
            changed.split = split
        if changed.split == "validation":
            changed.repeat_first_frame = 1
        if ACTION not in self.delta_timestamps:
            changed.delta_timestamps[ACTION] = [step / metadata.fps for step in range(chunk_size)]
        if cameras and self.cameras is None:
            changed.cameras = [IMAGES + name for name in cameras]
        return changed
