"""Loops around algorithms: collect, learn, log, save, evaluate."""

from .callbacks import Callback, CallbackCfg
from .evaluation import EvalResult, evaluate, record_video
from .on_policy_runner import OnPolicyRunner, OnPolicyRunnerCfg
from .runner import Runner, RunnerCfg

__all__ = [
    "Callback",
    "CallbackCfg",
    "EvalResult",
    "OnPolicyRunner",
    "OnPolicyRunnerCfg",
    "Runner",
    "RunnerCfg",
    "evaluate",
    "record_video",
]
