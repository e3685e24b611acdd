"""Loops around algorithms: collect, learn, log, save, evaluate."""

import warnings
from typing import Any

from .callbacks import Callback, CallbackCfg
from .dataset_runner import DatasetRunner, DatasetRunnerCfg
from .env_runner import EnvRunner, EnvRunnerCfg
from .evaluation import EvalResult, evaluate, record_video
from .off_policy_runner import OffPolicyRunner, OffPolicyRunnerCfg
from .offline_runner import OfflineRunner, OfflineRunnerCfg
from .on_policy_runner import OnPolicyRunner, OnPolicyRunnerCfg
from .trainer import Trainer, TrainerCfg
from .vla_pretrain_runner import VLAPretrainRunner, VLAPretrainRunnerCfg
from .vla_sft_runner import VLASFTRunner, VLASFTRunnerCfg

__all__ = [
    "Callback",
    "CallbackCfg",
    "DatasetRunner",
    "DatasetRunnerCfg",
    "EnvRunner",
    "EnvRunnerCfg",
    "EvalResult",
    "OffPolicyRunner",
    "OffPolicyRunnerCfg",
    "OfflineRunner",
    "OfflineRunnerCfg",
    "OnPolicyRunner",
    "OnPolicyRunnerCfg",
    "Trainer",
    "TrainerCfg",
    "VLAPretrainRunner",
    "VLAPretrainRunnerCfg",
    "VLASFTRunner",
    "VLASFTRunnerCfg",
    "evaluate",
    "record_video",
]

_RENAMED: dict[str, type] = {"Runner": EnvRunner, "RunnerCfg": EnvRunnerCfg}


def __getattr__(name: str) -> Any:
    if name not in _RENAMED:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    new = _RENAMED[name]
    warnings.warn(f"runners.{name} is called runners.{new.__name__} now", DeprecationWarning, stacklevel=2)
    return new
