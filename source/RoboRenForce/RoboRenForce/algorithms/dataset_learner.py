"""A learner from batches of recorded data, as a `DatasetRunner` drives it: pre-training, fine-tuning, imitation."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, NoReturn

from torch import Tensor

from ..configclass import configclass
from ..utils.errors import UserError
from .algorithm import Algorithm, AlgorithmCfg


class DatasetLearner(Algorithm, ABC):
    """Learns from every batch that it is given; it is never asked to act while it learns.

    `RunContext.spec` is what the data says about its environment; where it says nothing, the learner's own
    configuration has to know all sizes.
    """

    @abstractmethod
    def update(self, data: Any = None) -> dict[str, Tensor]:
        """Take one gradient step (or accumulate one) on a batch, which lies on the device; returns 0-dim metrics."""

    def act(self, obs: Any) -> NoReturn:
        """Refuse: what it learned is played by `policy()`."""
        raise UserError(f"{type(self).__name__} learns from recorded data and takes no steps: use a DatasetRunner.")

    def process_env_step(self, transition: Any) -> NoReturn:
        """Refuse, see `act`."""
        self.act(transition)


@configclass
class DatasetLearnerCfg(AlgorithmCfg):
    """Base of the configurations of such learners."""

    class_type: type = DatasetLearner
