"""Instructions by their ids: tokenized once, looked up on the device."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor, nn

from ..envs.instructions import InstructionTable, add_instructions
from ..utils.errors import UserError

_STEP = 8
"""Texts are padded to a multiple of it, so that one more word does not change the shapes of everything."""


class TokenTable(nn.Module):
    """Id -> tokens of the text. It is made of texts and is in no state dict: the policy's spec holds the texts.

    Args:
        tokenize: Texts -> int64 ids and bool mask, `(N, T)`, padded on the right.
    """

    ids: Tensor
    tokens: Tensor
    lengths: Tensor
    unknown: Tensor

    def __init__(self, tokenize: Callable[[Sequence[str]], tuple[Tensor, Tensor]]) -> None:
        super().__init__()
        self._tokenize = tokenize
        self.table: InstructionTable = {}
        """All texts by their ids."""
        self._widths: dict[str, int] = {}
        for name, shape in (("ids", (0,)), ("tokens", (0, _STEP)), ("lengths", (0,)), ("unknown", ())):
            self.register_buffer(name, torch.zeros(shape, dtype=torch.int64), persistent=False)

    def add(self, texts: Iterable[str]) -> None:
        """Know more texts; the buffers are made anew, so that captured graphs have to be captured again."""
        before = len(self.table)
        add_instructions(self.table, texts)
        if len(self.table) == before:
            return
        ordered = sorted(self.table)
        tokens, mask = self._tokenize([self.table[number] for number in ordered])
        device = self.ids.device
        self.ids = torch.tensor(ordered, dtype=torch.int64, device=device)
        padding = -tokens.shape[1] % _STEP
        self.tokens = torch.nn.functional.pad(tokens, (0, padding)).to(device)
        self.lengths = mask.sum(1).to(device)
        self._widths = {self.table[number]: width for number, width in zip(ordered, mask.sum(1).tolist(), strict=True)}

    def width(self, texts: Iterable[str]) -> int:
        """T of the longest of some texts; of all that are known, if one of them is not."""
        known = self.tokens.shape[1]
        longest = max((self._widths.get(text, known) for text in set(texts)), default=known)
        return min(longest + -longest % _STEP, known)

    def forward(self, ids: Tensor, width: int | None = None) -> tuple[Tensor, Tensor]:
        """Look up int64 ids `(B,)`: tokens and mask `(B, T)`, of the longest known text or of `width` tokens.

        On a GPU an unknown id is counted and gets an empty text, because asking would wait for the device; ask
        `require_known` now and then.

        Raises:
            UserError: an id is unknown, on the CPU.
        """
        if not self.table:
            raise UserError("The policy knows no instruction yet: add_instructions(texts) first.")
        place = torch.searchsorted(self.ids, ids).clamp(max=len(self.table) - 1)
        known = self.ids[place] == ids
        self.unknown += (~known).sum()
        if ids.device.type == "cpu":
            self.require_known()
        lengths = self.lengths[place] * known
        tokens = self.tokens[:, :width]
        return tokens[place], torch.arange(tokens.shape[1], device=ids.device) < lengths.unsqueeze(1)

    def require_known(self) -> None:
        """Raise if `forward` met an unknown id since the last call; it waits for the device."""
        count = int(self.unknown)
        self.unknown.zero_()
        if count:
            raise UserError(
                f"{count} observations follow an instruction that the policy has not tokenized: call "
                "add_instructions(texts) with those of the environment (its instruction_table) or the data set before."
            )
