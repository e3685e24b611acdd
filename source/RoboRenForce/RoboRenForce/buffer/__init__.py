"""Storage and sampling of transitions; nothing learnable."""

from .chunk_replay import ChunkReplayBuffer, ChunkReplayBufferCfg
from .dataset import DatasetCfg, DatasetLoader, TransitionDataset
from .dataset_buffer import DatasetBuffer
from .dataset_checks import DatasetError
from .dataset_episodes import EpisodeArrays
from .dataset_sequences import SequenceDatasetBuffer
from .feature_replay import FeatureReplayBuffer, FeatureReplayBufferCfg
from .prioritized import PrioritizedReplayBuffer, PrioritizedReplayBufferCfg
from .replay import ReplayBuffer, ReplayBufferCfg
from .replay_batch import Observations, ReplayBatch
from .rollout import RolloutBatch, RolloutBuffer, mini_batches
from .sequence import SequenceReplayBuffer, SequenceReplayBufferCfg
from .transition import ActOut, Collector, Field, Transition, TransitionSchema

__all__ = [
    "ActOut",
    "ChunkReplayBuffer",
    "ChunkReplayBufferCfg",
    "Collector",
    "DatasetBuffer",
    "DatasetCfg",
    "DatasetError",
    "DatasetLoader",
    "EpisodeArrays",
    "FeatureReplayBuffer",
    "FeatureReplayBufferCfg",
    "Field",
    "Observations",
    "PrioritizedReplayBuffer",
    "PrioritizedReplayBufferCfg",
    "ReplayBatch",
    "ReplayBuffer",
    "ReplayBufferCfg",
    "RolloutBatch",
    "RolloutBuffer",
    "SequenceDatasetBuffer",
    "SequenceReplayBuffer",
    "SequenceReplayBufferCfg",
    "Transition",
    "TransitionDataset",
    "TransitionSchema",
    "mini_batches",
]
