"""Learning vision-language-action policies."""

from .data_spec import spec_of_data, spec_of_dataset
from .supervised import SFTAlgorithmCfg, VLAPretrainAlgorithmCfg, VLASupervised
from .vla_policy import VLAPlayPolicy

__all__ = [
    "SFTAlgorithmCfg",
    "VLAPlayPolicy",
    "VLAPretrainAlgorithmCfg",
    "VLASupervised",
    "spec_of_data",
    "spec_of_dataset",
]
