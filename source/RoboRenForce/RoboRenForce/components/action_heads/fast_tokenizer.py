"""Chunks of actions as few tokens, and back (FAST, arXiv 2501.09747).

The discrete cosine transform of every dimension is scaled and rounded. Its coefficients, low frequencies first, are the
symbols that byte-pair encoding (BPE) merges into tokens. Decoding is a table, so that it needs no host.

Shape letters: B chunks, H actions of a chunk, A dimensions of an action, N tokens.
"""

from __future__ import annotations

import json
import os
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ...utils.errors import UserError
from ...utils.optional import require_package
from .masking import held_actions

FIRST_CHARACTER = 0x4E00
"""Symbol 0 as text: from here on, 20,000 characters have no special meaning to any tokenizer."""


class FASTTokenizer(nn.Module):
    """Tokens 0 to `num_levels` - 1 are single coefficients, those behind are merges, learned by `fit`.

    All of its state is tables, so it is saved and loaded like weights.
    """

    transform: Tensor
    """float64 `(H, H)`: the discrete cosine transform."""
    merges: Tensor
    """int32 `(vocabulary - num_levels, 2)`: the two tokens of each merge; -1 behind the last one."""
    symbols: Tensor
    """int32 `(vocabulary + 1, H * A)`: the coefficients that each token stands for; the last row is the end."""
    lengths: Tensor
    """int64 `(vocabulary + 1,)`: how many these are."""

    def __init__(
        self, chunk_size: int, action_dim: int, *, scale: float, vocabulary: int, num_levels: int, max_tokens: int
    ) -> None:
        super().__init__()
        fft = require_package("scipy.fft", extra="vla", purpose="FAST tokens", distribution="scipy")
        require_package("tokenizers", extra="vla", purpose="FAST tokens")
        self.shape, self.scale, self.max_tokens = (chunk_size, action_dim), scale, max_tokens
        self.vocabulary, self.num_levels, self.end = vocabulary, num_levels, vocabulary
        # float64, which neither autocast nor TF32 touches: a symbol must not depend on the precision of training.
        transform = torch.from_numpy(fft.dct(np.eye(chunk_size), axis=0, norm="ortho"))
        self.register_buffer("transform", transform, persistent=False)
        self.register_buffer("merges", torch.full((vocabulary - num_levels, 2), -1, dtype=torch.int32))
        size = chunk_size * action_dim
        # DDP broadcasts buffers, and neither Gloo nor NCCL sends 16-bit integers.
        self.register_buffer("symbols", torch.zeros(vocabulary + 1, size, dtype=torch.int32))
        self.register_buffer("lengths", torch.zeros(vocabulary + 1, dtype=torch.int64))
        self._bpe: tuple[int, Any] | None = None  # built from the merges, of which version, by the first `encode`

    def symbols_of(self, actions: Tensor) -> Tensor:
        """Return rounded coefficients as symbols from 0 on, int64 `(B, H * A)`; those beyond the levels are clipped."""
        coefficients = self._coefficients(actions).round().flatten(1)
        half = self.num_levels // 2
        return coefficients.clamp(-half, self.num_levels - 1 - half).long() + half

    def actions_of(self, symbols: Tensor) -> Tensor:
        """Undo `symbols_of`, up to the rounding."""
        coefficients = (symbols - self.num_levels // 2).double().unflatten(1, self.shape) / self.scale
        return (self.transform.T @ coefficients).float()

    def _coefficients(self, actions: Tensor) -> Tensor:
        return self.transform @ actions.double() * self.scale

    def encode(self, actions: Tensor) -> Tensor:
        """Return tokens int64 `(B, max_tokens)`, filled up with `end`; copies the symbols to the host and back.

        Raises:
            UserError: `fit` was not called.
        """
        sequences = self._encode_texts(_texts(self.symbols_of(actions)))
        rows = [(ids + [self.end] * self.max_tokens)[: self.max_tokens] for ids in sequences]
        return torch.tensor(rows, device=actions.device)

    def targets(self, actions: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Return tokens `(B, max_tokens)` of demonstrated chunks, and bool: those that are learned.

        A token stands for frequencies of a whole chunk: elements that are not valid repeat the last valid action, and
        rows without any are left out.
        """
        tokens = self.encode(held_actions(actions, mask))
        return tokens, self.until_end(tokens) & mask.flatten(1).any(1, keepdim=True)

    def until_end(self, tokens: Tensor) -> Tensor:
        """Bool `(B, N)`: True up to the first end, which is included."""
        ended = (tokens == self.end).cumsum(1)
        return (ended == 0) | ((ended == 1) & (tokens == self.end))

    def decode(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Return actions `(B, H, A)` of tokens `(B, N)`, and bool `(B,)`: whether they stood for H * A coefficients.

        Where there are too few, the highest frequencies are zero; where there are too many, the last ones are dropped.
        What follows the first `end` is ignored.
        """
        tokens = tokens.masked_fill((tokens == self.end).cumsum(1) > 0, self.end)
        size = self.shape[0] * self.shape[1]
        ends = self.lengths[tokens].cumsum(1)  # where in the sequence of coefficients each token ends
        position = torch.arange(size, device=tokens.device).expand(len(tokens), size).contiguous()
        source = torch.searchsorted(ends, position, right=True)  # the token that covers each coefficient
        covered = source < tokens.shape[1]
        source = source.clamp(max=tokens.shape[1] - 1)
        token = tokens.gather(1, source)
        offset = position - (ends.gather(1, source) - self.lengths[token])
        symbols = self.symbols[token, offset.clamp(0, size - 1)].long()
        symbols = torch.where(covered, symbols, self.num_levels // 2)
        return self.actions_of(symbols), ends[:, -1] == size

    def fit(self, actions: Tensor) -> None:
        """Learn the merges from chunks `(N, H, A)`; in a distributed run every process gives the same ones.

        Raises:
            UserError: more than 1 % of the chunks need more tokens than `max_tokens`, or coefficients than levels.
        """
        # Not in threads: a loader that forks its workers afterwards would be warned of deadlocks on every start.
        os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
        tokenizers = require_package("tokenizers", extra="vla", purpose="FAST tokens")
        self._require_levels(actions)
        bpe = tokenizers.Tokenizer(tokenizers.models.BPE())
        trainer = tokenizers.trainers.BpeTrainer(
            vocab_size=self.vocabulary,
            initial_alphabet=[chr(FIRST_CHARACTER + level) for level in range(self.num_levels)],
            max_token_length=self.shape[0] * self.shape[1],
            show_progress=False,
        )
        texts = _texts(self.symbols_of(actions))
        bpe.train_from_iterator(texts, trainer)
        self._keep_merges(json.loads(bpe.to_str())["model"]["merges"])
        lengths = np.array([len(ids) + 1 for ids in self._encode_texts(texts)])
        if (lengths > self.max_tokens).mean() > 0.01:
            raise UserError(
                f"FAST: {(lengths > self.max_tokens).mean():.0%} of the chunks need more than max_tokens="
                f"{self.max_tokens} tokens; set max_tokens={lengths.max()}, or a smaller scale."
            )

    def _require_levels(self, actions: Tensor) -> None:
        extent = self._coefficients(actions).abs().amax((1, 2))
        outside = float((extent > self.num_levels // 2 - 1).float().mean())
        if outside > 0.01:
            raise UserError(
                f"FAST: {outside:.0%} of the chunks have coefficients up to {float(extent.max()):.0f}, beyond "
                f"num_levels={self.num_levels}; set num_levels={2 * int(extent.max()) + 4}, or a smaller scale."
            )

    def _keep_merges(self, merges: list[list[str]]) -> None:
        ids = {chr(FIRST_CHARACTER + level): level for level in range(self.num_levels)}
        table = torch.full_like(self.merges, -1)
        for row, (left, right) in enumerate(merges[: len(table)]):
            table[row, 0], table[row, 1] = ids[left], ids[right]
            ids.setdefault(left + right, len(ids))
        self.merges.copy_(table)
        symbols = torch.zeros(self.symbols.shape, dtype=torch.int32)
        lengths = torch.zeros(self.lengths.shape, dtype=torch.int64)
        for text, token in ids.items():
            lengths[token] = len(text)
            symbols[token, : len(text)] = torch.tensor([ord(character) - FIRST_CHARACTER for character in text])
        self.symbols.copy_(symbols)
        self.lengths.copy_(lengths)

    def _vocabulary(self) -> tuple[list[str], list[tuple[str, str]]]:
        """Return the text of each token, and the merges as texts."""
        tokens = [chr(FIRST_CHARACTER + level) for level in range(self.num_levels)]
        known, merges = set(tokens), []
        for left, right in self.merges.tolist():
            if left < 0:
                break
            merges.append((tokens[left], tokens[right]))
            text = tokens[left] + tokens[right]
            if text not in known:  # two merges may give the same text
                known.add(text)
                tokens.append(text)
        return tokens, merges

    def _encode_texts(self, texts: list[str]) -> list[list[int]]:
        version = self.merges._version  # whatever loaded or moved the table, it was written to
        if self._bpe is None or self._bpe[0] != version:
            if not self.lengths.any():
                raise UserError(
                    "The FAST head has no vocabulary yet: call `head.fit(chunks)` with normalized chunks (N, H, A) of "
                    "the training data, or load a checkpoint."
                )
            tokenizers = require_package("tokenizers", extra="vla", purpose="FAST tokens")
            tokens, merges = self._vocabulary()
            vocabulary = {text: number for number, text in enumerate(tokens)}
            self._bpe = version, tokenizers.Tokenizer(tokenizers.models.BPE(vocab=vocabulary, merges=merges))
        bpe = self._bpe[1]
        return [bpe.encode(text).ids for text in texts]


def _texts(symbols: Tensor) -> list[str]:
    return ["".join(chr(FIRST_CHARACTER + symbol) for symbol in row) for row in symbols.tolist()]
