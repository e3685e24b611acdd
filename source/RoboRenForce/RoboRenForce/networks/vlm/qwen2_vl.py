"""Qwen2-VL (Wang et al. 2024, arXiv 2409.12191) as a backbone: 2B and 7B."""

from __future__ import annotations

from typing import Any, ClassVar

from ...configclass import configclass
from .qwen import QwenBackbone, QwenCfg


class Qwen2VL(QwenBackbone):
    """See `QwenBackbone`; nothing is peculiar to it."""


def _architecture(
    text: dict[str, Any], mrope: list[int], vision: dict[str, Any] | None = None, tie: bool = False
) -> dict[str, Any]:
    rope = {"rope_type": "default", "rope_theta": 1e6, "mrope_section": mrope}
    return {
        "text_config": {
            "rms_norm_eps": 1e-6,
            "rope_parameters": rope,
            "bos_token_id": None,
            "eos_token_id": None,
            **text,
        },
        "vision_config": {
            "depth": 32,
            "embed_dim": 1280,
            "num_heads": 16,
            "mlp_ratio": 4,
            "patch_size": 14,
            **(vision or {}),
            "hidden_size": text["hidden_size"],
        },
        "tie_word_embeddings": tie,
    }


def _text(hidden: int, ffn: int, layers: int, heads: int, kv_heads: int, vocabulary: int) -> dict[str, Any]:
    return {
        "hidden_size": hidden,
        "intermediate_size": ffn,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "vocab_size": vocabulary,
    }


@configclass
class Qwen2VLCfg(QwenCfg):
    """Configuration of a `Qwen2VL`."""

    class_type: type = Qwen2VL
    model_name: str = "Qwen/Qwen2-VL-2B-Instruct"

    family: ClassVar[str] = "qwen2_vl"
    class_name: ClassVar[str] = "Qwen2VL"
    setup_name: ClassVar[str] = "qwen2vl"
    token_pixels: ClassVar[int] = 28
    image_mean: ClassVar[tuple[float, float, float]] = (0.48145466, 0.4578275, 0.40821073)
    image_std: ClassVar[tuple[float, float, float]] = (0.26862954, 0.26130258, 0.27577711)
    architectures: ClassVar[dict[str, dict[str, Any]]] = {
        "tiny": _architecture(
            _text(64, 128, 2, 4, 2, 320),
            [2, 3, 3],
            {"depth": 2, "embed_dim": 32, "num_heads": 2, "mlp_ratio": 2},
            tie=True,
        ),
        "Qwen/Qwen2-VL-2B-Instruct": _architecture(_text(1536, 8960, 28, 12, 2, 151936), [16, 24, 24], tie=True),
        "Qwen/Qwen2-VL-7B-Instruct": _architecture(_text(3584, 18944, 28, 28, 4, 152064), [16, 24, 24]),
    }
