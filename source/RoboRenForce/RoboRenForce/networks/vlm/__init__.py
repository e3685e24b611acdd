"""Vision-language backbones: images, text and state in, a `Prefix` of features out."""

from .backbone import Backbone, BackboneCfg, Taps, VLMInputs
from .mlp_baseline import MLPBaseline, MLPBaselineCfg
from .prefix import Prefix

__all__ = ["Backbone", "BackboneCfg", "MLPBaseline", "MLPBaselineCfg", "Prefix", "Taps", "VLMInputs"]
