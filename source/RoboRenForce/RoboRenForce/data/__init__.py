"""Recorded data in LeRobot's format: reads and writes v2.1 and v3.0; nothing here is learned from it.

Nothing imports pyarrow, PyAV or Pillow before a dataset is opened: they come with the extra `vla`.
"""

from ..envs.instructions import instruction_id
from .dataset import Batch, LeRobotDataset, LeRobotDatasetCfg
from .errors import DatasetFileError
from .features import Feature
from .loader import DataLoader, DataLoaderCfg, to_device
from .metadata import DatasetMetadata, read_metadata
from .mixture import MixtureDataset, MixtureDatasetCfg, MixturePartCfg
from .sampler import MixtureSampler
from .samples import BatchSource, Samples, SamplesCfg
from .statistics import FeatureStatistics
from .writer import LeRobotWriter

__all__ = [
    "Batch",
    "BatchSource",
    "DataLoader",
    "DataLoaderCfg",
    "DatasetFileError",
    "DatasetMetadata",
    "Feature",
    "FeatureStatistics",
    "LeRobotDataset",
    "LeRobotDatasetCfg",
    "LeRobotWriter",
    "MixtureDataset",
    "MixtureDatasetCfg",
    "MixturePartCfg",
    "MixtureSampler",
    "Samples",
    "SamplesCfg",
    "instruction_id",
    "read_metadata",
    "to_device",
]
