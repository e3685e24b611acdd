"""Selection of episodes: by index, by instruction, and by the split into training and validation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np

from ..utils.errors import UserError, did_you_mean
from .metadata import DatasetMetadata
from .permutation import permute

Split = Literal["train", "validation", "all"]


def select_episodes(
    metadata: DatasetMetadata,
    *,
    episodes: Sequence[int] | None = None,
    instructions: Sequence[str] | None = None,
    split: Split = "all",
    validation_fraction: float = 0.1,
    split_seed: int = 0,
) -> np.ndarray:
    """Select whole episodes: frames of one episode on both sides would make validation meaningless.

    Args:
        metadata: Metadata of the dataset.
        episodes: Indices to choose from; None: all.
        instructions: Instructions of the episodes to keep; None: all.
        split: Part to return. The split is made over all episodes of the dataset, so that choosing others never moves
            an episode to the other side.
        validation_fraction: Share of the episodes; at least one episode and never all.
        split_seed: Seed of the split.

    Returns:
        int64, ascending.

    Raises:
        UserError: An index or an instruction does not exist, or nothing is left.
    """
    total = len(metadata.episodes)
    keep = np.ones(total, bool)
    if episodes is not None:
        wrong = [index for index in episodes if not 0 <= index < total]
        if wrong:
            raise UserError(f"'{metadata.root}' has the episodes 0 to {total - 1:,}, and 'episodes' names {wrong[0]}.")
        keep[:] = False
        keep[list(episodes)] = True
    if instructions is not None:
        known = sorted(set(metadata.tasks.values()))
        for text in instructions:
            if text not in known:
                raise UserError(f"'{metadata.root}' has no instruction {text!r}: {did_you_mean(text, known)}")
        wanted = set(instructions)
        keep &= np.asarray([bool(wanted.intersection(tasks)) for tasks in metadata.episodes.tasks])
    if split != "all":
        keep &= validation_mask(total, validation_fraction, split_seed) == (split == "validation")
    if not keep.any():
        raise UserError(
            f"'{metadata.root}' has {total:,} episodes, and none is left by episodes, instructions and "
            f"split={split!r}; choose more."
        )
    return np.flatnonzero(keep)


def validation_mask(total: int, fraction: float, seed: int) -> np.ndarray:
    """Return the mask of validation episodes among `total`, bool `(E,)`: a pure function of its arguments.

    Raises:
        UserError: There are too few episodes to split.
    """
    if total < 2:
        raise UserError("A dataset of one episode can't be split into training and validation; use split=all.")
    count = min(max(1, round(total * fraction)), total - 1)
    mask = np.zeros(total, bool)
    mask[permute(np.arange(count), total, seed, 0)] = True
    return mask
