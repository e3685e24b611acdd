"""Out of memory becomes a sentence that says what fits."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from ...utils.errors import NotEnoughMemory

Batch = Mapping[str, Any]


@contextmanager
def naming_what_fits(batch: Batch, attempt: Callable[[Batch], None] | None) -> Iterator[None]:
    """Turn an out-of-memory error into a NotEnoughMemory that names a batch size that fits.

    Args:
        batch: What did not fit.
        attempt: Does the same with a part of the batch, and leaves nothing behind; None: it can't be tried.
    """
    try:
        yield
    except torch.OutOfMemoryError as error:
        size = _rows(batch)
        message = str(error).split(". ")[0]
    else:
        return
    # Outside of the handler, whose traceback holds the activations.
    fits = None if attempt is None else largest_that_fits(batch, size, attempt)
    raise NotEnoughMemory(f"A batch of {size} does not fit into memory ({message}): {_advice(size, fits)}")


def largest_that_fits(batch: Batch, size: int, attempt: Callable[[Batch], object]) -> int:
    """The largest half, quarter, ... of a batch that `attempt` has the memory for; 0 if a single sample has none."""
    while size := size // 2:
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        try:
            attempt({name: value[:size] for name, value in batch.items()})
        except torch.OutOfMemoryError:
            continue
        return size
    return 0


def _advice(size: int, fits: int | None) -> str:
    smaller = "algorithm.parallel.activation_checkpointing=true needs less for a batch of any size"
    fewer = "and a backbone that is frozen or trained by LoRA less for the optimizer."
    if fits is None:
        return f"halve loader.batch_size and double algorithm.optimizer.accumulation_steps; {smaller}, {fewer}"
    if not fits:
        return f"a single sample does not fit either; {smaller}, {fewer}"
    return (
        f"{fits} would, and learn the same with loader.batch_size={fits} and "
        f"algorithm.optimizer.accumulation_steps={-(-size // fits)} times what it was; {smaller}, {fewer}"
    )


def _rows(batch: Batch) -> int:
    return max((len(value) for value in batch.values() if isinstance(value, Tensor | list)), default=1)
