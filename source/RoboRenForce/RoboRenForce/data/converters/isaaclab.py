"""Conversion of Isaac Lab and robomimic HDF5 to LeRobot v3.0.

data                       attributes: env_args, format_version (newer Isaac Lab)
  demo_0                   attributes: num_samples, success
    actions                (T, A)
    obs/<term>             (T or T + 1, ...): numbers, or pictures (..., H, W, 3) uint8
mask/<split>               names of demos (robomimic)
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np

from ...configclass import MISSING, Cfg, Range, configclass
from ...utils.errors import UserError, did_you_mean
from ...utils.optional import require_package
from ..errors import DatasetFileError, fault
from ..metadata import DatasetMetadata, read_metadata
from ..video_writer import VideoCodec
from ..writer import LeRobotWriter
from .target import whole_or_nothing

QuaternionOrder = Literal["auto", "wxyz", "xyzw"]

_NUMBER = re.compile(r"\d+")


@configclass
class IsaacLabConversionCfg(Cfg):
    """Configuration of the conversion of demonstrations to a dataset."""

    input: str = MISSING
    """HDF5 file."""
    output: str = MISSING
    """Folder of the dataset, which must not exist."""
    fps: Annotated[float, Range(gt=0)] = MISSING
    """Steps per second, 1 / (decimation * dt) of the environment; not in the file."""
    task: str = MISSING
    """Instruction of all demonstrations; not in the file."""
    state: list[str] | None = None
    """Observation terms concatenated to `observation.state`, in this order; None: all vectors, by name."""
    cameras: list[str] | None = None
    """Observation terms that are pictures; None: all."""
    quaternion_order: QuaternionOrder = "auto"
    """Order of quaternions in the file; `auto`: WXYZ in its format version 0, XYZW in 1. The dataset has XYZW."""
    quaternions: list[str] = []
    """Further terms `name:column` with a quaternion; names that end in `quat` are known (at column 0)."""
    include_failures: bool = False
    """True to keep demonstrations marked as failed."""
    mask: str | None = None
    """Filter key of robomimic whose demonstrations are converted; None: all."""
    use_videos: bool = True
    """True to store cameras as videos, False as lossless pictures."""
    codec: VideoCodec = "libsvtav1"


def convert_isaaclab(cfg: IsaacLabConversionCfg) -> DatasetMetadata:
    """Convert a file, with demonstrations in the order of their numbers.

    Raises:
        DatasetFileError: Names the file and the demonstration.
        UserError: The file lacks a term, or nothing is left to convert.
    """
    cfg.validate()
    h5py = require_package("h5py", extra="vla", purpose="Isaac Lab and robomimic files")
    path = Path(cfg.input)
    if not path.is_file():
        what = "it is a folder, expected a file" if path.is_dir() else "there is no such file"
        raise fault(path, what, fix="name an HDF5 file of Isaac Lab or robomimic")
    try:
        file = h5py.File(path, "r")
    except OSError as error:
        raise fault(
            path, f"it can't be opened as HDF5 ({error})", fix="record it again, or name another file"
        ) from None
    with file:
        demos = _demos(path, file, cfg)
        terms = _Terms(path, file, demos[0], cfg)
        with whole_or_nothing(cfg.output) as root:
            writer = LeRobotWriter.create(
                root, fps=cfg.fps, features=terms.features, robot_type=terms.robot_type, codec=cfg.codec
            )
            for name in demos:
                for frame in terms.frames(name):
                    writer.add_frame(frame, task=cfg.task)
                writer.save_episode()
            writer.finalize()
    return read_metadata(cfg.output)


def _demos(path: Path, file: Any, cfg: IsaacLabConversionCfg) -> list[str]:
    """Return the names of the demonstrations to convert, `demo_2` before `demo_10`."""
    if "data" not in file or not len(file["data"]):
        raise fault(path, "it has no group 'data' with demonstrations", fix="name a file of Isaac Lab or robomimic")
    names = sorted(file["data"], key=lambda name: (int((_NUMBER.findall(name) or ["0"])[-1]), name))
    if cfg.mask is not None:
        masks = list(file["mask"]) if "mask" in file else []
        if cfg.mask not in masks:
            raise UserError(f"'{path}' has no mask '{cfg.mask}': {did_you_mean(cfg.mask, masks) if masks else 'none'}")
        wanted = {entry.decode() if isinstance(entry, bytes) else str(entry) for entry in file["mask"][cfg.mask][()]}
        names = [name for name in names if name in wanted]
    if not cfg.include_failures:
        names = [name for name in names if bool(file["data"][name].attrs.get("success", True))]
    if not names:
        raise UserError(
            f"'{path}' has no demonstration left: none succeeded, or the mask is empty; see include_failures."
        )
    return names


class _Terms:
    """Terms that are read of each demonstration; the first one decides shapes and features."""

    def __init__(self, path: Path, file: Any, first: str, cfg: IsaacLabConversionCfg) -> None:
        self._path, self._data = path, file["data"]
        demo = self._data[first]
        for key in ("actions", "obs"):
            if key not in demo:
                raise fault(path, f"demonstration '{first}' has no '{key}', it has {', '.join(demo)}")
        obs = {name: entry for name, entry in demo["obs"].items() if hasattr(entry, "shape")}
        pictures = [name for name, entry in obs.items() if entry.ndim == 4 and entry.dtype == np.uint8]
        vectors = [name for name, entry in obs.items() if entry.ndim == 2 and entry.dtype.kind in "fiub"]
        self.cameras = _chosen(path, "cameras", cfg.cameras, pictures)
        self.state = _chosen(path, "state", cfg.state, vectors)
        widths = {name: int(obs[name].shape[1]) for name in self.state}
        self._quaternions = _quaternions(path, cfg, widths)
        self._is_wxyz = bool(self._quaternions) and _order(path, file, cfg.quaternion_order) == "wxyz"
        env = self._data.attrs.get("env_args", "")
        found = re.search(r'"env_name"\s*:\s*"([^"]*)"', env if isinstance(env, str) else "")
        self.robot_type = found[1] if found else None
        names = [f"{name}.{column}" for name, width in widths.items() for column in range(width)]
        self.features: dict[str, Any] = {
            "action": {"dtype": "float32", "shape": [int(demo["actions"].shape[1])]},
        }
        if names:
            self.features["observation.state"] = {"dtype": "float32", "shape": [len(names)], "names": names}
        for name in self.cameras:
            shape = [int(size) for size in obs[name].shape[1:]]
            kind = "video" if cfg.use_videos else "image"
            self.features[f"observation.images.{name}"] = {
                "dtype": kind,
                "shape": shape,
                "names": ["height", "width", "channels"],
            }

    def frames(self, name: str) -> Iterator[dict[str, Any]]:
        """Yield the frames of a demonstration, reading picture by picture."""
        demo = self._data[name]
        actions = self._array(name, "actions", demo)
        length = len(actions)
        if not length:
            raise fault(self._path, f"demonstration '{name}' has no actions", fix="leave it out with a mask")
        obs = {term: self._array(name, f"obs/{term}", demo) for term in [*self.state, *self.cameras]}
        for term, entry in obs.items():
            # The observation after the last action is stored too, and nothing was done in it.
            if len(entry) not in (length, length + 1):
                what = f"'{term}' of demonstration '{name}' has {len(entry)} rows and there are {length} actions"
                raise fault(self._path, f"{what}, expected as many or one more", fix="leave it out with a mask")
        states = {term: np.asarray(obs[term][:length], np.float32) for term in self.state}
        for term, column in self._quaternions:
            if self._is_wxyz:
                quaternion = states[term][:, column : column + 4]
                states[term][:, column : column + 4] = np.roll(quaternion, -1, axis=1)
        state = np.concatenate(list(states.values()), axis=1) if states else None
        for frame in range(length):
            values: dict[str, Any] = {"action": np.asarray(actions[frame], np.float32)}
            if state is not None:
                values["observation.state"] = state[frame]
            yield values | {f"observation.images.{camera}": obs[camera][frame] for camera in self.cameras}

    def _array(self, name: str, key: str, demo: Any) -> Any:
        if key not in demo:
            raise fault(self._path, f"demonstration '{name}' has no '{key}'", fix="leave it out with a mask")
        return demo[key]


def _chosen(path: Path, option: str, wanted: Sequence[str] | None, there: Sequence[str]) -> list[str]:
    for name in wanted or ():
        if name not in there:
            hint = did_you_mean(name, there) if there else "the file has none."
            raise UserError(f"'{option}' names '{name}', which '{path}' lacks: {hint}")
    return sorted(there) if wanted is None else list(wanted)


def _order(path: Path, file: Any, order: QuaternionOrder) -> str:
    if order != "auto":
        return order
    versions = [
        attrs[key]
        for attrs in (file.attrs, file["data"].attrs)
        for key in ("format_version", "version")
        if key in attrs
    ]
    if not versions:
        raise DatasetFileError(
            f"'{path}' has no format version, which says how its quaternions are ordered: give quaternion_order=wxyz "
            "(Isaac Lab before it wrote a version) or quaternion_order=xyzw (robomimic)."
        )
    version = versions[0]
    try:
        number = int(version)
    except (TypeError, ValueError):
        number = -1
    if number not in (0, 1):
        raise DatasetFileError(
            f"'{path}' has the format version {str(version)[:40]!r}, expected 0 (quaternions WXYZ) or 1 (XYZW); give "
            "quaternion_order."
        )
    return "xyzw" if number == 1 else "wxyz"


def _quaternions(path: Path, cfg: IsaacLabConversionCfg, widths: Mapping[str, int]) -> list[tuple[str, int]]:
    """Return terms and first columns of the quaternions."""
    found = [(name, 0) for name, width in widths.items() if name.endswith("quat") and width == 4]
    for text in cfg.quaternions:
        name, _, column = text.partition(":")
        start = int(column) if column.isdigit() else 0
        if name not in widths or start + 4 > widths[name]:
            raise UserError(f"'quaternions' names '{text}', and '{path}' has {dict(widths)}; write name:column.")
        if (name, start) not in found:
            found.append((name, start))
    return found
