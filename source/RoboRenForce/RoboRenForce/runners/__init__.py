"""Loops around algorithms: collect, learn, log, save, evaluate."""

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
