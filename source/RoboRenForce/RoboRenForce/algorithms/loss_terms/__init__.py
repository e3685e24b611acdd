"""Regularizers listed in `loss_terms`."""

from .loss_term import LossTerm, LossTermCfg
from .symmetry import Symmetry, SymmetryCfg

__all__ = ["LossTerm", "LossTermCfg", "Symmetry", "SymmetryCfg"]
