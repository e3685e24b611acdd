"""A tokenizer without files: one token per word, sign or number. For models with random weights.

It has of a `tokenizers.Tokenizer` what prompts need. Words share the rest of the vocabulary by their hash.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass

SPECIAL = ("<pad>", "<eos>", "<bos>")
LEAST, MOST = -1, 255
"""Numbers that have a token of their own."""
_PIECE = re.compile(r"-?\d+|\w+|[^\w\s]|\n")
_WORDS = len(SPECIAL) + MOST - LEAST + 1


@dataclass(frozen=True)
class Encoding:
    """Tokens of a text."""

    ids: list[int]


class WordTokenizer:
    """See the module; capital letters do not matter."""

    def __init__(self, vocabulary: int) -> None:
        self._buckets = vocabulary - _WORDS

    def encode(self, text: str, *, add_special_tokens: bool = False) -> Encoding:
        """Tokenize a text."""
        return Encoding([self._id(piece) for piece in _PIECE.findall(text.lower())])

    def token_to_id(self, token: str) -> int:
        """Return the id of a special token."""
        return SPECIAL.index(token)

    def _id(self, piece: str) -> int:
        if piece.lstrip("-").isdecimal() and LEAST <= int(piece) <= MOST:
            return len(SPECIAL) + int(piece) - LEAST
        return (
            _WORDS + int.from_bytes(hashlib.blake2b(piece.encode(), digest_size=8).digest(), "little") % self._buckets
        )
