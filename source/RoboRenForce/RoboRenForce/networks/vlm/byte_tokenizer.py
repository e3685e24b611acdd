"""A tokenizer without files, for models with random weights: bytes, some words, and the special tokens of Qwen.

Who learns from a few hundred demonstrations does not learn to spell beside: the words that instructions are mostly made
of are one token each.
"""

from __future__ import annotations

from typing import Any

from ...utils.optional import require_package

SPECIAL_TOKENS = (
    *("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|object_ref_start|>", "<|object_ref_end|>", "<|box_start|>"),
    *("<|box_end|>", "<|quad_start|>", "<|quad_end|>", "<|vision_start|>", "<|vision_end|>", "<|vision_pad|>"),
    *("<|image_pad|>", "<|video_pad|>"),
)

WORDS = (
    *("user", "assistant", "pick", "lift", "raise", "grab", "put", "place", "push", "pull", "move", "reach", "open"),
    *("close", "turn", "up", "down", "it", "and", "the", "on", "in", "into", "to", "from", "left", "right"),
    *("red", "green", "blue", "yellow", "purple", "orange", "black", "white"),
    *("cube", "block", "plate", "bowl", "cup", "drawer", "button", "box", "ball"),
)
"""Tokens of their own, with the space before them."""


def byte_tokenizer() -> Any:
    """Return a `tokenizers.Tokenizer` of 256 bytes, `SPECIAL_TOKENS` and `WORDS`, 314 in all."""
    tokenizers = require_package("tokenizers", extra="vla", purpose="vision-language models")
    alphabet = sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet())
    model = tokenizers.models.BPE(vocab={sign: number for number, sign in enumerate(alphabet)}, merges=[])
    tokenizer = tokenizers.Tokenizer(model)
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = tokenizers.decoders.ByteLevel()
    tokenizer.add_special_tokens([tokenizers.AddedToken(text, special=True) for text in SPECIAL_TOKENS])
    tokenizer.add_tokens([tokenizers.AddedToken(word, single_word=True, lstrip=True) for word in WORDS])
    return tokenizer
