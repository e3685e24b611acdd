"""Storage and sampling; nothing learnable."""

from .replay import ReplayBuffer, ReplayBufferCfg
from .replay_batch import Observations, ReplayBatch
from .rollout import RolloutBatch, RolloutBuffer, mini_batches
from .step_inputs import StepInputs, copy_observations

__all__ = [
    "Observations",
    "ReplayBatch",
    "ReplayBuffer",
    "ReplayBufferCfg",
    "RolloutBatch",
    "RolloutBuffer",
    "StepInputs",
    "copy_observations",
    "mini_batches",
]
