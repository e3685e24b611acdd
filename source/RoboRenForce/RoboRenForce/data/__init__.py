"""Recorded data: LeRobot datasets of v2.1 and v3.0 are read, those of v3.0 written; nothing here is learned from it.

Nothing imports pyarrow, PyAV or Pillow before a dataset is opened: they come with the extra `vla`.
"""

from .dataset import Batch, LeRobotDataset, LeRobotDatasetCfg
from .errors import DatasetFileError
from .features import Feature
from .instructions import instruction_id
from .metadata import DatasetMetadata, read_metadata
from .sampler import MixtureSampler
from .statistics import FeatureStatistics
from .writer import LeRobotWriter

__all__ = [
    "Batch",
    "DatasetFileError",
    "DatasetMetadata",
    "Feature",
    "FeatureStatistics",
    "LeRobotDataset",
    "LeRobotDatasetCfg",
    "LeRobotWriter",
    "MixtureSampler",
    "instruction_id",
    "read_metadata",
]
