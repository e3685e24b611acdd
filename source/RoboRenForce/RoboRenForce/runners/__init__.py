"""Loops around algorithms: collect, learn, log, save, evaluate."""

from .belief_runners import FlowModelRunner, FlowModelRunnerCfg, PretrainedBeliefCfg
from .block_runners import EPOOnPolicyRunnerCfg, SAPGOnPolicyRunnerCfg
from .callbacks import Callback, CallbackCfg
from .dagger_runner import DAggerRunner, DAggerRunnerCfg
from .dataset_runner import DatasetRunner, DatasetRunnerCfg
from .dynamics_report import DynamicsReport, DynamicsReportCfg
from .env_runner import EnvRunner, EnvRunnerCfg
from .evaluation import EvalResult, evaluate
from .model_based_runners import MBPOOnPolicyRunnerCfg, NNModelBasedRunner, NNModelBasedRunnerCfg
from .off_policy_runner import OffPolicyRunner, OffPolicyRunnerCfg
from .offline_runner import OfflineRunner, OfflineRunnerCfg
from .on_policy_runner import OnPolicyRunner, OnPolicyRunnerCfg
from .tiles import record_tiles
from .trainer import Trainer, TrainerCfg
from .video import record_video
from .vla_pretrain_runner import VLAPretrainRunner, VLAPretrainRunnerCfg
from .vla_rl_runner import VLAGRPORunner, VLAGRPORunnerCfg, VLAPPORunner, VLAPPORunnerCfg
from .vla_sac_runner import VLASACRunner, VLASACRunnerCfg
from .vla_sft_runner import VLASFTRunner, VLASFTRunnerCfg

__all__ = [
    "Callback",
    "CallbackCfg",
    "DAggerRunner",
    "DAggerRunnerCfg",
    "DatasetRunner",
    "DatasetRunnerCfg",
    "DynamicsReport",
    "DynamicsReportCfg",
    "EPOOnPolicyRunnerCfg",
    "EnvRunner",
    "EnvRunnerCfg",
    "EvalResult",
    "FlowModelRunner",
    "FlowModelRunnerCfg",
    "MBPOOnPolicyRunnerCfg",
    "NNModelBasedRunner",
    "NNModelBasedRunnerCfg",
    "OffPolicyRunner",
    "OffPolicyRunnerCfg",
    "OfflineRunner",
    "OfflineRunnerCfg",
    "OnPolicyRunner",
    "OnPolicyRunnerCfg",
    "PretrainedBeliefCfg",
    "SAPGOnPolicyRunnerCfg",
    "Trainer",
    "TrainerCfg",
    "VLAGRPORunner",
    "VLAGRPORunnerCfg",
    "VLAPPORunner",
    "VLAPPORunnerCfg",
    "VLAPretrainRunner",
    "VLAPretrainRunnerCfg",
    "VLASACRunner",
    "VLASACRunnerCfg",
    "VLASFTRunner",
    "VLASFTRunnerCfg",
    "evaluate",
    "record_tiles",
    "record_video",
]
