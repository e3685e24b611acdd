"""A tokenizer without files: one token per byte, and the special tokens of Qwen. For models with random weights."""

from __future__ import annotations

from typing import Any

from ...utils.optional import require_package

SPECIAL_TOKENS = (
    *("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|object_ref_start|>", "<|object_ref_end|>", "<|box_start|>"),
    *("<|box_end|>", "<|quad_start|>", "<|quad_end|>", "<|vision_start|>", "<|vision_end|>", "<|vision_pad|>"),
    *("<|image_pad|>", "<|video_pad|>"),
)


def byte_tokenizer() -> Any:
    """Return a `tokenizers.Tokenizer` of 256 bytes and `SPECIAL_TOKENS`, 270 in all."""
    tokenizers = require_package("tokenizers", extra="vla", purpose="vision-language models")
    alphabet = sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet())
    model = tokenizers.models.BPE(vocab={sign: number for number, sign in enumerate(alphabet)}, merges=[])
    tokenizer = tokenizers.Tokenizer(model)
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = tokenizers.decoders.ByteLevel()
    tokenizer.add_special_tokens([tokenizers.AddedToken(text, special=True) for text in SPECIAL_TOKENS])
    return tokenizer
