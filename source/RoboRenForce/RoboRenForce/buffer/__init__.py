"""Storage and sampling; nothing learnable."""

from .rollout import RolloutBatch, RolloutBuffer, mini_batches
from .step_inputs import StepInputs, copy_observations

__all__ = ["RolloutBatch", "RolloutBuffer", "StepInputs", "copy_observations", "mini_batches"]
