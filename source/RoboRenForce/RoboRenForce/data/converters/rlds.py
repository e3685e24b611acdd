"""Conversion of RLDS datasets (TFRecord files of TensorFlow Datasets) to LeRobot v3.0, without TensorFlow.

A record is an episode; its steps are lists below `steps/`, described by `features.json`:

    steps/observation/image              encoded pictures
    steps/observation/state              numbers, of all steps one after another
    steps/action
    steps/language_instruction           text, one per step
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np

from ...configclass import MISSING, Cfg, Range, configclass
from ...utils.errors import UserError, did_you_mean
from .. import layout
from ..errors import fault, no_folder
from ..metadata import DatasetMetadata, read_metadata
from ..pictures import BadPicture, decode_picture
from ..video_writer import VideoCodec
from ..writer import LeRobotWriter
from .target import whole_or_nothing
from .tfrecord import BadExample, Example, parse_example, read_records

_STEPS = "steps/"
_TEXTS = ("language_instruction", "observation/natural_language_instruction", "observation/language_instruction")
_NUMBERS = {"float16", "float32", "float64", "int8", "int16", "int32", "int64", "uint8", "uint16", "bool"}


@configclass
class RLDSConversionCfg(Cfg):
    """Configuration of the conversion of episodes. Names are those below `steps/`, such as `observation/state`."""

    input: str = MISSING
    """Folder with `dataset_info.json`, `features.json` and the TFRecord files."""
    output: str = MISSING
    """Folder of the dataset, which must not exist."""
    fps: Annotated[float, Range(gt=0)] = MISSING
    """Steps per second; not in the files."""
    split: str = "train"
    state: list[str] | None = None
    """Names concatenated to `observation.state`; None: `observation/state` if it exists, else all vectors."""
    action: list[str] = ["action"]
    """Names concatenated to `action`, in this order."""
    cameras: list[str] | None = None
    """Names of pictures; None: all."""
    instruction: str | None = None
    """Name of the instruction; None: the usual names."""
    task: str | None = None
    """Instruction of all episodes, for data without instructions."""
    drop_last_step: bool = False
    """True to leave out the last step of every episode.

    By the rules of RLDS its action has no meaning, but many recorders store a valid one.
    """
    use_videos: bool = True
    """True to store cameras as videos, False as lossless pictures."""
    codec: VideoCodec = "libsvtav1"


@dataclass(frozen=True)
class _Leaf:
    """One entry of `features.json`."""

    kind: str
    """`numbers`, `picture` or `text`."""
    shape: tuple[int, ...] = ()
    dtype: str = ""


def convert_rlds(cfg: RLDSConversionCfg) -> DatasetMetadata:
    """Convert one split, with episodes in the order of the files.

    Raises:
        DatasetFileError: Names file, episode and frame.
        UserError: The data lacks a name.
    """
    cfg.validate()
    root = Path(cfg.input)
    _require_rlds(root)
    steps = _Steps(root, read_leaves(root / "features.json"), cfg)
    with whole_or_nothing(cfg.output) as target:
        writer = LeRobotWriter.create(target, fps=cfg.fps, features=steps.features, codec=cfg.codec)
        for path, expected in _shards(root, cfg.split):
            count = 0
            for count, data in enumerate(read_records(path), 1):
                try:
                    example = parse_example(data)
                except (BadExample, UnicodeDecodeError) as error:
                    what = f"record {count - 1} is no tf.train.Example ({error})"
                    raise fault(path, what, episode=writer.saved_episodes, fix="download it again") from None
                for frame, task in steps.frames(path, example, writer.saved_episodes):
                    writer.add_frame(frame, task=task)
                writer.save_episode()
            if expected is not None and count != expected:
                what = f"it has {count:,} episodes, dataset_info.json says {expected:,}"
                raise fault(path, what, fix="download it again")
        writer.finalize()
    return read_metadata(cfg.output)


def _require_rlds(root: Path) -> None:
    """Refuse a path that is not the folder of one version of an RLDS dataset."""
    if not root.is_dir():
        raise no_folder(root, "the folder of one version of an RLDS dataset, the one with features.json in it")
    missing = next((name for name in ("features.json", "dataset_info.json") if not (root / name).is_file()), None)
    if missing is not None:
        inside = sorted(path.parent.name for path in root.glob("*/features.json"))[:5]
        hint = f"it holds datasets in {', '.join(inside)}: name one" if inside else "name the folder of one version"
        raise fault(root, f"it is no RLDS dataset: {missing} is missing", fix=hint)


def read_leaves(path: Path) -> dict[str, _Leaf]:
    """Read `features.json`: path below `steps/` -> its entry.

    Raises:
        DatasetFileError: It is no description of features.
    """
    leaves: dict[str, _Leaf] = {}
    for name, node in _walk("", layout.read_json(path)):
        if not name.startswith(_STEPS):
            continue
        leaf = _leaf(path, name, node)
        if leaf is not None:
            leaves[name.removeprefix(_STEPS)] = leaf
    if not leaves:
        raise fault(path, "it describes no 'steps'", fix="name the folder of one version of an RLDS dataset")
    return leaves


def _walk(name: str, node: Any) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield the leaves of the tree of features; a sequence adds nothing to the name."""
    if not isinstance(node, Mapping):
        return
    if isinstance(node.get("featuresDict"), Mapping):
        for key, child in node["featuresDict"].get("features", {}).items():
            yield from _walk(f"{name}/{key}" if name else key, child)
    elif isinstance(node.get("sequence"), Mapping):
        yield from _walk(name, node["sequence"].get("feature"))
    else:
        yield name, node


def _leaf(path: Path, name: str, node: Mapping[str, Any]) -> _Leaf | None:
    if "text" in node:
        return _Leaf("text")
    for key, kind in (("image", "picture"), ("tensor", "numbers"), ("scalar", "numbers")):
        entry = node.get(key)
        if isinstance(entry, Mapping):
            entry = entry.get("tensor", entry) if key == "scalar" else entry
            dimensions = entry.get("shape", {}).get("dimensions", [])
            try:
                shape = tuple(int(size) for size in dimensions)
            except (TypeError, ValueError):
                raise fault(path, f"'{name}' has the shape {str(dimensions)[:80]}, expected integers") from None
            dtype = str(entry.get("dtype", ""))
            if kind == "numbers" and dtype in ("string", "object"):
                return _Leaf("text")
            if min(shape, default=1) < 1 or (kind == "numbers" and dtype not in _NUMBERS):
                return None  # of unknown size, or of a type that no policy reads
            return _Leaf(kind, shape, dtype)
    return None


def _shards(root: Path, split: str) -> list[tuple[Path, int | None]]:
    """Return the files of a split, and their numbers of episodes."""
    path = root / "dataset_info.json"
    info = layout.read_json(path)
    splits = {entry.get("name"): entry for entry in info.get("splits", []) if isinstance(entry, Mapping)}
    if split not in splits:
        names = [str(name) for name in splits]
        raise UserError(f"'{root}' has no split '{split}': {did_you_mean(split, names) if names else 'it has none.'}")
    files = sorted(root.glob(f"*-{split}.tfrecord*"))
    lengths = [int(length) for length in splits[split].get("shardLengths", [])]
    if not files or (lengths and len(files) != len(lengths)):
        what = f"split '{split}' has {len(files)} files, dataset_info.json says {len(lengths)}"
        raise fault(path, what, fix="download the missing files")
    return list(zip(files, lengths or [None] * len(files), strict=True))


class _Steps:
    """Entries that are read of every episode, and the features that they become."""

    def __init__(self, root: Path, leaves: Mapping[str, _Leaf], cfg: RLDSConversionCfg) -> None:
        self._leaves, self._cfg = leaves, cfg
        vectors = [name for name, leaf in leaves.items() if leaf.kind == "numbers"]
        pictures = [name for name, leaf in leaves.items() if leaf.kind == "picture"]
        observed = [name for name in vectors if name.startswith("observation/")]
        default = ["observation/state"] if "observation/state" in observed else observed
        self.state = _chosen(root, "state", cfg.state, vectors, default)
        self.action = _chosen(root, "action", cfg.action, vectors, [])
        self.cameras = _chosen(root, "cameras", cfg.cameras, pictures, pictures)
        self._text = self._find_text(root)
        self.features: dict[str, Any] = {
            key: {"dtype": "float32", "shape": [sum(math.prod(leaves[name].shape) for name in names)]}
            for key, names in (("observation.state", self.state), ("action", self.action))
            if names
        }
        for name in self.cameras:
            kind = "video" if cfg.use_videos else "image"
            shape = [*leaves[name].shape[:2], 3]
            self.features[self._camera(name)] = {
                "dtype": kind,
                "shape": shape,
                "names": ["height", "width", "channels"],
            }

    @staticmethod
    def _camera(name: str) -> str:
        return f"observation.images.{name.removeprefix('observation/').replace('/', '.')}"

    def _find_text(self, root: Path) -> str | None:
        texts = [name for name, leaf in self._leaves.items() if leaf.kind == "text"]
        if self._cfg.task is not None:
            return None
        if self._cfg.instruction is not None:
            return _chosen(root, "instruction", [self._cfg.instruction], texts, [])[0]
        found = [name for name in _TEXTS if name in texts]
        if not found:
            raise UserError(f"'{root}' has no instructions in the usual places: give 'instruction' or 'task'.")
        return found[0]

    def frames(self, path: Path, example: Example, episode: int) -> Iterator[tuple[dict[str, Any], str]]:
        """Yield the frames of an episode and their instructions."""
        numbers = {name: self._numbers(path, example, name, episode) for name in [*self.state, *self.action]}
        lengths = {name: len(rows) for name, rows in numbers.items()}
        pictures = {name: self._bytes(path, example, name, episode) for name in self.cameras}
        texts = [] if self._text is None else self._bytes(path, example, self._text, episode)
        lengths |= {name: len(entries) for name, entries in pictures.items()}
        if self._text is not None:
            lengths[self._text] = len(texts)
        if len(set(lengths.values())) != 1:
            raise fault(path, f"its entries have different numbers of steps: {lengths}", episode=episode)
        steps = next(iter(lengths.values())) - self._cfg.drop_last_step
        for step in range(steps):
            frame: dict[str, Any] = {}
            for key, names in (("observation.state", self.state), ("action", self.action)):
                if names:
                    frame[key] = np.concatenate([numbers[name][step] for name in names])
            for name, entries in pictures.items():
                height, width = self._leaves[name].shape[:2]
                try:
                    frame[self._camera(name)] = decode_picture(entries[step], (height, width))
                except BadPicture as error:
                    raise fault(path, f"'{name}': {error}", episode=episode, frame=step) from None
            task = self._cfg.task if self._text is None else texts[step].decode(errors="replace")
            yield frame, str(task)

    def _numbers(self, path: Path, example: Example, name: str, episode: int) -> np.ndarray:
        """Return numbers `(steps, D)` float32."""
        values, size = example.get(f"{_STEPS}{name}"), math.prod(self._leaves[name].shape)
        if not isinstance(values, np.ndarray) or len(values) % size:
            found = "missing" if values is None else f"{len(values)} values"
            raise fault(path, f"'{name}' is {found}, expected a multiple of {size} numbers", episode=episode)
        return values.astype(np.float32).reshape(-1, size)

    @staticmethod
    def _bytes(path: Path, example: Example, name: str, episode: int) -> list[bytes]:
        values = example.get(f"{_STEPS}{name}")
        if not isinstance(values, list):
            raise fault(path, f"'{name}' is missing, or holds numbers", episode=episode, fix="leave it out")
        return values


def _chosen(
    root: Path, option: str, wanted: Sequence[str] | None, there: Sequence[str], default: Sequence[str]
) -> list[str]:
    for name in wanted or ():
        if name not in there:
            hint = did_you_mean(name, there) if there else "it has none."
            raise UserError(f"'{option}' names '{name}', which '{root}' lacks: {hint}")
    return list(default) if wanted is None else list(wanted)
