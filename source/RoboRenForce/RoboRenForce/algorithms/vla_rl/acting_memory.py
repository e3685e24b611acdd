"""Out of memory while acting becomes a sentence that says in how many environments there is enough."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from ...utils.errors import NotEnoughMemory
from ..vla_training.memory import largest_that_fits, memory_shortage

LESS = (
    "algorithm.sample_place=host keeps what a rollout stores in memory of the host, and "
    "algorithm.parallel.mixed_precision=bf16 halves activations."
)
"""What needs less memory of the device, beside fewer environments."""


@contextmanager
def acting_within_memory(obs: Mapping[str, Any], attempt: Callable[[Mapping[str, Any]], object]) -> Iterator[None]:
    """Turn an out-of-memory error into a NotEnoughMemory that names a number of environments that fits.

    Args:
        obs: Observations of the rows that act.
        attempt: Does the same for some of the rows, and leaves nothing behind.
    """
    try:
        yield
    except RuntimeError as error:
        message = memory_shortage(error)
        if message is None:
            raise
    else:
        return
    # Outside of the handler, whose traceback holds the activations.
    rows = len(next(iter(obs.values())))
    fits = largest_that_fits(obs, rows, attempt)
    fewer = f"{fits} would fit (--num_envs {fits})" if fits else "a single one does not fit either"
    raise NotEnoughMemory(
        f"Acting in {rows} environments at once does not fit into the memory of the device ({message}): {fewer}; {LESS}"
    )
