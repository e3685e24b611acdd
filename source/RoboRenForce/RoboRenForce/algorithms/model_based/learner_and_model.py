"""What algorithms share that consist of a learner of policies and a model for it to learn in."""

from __future__ import annotations

from ..algorithm import Algorithm, Policy
from .fit import DynamicsFit


class LearnerAndModel(Algorithm):
    """A learner, a dynamics model and its fit; the policy is the learner's."""

    learner: Algorithm
    fit: DynamicsFit

    def policy(self) -> Policy:
        """Return the learner's policy."""
        return self.learner.policy()

    def train(self) -> None:
        """Switch the policy's networks to training mode."""
        self.learner.train()

    def eval(self) -> None:
        """Switch all networks to evaluation mode."""
        self.learner.eval()
        self.fit.model.eval()

    def close(self) -> None:
        """Free the captured graphs."""
        self.learner.close()
        self.fit.close()
