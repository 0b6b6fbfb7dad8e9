"""A log of many files, each a message: an index of what is where, and a reader per entry."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image as PillowImage

from perception.errors import LogError, PerceptionError
from perception.logs.log import Log, Span
from perception.messages import Message

LATEST_NS = 1 << 62
"""The year 2116; later stamps come of damage, and do not fit a message."""
DAMAGED_PICTURE = (
    OSError, SyntaxError, ValueError, MemoryError, PillowImage.DecompressionBombError,
    PillowImage.DecompressionBombWarning,
)  # fmt: skip


@dataclass(frozen=True)
class Entry:
    """One message that is not read yet. `read` raises LogError where its file is damaged."""

    t_ns: int
    topic: str
    message_type: type[Message]
    read: Callable[[], Message]


class IndexedLog(Log):
    """Base of the formats that are folders; a subclass makes the entries."""

    def __init__(self, path: Path, entries: list[Entry]) -> None:
        super().__init__(path)
        if not entries:
            raise LogError(f"{path}: the log holds no message. Expected sensor files of the format '{self.FORMAT}'.")
        self._entries = sorted(entries, key=lambda entry: (entry.t_ns, entry.topic))
        for entry in (self._entries[0], self._entries[-1]):
            if abs(entry.t_ns) > LATEST_NS:
                raise LogError(f"{path}: {entry.t_ns} ns, a stamp of {entry.topic}, is no time")

    def topics(self) -> Mapping[str, type[Message]]:
        return dict(sorted({entry.topic: entry.message_type for entry in self._entries}.items()))

    def counts(self) -> Mapping[str, int]:
        return dict(sorted(Counter(entry.topic for entry in self._entries).items()))

    def span(self) -> Span:
        return Span(self._entries[0].t_ns, self._entries[-1].t_ns)

    def topic_spans(self) -> Mapping[str, Span]:
        found: dict[str, Span] = {}
        for entry in self._entries:
            found[entry.topic] = Span(found.get(entry.topic, Span(entry.t_ns, 0)).start_ns, entry.t_ns)
        return found

    def messages(
        self, from_ns: int | None = None, until_ns: int | None = None, topics: Collection[str] | None = None
    ) -> Iterator[tuple[str, Message]]:
        for entry in self._entries:
            if from_ns is not None and entry.t_ns < from_ns:
                continue
            if until_ns is not None and entry.t_ns >= until_ns:
                return
            if topics is not None and entry.topic not in topics:
                continue
            try:
                message = entry.read()
            except PerceptionError as error:
                self.skipped[str(error)] += 1
                continue
            yield entry.topic, message


MAX_PIXELS = 1 << 26
"""Larger pictures are refused before they are unpacked: a few kilobytes may claim any size."""


def read_picture(path: Path) -> NDArray[np.uint8]:
    """Read a PNG or JPEG: (H, W, 3) RGB, or (H, W) where the file is grey.

    Raises:
        LogError: the file is missing, truncated, or no picture.
    """
    try:
        with PillowImage.open(path) as picture:
            if picture.width * picture.height > MAX_PIXELS:
                raise LogError(
                    f"{path}: a picture of {picture.width} x {picture.height}; {MAX_PIXELS} pixels are the most"
                )
            return np.asarray(picture.convert("L" if picture.mode in ("L", "1") else "RGB"))
    except DAMAGED_PICTURE as error:
        raise LogError(f"{path}: not a whole picture: {error}") from None


def picture_size(path: Path) -> tuple[int, int]:
    """Return width and height of a picture without decoding it. Raises LogError as `read_picture`."""
    try:
        with PillowImage.open(path) as picture:
            return picture.size
    except DAMAGED_PICTURE as error:
        raise LogError(f"{path}: not a whole picture: {error}") from None


def read_points(path: Path, columns: int) -> NDArray[np.float32]:
    """Read rows of little-endian float32: (N, columns).

    Raises:
        LogError: the file is missing, or does not hold whole rows of finite numbers.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise LogError(f"{path}: cannot be read: {error.strerror}") from None
    if len(data) % (4 * columns):
        raise LogError(
            f"{path}: {len(data)} bytes are not whole points of {columns} float32; the file is cut or of another kind"
        )
    rows = np.frombuffer(data, "<f4").reshape(-1, columns)
    if not np.isfinite(rows).all():
        raise LogError(f"{path}: {(~np.isfinite(rows).all(axis=1)).sum()} points are not numbers; the file is damaged")
    return rows


__all__ = ["Entry", "IndexedLog", "picture_size", "read_picture", "read_points"]
