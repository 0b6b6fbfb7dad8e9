"""A recording of event cameras as a log: `<camera>/events` in packets of 10 ms, `<camera>/triggers`, `<camera>/imu`.

The camera is named `event_camera`, or as its recording names it where there are several. Nothing is read as a whole.
Stamps are the camera's own time; the clock has the camera's name, and a note says where it is another.
"""

from __future__ import annotations

import heapq
from collections.abc import Collection, Iterator, Mapping
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import ClassVar

import numpy as np

from perception.errors import LogError
from perception.geometry.rig import Rig
from perception.logs.events.decoder import Decoded, Triggers
from perception.logs.events.reader import EventReader
from perception.logs.log import Log, Span
from perception.logs.log_rig import rig_of_event_cameras
from perception.messages import EventPacket, Header, Message, Trigger
from perception.ops.events import Events

PACKET_NS = 10_000_000
MAX_PACKET_EVENTS = 1 << 20
"""A packet ends sooner than after 10 ms where more would be in it, so that memory stays bounded."""
SENSOR = "event_camera"
LATE = "trigger or sample whose time runs backwards"


class EventFileLog(Log):
    """See the module's text.

    Args:
        path: the file or folder.
        cameras: readers by camera.

    Raises:
        LogError: the recording cannot be read.
    """

    FORMAT: ClassVar[str] = "events"

    def __init__(self, path: Path, cameras: Mapping[str, EventReader]) -> None:
        super().__init__(path)
        self.cameras = dict(cameras)
        for camera, reader in self.cameras.items():
            height, width = reader.size
            self.notes.append(f"{camera}: {reader.name}, {width} x {height} pixels")
            self.notes += reader.notes

    @cached_property
    def rig(self) -> Rig | None:
        """The cameras without intrinsics, each where base_link is: an event recording tells no calibration."""
        return rig_of_event_cameras({camera: camera for camera in self.cameras})

    def topics(self) -> Mapping[str, type[Message]]:
        found: dict[str, type[Message]] = {}
        for camera, reader in self.cameras.items():
            found[f"{camera}/events"] = EventPacket
            if reader.triggers:
                found[f"{camera}/triggers"] = Trigger
            found |= {f"{camera}/{name}": kind for name, kind in reader.others.items()}
        return dict(sorted(found.items()))

    def counts(self) -> Mapping[str, int]:
        return dict(sorted((topic, count) for topic, count in self._summary.items() if "/" in topic))

    def event_counts(self) -> Mapping[str, int]:
        """Events by topic."""
        self.counts()
        return self._events

    def span(self) -> Span:
        if "start" not in self._summary:
            raise LogError(f"{self.path}: no event is in it")
        return Span(self._summary["start"], self._summary["end"])

    def topic_spans(self) -> Mapping[str, Span]:
        self.counts()
        return self._spans

    @cached_property
    def _summary(self) -> dict[str, int]:
        """Count by reading once."""
        found: dict[str, int] = {}
        self._events: dict[str, int] = {}
        self._spans: dict[str, Span] = {}
        for topic, message in self.messages():
            found[topic] = found.get(topic, 0) + 1
            found.setdefault("start", message.header.t_sensor_ns)
            found["end"] = t_ns = message.header.t_sensor_ns
            self._spans[topic] = Span(self._spans[topic].start_ns if topic in self._spans else t_ns, t_ns)
            if isinstance(message, EventPacket):
                self._events[topic] = self._events.get(topic, 0) + len(message.t_ns)  # type: ignore[arg-type]
        return found

    def messages(
        self, from_ns: int | None = None, until_ns: int | None = None, topics: Collection[str] | None = None
    ) -> Iterator[tuple[str, Message]]:
        self.skipped.clear()
        streams = [self._camera(name, reader, from_ns) for name, reader in self.cameras.items()]
        merged = streams[0] if len(streams) == 1 else heapq.merge(*streams, key=_order)
        for topic, message in merged:
            t_ns = message.header.t_sensor_ns
            if until_ns is not None and t_ns >= until_ns:
                return
            if (from_ns is None or t_ns >= from_ns) and (topics is None or topic in topics):
                yield topic, message

    def _camera(self, camera: str, reader: EventReader, from_ns: int | None) -> Iterator[tuple[str, Message]]:
        late: list[int] = []
        streams = [packets(reader.pieces(from_ns), late), *(in_order(side, late) for side in reader.sides())]
        before = seq = 0
        for _, piece in heapq.merge(*(_with_messages(camera, stream) for stream in streams), key=lambda item: item[0]):
            topic, message = piece
            if isinstance(message, Events):
                height, width = reader.size
                t_ns = int(message.t_ns[-1])
                yield topic, EventPacket(
                    header=_header(camera, t_ns, seq), height_px=height, width_px=width, t_ns=message.t_ns,
                    x=message.x, y=message.y, polarity=message.polarity, events_before=before,
                )  # fmt: skip
                seq, before = seq + 1, before + len(message)
            else:
                yield topic, message
        self._summarise(camera, reader, late)

    def _summarise(self, camera: str, reader: EventReader, late: list[int]) -> None:
        self.skipped.update(reader.skipped)
        if late:
            self.skipped[LATE] += len(late)
        left_out = [f"{camera}: left out {count} of: {kind}" for kind, count in reader.other_words.items()]
        self.notes += [note for note in (*reader.notes, *left_out) if note not in self.notes]


def _with_messages(
    camera: str, stream: Iterator[Decoded]
) -> Iterator[tuple[tuple[int, str], tuple[str, Message | Events]]]:
    """Yield what came out in the order of (time, topic), with that order."""
    for piece in stream:
        made: list[tuple[str, int, Message | Events]] = [
            (f"{camera}/triggers", int(t), Trigger(header=_header(camera, int(t)), channel=int(c), rising=bool(r)))
            for t, c, r in zip(piece.triggers.t_ns, piece.triggers.channel, piece.triggers.rising, strict=True)
        ]
        made += [(f"{camera}/{name}", message.header.t_sensor_ns, message) for name, message in piece.others]
        if len(piece.events):
            made.append((f"{camera}/events", int(piece.events.t_ns[-1]), piece.events))
        for topic, t_ns, message in sorted(made, key=lambda item: (item[1], item[0])):
            yield (t_ns, topic), (topic, message)


def in_order(pieces: Iterator[Decoded], late: list[int]) -> Iterator[Decoded]:
    """Leave out triggers and messages that are earlier than one before them; their times go to `late`."""
    last_ns = -(1 << 62)
    for piece in pieces:
        edges = _in_order(piece.triggers, last_ns, late)
        others = []
        for name, message in piece.others:
            t_ns = message.header.t_sensor_ns
            if t_ns < last_ns:
                late.append(t_ns)
            else:
                last_ns = t_ns
                others.append((name, message))
        if len(edges):
            last_ns = int(edges.t_ns[-1])
        yield Decoded(triggers=edges, others=tuple(others))


def packets(pieces: Iterator[Decoded], late: list[int]) -> Iterator[Decoded]:
    """Cut a stream at multiples of 10 ms, wherever its pieces were cut; edges that come too late go to `late`."""
    waiting, edges = Events.none(), Triggers.none()
    done_ns = -(1 << 62)
    for piece in chain(pieces, [None]):
        if piece is not None:
            waiting = Events.joined([waiting, piece.events]) if len(waiting) else piece.events
            edges = _in_order(Triggers.joined([edges, piece.triggers]), done_ns, late)
        while len(waiting):
            end_ns = (int(waiting.t_ns[0]) // PACKET_NS + 1) * PACKET_NS
            cut = int(np.searchsorted(waiting.t_ns, end_ns))
            if cut > MAX_PACKET_EVENTS:
                cut, end_ns = MAX_PACKET_EVENTS, int(waiting.t_ns[MAX_PACKET_EVENTS - 1]) + 1
            elif cut == len(waiting) and piece is not None:
                break
            cut_edges = int(np.searchsorted(edges.t_ns, end_ns))
            yield Decoded(waiting[:cut], edges[:cut_edges])
            waiting, edges, done_ns = waiting[cut:], edges[cut_edges:], end_ns
    yield Decoded(triggers=edges)


def _in_order(edges: Triggers, begin_ns: int, late: list[int]) -> Triggers:
    """Leave out edges before `begin_ns` or before an earlier one."""
    highest = np.maximum.accumulate(np.concatenate(([begin_ns], edges.t_ns)))[:-1]
    sound = edges.t_ns >= highest
    if sound.all():
        return edges
    late += edges.t_ns[~sound].tolist()
    return Triggers(edges.t_ns[sound], edges.channel[sound], edges.rising[sound])


def _order(item: tuple[str, Message]) -> tuple[int, str]:
    return item[1].header.t_sensor_ns, item[0]


def _header(camera: str, t_ns: int, seq: int = 0) -> Header:
    return Header(frame_id=f"{camera}_optical", t_sensor_ns=t_ns, clock=camera, seq=seq)


__all__ = ["MAX_PACKET_EVENTS", "PACKET_NS", "SENSOR", "EventFileLog", "in_order", "packets"]
