"""A recording of one event camera as a log: `event_camera/events` in packets of 10 ms, `event_camera/triggers`.

Prophesee RAW (EVT2, EVT2.1, EVT3) and DAT, AEDAT-2 of a DAVIS, Event Stream (dvs) and N-MNIST, recognised by content.
Files are read piece by piece. Stamps are the camera's own time since its start; the clock is "event_camera".
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import BinaryIO, ClassVar

import numpy as np

from perception.errors import LogError
from perception.geometry.rig import Rig
from perception.logs.events.decoder import Decoder, Triggers
from perception.logs.events.other_words import Aedat2, Dat, EventStream, Nmnist
from perception.logs.events.prophesee_words import Evt2, Evt3, Evt21
from perception.logs.log import Log, Span
from perception.messages import EventPacket, Header, Message, Trigger
from perception.ops.events import Events

PACKET_NS = 10_000_000
PIECE_BYTES = 1 << 20
HEAD_BYTES = 1 << 16
SENSOR = "event_camera"
EVENTS, TRIGGERS = f"{SENSOR}/events", f"{SENSOR}/triggers"
LARGEST = 2048
"""Rows and columns where a file does not tell: what 11 bits of an address hold."""
_SIZES = {"gen31": (480, 640), "gen3": (480, 640), "gen41": (720, 1280), "gen4": (720, 1280), "imx636": (720, 1280)}


@dataclass(frozen=True)
class EventFormat:
    """What the head of a file tells."""

    name: str
    decoder: type[Decoder]
    offset: int
    """Where the words begin."""
    size: tuple[int, int]
    """Rows and columns."""
    told: bool = True
    """False where the file does not tell the size."""


def recognised(head: bytes, path: Path) -> EventFormat | None:
    """Return the format of a file by its first bytes, None where it is no event recording."""
    if head.startswith(b"Event Stream") and len(head) >= 20:
        if head[15] != 1:
            raise LogError(f"{path}: Event Stream of type {head[15]}; expected 1 (dvs)")
        width, height = np.frombuffer(head[16:20], "<u2").tolist()
        return EventFormat("event_stream", EventStream, 20, (height, width))
    if head.startswith((b"#!AER-DAT2.0", b"#!AER-DAT1.0")):
        wide = b"DAVIS346" in head
        return EventFormat("aedat2", Aedat2, _after_comments(path), (260, 346) if wide else (180, 240))
    if head.startswith(b"%"):
        return _prophesee(head, path)
    if path.suffix == ".bin" and len(head) >= 5 and path.stat().st_size % 5 == 0 and _looks_like_nmnist(head):
        return EventFormat("nmnist", Nmnist, 0, (34, 34))
    return None


def _after_lines(head: bytes, mark: bytes) -> int:
    """Return where the lines that begin with a mark end."""
    offset = 0
    while head[offset : offset + 1] == mark:
        end = head.find(b"\n", offset)
        if end < 0:
            return len(head)
        offset = end + 1
    return offset


def _after_comments(path: Path) -> int:
    """Return where the lines that begin with # end: they hold the camera's preferences, hundreds of kilobytes."""
    with path.open("rb") as file:
        offset = 0
        for line in file:
            if not line.startswith(b"#"):
                break
            offset += len(line)
    return offset


def _prophesee(head: bytes, path: Path) -> EventFormat:
    offset = _after_lines(head, b"%")
    text = head[:offset].decode("latin-1")
    size, told = _size_of(text)
    if re.search(r"^% *(evt|format)\b", text, re.MULTILINE | re.IGNORECASE) is None:
        if offset + 2 > len(head) or head[offset + 1] != 8:
            raise LogError(f"{path}: neither the encoding of a RAW file nor events of 8 bytes as in a DAT file")
        return EventFormat("prophesee_dat", Dat, offset + 2, size if told else (1 << 14, 1 << 14), told)
    version = re.search(r"^% *(?:evt|format) *(?:EVT)?([0-9.]+)", text, re.MULTILINE | re.IGNORECASE)
    decoders: dict[str, type[Decoder]] = {"2": Evt2, "21": Evt21, "3": Evt3}
    number = (version.group(1) if version else "").replace(".0", "").replace(".", "").rstrip(";")
    if number not in decoders:
        raise LogError(f"{path}: encoding '{version.group(0) if version else ''}'; expected EVT2, EVT2.1 or EVT3")
    return EventFormat(f"prophesee_evt{number}", decoders[number], offset, size, told)


def _size_of(text: str) -> tuple[tuple[int, int], bool]:
    """Return rows and columns of a Prophesee header, and whether it tells them."""
    geometry = re.search(r"geometry[: ]+(\d+)x(\d+)", text, re.IGNORECASE)
    if geometry:
        return (int(geometry.group(2)), int(geometry.group(1))), True
    width = re.search(r"width[= ]+(\d+)", text, re.IGNORECASE)
    height = re.search(r"height[= ]+(\d+)", text, re.IGNORECASE)
    if width and height:
        return (int(height.group(1)), int(width.group(1))), True
    for name, size in _SIZES.items():
        if re.search(rf"{name}(?!\d)", text, re.IGNORECASE):
            return size, True
    return (LARGEST, LARGEST), False


def _looks_like_nmnist(head: bytes) -> bool:
    rows = np.frombuffer(head[: len(head) // 5 * 5], np.uint8).reshape(-1, 5)
    t = (rows[:, 2].astype(np.int64) & 0x7F) << 16 | rows[:, 3].astype(np.int64) << 8 | rows[:, 4]
    return bool((rows[:, :2] < 34).all() and (np.diff(t) >= 0).mean() > 0.99)


class EventFileLog(Log):
    """See the module's text.

    Raises:
        LogError: the file cannot be read.
    """

    FORMAT: ClassVar[str] = "events"

    def __init__(self, path: Path, found: EventFormat) -> None:
        super().__init__(path)
        self.found = found
        if not found.told:
            self.notes.append(f"{found.name}: the file does not tell the size of the sensor; {found.size} is taken")

    @property
    def rig(self) -> Rig | None:
        return None

    def topics(self) -> Mapping[str, type[Message]]:
        return {EVENTS: EventPacket, **({TRIGGERS: Trigger} if self._summary[TRIGGERS] else {})}

    def counts(self) -> Mapping[str, int]:
        return {topic: count for topic, count in self._summary.items() if topic in (EVENTS, TRIGGERS) and count}

    def span(self) -> Span:
        if not self._summary[EVENTS]:
            raise LogError(f"{self.path}: no event is in it")
        return Span(self._summary["start"], self._summary["end"])

    @cached_property
    def _summary(self) -> dict[str, int]:
        """Count by reading once; what is skipped is counted by `messages`."""
        found = {EVENTS: 0, TRIGGERS: 0, "start": 0, "end": 0}
        for topic, message in self.messages():
            if not found[EVENTS] + found[TRIGGERS]:
                found["start"] = message.header.t_sensor_ns
            found[topic] += 1
            found["end"] = message.header.t_sensor_ns
        self.skipped.clear()
        return found

    def messages(
        self, from_ns: int | None = None, until_ns: int | None = None, topics: Collection[str] | None = None
    ) -> Iterator[tuple[str, Message]]:
        for seq, (topic, message) in enumerate(self._messages()):
            t_ns = message.header.t_sensor_ns
            if until_ns is not None and t_ns >= until_ns:
                return
            if (from_ns is None or t_ns >= from_ns) and (topics is None or topic in topics):
                yield topic, message
            del seq

    def _messages(self) -> Iterator[tuple[str, Message]]:
        number = 0
        for events, triggers in self._packets():
            made: list[tuple[int, str, Message]] = [
                (int(t), TRIGGERS, Trigger(header=_header(int(t)), channel=int(c), rising=bool(r)))
                for t, c, r in zip(triggers.t_ns, triggers.channel, triggers.rising, strict=True)
            ]
            if len(events):
                last_ns = int(events.t_ns[-1])
                packet = EventPacket(
                    header=_header(last_ns, number), height_px=self.found.size[0], width_px=self.found.size[1],
                    t_ns=events.t_ns, x=events.x, y=events.y, polarity=events.polarity,
                )  # fmt: skip
                number += 1
                made.append((last_ns, EVENTS, packet))
            for _, topic, message in sorted(made, key=lambda item: item[:2]):
                yield topic, message

    def _packets(self) -> Iterator[tuple[Events, Triggers]]:
        """Yield the events and triggers of each 10 ms; they do not depend on how the file is read."""
        decoder = self.found.decoder(*self.found.size)  # type: ignore[call-arg]
        waiting, edges = Events.none(), Triggers.none()
        for piece in _pieces(self.path, self.found.offset):
            decoded = decoder.feed(piece)
            waiting = Events.joined([waiting, decoded.events])
            edges = Triggers.joined([edges, decoded.triggers])
            while len(waiting) and waiting.t_ns[-1] // PACKET_NS > waiting.t_ns[0] // PACKET_NS:
                end_ns = (int(waiting.t_ns[0]) // PACKET_NS + 1) * PACKET_NS
                cut, cut_edges = np.searchsorted(waiting.t_ns, end_ns), np.searchsorted(edges.t_ns, end_ns)
                yield waiting[: int(cut)], edges[: int(cut_edges)]
                waiting, edges = waiting[int(cut) :], edges[int(cut_edges) :]
        decoder.finish()
        yield waiting, edges
        self.skipped.update(decoder.skipped)


def _pieces(path: Path, offset: int) -> Iterator[bytes]:
    try:
        file: BinaryIO
        with path.open("rb") as file:
            file.seek(offset)
            while piece := file.read(PIECE_BYTES):
                yield piece
    except OSError as error:
        raise LogError(f"{path}: cannot be read: {error.strerror}") from None


def _header(t_ns: int, seq: int = 0) -> Header:
    return Header(frame_id=f"{SENSOR}_optical", t_sensor_ns=t_ns, clock=SENSOR, seq=seq)


__all__ = ["EVENTS", "HEAD_BYTES", "TRIGGERS", "EventFileLog", "EventFormat", "recognised"]
