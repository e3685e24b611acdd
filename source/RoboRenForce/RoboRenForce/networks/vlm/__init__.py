"""Vision-language backbones: images, text and state in, a `Prefix` of features out."""

from .backbone import Backbone, BackboneCfg, Taps, VLMInputs
from .gemma import Gemma, GemmaCfg
from .lora import LoRACfg, merge_lora, without_lora
from .mlp_baseline import MLPBaseline, MLPBaselineCfg
from .paligemma import PaliGemma, PaliGemmaCfg
from .prefix import Prefix
from .qwen2_vl import Qwen2VL, Qwen2VLCfg
from .qwen3_vl import Qwen3VL, Qwen3VLCfg
from .siglip import SigLIP, SigLIPCfg

__all__ = [
    "Backbone",
    "BackboneCfg",
    "Gemma",
    "GemmaCfg",
    "LoRACfg",
    "MLPBaseline",
    "MLPBaselineCfg",
    "PaliGemma",
    "PaliGemmaCfg",
    "Prefix",
    "Qwen2VL",
    "Qwen2VLCfg",
    "Qwen3VL",
    "Qwen3VLCfg",
    "SigLIP",
    "SigLIPCfg",
    "Taps",
    "VLMInputs",
    "merge_lora",
    "without_lora",
]
