"""Learned vectors of blocks of environments that share one network (SAPG, arXiv 2407.20230).

Blocks explore differently and learn from each other. What distinguishes them is a learned vector per block, which
actor and critic read beside the observation. Row 0 of the table is the leader's, the policy that is deployed: where the
group `block` is missing from the observations, as in an exported policy, it acts.

A table is indexed by a sum over its rows: unlike a gather it has a deterministic gradient on a GPU.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


def one_hot_block(block: Tensor, table: Tensor) -> Tensor:
    """Return the block `(..., 1)` of each row as `(..., M)` with one 1, for a table `(M, ...)`."""
    return (block == torch.arange(len(table), device=block.device)).to(table.dtype)


class BlockVectors(nn.Module):
    """One learned vector per block, drawn from N(0, 1): `block (..., 1) -> (..., D)`."""

    def __init__(self, num_blocks: int, features: int) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.randn(num_blocks, features))

    def forward(self, block: Tensor | None, like: Tensor) -> Tensor:
        """Return the vectors of `block`; without it the leader's, for the leading dimensions of `like` `(..., F)`."""
        if block is None:
            return self.table[0].expand(*like.shape[:-1], -1)
        return one_hot_block(block, self.table) @ self.table
