"""Parquet to numpy: every column is as the metadata declares, or the error names the frame."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from ..utils.optional import require_package
from .errors import DatasetFileError, fault
from .features import Feature

_KINDS = {"f": "float", "i": "integer", "u": "integer", "b": "bool"}
REREAD = "download or convert the dataset again"


def arrow() -> ModuleType:
    """Import `pyarrow`."""
    return require_package("pyarrow", extra="vla", purpose="Recorded datasets")


def parquet() -> ModuleType:
    """Import `pyarrow.parquet`."""
    return require_package("pyarrow.parquet", extra="vla", purpose="Recorded datasets")


def open_parquet(path: Path) -> Any:
    """Open a parquet file; reads its footer only.

    Raises:
        DatasetFileError: It is damaged.
    """
    try:
        return parquet().ParquetFile(path, memory_map=True)
    except (OSError, arrow().ArrowException) as error:
        cut = path.is_file() and not _has_footer(path)
        reason = "its end is missing: recording or copying was interrupted" if cut else _first_line(error)
        raise fault(path, f"it is no readable parquet file ({reason})", fix=REREAD) from None


def _has_footer(path: Path) -> bool:
    with open(path, "rb") as file:
        file.seek(-min(4, path.stat().st_size), 2)
        return file.read() == b"PAR1"


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:160]


def read_columns(path: Path, file: Any, groups: Sequence[int], columns: Sequence[str]) -> Any:
    """Read some columns of some row groups as an arrow table.

    Raises:
        DatasetFileError: A column is missing, or pages are damaged.
    """
    present = set(file.schema_arrow.names)
    for name in columns:
        if name not in present:
            raise fault(path, f"column '{name}' is missing, it has {', '.join(sorted(present))[:300]}", fix=REREAD)
    try:
        return file.read_row_groups(list(groups), columns=list(columns), use_threads=False)
    except (OSError, arrow().ArrowException) as error:
        raise fault(path, f"it is damaged ({_first_line(error)})", fix=REREAD) from None


def read_table(path: Path, columns: Sequence[str]) -> dict[str, list[Any]]:
    """Read whole columns of a small metadata file as Python lists."""
    file = open_parquet(path)
    table = read_columns(path, file, range(file.num_row_groups), columns)
    return {name: table.column(name).to_pylist() for name in columns}


def to_numpy(column: Any, key: str, feature: Feature) -> np.ndarray:
    """Return the values `(rows, *shape)` of a column with the declared dtype, or `(rows,)` objects for text.

    Args:
        column: Arrow column: numbers, or (fixed-size) lists of them, nested as deep as the shape.
        key: Name of the column, for errors.
        feature: Declared feature.

    Raises:
        BadColumn: With the first bad row if there is one.
    """
    pa = arrow()
    array = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    array = pa.concat_arrays(array.chunks) if isinstance(array, pa.ChunkedArray) else array
    rows = len(array)
    if feature.dtype == "string":
        if not (pa.types.is_string(array.type) or pa.types.is_large_string(array.type)):
            raise BadColumn(f"'{key}' holds {array.type}, expected text")
        _refuse_nulls(array, key, 1)
        return np.asarray(array.to_pylist(), dtype=object)
    shape = feature.shape
    for level, size in enumerate(shape):
        if isinstance(array, pa.ExtensionArray):
            array = array.storage
        if not _is_list(array.type) and math.prod(shape[level:]) == 1:
            break
        array = _flatten(array, key, size, per_row=math.prod(shape[:level]))
    per_row = math.prod(shape)
    _refuse_nulls(array, key, per_row)
    wanted, wrong_kind = feature.numpy_dtype, BadColumn(f"'{key}' holds {array.type}, expected {feature.dtype}")
    try:
        values = array.to_numpy(zero_copy_only=False)
    except pa.ArrowException:  # of a union, for example
        raise wrong_kind from None
    if _KINDS.get(values.dtype.kind) != _KINDS[wanted.kind]:
        raise wrong_kind
    result = values.astype(wanted, copy=False)
    if values.dtype != wanted and wanted.kind in "iu" and not np.array_equal(result, values):
        raise BadColumn(f"'{key}' holds {array.type} values that {feature.dtype} can't hold")
    return result.reshape(rows, *shape)


class BadColumn(DatasetFileError):  # noqa: N818 - reads better where it is raised
    """A column that differs from the metadata; the caller adds file and episode."""

    def __init__(self, what: str, row: int | None = None) -> None:
        super().__init__(what)
        self.row = row


def _is_list(kind: Any) -> bool:
    types = arrow().types
    return types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind)


def _flatten(array: Any, key: str, size: int, per_row: int) -> Any:
    """Flatten one level of lists, each with `size` entries; `per_row` lists belong to one row."""
    types = arrow().types
    if not _is_list(array.type):
        raise BadColumn(f"'{key}' holds {array.type}, expected lists of {size}")
    _refuse_nulls(array, key, per_row)
    if types.is_fixed_size_list(array.type):
        if array.type.list_size != size:
            raise BadColumn(f"'{key}' has {array.type.list_size} entries, expected {size}")
    else:
        lengths = array.value_lengths().to_numpy(zero_copy_only=False)
        if (lengths != size).any():
            wrong = int((lengths != size).argmax())
            raise BadColumn(f"'{key}' has {lengths[wrong]} entries, expected {size}", wrong // per_row)
    return array.flatten()


def _refuse_nulls(array: Any, key: str, per_row: int) -> None:
    if array.null_count:
        missing = array.is_null().to_numpy(zero_copy_only=False)
        raise BadColumn(f"'{key}' is null, expected a value", int(missing.argmax()) // max(per_row, 1))
