"""What goes on beside training, between two iterations: it changes nothing there, and its failure is not the run's."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from ..envs.vec_env import VecEnv
from ..utils.errors import UserError
from ..utils.seeding import preserved_rng
from .evaluation import Stopped

if TYPE_CHECKING:
    from .runner import Runner

logger = logging.getLogger(__name__)

_LONGEST_EPISODE = 10_000
"""Steps that an episode may take in an evaluation during training if nothing else is said."""


class SideActivity:
    """Plays the policy without a trace in training, and reports the first failure in one message.

    Args:
        name: How a message begins.
        consequence: What follows from a failure besides that training goes on.
    """

    def __init__(self, name: str, consequence: str = "further failures are not reported") -> None:
        self.name, self.consequence = name, consequence
        self.failed = False

    @contextmanager
    def of(self, runner: Runner) -> Iterator[None]:
        """Random numbers and the mode of the learner are as before when the block ends, however it ends."""
        runner.algorithm.eval()
        runner.watchdog.enter(self.name, is_stepping=True)
        try:
            with preserved_rng():
                yield
        except Stopped:
            logger.info("%s of iteration %d was ended, because the run has to stop.", self.name, runner.iteration)
        except UserError as error:
            self._report(runner.iteration, str(error))
        except Exception as error:  # noqa: BLE001 - whatever an environment, a renderer or a disk raises: training goes on
            self._report(runner.iteration, f"{type(error).__name__}: {error}", error)
        finally:
            runner.algorithm.train()

    def _report(self, iteration: int, reason: str, error: Exception | None = None) -> None:
        """Say it, with the traceback of what the user has to find in their own code."""
        if not self.failed:
            message = "%s of iteration %d failed (%s); training goes on, %s."
            logger.warning(message, self.name, iteration, reason, self.consequence, exc_info=error)
        self.failed = True


def has_to_stop(runner: Runner) -> bool:
    """Whether a signal came; asked between two steps of a side activity, which shows that it is alive."""
    runner.watchdog.beat()
    return runner.stop.signal is not None


def most_steps(env: VecEnv, episodes: int) -> int:
    """Steps of each environment after which an evaluation during training gives up on episodes that do not end."""
    rounds = -(-episodes // env.num_envs)
    return min(env.max_episode_length or _LONGEST_EPISODE, _LONGEST_EPISODE) * rounds + 1
