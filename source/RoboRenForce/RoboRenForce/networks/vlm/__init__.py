"""Vision-language backbones: images, text and state in, a `Prefix` of features out."""

from .backbone import Backbone, BackboneCfg, Taps, VLMInputs
from .lora import LoRACfg, merge_lora, without_lora
from .mlp_baseline import MLPBaseline, MLPBaselineCfg
from .prefix import Prefix
from .qwen2_vl import Qwen2VL, Qwen2VLCfg
from .qwen3_vl import Qwen3VL, Qwen3VLCfg

__all__ = [
    "Backbone",
    "BackboneCfg",
    "LoRACfg",
    "MLPBaseline",
    "MLPBaselineCfg",
    "Prefix",
    "Qwen2VL",
    "Qwen2VLCfg",
    "Qwen3VL",
    "Qwen3VLCfg",
    "Taps",
    "VLMInputs",
    "merge_lora",
    "without_lora",
]
