"""Playing the policy between two iterations without affecting training."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from ..envs.vec_env import VecEnv
from ..utils.seeding import preserved_rng
from ..utils.side_activity import side_activity
from .evaluation import Stopped

if TYPE_CHECKING:
    from .trainer import Trainer

logger = logging.getLogger(__name__)

_LONGEST_EPISODE = 10_000
"""Default maximum number of steps of an episode in an evaluation during training."""


@contextmanager
def played_aside(runner: Trainer, what: str, consequence: str, *, quiet: bool) -> Iterator[None]:
    """Play the policy as a side activity; restore random numbers and the learner's mode however it ends.

    Args:
        runner: Runner whose policy is played.
        what: Name of the activity, for messages.
        consequence: Consequence of a failure besides that training continues.
        quiet: True to report no failure, because one was reported before.
    """
    runner.algorithm.eval()
    runner.watchdog.enter(what, is_stepping=True)
    what = f"{what} of iteration {runner.iteration}"
    try:
        with side_activity(what, f"training goes on, {consequence}", quiet=quiet), preserved_rng():
            try:
                yield
            except Stopped:
                logger.info("%s was ended, because the run has to stop.", what)
    finally:
        runner.algorithm.train()


def has_to_stop(runner: Trainer) -> bool:
    """Return True if a signal came; called between two steps of a side activity, it also proves progress."""
    runner.watchdog.beat()
    return runner.stop.signal is not None


def most_steps(env: VecEnv, episodes: int) -> int:
    """Return the steps per environment after which an evaluation during training gives up on episodes."""
    rounds = -(-episodes // env.num_envs)
    return min(env.max_episode_length or _LONGEST_EPISODE, _LONGEST_EPISODE) * rounds + 1
