"""Record topics while a graph runs: a queue, a thread that writes, and never a live graph waiting for the disk."""

from __future__ import annotations

import queue
import shutil
import threading
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Protocol, Self

from perception.errors import PerceptionError
from perception.messages.codec import Bytes

QUEUE = 256
FULL = 0.95
"""Share of the disk at which the recording stops; the graph goes on."""


class RecordWriter(Protocol):
    """What writes records to a file; `perception.logs.mcap_writer.McapWriter` is one."""

    path: Path
    messages: int

    def write(self, topic: str, record: Bytes, t_log_ns: int) -> None: ...
    def flush(self) -> None: ...
    def size(self) -> int: ...
    def close(self) -> None: ...


class Recorder:
    """Feed a writer from a thread of its own.

    Args:
        writer: an open writer; it is closed by `close`.
        max_bytes: the recording stops when the file is so large; None is no limit.
        lossless: where the disk cannot keep up, wait for it: in lockstep nothing is dropped.
    """

    def __init__(self, writer: RecordWriter, max_bytes: int | None = None, *, lossless: bool = False) -> None:
        self._writer, self._max_bytes, self._lossless = writer, max_bytes, lossless
        self.folder = writer.path.parent
        self.dropped: Counter[str] = Counter()
        self.stopped = ""
        self._queue: queue.Queue[tuple[str, bytes, int] | None] = queue.Queue(QUEUE)
        self._thread = threading.Thread(target=self._write_all, name="recorder", daemon=True)
        self._thread.start()

    def record(self, topic: str, record: Bytes, t_log_ns: int) -> None:
        """Hand over a record; where the disk cannot keep up it is dropped and counted, unless nothing may be."""
        if self.stopped:
            self.dropped[topic] += 1
            return
        try:
            self._queue.put((topic, bytes(record), t_log_ns), block=self._lossless)
        except queue.Full:
            self.dropped[topic] += 1

    def _write_all(self) -> None:
        while True:
            try:
                item = self._queue.get(timeout=0.25)
            except queue.Empty:
                self._guarded(self._writer.flush)
                continue
            if item is None:
                break
            if not self.stopped:
                topic, record, t_log_ns = item
                self._guarded(lambda: self._writer.write(topic, record, t_log_ns))  # noqa: B023 - called at once
                self._guarded(self._check_space)
        self._guarded(self._writer.close)

    def _check_space(self) -> None:
        if self._max_bytes is not None and self._writer.size() >= self._max_bytes:
            self._end(f"{self._writer.path} has reached {self._max_bytes} bytes")
        elif self._writer.messages % 64 == 1:
            usage = shutil.disk_usage(self._writer.path.parent)
            if usage.used >= FULL * usage.total:
                self._end(f"the disk of {self._writer.path} is {usage.used / usage.total:.0%} full")

    def _end(self, why: str) -> None:
        self.stopped = why
        self._guarded(self._writer.close)

    def _guarded(self, action: Callable[[], object]) -> None:
        """Do something with the file; a fault of it ends the recording, never the thread that drains the queue."""
        try:
            action()
        except (PerceptionError, OSError) as error:
            self.stopped = self.stopped or str(error)

    def close(self) -> Self:
        """Write what waits, and close the file."""
        self._queue.put(None)
        self._thread.join()
        return self


__all__ = ["RecordWriter", "Recorder"]
