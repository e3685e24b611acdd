"""The data of an offline run: a Minari id or folder, or a file of rows."""

from __future__ import annotations

from pathlib import Path

from RoboRenForce.buffer import DatasetCfg, DatasetLoader, TransitionDataset
from RoboRenForce.buffer.dataset import FLAT_GROUP
from RoboRenForce.configclass import MISSING, configclass
from RoboRenForce.utils.optional import require_package

SUFFIXES = (".hdf5", ".h5")
"""Of files of rows; everything else is a Minari data set."""


class OfflineDataset(DatasetLoader):
    """Reads what `cfg.source` names."""

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
    """Names the data of an offline run."""

    class_type: type = OfflineDataset

    source: str = MISSING
    """A Minari id such as `mujoco/hopper/medium-v0`, the folder of a Minari data set, or a file that ends in `.hdf5` or
    `.h5`."""
    download: bool = True
    """Fetch Minari ids from the hub that aren't in the cache."""
    group: str = FLAT_GROUP
    """Observation group that observations become which are one array; a dictionary becomes a group for each key."""
