"""Random permutations of any size without memory: the element at a position is a function of (seed, epoch, position).

A Feistel network (Luby and Rackoff 1988) over a power of four is a bijection whatever its round function is; positions
that it maps beyond the end are mapped again until they fall inside (cycle walking, Black and Rogaway 2002). The numbers
do not depend on any library's version, so a run can be resumed anywhere.
"""

from __future__ import annotations

import numpy as np

_ROUNDS = 6
_MIN_HALF_BITS = 3
"""Minimum half width: over smaller domains, six rounds do not reach all permutations equally often."""


def mix(values: np.ndarray) -> np.ndarray:
    """Scramble uint64 (the finalizer of SplitMix64, Steele et al. 2014)."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))


def permute(positions: np.ndarray, size: int, seed: int, epoch: int) -> np.ndarray:
    """Return the elements at some positions of a permutation of `range(size)`.

    Args:
        positions: int64, each in [0, size).
        size: Size of the permutation.
        seed: Selects the permutation, together with `epoch`.
        epoch: Number of the permutation for this seed.
    """
    half = np.uint64(max(_MIN_HALF_BITS, ((size - 1).bit_length() + 1) // 2))
    mask = (np.uint64(1) << half) - np.uint64(1)
    key = mix(np.asarray([seed & (2**64 - 1)], np.uint64) + np.uint64(0x9E3779B97F4A7C15))
    key = mix(key ^ np.asarray([epoch & (2**64 - 1)], np.uint64))
    keys = mix(key + np.arange(1, _ROUNDS + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15))
    values = positions.astype(np.uint64)
    outside = np.ones(len(values), bool)
    while outside.any():
        walking = values[outside]
        left, right = walking >> half, walking & mask
        for round_key in keys:
            left, right = right, left ^ (mix(right ^ round_key) & mask)
        values[outside] = (left << half) | right
        outside[outside] = values[outside] >= size
    return values.astype(np.int64)
