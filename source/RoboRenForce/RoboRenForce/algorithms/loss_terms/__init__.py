"""Regularizers listed in `loss_terms`."""

from .belief import BeliefLoss, BeliefLossCfg
from .caps import CAPS, CAPSCfg
from .l2c2 import L2C2, L2C2Cfg
from .lips import Lips, LipsCfg
from .loss_term import LossTerm, LossTermCfg, build_loss_terms, compiled_losses
from .symmetry import Symmetry, SymmetryCfg
from .teacher_distance import TeacherDistance, TeacherDistanceCfg

__all__ = [
    "CAPS",
    "L2C2",
    "BeliefLoss",
    "BeliefLossCfg",
    "CAPSCfg",
    "L2C2Cfg",
    "Lips",
    "LipsCfg",
    "LossTerm",
    "LossTermCfg",
    "Symmetry",
    "SymmetryCfg",
    "TeacherDistance",
    "TeacherDistanceCfg",
    "build_loss_terms",
    "compiled_losses",
]
