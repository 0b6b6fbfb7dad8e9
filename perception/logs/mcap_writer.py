"""Write our records to MCAP (https://mcap.dev/spec): `message_encoding: msgpack`, JSON Schema per message type.

A chunk is closed and synced to disk at least every half second of writing, so a recording cut off by `kill -9` or a
power cut opens up to its last chunk.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Self

from mcap.writer import CompressionType, Writer

from perception.errors import LogError
from perception.messages.codec import Bytes, decode_header, decode_timing
from perception.messages.schema import record_schema
from perception.version import __version__

FLUSH_S = 0.5
CHUNK_BYTES = 4 << 20


class McapWriter:
    """One recording.

    Args:
        path: the file to make; it must not exist.
        attachments: files that let the recording replay alone (launch file, calibration, cards), by name.
        flush_s: chunks are closed at least so often, by the clock; None only by size, so that equal records give equal
            bytes.

    Raises:
        LogError: the file exists or cannot be made.
    """

    def __init__(
        self, path: Path, attachments: Mapping[str, bytes] | None = None, *, flush_s: float | None = FLUSH_S
    ) -> None:
        self._flush_s = flush_s
        try:
            self._file = path.open("xb")
        except FileExistsError:
            raise LogError(f"{path}: exists already; recordings are never overwritten. Give another name.") from None
        except OSError as error:
            raise LogError(f"{path}: cannot be written: {error.strerror}") from None
        self.path = path
        self.messages = 0
        self._writer = Writer(self._file, chunk_size=CHUNK_BYTES, compression=CompressionType.LZ4)
        self._writer.start(profile="perception", library=f"perception {__version__}")
        for name, data in (attachments or {}).items():
            self._writer.add_attachment(0, 0, name, "application/octet-stream", data)
        self._channels: dict[str, int] = {}
        self._schemas: dict[str, int] = {}
        self._flushed_s = time.monotonic()
        self._dirty = True
        self.flush()

    def write(self, topic: str, record: Bytes, t_log_ns: int) -> None:
        """Append one record, received at host time `t_log_ns`.

        Raises:
            MessageError: the bytes are not a record.
            LogError: the disk is full or gone.
        """
        header = decode_header(record)
        published_ns = decode_timing(record).t_published_ns or t_log_ns
        try:
            channel = self._channels.get(topic) or self._register(topic, header.schema)
            self._writer.add_message(channel, t_log_ns, bytes(record), published_ns, header.seq & 0xFFFF_FFFF)
        except OSError as error:
            raise LogError(f"{self.path}: cannot go on writing: {error.strerror}") from None
        self.messages += 1
        self._dirty = True
        if self._flush_s is not None and time.monotonic() - self._flushed_s >= self._flush_s:
            self.flush()

    def flush(self) -> None:
        """Close the chunk and sync it to disk; a recorder that waits for messages calls it every half second.

        Raises:
            LogError: the disk is full or gone.
        """
        self._flushed_s = time.monotonic()
        if not self._dirty:
            return
        try:
            self._writer.flush()
            self._file.flush()
            os.fsync(self._file.fileno())
        except OSError as error:
            raise LogError(f"{self.path}: cannot go on writing: {error.strerror}") from None
        self._dirty = False

    def size(self) -> int:
        """Bytes on disk so far."""
        return self.path.stat().st_size if self._file.closed else self._file.tell()

    def close(self) -> None:
        """Write the summary and close the file."""
        if self._file.closed:
            return
        try:
            self._writer.finish()
            self._file.flush()
            os.fsync(self._file.fileno())
        except OSError as error:
            raise LogError(f"{self.path}: cannot finish the recording: {error.strerror}") from None
        finally:
            self._file.close()

    def _register(self, topic: str, schema: str) -> int:
        if schema not in self._schemas:
            text = json.dumps(record_schema(schema)).encode()
            self._schemas[schema] = self._writer.register_schema(schema, "jsonschema", text)
        self._channels[topic] = self._writer.register_channel(topic, "msgpack", self._schemas[schema])
        return self._channels[topic]

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


__all__ = ["McapWriter"]
