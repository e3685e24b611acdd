"""Values of a frame as they are stored: validation, and columns in the layout that `datasets` expects."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import numpy as np

from ..utils.errors import UserError
from .arrow import arrow
from .features import Feature


def checked_value(place: str, key: str, feature: Feature, value: Any) -> Any:
    """Return a value as it is stored: an array of the declared shape and dtype, an RGB picture, or text.

    Args:
        place: Name of the frame, for errors.
        key: Key of the feature.
        feature: Declared feature.
        value: Array, tensor or text.

    Raises:
        UserError: It is something else, or not finite.
    """
    if feature.dtype == "string":
        if not isinstance(value, str):
            raise UserError(f"{place}: '{key}' is {type(value).__name__}, expected text.")
        return value
    array = np.asarray(value.detach().cpu() if hasattr(value, "detach") else value)
    if feature.is_camera:
        expected: tuple[int, ...] = (*feature.picture_size, 3)
        if array.dtype != np.uint8:
            raise UserError(f"{place}: picture '{key}' is {array.dtype}, expected uint8 from 0 to 255.")
    else:
        expected = feature.shape
        array = array.reshape(1) if array.shape == () and expected == (1,) else array
        if not np.can_cast(array.dtype, feature.numpy_dtype, casting="same_kind"):
            raise UserError(f"{place}: '{key}' is {array.dtype}, expected {feature.dtype}.")
    if array.shape != expected:
        raise UserError(f"{place}: '{key}' has the shape {list(array.shape)}, expected {list(expected)}.")
    if feature.is_camera:
        return array
    with np.errstate(over="ignore"):  # what becomes infinite is refused below
        stored = array.astype(feature.numpy_dtype)  # a copy: simulators reuse their arrays
    if stored.dtype.kind == "f" and not np.isfinite(stored).all():
        found = stored[~np.isfinite(stored)][0]
        raise UserError(
            f"{place}: '{key}' holds {found}, expected finite numbers; leave the episode out: clear_episode()."
        )
    if stored.dtype.kind in "iu" and not np.array_equal(stored, array):
        raise UserError(f"{place}: '{key}' holds values that {feature.dtype} can't hold.")
    return stored


def arrow_column(feature: Feature, values: np.ndarray) -> Any:
    """Return a column of arrow: one number as a number, vectors as lists of fixed size, arrays as nested lists.

    Args:
        feature: Feature of the column.
        values: `(L, *shape)` numbers, or `(L,)` objects: text, or encoded pictures.
    """
    pa = arrow()
    if feature.dtype == "image":
        names = [f"frame-{frame:06d}.png" for frame in range(len(values))]
        return pa.StructArray.from_arrays([pa.array(list(values), pa.binary()), pa.array(names)], ["bytes", "path"])
    if feature.dtype == "string":
        return pa.array(list(values), pa.string())
    flat = pa.array(values.reshape(-1))
    if feature.shape in ((), (1,)):
        return flat
    if len(feature.shape) == 1:
        return pa.FixedSizeListArray.from_arrays(flat, feature.shape[0])
    for size in reversed(feature.shape):
        flat = pa.ListArray.from_arrays(pa.array(np.arange(0, len(flat) + 1, size, dtype=np.int32)), flat)
    return flat


def arrow_table(features: Mapping[str, Feature], columns: Mapping[str, np.ndarray]) -> Any:
    """Return the table of an episode of L frames.

    Args:
        features: Key -> feature, of all columns.
        columns: Key -> `(L, *shape)` numbers, or `(L,)` objects: text, or encoded pictures.
    """
    table = arrow().table({key: arrow_column(features[key], values) for key, values in columns.items()})
    pictures = {key: {"_type": "Image"} for key in columns if features[key].dtype == "image"}
    # LeRobot opens the files of v2.1 without saying what is in them; without this, pictures would stay bytes there.
    return table.replace_schema_metadata(
        {"huggingface": json.dumps({"info": {"features": pictures}})} if pictures else None
    )
