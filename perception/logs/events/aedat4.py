"""AEDAT4, the format of iniVation's DV: events, triggers and IMU samples.

Read by our own code, since iniVation's library refuses a file whose end is missing and does not return from some
damaged ones; the tests compare the two on whole files. A file is a header, then packets of one stream each, compressed
one by one, then a table of contents that is not needed here. A damaged packet is skipped and counted.

Source: iniVation, "AEDAT 4 file format" (docs.inivation.com, software/software-advanced-usage/file-formats/aedat-4) and
the flatbuffers schemas of dv-processing 2.0; FlatBuffers, "Internals". Times are microseconds since the Unix epoch.
"""

from __future__ import annotations

import struct
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import radians
from pathlib import Path
from typing import IO, Any
from xml.etree import ElementTree

import lz4.frame
import numpy as np
import zstandard
from numpy.typing import NDArray

from perception.errors import LogError
from perception.logs.events.decoder import CUT_OFF, OUTSIDE, Decoded, Triggers
from perception.logs.events.reader import EventReader
from perception.logs.events.time_order import TimeOrder
from perception.messages import Header, Imu, Message
from perception.ops.events import Events

MAGIC = b"#!AER-DAT4.0\r\n"
MAX_PACKET_BYTES = 1 << 28
DAMAGED = "damaged packet"
AFTER_FAULT = "byte after a damaged packet's length"
STANDARD_GRAVITY_MPS2 = 9.80665
_EVENT = np.dtype([("t", "<i8"), ("x", "<i2"), ("y", "<i2"), ("on", "u1"), ("pad", "V3")])
_EDGES = {1: True, 2: False, 3: True, 4: True, 5: False}
"""Rising or falling by the source of a trigger; those of the camera's own frames and resets are no edges."""
_PIECE_BYTES = 1 << 22
_BROKEN = (struct.error, ValueError, IndexError, RuntimeError, EOFError, MemoryError, zstandard.ZstdError)


@dataclass(frozen=True)
class Stream:
    """One stream, as the header tells."""

    kind: str
    size: tuple[int, int] | None


class Table:
    """A table of a flatbuffer; fields are by their number in the schema."""

    def __init__(self, data: bytes, place: int) -> None:
        self._data, self._place = data, place
        self._fields = place - struct.unpack_from("<i", data, place)[0]
        self._fields_end = struct.unpack_from("<H", data, self._fields)[0]

    def at(self, number: int) -> int:
        """Return where a field lies, 0 where it has its default."""
        entry = 4 + 2 * number
        if entry + 2 > self._fields_end:
            return 0
        offset: int = struct.unpack_from("<H", self._data, self._fields + entry)[0]
        return self._place + offset if offset else 0

    def number(self, number: int, code: str, default: float = 0) -> Any:
        """Return a scalar."""
        place = self.at(number)
        return struct.unpack_from(f"<{code}", self._data, place)[0] if place else default

    def vector(self, number: int) -> tuple[int, int]:
        """Return where the items of a vector or string begin, and how many there are."""
        place = self.at(number)
        if not place:
            return 0, 0
        begin = place + struct.unpack_from("<I", self._data, place)[0]
        return begin + 4, struct.unpack_from("<I", self._data, begin)[0]

    def tables(self, number: int) -> Iterator[Table]:
        """Yield the tables of a vector."""
        begin, count = self.vector(number)
        if begin + 4 * count > len(self._data):
            raise ValueError("a vector longer than its packet")
        for place in range(begin, begin + 4 * count, 4):
            yield Table(self._data, place + struct.unpack_from("<I", self._data, place)[0])


class Aedat4(EventReader):
    """One camera of a file.

    Raises:
        LogError: the header is cut off or holds no stream of events.
    """

    name = "aedat4"
    triggers = True

    def __init__(self, path: Path) -> None:
        super().__init__()
        self._path = path
        try:
            with path.open("rb") as file:
                self._compression, self._end, self._streams = _header(file)
                self._begin = file.tell()
        except (*_BROKEN, ElementTree.ParseError, OSError) as error:
            raise LogError(f"{path}: the header of the AEDAT4 file is damaged or cut off: {error}") from None
        events = [(number, stream) for number, stream in self._streams.items() if stream.kind == "EVTS"]
        if not events:
            kinds = ", ".join(sorted({stream.kind for stream in self._streams.values()}))
            raise LogError(f"{path}: no stream of events in it, only {kinds or 'nothing'}")
        self._events, stream = events[0]
        self._size = stream.size or (2048, 2048)
        if stream.size is None:
            self.notes.append(f"the file does not tell the size of the sensor; {self._size} is taken")
        if len(events) > 1:
            self.notes.append(f"{len(events)} streams of events; the first is read")
        self.notes.append("times are those of the camera's driver, since the Unix epoch")

    @property
    def size(self) -> tuple[int, int]:
        return self._size

    @property
    def others(self) -> Mapping[str, type[Message]]:
        return {"imu": Imu} if any(stream.kind == "IMUS" for stream in self._streams.values()) else {}

    def pieces(self, from_ns: int | None = None) -> Iterator[Decoded]:
        del from_ns
        self.skipped.clear()
        self.other_words.clear()
        order = TimeOrder()
        for whole, root in self._of_kind("EVTS"):
            try:
                events = self._events_of(whole, root)
            except _BROKEN:
                self.skipped[DAMAGED] += 1
            else:
                yield Decoded(order.feed(events))
        yield Decoded(order.finish())
        self.skipped.update(order.skipped)

    def sides(self) -> Sequence[Iterator[Decoded]]:
        """Packets of triggers and IMU samples may come long after the events of their time."""
        kinds = {stream.kind for stream in self._streams.values()}
        return [self._side(kind) for kind in ("TRIG", "IMUS") if kind in kinds]

    def _side(self, kind: str) -> Iterator[Decoded]:
        for _, root in self._of_kind(kind):
            try:
                decoded = _triggers(root) if kind == "TRIG" else _imu(root)
            except _BROKEN:
                self.skipped[DAMAGED] += 1
            else:
                yield decoded

    def _of_kind(self, kind: str) -> Iterator[tuple[bytes, Table]]:
        """Yield what the packets of one kind hold, and the root of it."""
        for stream, data in self._packets(counting=kind == "EVTS"):
            found = self._streams[stream].kind
            if found != kind or (kind == "EVTS" and stream != self._events):
                if kind == "EVTS" and found not in ("TRIG", "IMUS"):
                    self.other_words[f"packet of {found}"] += 1
                continue
            try:
                whole = _decompressed(data, self._compression)
                root = Table(whole, 4 + struct.unpack_from("<I", whole, 4)[0])
                if whole[8:12] != kind.encode():
                    raise ValueError("another kind of packet than the header says")
            except _BROKEN:
                self.skipped[DAMAGED] += 1
            else:
                yield whole, root

    def _packets(self, *, counting: bool) -> Iterator[tuple[int, bytes]]:
        """Yield stream number and compressed bytes of each packet up to the table of contents, or to a fault."""
        skipped = self.skipped if counting else Counter[str]()
        total = self._path.stat().st_size
        end = self._end if self._begin < self._end <= total else total
        with self._path.open("rb") as file:
            file.seek(self._begin)
            while (place := file.tell()) < end:
                head = file.read(8)
                if len(head) < 8:
                    skipped[CUT_OFF] += len(head)
                    return
                stream, length = struct.unpack("<ii", head)
                if stream not in self._streams or not 0 <= length <= MAX_PACKET_BYTES:
                    skipped[AFTER_FAULT] += end - place
                    return
                data = file.read(length)
                if len(data) < length or file.tell() > end:
                    skipped[CUT_OFF] += 8 + len(data)
                    return
                yield stream, data

    def _events_of(self, whole: bytes, root: Table) -> Events:
        begin, count = root.vector(0)
        if begin + count * _EVENT.itemsize > len(whole):
            raise ValueError("more events than its packet holds")
        rows = np.frombuffer(whole, _EVENT, count, begin)
        t: NDArray[np.int64] = rows["t"] * 1000
        inside = (rows["x"] >= 0) & (rows["y"] >= 0) & (rows["x"] < self._size[1]) & (rows["y"] < self._size[0])
        self._count(OUTSIDE, ~inside)
        rows = rows[inside]
        return Events.of(t[inside], rows["x"], rows["y"], rows["on"])

    def _count(self, reason: str, which: NDArray[np.bool_]) -> None:
        if which.any():
            self.skipped[reason] += int(which.sum())


def _header(file: IO[bytes]) -> tuple[int, int, dict[int, Stream]]:
    """Return compression, where the table of contents begins (-1: nowhere), and the streams by number."""
    if file.read(len(MAGIC)) != MAGIC:
        raise ValueError("another beginning")
    length = struct.unpack("<I", file.read(4))[0]
    if length > MAX_PACKET_BYTES:
        raise ValueError(f"a header of {length} bytes")
    data = file.read(length)
    if len(data) < length:
        raise ValueError(f"{len(data)} of {length} bytes")
    root = Table(data, struct.unpack_from("<I", data, 0)[0])
    begin, count = root.vector(2)
    information = ElementTree.fromstring(data[begin : begin + count].decode("utf-8"))
    return int(root.number(0, "i")), int(root.number(1, "q", -1)), _streams(information)


def _streams(information: ElementTree.Element) -> dict[int, Stream]:
    found: dict[int, Stream] = {}
    for node in information.iter("node"):
        kind = _attribute(node, "typeIdentifier")
        name = node.get("name", "")
        if kind is None or not name.isdigit():
            continue
        info = next((child for child in node.findall("node") if child.get("name") == "info"), node)
        width, height = _attribute(info, "sizeX"), _attribute(info, "sizeY")
        found[int(name)] = Stream(kind, (int(height), int(width)) if width and height else None)
    return found


def _attribute(node: ElementTree.Element, key: str) -> str | None:
    return next((attribute.text for attribute in node.findall("attr") if attribute.get("key") == key), None)


def _decompressed(data: bytes, compression: int) -> bytes:
    """Return at most `MAX_PACKET_BYTES`, whatever the packet claims."""
    if compression == 0:
        return data
    if compression in (1, 2):
        decompressor = lz4.frame.LZ4FrameDecompressor()
        parts: list[bytes] = [decompressor.decompress(data, max_length=_PIECE_BYTES)]
        while not decompressor.eof and parts[-1] and len(parts) * _PIECE_BYTES < MAX_PACKET_BYTES:
            parts.append(decompressor.decompress(b"", max_length=_PIECE_BYTES))
        if not decompressor.eof:
            raise ValueError("a packet that is cut off or too large")
        return b"".join(parts)
    if compression in (3, 4):
        with zstandard.ZstdDecompressor().stream_reader(data) as reader:
            whole = reader.read(MAX_PACKET_BYTES + 1)
        if len(whole) > MAX_PACKET_BYTES:
            raise ValueError("a packet that is too large")
        return whole
    raise ValueError(f"compression {compression}")


def _triggers(root: Table) -> Decoded:
    found = [(int(table.number(0, "q")) * 1000, int(table.number(1, "b"))) for table in root.tables(0)]
    edges = [(t, _EDGES[source]) for t, source in found if source in _EDGES]
    return Decoded(triggers=Triggers.of([t for t, _ in edges], [0] * len(edges), [rising for _, rising in edges]))


def _imu(root: Table) -> Decoded:
    samples: list[tuple[str, Message]] = []
    for table in root.tables(0):
        ax, ay, az, gx, gy, gz = (float(table.number(number, "f")) for number in range(2, 8))
        header = Header(frame_id="event_camera_imu", t_sensor_ns=int(table.number(0, "q")) * 1000, clock="event_camera")
        samples.append(
            (
                "imu",
                Imu(
                    header=header,
                    angular_velocity_radps=(radians(gx), radians(gy), radians(gz)),
                    acceleration_mps2=(
                        ax * STANDARD_GRAVITY_MPS2, ay * STANDARD_GRAVITY_MPS2, az * STANDARD_GRAVITY_MPS2,
                    ),
                ),
            )
        )  # fmt: skip
    return Decoded(others=tuple(samples))


__all__ = ["MAGIC", "Aedat4"]
