"""Features of a prefix for heads that need one vector per chunk or per action."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from ...networks.vlm import Prefix

Features = Literal["queries", "pooled"]
"""Features of a head: learned query tokens, one per action of the chunk, or the mean of all tokens."""


def read_features(prefix: Prefix, features: Features, chunk_size: int, dtype: torch.dtype) -> Tensor:
    """Concatenate features and state: `(B, H, D + S)` at the queries, `(B, D + S)` pooled.

    Raises:
        ValueError: the backbone was built without the query tokens that the head's `taps` ask for.
    """
    if features == "pooled":
        return torch.cat([prefix.pooled.to(dtype), prefix.state.to(dtype)], -1)
    queries = prefix.queries
    if queries is None or queries.shape[1] != chunk_size:
        raise ValueError(
            f"The head got {0 if queries is None else queries.shape[1]} action query tokens, expected {chunk_size}; "
            f"build the backbone with `taps=head_cfg.taps(action_dim)`, or set features='pooled'."
        )
    state = prefix.state.unsqueeze(1).expand(-1, chunk_size, -1)
    return torch.cat([queries.to(dtype), state.to(dtype)], -1)
