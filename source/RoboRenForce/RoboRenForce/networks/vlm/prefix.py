"""Features of an observation: computed once, read by acting, evaluating and every epoch of learning."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass
class Prefix:
    """Features of `B` observations. Shape letters: L tokens, D width of the backbone, S state, Q queries."""

    tokens: Tensor
    """Last features of all tokens, `(B, L, D)`."""
    mask: Tensor
    """bool `(B, L)`: True where there is a token, False where there is padding or an absent camera."""
    is_image: Tensor
    """bool `(B, L)`: True where the token belongs to an image."""
    state: Tensor
    """Normalized proprioception, `(B, S)`; S may be 0."""
    queries: Tensor | None = None
    """Features at the action query tokens, `(B, Q, D)`; None if `Taps.num_queries` is 0."""
    layers: tuple[Tensor, ...] = ()
    """Hidden states of the last `Taps.num_layers` layers, from low to high, `(B, L, D)` each."""
    key_values: Tensor | None = None
    """Keys and values of all layers, `(B, N, 2, K, P, d)`, where `Taps.key_values` asks for them."""
    key_mask: Tensor | None = None
    """bool `(B, P)`: those that are there."""

    @property
    def pooled(self) -> Tensor:
        """Mean of the valid tokens, `(B, D)`."""
        weight = self.mask.unsqueeze(-1).to(self.tokens.dtype)
        return (self.tokens * weight).sum(1) / weight.sum(1).clamp(min=1)

    def condensed(self) -> Prefix:
        """Return their mean instead of all tokens: the same for who reads no more of them, see `Taps.reads_tokens`."""
        there = torch.ones(len(self.tokens), 1, dtype=torch.bool, device=self.tokens.device)
        return Prefix(
            tokens=self.pooled.unsqueeze(1),
            mask=there,
            is_image=~there,
            state=self.state,
            queries=self.queries,
            key_values=self.key_values,
            key_mask=self.key_mask,
        )

    def map(self, function: Callable[[Tensor], Tensor]) -> Prefix:
        """Apply a function to every tensor."""
        return Prefix.from_tensors({name: function(tensor) for name, tensor in self.to_tensors().items()})

    def rows(self, index: Tensor | slice) -> Prefix:
        """Select observations."""
        return self.map(lambda tensor: tensor[index])

    def repeat(self, times: int) -> Prefix:
        """Repeat each observation: row `i` becomes rows `i * times` to `(i + 1) * times - 1`."""
        return self.map(lambda tensor: tensor.repeat_interleave(times, 0))

    def detach(self) -> Prefix:
        """Cut the gradient to the backbone."""
        return self.map(torch.Tensor.detach)

    def to_tensors(self) -> dict[str, Tensor]:
        """As a flat mapping, for caches and buffers."""
        tensors = {"tokens": self.tokens, "mask": self.mask, "is_image": self.is_image, "state": self.state}
        if self.queries is not None:
            tensors["queries"] = self.queries
        if self.key_values is not None and self.key_mask is not None:
            tensors |= {"key_values": self.key_values, "key_mask": self.key_mask}
        return tensors | {f"layers.{number}": layer for number, layer in enumerate(self.layers)}

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor]) -> Prefix:
        """Undo `to_tensors`."""
        layers = sum(name.startswith("layers.") for name in tensors)
        return cls(
            tokens=tensors["tokens"],
            mask=tensors["mask"],
            is_image=tensors["is_image"],
            state=tensors["state"],
            queries=tensors.get("queries"),
            layers=tuple(tensors[f"layers.{number}"] for number in range(layers)),
            key_values=tensors.get("key_values"),
            key_mask=tensors.get("key_mask"),
        )
