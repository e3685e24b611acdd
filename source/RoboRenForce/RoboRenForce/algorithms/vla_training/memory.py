"""Out of memory becomes a sentence that says what fits."""

from __future__ import annotations

import gc
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from ...utils.errors import NotEnoughMemory

Batch = Mapping[str, Any]
_OF_THE_CPU = re.compile("DefaultCPUAllocator: .*|could not create a primitive$")
"""What errors of torch's allocator say, and of oneDNN, which gives no reason when it gets no memory."""


def memory_shortage(error: RuntimeError) -> str | None:
    """Return what torch says of memory that it did not get, without its advice; None for an error of another kind.

    For a GPU it raises an OutOfMemoryError, for the CPU a plain RuntimeError.
    """
    of_the_cpu = _OF_THE_CPU.search(str(error))
    if of_the_cpu is None and not isinstance(error, torch.OutOfMemoryError):
        return None
    return (of_the_cpu[0] if of_the_cpu else str(error)).split(". ")[0]


@contextmanager
def naming_what_fits(batch: Batch, attempt: Callable[[Batch], None] | None) -> Iterator[None]:
    """Turn an out-of-memory error into a NotEnoughMemory that names a batch size that fits.

    Args:
        batch: What did not fit.
        attempt: Does the same with a part of the batch, and leaves nothing behind; None: it can't be tried.
    """
    try:
        yield
    except RuntimeError as error:
        message, size = memory_shortage(error), _rows(batch)
        if message is None:
            raise
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
        except RuntimeError as error:
            if memory_shortage(error) is None:
                raise
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
