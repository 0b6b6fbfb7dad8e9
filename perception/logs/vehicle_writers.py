"""Recordings as vehicles need them: split into files of a size or a time, or the last seconds before a trigger.

Both are writers like `McapWriter`, so that a recorder takes them. Every file holds the attachments and replays alone.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from pathlib import Path

from perception.errors import LogError
from perception.logs.mcap_writer import McapWriter
from perception.messages.codec import Bytes

MAX_SNAPSHOT_BYTES = 2 << 30
"""Of records held in memory; the oldest go."""


def numbered(path: Path, number: int) -> Path:
    """Return `drive.mcap`, `drive_0001.mcap`, `drive_0002.mcap`, ..."""
    return path if number == 0 else path.with_name(f"{path.stem}_{number:04d}{path.suffix}")


class SplitWriter:
    """Begin a new file where one is full.

    Args:
        path: the first file; the next have a number behind the name.
        attachments: of every file.
        max_bytes: size at which a file ends; None is no limit.
        max_ns: time between the first and the last record of a file; None is no limit.

    Raises:
        LogError: a file exists or cannot be made.
    """

    def __init__(
        self,
        path: Path,
        attachments: Mapping[str, bytes] | None = None,
        *,
        max_bytes: int | None = None,
        max_ns: int | None = None,
    ) -> None:
        self.first, self.path = path, path
        self.messages = 0
        self.files = [path]
        self._attachments, self._max_bytes, self._max_ns = attachments, max_bytes, max_ns
        self._closed_bytes = 0
        self._began_ns: int | None = None
        self._writer = McapWriter(path, attachments)

    def write(self, topic: str, record: Bytes, t_log_ns: int) -> None:
        """Append one record, to the next file where this one is full. Raises as `McapWriter.write`."""
        if self._began_ns is None:
            self._began_ns = t_log_ns
        full = self._max_bytes is not None and self._writer.size() >= self._max_bytes
        full = full and self._writer.messages > 0  # attachments alone may be more: a file holds at least one record
        if full or (self._max_ns is not None and t_log_ns - self._began_ns >= self._max_ns):
            self._next_file(t_log_ns)
        self._writer.write(topic, record, t_log_ns)
        self.messages += 1

    def _next_file(self, t_log_ns: int) -> None:
        self._writer.close()
        self._closed_bytes += self._writer.size()
        self.path = numbered(self.first, len(self.files))
        self._writer = McapWriter(self.path, self._attachments)
        self.files.append(self.path)
        self._began_ns = t_log_ns

    def flush(self) -> None:
        self._writer.flush()

    def size(self) -> int:
        """Bytes of all files."""
        return self._closed_bytes + self._writer.size()

    def close(self) -> None:
        self._writer.close()


class SnapshotWriter:
    """Hold the last seconds in memory, and write them to a file of their own at every trigger.

    Args:
        path: the first snapshot; the next have a number behind the name.
        attachments: of every file.
        last_ns: how long a record is held.
    """

    def __init__(self, path: Path, attachments: Mapping[str, bytes] | None = None, *, last_ns: int) -> None:
        if path.exists():
            raise LogError(f"{path}: exists already; recordings are never overwritten. Give another name.")
        self.first, self.path = path, path
        self.messages = 0
        self.files: list[Path] = []
        self._attachments, self._last_ns = attachments, last_ns
        self._held: deque[tuple[str, bytes, int]] = deque()
        self._bytes = self._written = 0
        self._triggered = False

    def trigger(self) -> None:
        """Ask for a snapshot; it is written with the next record or flush. Safe to call from a signal handler."""
        self._triggered = True

    def write(self, topic: str, record: Bytes, t_log_ns: int) -> None:
        """Hold one record and let go of what is too old."""
        data = bytes(record)
        self._held.append((topic, data, t_log_ns))
        self._bytes += len(data)
        self.messages += 1
        while self._held and (t_log_ns - self._held[0][2] > self._last_ns or self._bytes > MAX_SNAPSHOT_BYTES):
            self._bytes -= len(self._held.popleft()[1])
        self._snapshot_if_asked()

    def flush(self) -> None:
        self._snapshot_if_asked()

    def _snapshot_if_asked(self) -> None:
        if not self._triggered or not self._held:
            return
        self._triggered = False
        self.path = numbered(self.first, len(self.files))
        with McapWriter(self.path, self._attachments) as writer:
            for topic, record, t_log_ns in self._held:
                writer.write(topic, record, t_log_ns)
            self._written += writer.size()
        self.files.append(self.path)

    def size(self) -> int:
        """Bytes of all snapshots."""
        return self._written

    def close(self) -> None:
        self._snapshot_if_asked()
        self._held.clear()


__all__ = ["SnapshotWriter", "SplitWriter", "numbered"]
