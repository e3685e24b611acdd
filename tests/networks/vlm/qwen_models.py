"""Tiny Qwen models as transformers saves them, and what transformers itself computes with them."""

from functools import cache

import torch
from RoboRenForce.networks.vlm import Qwen2VLCfg, Qwen3VLCfg, VLMInputs
from RoboRenForce.networks.vlm.byte_tokenizer import byte_tokenizer

CFGS = {"qwen2_vl": Qwen2VLCfg, "qwen3_vl": Qwen3VLCfg}
SPECIAL = ("<|image_pad|>", "<|video_pad|>", "<|vision_start|>", "<|vision_end|>")
TEXTS = ["push the cube", "go"]


@cache
def saved(family, folder):
    """A model with its language-model head, saved by transformers with a tokenizer; returns it too."""
    import transformers

    cfg = CFGS[family]
    image, video, start, end = map(byte_tokenizer().token_to_id, SPECIAL)
    names = {
        "image_token_id": image,
        "video_token_id": video,
        "vision_start_token_id": start,
        "vision_end_token_id": end,
    }
    kinds = {
        "qwen2_vl": (transformers.Qwen2VLConfig, transformers.Qwen2VLForConditionalGeneration),
        "qwen3_vl": (transformers.Qwen3VLConfig, transformers.Qwen3VLForConditionalGeneration),
    }
    config_class, model_class = kinds[family]
    torch.manual_seed(1)
    model = model_class._from_config(
        config_class(**cfg.architectures["tiny"], **names), dtype=torch.float32, attn_implementation="sdpa"
    ).eval()
    model.save_pretrained(folder)
    byte_tokenizer().save(str(folder / "tokenizer.json"))
    return model


def size_of(family):
    """Height and width of three by two tokens."""
    return [3 * CFGS[family].token_pixels, 2 * CFGS[family].token_pixels]


def observe(backbone, cameras=2, states=0, absent=()):
    """Two observations of noise; `absent` are (row, camera)."""
    generator = torch.Generator().manual_seed(0)
    height, width = backbone.image_size
    images = torch.randint(0, 256, (2, cameras, height, width, 3), generator=generator, dtype=torch.uint8)
    has_image = torch.ones(2, cameras, dtype=torch.bool)
    for row, camera in absent:
        has_image[row, camera] = False
    ids, mask = backbone.tokenize(TEXTS)
    state = torch.randn(2, states, generator=generator)
    return VLMInputs(images, has_image, ids, mask, state)


def reference(model, family, inputs, row, prompt):
    """Last hidden states `(L, D)` of one row by transformers, with its own image processor, text and positions."""
    from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

    cfg = CFGS[family]
    patch = cfg.token_pixels // 2
    processor = Qwen2VLImageProcessorPil(
        patch_size=patch,
        image_mean=list(cfg.image_mean),
        image_std=list(cfg.image_std),
        size={"shortest_edge": 1, "longest_edge": 2**30},
    )
    images = [image.numpy() for image, there in zip(inputs.images[row], inputs.has_image[row], strict=True) if there]
    seen = processor(images, return_tensors="pt")
    tokens = int(seen["image_grid_thw"][0].prod()) // 4
    picture = "<|vision_start|>" + "<|image_pad|>" * tokens + "<|vision_end|>"
    text = prompt.format(images=picture * len(images), instruction=TEXTS[row])
    ids = torch.tensor([byte_tokenizer().encode(text).ids])
    with torch.no_grad():
        return model.model(
            input_ids=ids,
            mm_token_type_ids=(ids == model.config.image_token_id).int(),
            pixel_values=seen["pixel_values"],
            image_grid_thw=seen["image_grid_thw"],
        ).last_hidden_state[0]
