"""TFRecord files of `tf.train.Example` without TensorFlow and without protobuf.

A record is its length (uint64), a masked CRC-32C of the length, the payload, and a checksum of the payload. The payload
is a protocol buffer: a map from names to lists of bytes, of floats or of integers
(https://www.tensorflow.org/tutorials/load_data/tfrecord).
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from ..errors import fault

Example = dict[str, "list[bytes] | np.ndarray"]
"""Name -> bytes, float32 `(n,)` or int64 `(n,)`."""

_VARINT, _LENGTH, _FIXED32, _FIXED64 = 0, 2, 5, 1


def _crc_table() -> list[int]:
    table = []
    for value in range(256):
        for _ in range(8):
            value = (value >> 1) ^ (0x82F63B78 if value & 1 else 0)
        table.append(value)
    return table


_TABLE = _crc_table()


def masked_crc32c(data: bytes) -> int:
    """Return the CRC-32C (Castagnoli), rotated and shifted as TFRecord stores it."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc = (crc >> 8) ^ _TABLE[(crc ^ byte) & 0xFF]
    crc ^= 0xFFFFFFFF
    return (((crc >> 15) | (crc << 17)) + 0xA282EAD8) & 0xFFFFFFFF


def read_records(path: Path) -> Iterator[bytes]:
    """Yield the payloads one after another; their lengths are checked before anything is allocated.

    Checksums of payloads are not: in Python that costs more than reading, and damage shows when they are parsed.

    Raises:
        DatasetFileError: Names the record.
    """
    size, place, number = path.stat().st_size, 0, 0
    with open(path, "rb") as file:
        while place < size:
            header = file.read(12)
            if len(header) < 12:
                raise fault(path, f"record {number} is cut off", fix="download it again")
            (length,), (checksum,) = struct.unpack("<Q", header[:8]), struct.unpack("<I", header[8:])
            if checksum != masked_crc32c(header[:8]):
                raise fault(path, f"the length of record {number} is damaged", fix="download it again")
            place += 16 + length
            if place > size:
                raise fault(path, f"record {number} claims {length:,} bytes and is cut off", fix="download it again")
            yield file.read(length)
            file.seek(4, 1)
            number += 1


class BadExample(ValueError):  # noqa: N818 - reads better where it is raised
    """A payload that is no `tf.train.Example`."""


def parse_example(data: bytes) -> Example:
    """Parse a `tf.train.Example`.

    Raises:
        BadExample: The payload is none.
    """
    example: Example = {}
    for number, features in _fields(memoryview(data)):
        if number != 1:
            continue
        for inner, entry in _fields(_view(features)):
            if inner == 1:  # an entry of the map: key and value
                parts = dict(_fields(_view(entry)))
                example[bytes(_view(parts.get(1, b""))).decode()] = _parse_feature(_view(parts.get(2, b"")))
    return example


def _parse_feature(data: memoryview) -> list[bytes] | np.ndarray:
    for number, content in _fields(data):
        entries = list(_fields(_view(content)))
        if number == 1:
            return [bytes(_view(value)) for _, value in entries]
        if number == 2:  # floats, packed or one by one
            return np.frombuffer(b"".join(bytes(_view(value)) for _, value in entries), "<f4")
        if number == 3:
            return np.asarray([value for _, entry in entries for value in _integers(entry)], np.int64)
    return []


def _integers(entry: memoryview | int) -> Iterator[int]:
    """Parse packed variable-length integers, or a single one."""
    if isinstance(entry, int):
        yield _signed(entry)
        return
    place = 0
    while place < len(entry):
        value, place = _varint(entry, place)
        yield _signed(value)


def _signed(value: int) -> int:
    value &= 2**64 - 1
    return value - 2**64 if value >= 2**63 else value


def _fields(data: memoryview) -> Iterator[tuple[int, memoryview | int]]:
    """Yield field numbers and contents of a protocol buffer message."""
    place = 0
    while place < len(data):
        tag, place = _varint(data, place)
        number, kind = tag >> 3, tag & 7
        if kind == _VARINT:
            value, place = _varint(data, place)
            yield number, value
            continue
        if kind == _LENGTH:
            length, place = _varint(data, place)
        elif kind in (_FIXED32, _FIXED64):
            length = 4 if kind == _FIXED32 else 8
        else:
            raise BadExample(f"it has a field of kind {kind}")
        if place + length > len(data):
            raise BadExample("a field is longer than the record")
        yield number, data[place : place + length]
        place += length


def _varint(data: memoryview, place: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        if place >= len(data):
            break
        byte = data[place]
        place += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, place
    raise BadExample("an integer is cut off")


def _view(content: memoryview | bytes | int) -> memoryview:
    if isinstance(content, int):
        raise BadExample("a number stands where a message is expected")
    return memoryview(content)
