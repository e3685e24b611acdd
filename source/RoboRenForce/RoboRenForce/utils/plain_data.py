"""Nested tensors and plain data: the contents of checkpoints, and their validation."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch.distributed.tensor import DTensor

Schema = Any
"""Expected structure for `misfit`: types, lists and mappings of them."""
_PLAIN = {str, int, float, bool, type(None), torch.dtype}


def as_plain(value: Any, path: str = "checkpoint") -> Any:
    """Copy the containers of `value` as dict, list and tuple; refuse anything but tensors and plain data.

    `weights_only` loading would refuse it later, when the run is over and the state is gone.

    Raises:
        TypeError: Another object is in there; the message says where.
    """
    if isinstance(value, Mapping):
        return {key: as_plain(item, f"{path}.{key}") for key, item in value.items()}
    if isinstance(value, list | tuple):
        items = [as_plain(item, f"{path}[{index}]") for index, item in enumerate(value)]
        return items if isinstance(value, list) else tuple(items)
    if isinstance(value, torch.Tensor):
        return value.detach()
    if type(value) not in _PLAIN:
        raise TypeError(f"{path} is a {type(value).__name__}; checkpoints hold tensors and plain data only.")
    return value


def learning_rates(config: Any, path: str = "") -> dict[str, float]:
    """Rates that an optimizer begins with, by the path of their field; others follow from them or from a schedule."""
    if not isinstance(config, Mapping):
        return {path: config} if path.endswith(".learning_rate") and path.startswith("algorithm.") else {}
    inside = (learning_rates(value, f"{path}.{name}" if path else str(name)) for name, value in config.items())
    return {name: rate for rates in inside for name, rate in rates.items()}


def misfit(value: Any, schema: Schema, path: str = "") -> str | None:
    """Describe the first deviation of `value` from `schema`; None if there is none.

    Args:
        value: Plain data and tensors.
        schema: A type or a tuple of types; `[schema]` for lists of at least one; `{name: schema}` for mappings that
            hold at least these names, of which `name?` may be absent, and `{"*": schema}` for any names. An int is a
            count: not negative, of at most 63 bits. NaN is no float.
        path: Path of `value`, for the message.
    """
    if isinstance(schema, Mapping):
        if not isinstance(value, Mapping):
            return _wrong(value, "a mapping", path)
        if "*" in schema:
            schema = {str(name): schema["*"] for name in value}
        for name, inner in schema.items():
            key, place = name.removesuffix("?"), f"{path}.{name}".lstrip(".").removesuffix("?")
            if key not in value:
                if key == name:
                    return f"{place} is missing"
            elif found := misfit(value[key], inner, place):
                return found
        return None
    if isinstance(schema, list):
        if not isinstance(value, list) or not value:
            return _wrong(value, "a list of at least one", path)
        return next((found for i, item in enumerate(value) if (found := misfit(item, schema[0], f"{path}[{i}]"))), None)
    kinds = schema if isinstance(schema, tuple) else (schema,)
    fits = isinstance(value, (*kinds, int) if float in kinds else kinds) and not isinstance(value, bool)
    if (
        not fits
        or (isinstance(value, int) and not 0 <= value < 2**63)
        or (isinstance(value, float) and math.isnan(value))
    ):
        return _wrong(value, " or ".join(kind.__name__ for kind in kinds), path)
    return None


def _wrong(value: Any, expected: str, path: str) -> str:
    try:
        got = repr(value) if isinstance(value, int | float | str | None) else f"a {type(value).__name__}"
    except ValueError:  # Python writes out no number of thousands of digits
        got = "a number of thousands of digits"
    return f"{path or 'it'} is {got[:60]}, expected {expected}"


def first_nan(value: Any, path: str = "") -> str | None:
    """Return the path of the first tensor with a NaN in nested data (in this rank's parts); None if there is none."""
    if isinstance(value, Mapping):
        items: Iterable[tuple[Any, Any]] = value.items()
    elif isinstance(value, list | tuple):
        items = enumerate(value)
    else:
        value = value.to_local() if isinstance(value, DTensor) else value
        bad = isinstance(value, torch.Tensor) and value.is_floating_point() and bool(value.isnan().any())
        return path if bad else None
    found = (first_nan(item, f"{path}.{key}".lstrip(".")) for key, item in items)
    return next((place for place in found if place is not None), None)
