"""Instruction ids: a stable 64-bit hash of the text, so that data of several processes merges without renumbering.

Buffers hold tensors, not strings. An observation therefore carries the id of its instruction, and a table beside the
data maps ids back to texts.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

from ..utils.errors import UserError

InstructionTable = dict[int, str]
"""Id -> text."""


def instruction_id(text: str) -> int:
    """Return the first 8 bytes of the text's BLAKE2b digest (RFC 7693, UTF-8, little-endian) as a signed integer.

    The same text has the same id in every process, on every machine and in every release.
    """
    digest = hashlib.blake2b(text.encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little", signed=True)


def add_instructions(table: InstructionTable, texts: Iterable[str]) -> list[int]:
    """Enter texts into a table, in place, and return their ids; merges tables by `add_instructions(a, b.values())`.

    Raises:
        UserError: two different texts have one id.
    """
    ids = []
    for text in texts:
        number = instruction_id(text)
        if table.setdefault(number, text) != text:
            raise UserError(
                f"The instructions {table[number]!r} and {text!r} have the same id {number}, so data could not tell "
                f"them apart: change a word in one of them."
            )
        ids.append(number)
    return ids
