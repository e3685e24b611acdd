"""Instruction ids: a stable 64-bit hash of the text, so that data of several processes merges without renumbering."""

from __future__ import annotations

import hashlib


def instruction_id(text: str) -> int:
    """Return the first 8 bytes of the text's BLAKE2b digest (RFC 7693, UTF-8, little-endian) as a signed integer."""
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little", signed=True)
