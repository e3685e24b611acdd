"""Prompts of pi0 and pi0.5 as tokens. The state is put in on the device, so that nothing waits for it.

    pi0      <bos>pick up the bowl⏎
    pi0.5    <bos>Task: pick up the bowl, State: 127 3 255;⏎Action:

Every number of the state is a bin of the normalized value: b if -1 + b / 128 <= x < -1 + (b + 1) / 128, within -1 (left
of all) and 255. The tokens of a number do not depend on what stands around it; building checks that.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...utils.errors import UserError
from .qwen_loading import load_tokenizer
from .word_tokenizer import WordTokenizer

WORDS = "words"
"""Name of the tokenizer without files."""
_BINS = 256
_FILE = "tokenizer.json"


class PaliGemmaPrompt(nn.Module):
    """Tokenizer, and the tokens of numbers as buffers that move with the backbone.

    Args:
        tokenizer: Folder or file of PaliGemma's tokenizer, or `WORDS`.
        vocabulary: Number of word embeddings.
        state_dim: Numbers in the prompt: the state's, then zeros; None: the prompt of pi0, without state.
    """

    numbers: Tensor
    digits: Tensor
    tail: Tensor
    edges: Tensor

    def __init__(self, tokenizer: str, vocabulary: int, *, state_dim: int | None) -> None:
        super().__init__()
        self.tokenizer, self.state_dim = _load(tokenizer, vocabulary), state_dim
        rows = [self._encode(f" {number}") for number in range(-1, _BINS)]
        length = max(map(len, rows))
        buffers = {
            "numbers": torch.tensor([row + [0] * (length - len(row)) for row in rows]),
            "digits": torch.arange(length) < torch.tensor([[len(row)] for row in rows]),
            "tail": torch.tensor(self._encode(";\nAction: ")),
            "edges": torch.linspace(-1, 1, _BINS + 1)[:-1],
        }
        for name, value in buffers.items():
            self.register_buffer(name, value, persistent=False)
        if state_dim is not None:
            self._require_independent_numbers(rows)

    def tokenize(self, texts: Sequence[str]) -> tuple[Tensor, Tensor]:
        """See `Backbone.tokenize`: everything before the state, or the whole prompt of pi0."""
        bos = self.tokenizer.token_to_id("<bos>")
        rows = []
        for text in texts:
            text = text.strip().replace("_", " ").replace("\n", " ")
            without = [*self._encode(text), *self._encode("\n")]
            rows.append([bos, *(without if self.state_dim is None else self._encode(f"Task: {text}, State:"))])
        length = max(1, *map(len, rows)) if rows else 1
        ids = torch.tensor([row + [0] * (length - len(row)) for row in rows], dtype=torch.int64).view(-1, length)
        return ids, torch.arange(length) < torch.tensor([len(row) for row in rows]).view(-1, 1)

    def forward(self, ids: Tensor, mask: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """Append state and end to the beginnings of prompts, `(B, T)` each; the state `(B, <= S)` is normalized."""
        if self.state_dim is None:
            return ids, mask
        state = F.pad(state, (0, self.state_dim - state.shape[1]))
        number = torch.searchsorted(self.edges, state.float().contiguous(), right=True)  # -1 + 1 for the row
        tail = self.tail.expand(len(ids), -1)
        ids = torch.cat([ids, self.numbers[number].flatten(1), tail], 1)
        return ids, torch.cat([mask, self.digits[number].flatten(1), torch.ones_like(tail, dtype=torch.bool)], 1)

    def save(self, folder: Path) -> str:
        """Write the tokenizer into a folder; returns the file's name."""
        self.tokenizer.save(str(folder / _FILE))
        return _FILE

    def _encode(self, text: str) -> list[int]:
        return self.tokenizer.encode(text, add_special_tokens=False).ids

    def _require_independent_numbers(self, rows: list[list[int]]) -> None:
        head, tail = "Task: x, State:", ";\nAction: "
        for shown in ((0, 7, 255), (-1, 10, 128), (99, 100, 42)):
            whole = self._encode(head + "".join(f" {number}" for number in shown) + tail)
            parts = [*self._encode(head), *(i for number in shown for i in rows[number + 1]), *self._encode(tail)]
            if whole != parts:
                raise UserError(
                    "This tokenizer splits a number differently depending on its neighbors, expected PaliGemma's, "
                    "which splits digits: name its tokenizer.json in backbone.tokenizer, or set "
                    "backbone.state_in_prompt=false for weights that were trained so."
                )


def _load(tokenizer: str, vocabulary: int) -> Any:
    if tokenizer == WORDS:
        return WordTokenizer(vocabulary)
    if not tokenizer:
        raise UserError(
            "backbone.tokenizer is empty, expected the folder with PaliGemma's tokenizer.json: accept its licence on "
            "https://huggingface.co/google/paligemma-3b-pt-224, run `hf auth login`, download it with "
            "`scripts/models/setup_models.sh openpi`, and name that folder."
        )
    path = Path(tokenizer).expanduser()
    return load_tokenizer(path.parent if path.name == _FILE else path)
