"""Metrics of VLA policies in reinforcement learning, under the names that users of RLinf know."""

from __future__ import annotations

from collections.abc import Mapping

from .statistics import Ratio

_SHOWN = {
    "Train/mean_reward": "env/return",
    "Train/mean_episode_length": "env/episode_len",
    "Train/success_rate": "env/success_once",
}


def with_episodes(found: Mapping[str, Ratio], sums: Mapping[str, Ratio]) -> dict[str, Ratio]:
    """Add sums over all episodes that ended in an iteration; what is shown elsewhere too is taken from them.

    The newest hundred, as elsewhere, would be those that ended last: failures, where a success ends an episode.
    """
    shown = {name: sums[source] for name, source in _SHOWN.items()}
    return {name: shown.get(name, ratio) for name, ratio in found.items()} | dict(sums)


def chunk_speed(metrics: Mapping[str, float], samples: float) -> dict[str, float]:
    """Return what speed means for a policy of chunks, of `samples` decisions of all processes."""
    collecting, learning = metrics["Perf/collection_time"], metrics["Perf/learning_time"]
    return {
        "time/generate_rollouts": collecting,
        "time/actor_training": learning,
        "time/step": collecting + learning,
        "Perf/env_frames_per_second": metrics.get("Perf/total_fps", 0.0),
        "Perf/chunk_samples_per_second": samples / (collecting + learning),
    }
