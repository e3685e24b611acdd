"""RoboRenForce: one framework for the whole robot-learning path."""

__version__ = "0.1.0"
