"""Read Feather files (Arrow IPC) as columns of numbers and words, with a bound on what they may unfold to.

A file tells the size of every column before compression. These claims are added up before anything is unpacked, so that
a few kilobytes cannot fill the memory, and every offset in a column of words is checked, so that none leads outside.

Source: Apache Arrow, "Arrow columnar format", sections on IPC; FlatBuffers, "Internals".
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from perception.errors import LogError, NotInstalledError

MAGIC = b"ARROW1\0\0"
LARGEST_BYTES = 1 << 30
"""What one file may hold, unpacked: a sweep has two megabytes, the poses of a drive less than one."""
Columns = Mapping[str, NDArray[Any]]


def read_feather(path: Path, columns: Sequence[str]) -> Columns:
    """Read columns of one file.

    Args:
        path: the file.
        columns: their names; others are not read.

    Returns:
        (N,) numbers as they are stored, or words as objects, by name.

    Raises:
        NotInstalledError: pyarrow is missing.
        LogError: it is no Feather file, is damaged, lacks a column or a value, or is larger than any such file.
    """
    try:
        import pyarrow
        import pyarrow.ipc
    except ImportError:
        raise NotInstalledError(
            f"{path}: Argoverse 2 logs need pyarrow: pip install 'perception-runtime[argoverse]'"
        ) from None
    try:
        with pyarrow.memory_map(str(path)) as file:
            if file.read(len(MAGIC)) != MAGIC:
                raise LogError(f"{path}: not a Feather file; it does not begin with ARROW1")
            unpacked = sum(map(_claimed_bytes, pyarrow.ipc.MessageReader.open_stream(file)))
            if unpacked > LARGEST_BYTES:
                raise LogError(
                    f"{path}: claims {unpacked >> 20} MiB of columns, at most {LARGEST_BYTES >> 20} are read"
                )
            file.seek(len(MAGIC))
            reader = pyarrow.ipc.open_stream(file)  # the same blocks, whatever the index at the end points at
            missing = [name for name in columns if name not in reader.schema.names]
            if missing:
                there = ", ".join(reader.schema.names)
                raise LogError(f"{path}: has no column {', '.join(missing)}; its columns: {there}")
            table = reader.read_all().select(list(columns))
            table.validate(full=True)
            if any(column.null_count for column in table.columns):
                raise LogError(f"{path}: a value is missing")
            return {name: _array(table[name]) for name in columns}
    except (pyarrow.ArrowException, OSError, ValueError, KeyError, IndexError, struct.error, MemoryError) as error:
        raise LogError(f"{path}: not a whole Feather file: {' '.join(str(error).split())[:200]}") from None


def _array(column: Any) -> NDArray[Any]:
    values: NDArray[Any] = column.to_numpy()
    return np.array(values)  # a copy: the file is closed


def _claimed_bytes(message: Any) -> int:
    """Return how many bytes the buffers of a message have, unpacked, by its own word."""
    if message.type not in ("record batch", "dictionary"):
        return 0
    metadata, body = message.metadata.to_pybytes(), message.body
    table = _Table.root(metadata).table(2)  # Message.header
    batch = table.table(1) if message.type == "dictionary" else table  # DictionaryBatch.data
    packed = batch.has(3)  # RecordBatch.compression
    total = 0
    for offset, length in batch.pairs(2):  # RecordBatch.buffers
        if packed and length >= 8:
            (unpacked,) = struct.unpack("<q", body.slice(offset, 8).to_pybytes())
            total += length if unpacked == -1 else max(unpacked, 0)
        else:
            total += max(length, 0)
    return total


class _Table:
    """A table of a flat buffer: its fields by number."""

    def __init__(self, data: bytes, place: int) -> None:
        self._data, self._place = data, place
        self._fields = place - self._number("<i", place)

    @classmethod
    def root(cls, data: bytes) -> _Table:
        return cls(data, struct.unpack_from("<I", data)[0])

    def _number(self, kind: str, place: int) -> int:
        return int(struct.unpack_from(kind, self._data, place)[0])

    def _at(self, field: int) -> int:
        """Return where a field lies; 0 where it is not given."""
        entry = 4 + 2 * field
        if entry >= self._number("<H", self._fields):
            return 0
        offset = self._number("<H", self._fields + entry)
        return self._place + offset if offset else 0

    def has(self, field: int) -> bool:
        return self._at(field) > 0

    def table(self, field: int) -> _Table:
        place = self._at(field)
        if not place:
            raise ValueError("the description of a block of rows is missing")
        return _Table(self._data, place + self._number("<I", place))

    def pairs(self, field: int) -> list[tuple[int, int]]:
        """Return a vector of pairs of 64-bit numbers."""
        place = self._at(field)
        if not place:
            return []
        begin = place + self._number("<I", place)
        count = self._number("<I", begin)
        return [struct.unpack_from("<qq", self._data, begin + 4 + 16 * k) for k in range(min(count, 1 << 16))]


__all__ = ["LARGEST_BYTES", "Columns", "read_feather"]
