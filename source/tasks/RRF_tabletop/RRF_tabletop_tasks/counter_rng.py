"""Random numbers as a function of (key, episode, column): rows reset alone, in any order and on any device, alike.

A generator that all rows share would make the start of one row depend on when the others end.
"""

from __future__ import annotations

import torch

_ROW, _EPISODE, _COLUMN = (
    -7046029254386353131,  # 0x9E3779B97F4A7C15, the odd number nearest to 2^64 / golden ratio
    -4417276706812531889,  # 0xC2B2AE3D27D4EB4F
    1609587929392839161,  # 0x165667B19E3779F9
)


def mix(x: torch.Tensor) -> torch.Tensor:
    """Scramble int64 by the finalizer of SplitMix64 (Steele et al. 2014); products wrap around."""
    x = (x ^ _shift(x, 30)) * -4658895280553007687  # 0xBF58476D1CE4E5B9
    x = (x ^ _shift(x, 27)) * -7723592293110705685  # 0x94D049BB133111EB
    return x ^ _shift(x, 31)


def row_keys(seed: int, num_envs: int, device: torch.device) -> torch.Tensor:
    """A key for every row, int64 `(num_envs,)`."""
    rows = torch.arange(1, num_envs + 1, device=device)
    return mix(rows * _ROW + _wrapped(seed))


def seed_keys(seeds: list[int], device: torch.device) -> torch.Tensor:
    """The key of every seed, int64 `(len(seeds),)`: equal seeds have equal keys, in whatever row."""
    return mix(torch.tensor([_wrapped(seed) for seed in seeds], dtype=torch.int64, device=device) ^ _EPISODE)


def uniform(keys: torch.Tensor, episodes: torch.Tensor, columns: int) -> torch.Tensor:
    """Numbers in [0, 1), float32 `(N, columns)`, for keys and episodes `(N,)`."""
    start = mix(keys + episodes * _EPISODE).unsqueeze(1)
    bits = mix(start + torch.arange(1, columns + 1, device=keys.device) * _COLUMN)
    return _shift(bits, 40).to(torch.float32) * 2.0**-24


def _shift(x: torch.Tensor, bits: int) -> torch.Tensor:
    """Logical shift to the right; torch's copies the sign."""
    return (x >> bits) & ((1 << (64 - bits)) - 1)


def _wrapped(seed: int) -> int:
    return (seed + 2**63) % 2**64 - 2**63
