"""Learning vision-language-action policies."""

from .data_spec import spec_of_data, spec_of_dataset
from .relative_actions import relative_spec
from .supervised import SFTAlgorithmCfg, VLAPretrainAlgorithmCfg, VLASupervised
from .vla_policy import VLAPlayPolicy

__all__ = [
    "SFTAlgorithmCfg",
    "VLAPlayPolicy",
    "VLAPretrainAlgorithmCfg",
    "VLASupervised",
    "relative_spec",
    "spec_of_data",
    "spec_of_dataset",
]
