"""The data of an offline run: a Minari id or folder, or a file of rows."""

from __future__ import annotations

from pathlib import Path

from RoboRenForce.buffer import DatasetCfg, DatasetLoader, TransitionDataset
from RoboRenForce.buffer.dataset import FLAT_GROUP
from RoboRenForce.configclass import MISSING, configclass
from RoboRenForce.utils.optional import require_package

SUFFIXES = (".hdf5", ".h5")
"""Suffixes of files of rows; everything else is a Minari data set."""


class OfflineDataset(DatasetLoader):
    """Reader of the data that `cfg.source` names."""

    cfg: OfflineDatasetCfg

    def read(self) -> TransitionDataset:
        """See `DatasetLoader.read`."""
        cfg = self.cfg
        # Both packages import slowly, and tasks can be listed without them.
        require_package("h5py", purpose="recorded data")
        if cfg.source.endswith(SUFFIXES):
            from .hdf5_rows import read_rows

            return read_rows(Path(cfg.source), group=cfg.group, max_episode_length=cfg.max_episode_length)
        require_package("minari", purpose="Minari data sets")
        from .minari_data import read_minari

        return read_minari(
            cfg.source, group=cfg.group, download=cfg.download, max_episode_length=cfg.max_episode_length
        )


@configclass
class OfflineDatasetCfg(DatasetCfg):
    """Configuration of the data of an offline run."""

    class_type: type = OfflineDataset

    source: str = MISSING
    """A Minari id, the folder of a Minari data set, or a file of rows.

    For example `mujoco/hopper/medium-v0`; files of rows end in `.hdf5` or `.h5`.
    """
    download: bool = True
    """True to fetch Minari ids from the hub that aren't in the cache."""
    group: str = FLAT_GROUP
    """Observation group for observations that are one array; a dictionary becomes one group for each key."""
