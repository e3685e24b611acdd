"""Statistics of features: minimum, maximum, mean, standard deviation, count and quantiles, as LeRobot stores them.

Shapes are those of one value; of cameras `(channels, 1, 1)` in [0, 1].
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from .errors import fault
from .features import Feature

QUANTILES = {"q01": 0.01, "q10": 0.1, "q50": 0.5, "q90": 0.9, "q99": 0.99}
_MAX_KEPT_ROWS = 2**17
_LEVELS = np.arange(256) / 255.0
_MAX_PIXELS = 2**14


@dataclass(frozen=True)
class FeatureStatistics:
    """Statistics of one feature."""

    min: np.ndarray
    max: np.ndarray
    mean: np.ndarray
    std: np.ndarray
    count: int
    """Number of frames."""
    quantiles: dict[str, np.ndarray] = field(default_factory=dict)
    """`q01 q10 q50 q90 q99`; empty if the recorder did not store them."""

    def to_json(self) -> dict[str, Any]:
        """Return the entry in `stats.json`, and of one episode."""
        arrays = {"min": self.min, "max": self.max, "mean": self.mean, "std": self.std} | self.quantiles
        return {name: array.tolist() for name, array in arrays.items()} | {"count": [int(self.count)]}


class RunningStatistics:
    """Statistics of a feature over batches, in bounded memory.

    Minimum, maximum, mean and variance are exact (parallel algorithm of Chan et al. 1979, in float64). Quantiles are
    exact up to 131,072 rows; beyond that they use every second, fourth, ... row.
    """

    def __init__(self, shape: tuple[int, ...]) -> None:
        self.count = 0
        self._min = np.full(shape, np.inf)
        self._max = np.full(shape, -np.inf)
        self._mean = np.zeros(shape)
        self._squares = np.zeros(shape)
        self._kept: list[np.ndarray] = []
        self._stride = 1

    def update(self, values: np.ndarray) -> None:
        """Add rows `(B, *shape)`."""
        if not len(values):
            return
        rows = values.astype(np.float64)
        mean, count = rows.mean(axis=0), len(rows)
        total, delta = self.count + count, mean - self._mean
        self._squares += ((rows - mean) ** 2).sum(axis=0) + delta**2 * (self.count * count / total)
        self._mean += delta * (count / total)
        self._min = np.minimum(self._min, rows.min(axis=0))
        self._max = np.maximum(self._max, rows.max(axis=0))
        self._kept.append(rows[-self.count % self._stride :: self._stride])
        self.count = total
        # Halve what is kept for the quantiles: the rows of a stride twice as long are every second of them.
        while sum(map(len, self._kept)) > _MAX_KEPT_ROWS:
            self._kept = [np.concatenate(self._kept)[::2]]
            self._stride *= 2

    def result(self) -> FeatureStatistics:
        """Return the statistics of all rows so far; at least one is needed."""
        quantiles = np.quantile(np.concatenate(self._kept), list(QUANTILES.values()), axis=0)
        std = np.sqrt(self._squares / self.count)
        named = dict(zip(QUANTILES, quantiles, strict=True))
        return FeatureStatistics(self._min, self._max, self._mean.copy(), std, self.count, named)


class PictureStatistics:
    """Statistics of a camera by channel in [0, 1], from a histogram of a grid of pixels of every picture."""

    def __init__(self, channels: int = 3) -> None:
        self.count = 0
        self._histogram = np.zeros((channels, 256), np.int64)

    def update(self, picture: np.ndarray) -> None:
        """Add one picture `(height, width, channels)` uint8."""
        height, width = picture.shape[:2]
        step = max(1, int(np.ceil(np.sqrt(height * width / _MAX_PIXELS))))
        pixels = picture[::step, ::step].reshape(-1, picture.shape[2])
        for channel, histogram in enumerate(self._histogram):
            histogram += np.bincount(pixels[:, channel], minlength=256)
        self.count += 1

    def result(self) -> FeatureStatistics:
        """Return the statistics of all pictures so far; at least one is needed."""
        seen = self._histogram > 0
        share = self._histogram / self._histogram.sum(axis=1, keepdims=True)
        mean = share @ _LEVELS
        variance = share @ _LEVELS**2 - mean**2
        below = share.cumsum(axis=1)
        quantiles = {name: _LEVELS[(below >= q - 1e-12).argmax(axis=1)] for name, q in QUANTILES.items()}
        arrays = {
            "min": _LEVELS[seen.argmax(axis=1)],
            "max": _LEVELS[255 - seen[:, ::-1].argmax(axis=1)],
            "mean": mean,
            "std": np.sqrt(np.maximum(variance, 0.0)),
        }
        shaped = {name: array[:, None, None] for name, array in (arrays | quantiles).items()}
        kept = {name: shaped.pop(name) for name in QUANTILES}
        return FeatureStatistics(**shaped, count=self.count, quantiles=kept)


def aggregate(parts: Iterable[FeatureStatistics]) -> FeatureStatistics:
    """Merge the statistics of episodes: all exact but the quantiles, which are means weighted by frames.

    Args:
        parts: At least one, all of one shape.
    """
    parts = list(parts)
    weights = np.asarray([part.count for part in parts], np.float64)
    weights /= weights.sum()
    means = np.stack([part.mean for part in parts])
    mean = np.tensordot(weights, means, axes=1)
    variances = np.stack([part.std for part in parts]) ** 2 + (means - mean) ** 2
    names = set(QUANTILES).intersection(*(part.quantiles for part in parts))
    return FeatureStatistics(
        min=np.min([part.min for part in parts], axis=0),
        max=np.max([part.max for part in parts], axis=0),
        mean=mean,
        std=np.sqrt(np.tensordot(weights, variances, axes=1)),
        count=sum(part.count for part in parts),
        quantiles={
            name: np.tensordot(weights, np.stack([part.quantiles[name] for part in parts]), axes=1)
            for name in QUANTILES
            if name in names
        },
    )


def parse_statistics(path: Path, raw: Any, features: Mapping[str, Feature]) -> dict[str, FeatureStatistics]:
    """Parse and check the statistics of a file; features without any are left out.

    Raises:
        DatasetFileError: Names the feature.
    """
    if not isinstance(raw, Mapping):
        raise fault(path, f"it holds {type(raw).__name__}, expected an object with one entry per feature")
    known = {key: entry for key, entry in raw.items() if key in features and features[key].dtype != "string"}
    return {key: _parse(path, key, entry, features[key]) for key, entry in known.items()}


def _parse(path: Path, key: str, entry: Any, feature: Feature) -> FeatureStatistics:
    fix = "run scripts/data/dataset_stats.py to compute them anew"
    shape = (-1, 1, 1) if feature.is_camera else feature.shape
    arrays = {}
    for name in ("min", "max", "mean", "std", *QUANTILES):
        value = entry.get(name) if isinstance(entry, Mapping) else None
        if value is None and name in QUANTILES:
            continue
        try:
            array = np.asarray(value, np.float64)
            # LeRobot reduces matrices to their last dimension.
            reduced = len(shape) > 1 and not feature.is_camera and array.shape == shape[-array.ndim :]
            array = np.broadcast_to(array, shape) if reduced else array.reshape(shape)
        except (TypeError, ValueError):
            raise fault(path, f"'{name}' of '{key}' does not have the shape {list(shape)}", fix=fix) from None
        if not np.isfinite(array).all():
            raise fault(path, f"'{name}' of '{key}' is not finite", fix=fix)
        arrays[name] = array
    try:
        count = int(np.asarray(entry.get("count", 1)).reshape(-1)[0])
    except (TypeError, ValueError, IndexError):
        raise fault(path, f"'count' of '{key}' is no number", fix=fix) from None
    quantiles = {name: arrays.pop(name) for name in QUANTILES if name in arrays}
    return FeatureStatistics(**arrays, count=count, quantiles=quantiles)
