"""The callbacks of every run, in the order in which they are called."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .callbacks import Callback, EvaluateCallback, LogCallback, ReportCallback, VideoCallback
from .checkpointing import BestCallback, CheckpointCallback, RunDirectoryCallback

if TYPE_CHECKING:
    from .trainer import TrainerCfg


def default_callbacks(cfg: TrainerCfg) -> list[Callback]:
    """Build all callbacks of a run.

    Saving comes before callbacks that may fail. Metrics of an evaluation, and those that further callbacks add, are
    logged and decide about the best checkpoint.
    """
    checkpoints = CheckpointCallback()
    return [
        RunDirectoryCallback(),
        checkpoints,
        EvaluateCallback(),
        *(callback.build() for callback in cfg.callbacks),
        VideoCallback(),
        LogCallback(),
        BestCallback(checkpoints),
        ReportCallback(),
    ]
