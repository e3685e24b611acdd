"""Learning from the actions of others while acting."""

from .distillation import Distillation, DistillationCfg

__all__ = ["Distillation", "DistillationCfg"]
