"""Read MCAP files of any writer, whole or damaged, as bytes.

A file cut off by a crash has no summary: it is read from the start up to the cut. Chunks that are damaged or lie about
their size are skipped and counted; none makes the reader allocate more than `MAX_CHUNK_BYTES`.
"""

from __future__ import annotations

import contextlib
import os
import struct
from collections import Counter, deque
from collections.abc import Callable, Container, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import IO, TypeAlias

import lz4.frame
import zstandard
from mcap.data_stream import ReadDataStream
from mcap.exceptions import McapError
from mcap.reader import SeekingReader
from mcap.records import Attachment, AttachmentIndex, Channel, Chunk, ChunkIndex, Schema
from mcap.records import Message as McapMessage
from mcap.stream_reader import StreamReader, breakup_chunk

from perception.errors import LogError

try:  # checksums would be half of all reading: this takes the processor's instruction for them
    from isal.isal_zlib import crc32
except ImportError:
    from zlib import crc32

MAGIC = b"\x89MCAP0\r\n"
MAX_CHUNK_BYTES = 1 << 30
LARGE_BYTES = 1 << 20
"""Of an attachment that is not read with the file's index."""
AHEAD, AHEAD_BYTES = 2, 64 << 20
"""So many chunks, each of at most so many bytes, are read while one before them is used."""
_MESSAGE_OPCODE, _LENGTH, _MESSAGE = 0x05, struct.Struct("<Q"), struct.Struct("<HIQQ")
_CHUNK = struct.Struct("<QQQII")  # times of its first and last message, size and checksum unfolded, length of a name
DAMAGE = (McapError, struct.error, EOFError, ValueError, RuntimeError, MemoryError, zstandard.ZstdError, OverflowError)

_Piece: TypeAlias = "Chunk | McapMessage | Future[bytes]"


@dataclass
class _Index:
    """What one pass over the file, or its summary, tells."""

    channels: dict[int, Channel] = field(default_factory=dict)
    schemas: dict[int, Schema] = field(default_factory=dict)
    counts: Counter[int] = field(default_factory=Counter)
    chunks: list[ChunkIndex] | None = None
    """None where the file has no summary, or messages outside of chunks: it is read from the start."""
    attachments: dict[str, bytes] = field(default_factory=dict)
    large: dict[str, AttachmentIndex] = field(default_factory=dict)


class Attachments(Mapping[str, bytes]):
    """Files in a recording by name; large ones, such as weights, are read when somebody wants them."""

    def __init__(self, path: Path, small: Mapping[str, bytes], large: Mapping[str, AttachmentIndex]) -> None:
        self._path, self._small, self._large = path, small, large

    def __getitem__(self, name: str) -> bytes:
        """Return a file.

        Raises:
            LogError: it is damaged.
        """
        if name in self._small:
            return self._small[name]
        index = self._large[name]
        try:
            with self._path.open("rb") as file:
                return _attachment_at(file, index)
        except (OSError, *DAMAGE) as error:
            raise LogError(f"{self._path}: '{name}' in it cannot be read: {error}") from None

    def __iter__(self) -> Iterator[str]:
        yield from self._small
        yield from self._large

    def __len__(self) -> int:
        return len(self._small) + len(self._large)


@dataclass(frozen=True, eq=False)
class Record:
    """One message as the file holds it."""

    channel: Channel
    data: bytes
    t_log_ns: int


class McapFile:
    """One file, opened for reading.

    Attributes:
        channels, schemas, counts: by id, counts of messages by channel.
        attachments: bytes by name.
        notes: what was wrong with the file.
        skipped: damaged chunks, by reason, as reading meets them.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.notes: list[str] = []
        self.skipped: Counter[str] = Counter()
        index = self._read_summary() or self._scan()
        self.channels, self.schemas, self.counts = index.channels, index.schemas, index.counts
        self.attachments: Mapping[str, bytes] = Attachments(path, index.attachments, index.large)
        self._chunks = index.chunks

    def schema_of(self, channel: Channel) -> Schema | None:
        """Return the schema of a channel, None where it has none."""
        return self.schemas.get(channel.schema_id)

    def records(self, from_ns: int | None, wanted: Callable[[Channel], bool]) -> Iterator[Record]:
        """Yield the messages of wanted channels in the file's order; those logged before `from_ns` may be left out."""
        with self.path.open("rb") as file:
            if self._chunks is None:
                yield from self._selected(self._streamed(file), wanted)
                return
            chosen = [
                chunk
                for chunk in sorted(self._chunks, key=lambda chunk: chunk.chunk_start_offset)
                if from_ns is None or chunk.message_end_time >= from_ns
            ]
            yield from self._selected(_read_ahead(file, chosen), wanted)

    def end_records(self, wanted: Callable[[Channel], bool]) -> Iterator[Record]:
        """Yield the messages of the first and the last chunk that holds a channel, for each wanted one with an index.

        What is damaged is left out; whoever reads the file counts it.
        """
        of_chunk: dict[int, tuple[ChunkIndex, set[int]]] = {}
        for key, channel in self.channels.items():
            holding = [chunk for chunk in self._chunks or () if key in chunk.message_index_offsets]
            for chunk in (holding[:1] + holding[-1:]) if wanted(channel) else ():
                of_chunk.setdefault(chunk.chunk_start_offset, (chunk, set()))[1].add(key)
        with self.path.open("rb") as file:
            for index, keys in of_chunk.values():
                with contextlib.suppress(LogError, *DAMAGE):
                    for key, t_log_ns, data in _messages_of(checked(_chunk_at(file, index)), keys):
                        yield Record(self.channels[key], data, t_log_ns)

    def last_records(self, wanted: Callable[[Channel], bool]) -> Iterator[Record]:
        """Yield the messages of the last two chunks, or of the whole file where chunks are not known."""
        if not self._chunks:
            yield from self.records(None, wanted)
            return
        last = sorted(self._chunks, key=lambda chunk: chunk.message_end_time)[-2:]
        with self.path.open("rb") as file:
            yield from self._selected(_read_ahead(file, last), wanted)

    def _selected(self, pieces: Iterator[_Piece], wanted: Callable[[Channel], bool]) -> Iterator[Record]:
        chosen = {key: channel for key, channel in self.channels.items() if wanted(channel)}
        while True:
            try:
                piece = next(pieces, None)
                if piece is None:
                    return
                if isinstance(piece, McapMessage):
                    records = [(piece.channel_id, piece.log_time, piece.data)]
                else:
                    records = _messages_of(piece.result() if isinstance(piece, Future) else checked(piece), chosen)
            except LogError as error:
                self.skipped[str(error)] += 1
                continue
            except DAMAGE as error:
                self.skipped[f"a damaged chunk: {error}"] += 1
                continue
            for key, t_log_ns, data in records:
                if key in chosen:
                    yield Record(chosen[key], data, t_log_ns)

    def _streamed(self, file: IO[bytes]) -> Iterator[Chunk | McapMessage]:
        try:
            for record in StreamReader(file, emit_chunks=True, record_size_limit=MAX_CHUNK_BYTES).records:
                if isinstance(record, Chunk | McapMessage):
                    yield record
        except DAMAGE:
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
                stored = summary.attachment_indexes
                index.large = {item.name: item for item in stored if item.length > LARGE_BYTES}
                small = [item for item in stored if item.length <= LARGE_BYTES]
                index.attachments = {item.name: _attachment_at(file, item) for item in small}
        except (OSError, *DAMAGE):  # a seek to before the file's start is an OSError
            return None
        if not index.chunks and summary.statistics.message_count:
            index.chunks = None  # written without chunks
        return index if index.channels or not summary.statistics.message_count else None

    def _scan(self) -> _Index:
        index, damage = _Index(), "it has no summary"
        with self.path.open("rb") as file:
            try:
                for record in StreamReader(file, emit_chunks=True, record_size_limit=MAX_CHUNK_BYTES).records:
                    _take(index, record)
            except DAMAGE as error:
                damage = f"it breaks off or is damaged at byte {file.tell()} ({type(error).__name__})"
        self.notes.append(f"the recording was not closed: {damage}; {sum(index.counts.values())} messages up to there")
        return index


def _take(index: _Index, record: object) -> None:
    if isinstance(record, Attachment):
        index.attachments[record.name] = record.data
    elif isinstance(record, Schema):
        index.schemas[record.id] = record
    elif isinstance(record, Channel):
        index.channels[record.id] = record
    elif isinstance(record, McapMessage):
        index.counts[record.channel_id] += 1
    elif isinstance(record, Chunk):
        try:
            inner = breakup_chunk(unpacked(record), True)
        except (LogError, *DAMAGE):
            return  # counted when it is read
        for part in inner:
            _take(index, part)


def _attachment_at(file: IO[bytes], index: AttachmentIndex) -> bytes:
    data = os.pread(file.fileno(), min(index.length, MAX_CHUNK_BYTES), index.offset + 9)  # behind opcode and length
    attachment: bytes = Attachment.read(ReadDataStream(BytesIO(data))).data
    return attachment


def _chunk_at(file: IO[bytes], index: ChunkIndex) -> Chunk:
    """Read a chunk; by place and not by the file's position, so that several threads may.

    Raises:
        ValueError: the file ends before.
    """
    begin, size = index.chunk_start_offset + 9, index.chunk_length - 9  # behind opcode and length
    left = os.fstat(file.fileno()).st_size - begin
    if not _CHUNK.size <= size <= min(left, MAX_CHUNK_BYTES + (1 << 16)):
        raise ValueError(f"a chunk of {size} bytes, where {left} are left")
    data = memoryview(os.pread(file.fileno(), size, begin))
    start_ns, end_ns, unfolded, checksum, name = _CHUNK.unpack_from(data)
    begin = _CHUNK.size + name + _LENGTH.size
    (length,) = _LENGTH.unpack_from(data, begin - _LENGTH.size)
    if begin + length > len(data):
        raise ValueError(f"a chunk claims {length} bytes, more than the {len(data) - begin} that are left")
    return Chunk(
        compression=str(data[_CHUNK.size : _CHUNK.size + name], "utf-8"), data=data[begin : begin + length],
        message_start_time=start_ns, message_end_time=end_ns, uncompressed_crc=checksum, uncompressed_size=unfolded,
    )  # fmt: skip


def _read_ahead(file: IO[bytes], chunks: Iterable[ChunkIndex]) -> Iterator[Future[bytes]]:
    """Yield the bytes of each chunk, checked; the next ones are read, unfolded and checked while one is used.

    All of that runs without the interpreter's lock, so that other cores do it. A large chunk waits until those before
    it have been used: no more is in memory than with one at a time.
    """
    waiting: deque[Future[bytes]] = deque()
    with ThreadPoolExecutor(AHEAD, "mcap") as readers:
        for index in chunks:
            while len(waiting) > AHEAD or (waiting and index.uncompressed_size > AHEAD_BYTES):
                yield waiting.popleft()
            waiting.append(readers.submit(_checked_at, file, index))
        while waiting:
            yield waiting.popleft()


def _checked_at(file: IO[bytes], index: ChunkIndex) -> bytes:
    chunk = _chunk_at(file, index)
    if index.uncompressed_size <= AHEAD_BYTES < chunk.uncompressed_size:
        raise ValueError("it is larger than the index says")  # several at a time would be more than is allowed
    return checked(chunk)


def unpacked(chunk: Chunk) -> Chunk:
    """Return the chunk uncompressed, never allocating more than it may claim.

    Raises:
        LogError: the chunk is too large or its size is not what it says.
    """
    size = chunk.uncompressed_size
    if size > MAX_CHUNK_BYTES:
        raise LogError(f"a chunk claims {size} bytes, more than {MAX_CHUNK_BYTES}")
    data = chunk.data
    if chunk.compression == "lz4":
        if lz4.frame.get_frame_info(data)["content_size"] == size:
            data = lz4.frame.decompress(data)  # one allocation of what the frame itself says
        else:
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


def checked(chunk: Chunk) -> bytes:
    """Return the bytes of a chunk.

    Raises:
        LogError: as `unpacked`, or its checksum is another.
    """
    data = bytes(unpacked(chunk).data)
    if chunk.uncompressed_crc and crc32(data) != chunk.uncompressed_crc:
        raise LogError("a damaged chunk: its checksum is another")
    return data


def _messages_of(data: bytes, wanted: Container[int]) -> list[tuple[int, int, bytes]]:
    """Return (channel, log time, bytes) of the messages in a chunk; other records are stepped over.

    Raises:
        ValueError: a record is longer than what is left.
    """
    found, place, size = [], 0, len(data)
    while place < size:
        if place + 9 > size:
            raise ValueError("a record breaks off")
        end = place + 9 + _LENGTH.unpack_from(data, place + 1)[0]
        if end > size:
            raise ValueError(f"a record claims {end - place} bytes, more than the {size - place} that are left")
        if data[place] == _MESSAGE_OPCODE:
            channel, _, t_log_ns, _ = _MESSAGE.unpack_from(data, place + 9)
            if channel in wanted:
                found.append((channel, t_log_ns, data[place + 9 + _MESSAGE.size : end]))
        place = end
    return found


__all__ = ["MAGIC", "McapFile", "Record", "unpacked"]
