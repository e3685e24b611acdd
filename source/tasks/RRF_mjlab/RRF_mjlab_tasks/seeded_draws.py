"""Random numbers by row: what a row draws depends on its own seed, however many rows draw beside it.

mjlab draws for all rows that it resets in one call of `torch.rand` and the like. Inside `SeededDraws` these calls
return a hash of (seed of the row, number of the call, element) instead of numbers of torch's generator: rows of one
seed are drawn alike, and all of them at once.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch.overrides import TorchFunctionMode


class NotDrawnByRowError(Exception):
    """A call draws something else than one entry per row."""


class SeededDraws(TorchFunctionMode):
    """Draws of torch inside the block, each of shape (K, ...), by the seeds of K rows.

    Args:
        seeds: one per row, 0 or more.
        device: of what is drawn.

    Raises:
        NotDrawnByRowError: a call draws another shape, or from a distribution that is not known here.
    """

    def __init__(self, seeds: Sequence[int], device: torch.device) -> None:
        super().__init__()
        self._seeds = mixed(torch.tensor(list(seeds), dtype=torch.int64, device=device))
        self._calls = 0

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        del types
        options = dict(kwargs or {})
        if func in (torch.rand, torch.randn, torch.randint):
            return self._drawn(func, args, options)
        if func in (torch.rand_like, torch.randn_like):
            draw = self._uniform if func is torch.rand_like else self._normal
            return draw(args[0].shape).to(options.get("dtype") or args[0].dtype)
        if func is torch.Tensor.uniform_:
            low, high = args[1:] if len(args) == 3 else (options.get("from", 0.0), options.get("to", 1.0))
            return args[0].copy_(low + self._uniform(args[0].shape) * (high - low))
        if func in _OTHERS:
            raise NotDrawnByRowError(f"a term draws by {func.__name__}")
        return func(*args, **options)

    def _drawn(self, func: Callable[..., Any], args: tuple[Any, ...], options: dict[str, Any]) -> torch.Tensor:
        if func is torch.randint:
            (low, high), shape = ((0, args[0]), args[1]) if len(args) == 2 else (args[:2], args[2])
            return (low + (self._uniform(shape) * (high - low)).long()).to(options.get("dtype") or torch.int64)
        shape = args[0] if args and isinstance(args[0], Sequence) else options.get("size", args)
        values = self._uniform(shape) if func is torch.rand else self._normal(shape)
        return values.to(options.get("dtype") or torch.float32)

    def _uniform(self, shape: Sequence[int]) -> torch.Tensor:
        """In [0, 1), float32 of 24 random bits."""
        if not len(shape) or shape[0] != len(self._seeds):
            raise NotDrawnByRowError(f"a term draws shape {tuple(shape)} for {len(self._seeds)} rows")
        self._calls += 1
        size = math.prod(shape[1:])
        column = torch.arange(size, device=self._seeds.device) + (self._calls << 32)
        bits = mixed(self._seeds.unsqueeze(1) ^ mixed(column))
        return ((bits >> 40) & 0xFFFFFF).float().div(1 << 24).view(*shape)

    def _normal(self, shape: Sequence[int]) -> torch.Tensor:
        """Standard normal, by Box and Muller's transform."""
        radius = (-2.0 * torch.log(1.0 - self._uniform(shape))).sqrt()
        return radius * torch.cos(2.0 * math.pi * self._uniform(shape))


def mixed(x: torch.Tensor) -> torch.Tensor:
    """Spread int64 `x` over all bits: SplitMix64's finalizer (Steele et al. 2014), whose products wrap around."""
    x = x + _signed(0x9E3779B97F4A7C15)
    x = (x ^ ((x >> 30) & 0x3FFFFFFFF)) * _signed(0xBF58476D1CE4E5B9)
    x = (x ^ ((x >> 27) & 0x1FFFFFFFFF)) * _signed(0x94D049BB133111EB)
    return x ^ ((x >> 31) & 0x1FFFFFFFF)


def _signed(constant: int) -> int:
    """The int64 of the same 64 bits."""
    return constant - (1 << 64) if constant >> 63 else constant


_OTHERS = (
    torch.randperm,
    torch.bernoulli,
    torch.multinomial,
    torch.normal,
    torch.Tensor.normal_,
    torch.Tensor.random_,
    torch.Tensor.bernoulli_,
    torch.Tensor.exponential_,
)
