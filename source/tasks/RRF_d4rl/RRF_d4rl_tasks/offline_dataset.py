"""The data of an offline run: a Minari id or folder, or a file of rows."""

from __future__ import annotations

from pathlib import Path

from RoboRenForce.buffer import DatasetCfg, DatasetLoader, TransitionDataset
from RoboRenForce.buffer.dataset import FLAT_GROUP
from RoboRenForce.configclass import MISSING, configclass

from .hdf5_rows import SUFFIXES, read_rows


class OfflineDataset(DatasetLoader):
    """Reads what `cfg.source` names."""

    cfg: OfflineDatasetCfg

    def read(self) -> TransitionDataset:
        """See `DatasetLoader.read`."""
        cfg = self.cfg
        if cfg.source.endswith(SUFFIXES):
            return read_rows(Path(cfg.source), group=cfg.group, max_episode_length=cfg.max_episode_length)
        from .minari_data import read_minari  # Minari imports slowly, and files don't need it

        return read_minari(
            cfg.source, group=cfg.group, download=cfg.download, max_episode_length=cfg.max_episode_length
        )


@configclass
class OfflineDatasetCfg(DatasetCfg):
    """Names the data of an offline run."""

    class_type: type = OfflineDataset

    source: str = MISSING
    """A Minari id such as `mujoco/hopper/medium-v0`, the folder of a Minari data set, or a file that ends in `.hdf5` or
    `.h5`."""
    download: bool = True
    """Fetch Minari ids from the hub that aren't in the cache."""
    group: str = FLAT_GROUP
    """Observation group that observations become which are one array; a dictionary becomes a group for each key."""
