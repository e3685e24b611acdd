"""Offline data and tasks for RoboRenForce; importing this registers the tasks."""

from .offline_dataset import OfflineDataset, OfflineDatasetCfg
from .registration import register_tasks
from .scores import normalized_score, reference_returns

__all__ = ["OfflineDataset", "OfflineDatasetCfg", "normalized_score", "reference_returns", "register_tasks"]

register_tasks()
