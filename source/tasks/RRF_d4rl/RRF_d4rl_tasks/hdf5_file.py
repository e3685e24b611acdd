"""Reader of arrays in untrusted HDF5 files.

Such a file may point to other files, contain cycles, claim terabytes that it doesn't hold, or be damaged anywhere. So a
key is followed link by link, only within the file itself, and an array is checked before it is read. Any problem is one
sentence with file and key.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from RoboRenForce.buffer import DatasetError
from RoboRenForce.buffer.dataset_checks import fault, is_real, require_memory
from RoboRenForce.utils.errors import UserError

_LINKS = {h5py.h5l.TYPE_SOFT: "a link to another place", h5py.h5l.TYPE_EXTERNAL: "a link to another file"}


class Hdf5File:
    """A file that is read key by key; a key such as `episode_0/actions` is a path from the root.

    Raises:
        DatasetError: It is no HDF5 file.
    """

    def __init__(self, path: Path) -> None:
        self.source = str(path)
        try:
            self._file = h5py.File(path, "r")
        except OSError as error:
            raise DatasetError(f"'{path}' can't be read as HDF5: {error}; record or download it anew.") from error

    def __enter__(self) -> Hdf5File:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def names(self, key: str = "") -> list[str]:
        """Return the names in the group `key`, or in the file itself."""
        group = self._object(key, h5py.Group)
        with self._reading(key or "/"):
            return [str(name) for name in group]

    def array(self, key: str) -> np.ndarray:
        """Return an array of numbers.

        Raises:
            DatasetError: There is none, or it claims more than is stored or fits into memory.
        """
        dataset = self._object(key, h5py.Dataset)
        with self._reading(key):
            if not is_real(dataset.dtype):
                raise fault(self.source, key, None, f"it holds {dataset.dtype}, expected numbers")
            self._require_stored(key, dataset)
            return dataset[()]

    def frames(self, key: str) -> list[np.ndarray]:
        """Return the bytes of compressed images, uint8 `(bytes,)` each."""
        dataset = self._object(key, h5py.Dataset)
        with self._reading(key):
            if h5py.check_vlen_dtype(dataset.dtype) != np.uint8 and dataset.dtype != np.uint8:
                raise fault(self.source, key, None, f"it holds {dataset.dtype}, expected the bytes of images")
            self._require_stored(key, dataset)
            return list(dataset[()])

    def attribute(self, name: str) -> np.ndarray | None:
        """Return a numeric attribute of the file as a vector `(A,)`; None if there is none."""
        with self._reading(name):
            value = np.asarray(self._file.attrs.get(name)) if name in self._file.attrs else None
        if value is not None and not (is_real(value.dtype) and value.size):
            raise fault(self.source, name, None, f"the attribute holds {value.dtype}, expected numbers")
        return None if value is None else value.reshape(-1).astype(np.float64)

    def _object(self, key: str, kind: type[Any]) -> Any:
        """Return the group or array `key` without leaving the file on the way."""
        found: Any = self._file
        with self._reading(key):
            for name in key.split("/") if key else ():
                # The links themselves are looked at: h5py would follow them, into other files too.
                links = found.id.links if isinstance(found, h5py.Group) else None
                if links is None or not links.exists(name.encode()):
                    raise fault(self.source, key, None, "it is missing; record or download the data anew")
                if (link := links.get_info(name.encode()).type) != h5py.h5l.TYPE_HARD:
                    what = _LINKS.get(link, "a link of an unknown kind")
                    raise fault(self.source, key, None, f"'{name}' is {what}; copy the data itself to this place")
                found = found[name]
        if not isinstance(found, kind):
            words = {h5py.Group: "a group", h5py.Dataset: "an array", h5py.Datatype: "a type"}
            raise fault(self.source, key, None, f"it is {words[type(found)]}, expected {words[kind]}")
        return found

    def _require_stored(self, key: str, dataset: Any) -> None:
        """Check that all rows were written, into this file, and fit into memory."""
        if dataset.shape is None:
            raise fault(self.source, key, None, "it is empty; record at least one episode")
        if dataset.is_virtual or dataset.external:
            raise fault(self.source, key, None, "its rows lie in other files; copy them into this one")
        size, numbers = dataset.id.get_type().get_size(), math.prod(dataset.shape)
        if dataset.chunks is not None:
            parts = math.prod(-(-rows // of) for rows, of in zip(dataset.shape, dataset.chunks, strict=True))
            unit, written, claimed = "chunks", dataset.id.get_num_chunks(), parts
            numbers = parts * math.prod(dataset.chunks)  # whole chunks are read
        else:
            unit, written, claimed = "bytes", dataset.id.get_storage_size(), numbers * size
        if written < claimed:
            what = f"it claims the shape {dataset.shape}, and {written:,} of its {claimed:,} {unit} were written"
            raise fault(self.source, key, None, f"{what}; record the data anew, or cut the array to what was written")
        # Twice, because a learner's copy is made of what is read.
        require_memory(self.source, key, 2 * numbers * size)

    @contextmanager
    def _reading(self, key: str) -> Iterator[None]:
        try:
            yield
        except UserError:
            raise
        # Broad, because which error h5py raises depends on the byte that is damaged.
        except Exception as error:
            reason = " ".join(str(error).split()) or type(error).__name__
            what = f"it can't be read: {reason[:200]}; record or download the data anew"
            raise fault(self.source, key, None, what) from error
