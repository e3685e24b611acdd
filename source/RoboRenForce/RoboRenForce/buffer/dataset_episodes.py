"""One recorded episode, and its validation."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from .dataset_checks import (
    as_array,
    fault,
    flags,
    one_a_row,
    require_finite,
    require_horizon,
    require_rows,
    require_shape,
    vectors,
)


@dataclass(frozen=True)
class EpisodeArrays:
    """One recorded episode of L steps."""

    key: str
    """Name in error messages, such as `episode_3`."""
    observations: Mapping[str, np.ndarray]
    """Group -> `(L + 1, ...)`: the last row is the true final observation."""
    actions: np.ndarray
    """`(L, A)`, or indices `(L,)`."""
    rewards: np.ndarray
    terminations: np.ndarray
    truncations: np.ndarray

    @property
    def ended(self) -> bool:
        """True if the last step is marked as an end."""
        return bool(self.terminations[-1] or self.truncations[-1])


def checked_episode(episode: EpisodeArrays, source: str, max_episode_length: int | None) -> EpisodeArrays:
    """Validate the episode by itself; returns it with bool flags."""
    key = episode.key
    names = ("rewards", "actions", "terminations", "truncations")
    steps = {name: as_array(source, f"{key}/{name}", getattr(episode, name)) for name in names}
    require_rows(source, {f"{key}/{name}": rows for name, rows in steps.items()}, f"{key}/rewards")
    rewards = one_a_row(steps["rewards"])
    length = len(rewards)
    observations = {}
    for name, rows in episode.observations.items():
        at = f"{key}/observations/{name}"
        rows = observations[name] = vectors(as_array(source, at, rows))
        if len(rows) != length + 1:
            expected = f"expected {length + 1:,}: one for each of {length:,} steps and the final one"
            raise fault(source, at, min(len(rows), length + 1), f"it has {len(rows):,} rows, {expected}")
        require_finite(source, at, rows)
    require_shape(source, f"{key}/rewards", rewards, ())
    require_finite(source, f"{key}/rewards", rewards)
    terminated = flags(source, f"{key}/terminations", steps["terminations"])
    truncated = flags(source, f"{key}/truncations", steps["truncations"]) & ~terminated
    for name, flag in (("terminations", terminated), ("truncations", truncated)):
        if flag[:-1].any():
            row = int(flag.argmax())
            raise fault(source, f"{key}/{name}", row, f"the episode ends here, but goes on to row {length - 1:,}")
    require_horizon(source, f"{key}/truncations", np.array([length]), np.array([0]), max_episode_length)
    steps |= {"rewards": rewards, "terminations": terminated, "truncations": truncated}
    return replace(episode, observations=observations, **steps)


def require_marked_end(source: str, episode: EpisodeArrays) -> None:
    """Check that an episode followed by another one has a marked end."""
    if not episode.ended:
        what = "the last step of the episode is marked neither here nor in 'truncations'; mark how it ended"
        raise fault(source, f"{episode.key}/terminations", len(episode.rewards) - 1, what)
