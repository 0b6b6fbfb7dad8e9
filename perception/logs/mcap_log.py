"""Read MCAP recordings of our records.

A file cut off by a crash has no summary: it is read from the start up to the cut, and says so. Chunks that are damaged
or lie about their size are skipped and counted; none makes the reader allocate more than `MAX_CHUNK_BYTES`.
"""

from __future__ import annotations

import heapq
import struct
from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import IO, TYPE_CHECKING, ClassVar

import lz4.frame
import zstandard
from mcap.data_stream import ReadDataStream
from mcap.exceptions import McapError
from mcap.reader import SeekingReader
from mcap.records import Attachment, Channel, Chunk, ChunkIndex, Schema
from mcap.records import Message as McapMessage
from mcap.stream_reader import StreamReader, breakup_chunk

from perception.errors import LogError, MessageError
from perception.logs.log import Log, Span
from perception.messages import Message
from perception.messages.codec import decode
from perception.messages.topics import MESSAGE_TYPES

if TYPE_CHECKING:
    from perception.geometry.rig import Rig

MAGIC = b"\x89MCAP0\r\n"
MAX_CHUNK_BYTES = 1 << 30
REORDER_NS = 500_000_000
"""Messages arrive in the recording in the order of arrival; within this much they are put in the order of stamps."""

_DAMAGE = (McapError, struct.error, EOFError, ValueError, RuntimeError, MemoryError, zstandard.ZstdError, OverflowError)


@dataclass
class _Index:
    """What one pass over the file, or its summary, tells."""

    channels: dict[int, Channel] = field(default_factory=dict)
    schemas: dict[int, Schema] = field(default_factory=dict)
    counts: Counter[int] = field(default_factory=Counter)
    chunks: list[ChunkIndex] | None = None
    """None where the file has no summary: it is read from the start."""
    attachments: dict[str, bytes] = field(default_factory=dict)


class McapLog(Log):
    """One MCAP file.

    Raises:
        LogError: the file cannot be read, or holds none of our records.
    """

    FORMAT: ClassVar[str] = "mcap"

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self._index = self._read_summary() or self._scan()
        ours = {key: channel for key, channel in self._index.channels.items() if self._type_of(channel) is not None}
        for channel in self._index.channels.values():
            if self._type_of(channel) is None:
                self.notes.append(
                    f"topic '{channel.topic}' is not ours ({channel.message_encoding or 'no encoding'}): left out"
                )
        if not ours:
            raise LogError(
                f"{path}: the recording holds no messages of ours "
                f"({len(self._index.channels)} topics of others). Expected one made by perception."
            )
        self._ours = ours

    @cached_property
    def rig(self) -> Rig | None:
        files = {name: data for name, data in self.attachments().items() if name.startswith("calibration/")}
        if not files:
            return None
        from perception.geometry.rig import rig_from_files

        return rig_from_files({name.removeprefix("calibration/"): data for name, data in files.items()}, str(self.path))

    def topics(self) -> Mapping[str, type[Message]]:
        types = {channel.topic: self._type_of(channel) for channel in self._ours.values()}
        return {topic: message_type for topic, message_type in sorted(types.items()) if message_type is not None}

    def counts(self) -> Mapping[str, int]:
        total: Counter[str] = Counter()
        for key, channel in self._ours.items():
            total[channel.topic] += self._index.counts[key]
        return dict(sorted(total.items()))

    @cached_property
    def _span(self) -> Span:
        first = next(iter(self.messages()), None)
        if first is None:
            raise LogError(f"{self.path}: the recording holds no messages.")
        start = end = first[1].header.t_sensor_ns
        for _, message in self._last_messages():
            end = max(end, message.header.t_sensor_ns)
        return Span(start, end)

    def span(self) -> Span:
        return self._span

    def attachments(self) -> Mapping[str, bytes]:
        return self._index.attachments

    def messages(
        self, from_ns: int | None = None, until_ns: int | None = None, topics: Collection[str] | None = None
    ) -> Iterator[tuple[str, Message]]:
        waiting: list[tuple[int, str, int, int, Message]] = []
        newest = -(2**63)
        for count, (topic, message) in enumerate(self._decoded(self._records(from_ns, topics))):
            header = message.header
            heapq.heappush(waiting, (header.t_sensor_ns, topic, header.seq, count, message))
            newest = max(newest, header.t_sensor_ns)
            while waiting and waiting[0][0] < newest - REORDER_NS:
                yield from _within(heapq.heappop(waiting), from_ns, until_ns)
            if until_ns is not None and newest - REORDER_NS >= until_ns:
                return
        while waiting:
            yield from _within(heapq.heappop(waiting), from_ns, until_ns)

    def records(self, topics: Collection[str] | None = None) -> Iterator[tuple[str, bytes, int]]:
        """Yield (topic, record, log time) in the order of the file, as bytes."""
        yield from self._records(None, topics)

    def _last_messages(self) -> Iterator[tuple[str, Message]]:
        if not self._index.chunks:
            yield from self._decoded(self._records(None, None))
            return
        last = sorted(self._index.chunks, key=lambda chunk: chunk.message_end_time)[-2:]
        with self.path.open("rb") as file:
            yield from self._decoded(self._in_chunks((_chunk_at(file, index) for index in last), None))

    def _decoded(self, records: Iterator[tuple[str, bytes, int]]) -> Iterator[tuple[str, Message]]:
        for topic, data, _ in records:
            try:
                yield topic, decode(data)
            except MessageError as error:
                self.skipped[f"{topic}: {error}"] += 1

    def _records(self, from_ns: int | None, topics: Collection[str] | None) -> Iterator[tuple[str, bytes, int]]:
        with self.path.open("rb") as file:
            if self._index.chunks is None:
                yield from self._in_chunks(self._stream(file), topics)
                return
            # Without knowing how late messages were received, a chunk is left out only when it ends long before.
            wanted = [
                chunk
                for chunk in sorted(self._index.chunks, key=lambda chunk: chunk.chunk_start_offset)
                if from_ns is None or chunk.message_end_time >= from_ns
            ]
            yield from self._in_chunks((_chunk_at(file, index) for index in wanted), topics)

    def _in_chunks(self, chunks: Iterator[Chunk], topics: Collection[str] | None) -> Iterator[tuple[str, bytes, int]]:
        channels = self._ours if hasattr(self, "_ours") else self._index.channels
        while True:
            try:
                chunk = next(chunks, None)
                if chunk is None:
                    return
                records = breakup_chunk(_unpacked(chunk), validate_crc=True)
            except LogError as error:
                self.skipped[str(error)] += 1
                continue
            except _DAMAGE as error:
                self.skipped[f"a damaged chunk: {error}"] += 1
                continue
            for record in records:
                channel = channels.get(record.channel_id) if isinstance(record, McapMessage) else None
                if (
                    channel is not None
                    and isinstance(record, McapMessage)
                    and (topics is None or channel.topic in topics)
                ):
                    yield channel.topic, record.data, record.log_time

    def _stream(self, file: IO[bytes]) -> Iterator[Chunk]:
        try:
            for record in StreamReader(file, emit_chunks=True, record_size_limit=MAX_CHUNK_BYTES).records:
                if isinstance(record, Chunk):
                    yield record
        except _DAMAGE:
            return  # the cut; `_scan` has said so

    def _read_summary(self) -> _Index | None:
        try:
            with self.path.open("rb") as file:
                reader = SeekingReader(file, record_size_limit=MAX_CHUNK_BYTES)
                summary = reader.get_summary()
                if summary is None or summary.statistics is None:
                    return None
                index = _Index(dict(summary.channels), dict(summary.schemas), chunks=list(summary.chunk_indexes))
                index.counts.update(summary.statistics.channel_message_counts)
                index.attachments = {item.name: item.data for item in reader.iter_attachments()}
                return index
        except (OSError, *_DAMAGE):  # a seek to before the file's start is an OSError
            return None

    def _scan(self) -> _Index:
        index, damage = _Index(), "it has no summary"
        with self.path.open("rb") as file:
            try:
                for record in StreamReader(file, emit_chunks=True, record_size_limit=MAX_CHUNK_BYTES).records:
                    if isinstance(record, Attachment):
                        index.attachments[record.name] = record.data
                    elif isinstance(record, Chunk):
                        _count(index, record)
            except _DAMAGE as error:
                damage = f"it breaks off or is damaged at byte {file.tell()} ({type(error).__name__})"
        self.notes.append(f"the recording was not closed: {damage}; {sum(index.counts.values())} messages up to there")
        return index

    def _type_of(self, channel: Channel) -> type[Message] | None:
        schema = self._index.schemas.get(channel.schema_id)
        if schema is None or channel.message_encoding != "msgpack":
            return None
        return MESSAGE_TYPES.get(schema.name)


def _within(
    entry: tuple[int, str, int, int, Message], from_ns: int | None, until_ns: int | None
) -> Iterator[tuple[str, Message]]:
    stamp, topic, _, _, message = entry
    if (from_ns is None or stamp >= from_ns) and (until_ns is None or stamp < until_ns):
        yield topic, message


def _chunk_at(file: IO[bytes], index: ChunkIndex) -> Chunk:
    file.seek(index.chunk_start_offset + 9)  # opcode and length
    return Chunk.read(ReadDataStream(file))


def _unpacked(chunk: Chunk) -> Chunk:
    """Return the chunk uncompressed, never allocating more than it may claim.

    Raises:
        LogError: the chunk is too large or its size is not what it says.
    """
    size = chunk.uncompressed_size
    if size > MAX_CHUNK_BYTES:
        raise LogError(f"a chunk claims {size} bytes, more than {MAX_CHUNK_BYTES}")
    data = chunk.data
    if chunk.compression == "lz4":
        data = lz4.frame.LZ4FrameDecompressor().decompress(data, max_length=size + 1)
    elif chunk.compression == "zstd":
        if zstandard.get_frame_parameters(data).content_size > size:
            raise LogError("a chunk is larger than it says")
        data = zstandard.ZstdDecompressor().decompress(data, max_output_size=size)
    elif chunk.compression:
        raise LogError(f"a chunk is compressed by '{chunk.compression[:20]}'; expected lz4 or zstd")
    if len(data) != size:
        raise LogError("a chunk has another size than it says")
    return Chunk(
        compression="",
        data=data,
        message_end_time=chunk.message_end_time,
        message_start_time=chunk.message_start_time,
        uncompressed_crc=chunk.uncompressed_crc,
        uncompressed_size=size,
    )


def _count(index: _Index, chunk: Chunk) -> None:
    try:
        records = breakup_chunk(_unpacked(chunk), validate_crc=True)
    except (LogError, *_DAMAGE):
        return  # counted when it is read
    for record in records:
        if isinstance(record, Schema):
            index.schemas[record.id] = record
        elif isinstance(record, Channel):
            index.channels[record.id] = record
        elif isinstance(record, McapMessage):
            index.counts[record.channel_id] += 1


__all__ = ["MAGIC", "McapLog"]
