"""Qwen3-VL (arXiv 2511.21631) as a backbone: 2B, 4B and 8B.

Beside the tokens of an image, features of lower vision blocks are added behind the first layers of the language model
(DeepStack, Meng et al. 2024, arXiv 2406.04334), and patches have learned positions.
"""

from __future__ import annotations

import math
from typing import Annotated, Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...configclass import Range, configclass
from ...utils.seeding import preserved_rng
from .qwen import QwenBackbone, QwenCfg
from .qwen_loading import UNPUBLISHED

PATCH_STD = 0.3
"""Of the weights of the patch embedding of models that learn from scratch."""


class Qwen3VL(QwenBackbone):
    """See `QwenBackbone`."""

    cfg: Qwen3VLCfg

    def _tower(self, images: Tensor) -> tuple[Tensor, list[Tensor]]:
        moved = None
        if self.cfg.shift and self.training:
            images, moved = shifted(images, self.cfg.shift)
        hidden = self._embed(images)
        hidden = hidden + self._learned_positions(moved).to(hidden.dtype)
        taps = list(self.visual.deepstack_visual_indexes)
        deepstack = []
        for number, block in enumerate(self.visual.blocks):
            hidden = block(hidden, cu_seqlens=None, position_embeddings=(self.cos, self.sin))
            if number in taps:
                deepstack.append(self.visual.deepstack_merger_list[taps.index(number)](hidden))
        return self.visual.merger(hidden), deepstack

    def _learned_positions(self, moved: Tensor | None) -> Tensor:
        """The grid of learned positions, scaled to that of the image, `(P, D_v)`; of moved images, `(N, P, D_v)`."""
        side = self.visual.num_grid_per_side
        grid = self.visual.pos_embed.weight.float().view(1, side, side, -1).permute(0, 3, 1, 2)
        size = (self.image_size[0] // self._patch, self.image_size[1] // self._patch)
        scaled = F.interpolate(grid, size, mode="bilinear", align_corners=True)
        if moved is None:
            return scaled[0].flatten(1).T[self.patch_place]
        axes = (torch.linspace(-1, 1, length, device=moved.device) for length in size)
        place = torch.stack(torch.meshgrid(*axes, indexing="ij"), -1)
        down, right = (2.0 * moved[:, axis] / (self._patch * (length - 1)) for axis, length in enumerate(size))
        place = (place + torch.stack([down, right], -1).view(-1, 1, 1, 2)).flip(-1)  # columns first
        scaled = F.grid_sample(scaled.expand(len(place), -1, -1, -1), place, padding_mode="border", align_corners=True)
        return scaled.flatten(2).transpose(1, 2)[:, self.patch_place]


def shifted(images: Tensor, most: int) -> tuple[Tensor, Tensor]:
    """Cut out of each image `(N, H, W, 3)` one of its size some pixels further down and right, edges repeated.

    Returns:
        The images, and by how many pixels, up to `most`, `(N, 2)`.
    """
    moved = torch.randint(-most, most + 1, (len(images), 2), device=images.device)
    rows, columns = (
        (torch.arange(length, device=images.device) + moved[:, axis : axis + 1]).clamp(0, length - 1)
        for axis, length in enumerate(images.shape[1:3])
    )
    number = torch.arange(len(images), device=images.device).view(-1, 1, 1)
    return images[number, rows.unsqueeze(2), columns.unsqueeze(1)], moved


def _architecture(text: dict[str, Any], vision: dict[str, Any], mrope: list[int], tie: bool = False) -> dict[str, Any]:
    rope = {"rope_type": "default", "rope_theta": 5e6, "mrope_section": mrope, "mrope_interleaved": True}
    return {
        "text_config": {
            "rms_norm_eps": 1e-6,
            "rope_parameters": rope,
            "bos_token_id": None,
            "eos_token_id": None,
            **text,
        },
        "vision_config": {"num_heads": 16, "patch_size": 16, **vision, "out_hidden_size": text["hidden_size"]},
        "tie_word_embeddings": tie,
    }


def _text(hidden: int, ffn: int, layers: int, heads: int, kv_heads: int = 8) -> dict[str, Any]:
    return {
        "hidden_size": hidden,
        "intermediate_size": ffn,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "head_dim": 128,
        "vocab_size": 151936,
    }


_TOWER = {
    "depth": 24,
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_position_embeddings": 2304,
    "deepstack_visual_indexes": [5, 11, 17],
}
_LARGE_TOWER = {
    **_TOWER,
    "depth": 27,
    "hidden_size": 1152,
    "intermediate_size": 4304,
    "deepstack_visual_indexes": [8, 16, 24],
}
_TINY_TOWER = {
    "depth": 3,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_heads": 2,
    "num_position_embeddings": 64,
    "deepstack_visual_indexes": [0, 1],
}
_SMALL_TOWER = {
    "depth": 6,
    "hidden_size": 384,
    "intermediate_size": 1536,
    "num_heads": 6,
    "num_position_embeddings": 64,
    "deepstack_visual_indexes": [2],
}


@configclass
class Qwen3VLCfg(QwenCfg):
    """Configuration of a `Qwen3VL`."""

    class_type: type = Qwen3VL
    model_name: str = "Qwen/Qwen3-VL-2B-Instruct"
    image_size: list[int] = [256, 256]
    shift: Annotated[int, Range(ge=0, le=64)] = 0
    """Most pixels by which each image is shifted while training, learned positions with it: another scene for whoever
    learns scenes by heart, the same one for whoever sees where things are."""

    family: ClassVar[str] = "qwen3_vl"
    class_name: ClassVar[str] = "Qwen3VL"
    setup_name: ClassVar[str] = "qwen3vl"
    token_pixels: ClassVar[int] = 32
    architectures: ClassVar[dict[str, dict[str, Any]]] = {
        "tiny": _architecture(
            {**_text(64, 128, 3, 4, 2), "head_dim": 16, "vocab_size": 320}, _TINY_TOWER, [4, 2, 2], tie=True
        ),
        "small": _architecture(
            {**_text(512, 1536, 8, 8, 4), "head_dim": 64, "vocab_size": 320}, _SMALL_TOWER, [12, 10, 10], tie=True
        ),
        "Qwen/Qwen3-VL-2B-Instruct": _architecture(_text(2048, 6144, 28, 16), _TOWER, [24, 20, 20], tie=True),
        "Qwen/Qwen3-VL-4B-Instruct": _architecture(_text(2560, 9728, 36, 32), _TOWER, [24, 20, 20], tie=True),
        "Qwen/Qwen3-VL-8B-Instruct": _architecture(_text(4096, 12288, 36, 32), _LARGE_TOWER, [24, 20, 20]),
    }

    def load(self) -> tuple[Any, Any]:
        """See `QwenCfg.load`. Where nothing is published, weights begin as learning from scratch needs them."""
        model, tokenizer = super().load()
        if self.model_name in UNPUBLISHED:
            with preserved_rng():
                torch.manual_seed(self.seed)
                begin_from_scratch(model)
        return model, tokenizer


def begin_from_scratch(model: nn.Module) -> None:
    """Draw the weights of a small model anew, so that it soon finds what a word names.

    transformers draws all with a standard deviation of 0.02, for thousands of features: with 64 or 512 of them every
    layer fades, and what is seen fades most. Here linear layers keep the size of what they read (LeCun et al. 1998,
    Efficient BackProp), patches are larger, and positions are waves (Vaswani et al. 2017, arXiv 1706.03762).
    """
    visual = model.get_submodule("visual")
    for module in model.modules():
        if isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, std=module.in_features**-0.5)
    nn.init.normal_(visual.get_parameter("patch_embed.proj.weight"), std=PATCH_STD)
    positions = visual.get_parameter("pos_embed.weight")
    positions.data.copy_(waves(math.isqrt(len(positions)), positions.shape[1]))


def waves(side: int, width: int) -> Tensor:
    """Sines and cosines of row and column of a square grid, `(side * side, width)`."""
    place = torch.cartesian_prod(torch.arange(side), torch.arange(side)).float()
    frequency = 100.0 ** -(torch.arange(width // 4) / (width // 4))
    angle = (place.unsqueeze(-1) * frequency).flatten(1)
    return torch.cat([angle.sin(), angle.cos()], dim=1)
