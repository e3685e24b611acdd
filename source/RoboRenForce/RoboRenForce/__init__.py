"""RoboRenForce: one framework for the whole robot-learning path."""

# The decorator takes the name of its package: `from RoboRenForce import configclass` is all a configuration needs.
# `from RoboRenForce.configclass import ...` still finds the package.
from .configclass import configclass

__version__ = "0.1.0"

__all__ = ["__version__", "configclass"]
