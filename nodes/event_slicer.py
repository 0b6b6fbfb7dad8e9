"""Cut the stream of an event camera into slices, thinned where there are too many events.

in:  events, packets of one camera, of any length.
     stamps, messages of another sensor at whose stamps slices end; only with `slice: {by: stamps}`.
out: slices, one packet per slice; its stamp is the slice's end, `dropped` what is missing in it.
     The status holds the account: events in = events out + events dropped.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Self

from perception.errors import UserError
from perception.messages import EventPacket, Header, Message, derived
from perception.nodes._events import PacketGaps, SliceConfig, events_of, kept
from perception.ops.event_slices import EventSlice, StampSlicer, slicer_of
from perception.runtime.node import Node, NodeConfig, NodeSetup, On, Out


class EventSlicerConfig(NodeConfig):
    """Settings of the slicer."""

    slice: SliceConfig = SliceConfig()
    """How the stream is cut."""


class EventSlicer(Node):
    """One camera."""

    Config = EventSlicerConfig

    events = On[EventPacket](keep="all", bound=200)
    stamps = On[Message](keep="all", bound=100, optional=True)
    slices = Out[EventPacket]()

    @classmethod
    def create(cls, config: EventSlicerConfig, setup: NodeSetup) -> Self:
        by_stamps, has_stamps = config.slice.by == "stamps", bool(setup.inputs.get("stamps"))
        if by_stamps != has_stamps:
            raise UserError(
                "slice: {by: stamps} and the input 'stamps' belong together; "
                + ("name the topic whose stamps cut" if by_stamps else f"it is cut by {config.slice.by} here")
            )
        return cls(config)

    def __init__(self, config: EventSlicerConfig) -> None:
        super().__init__(config)
        self._slicer = slicer_of(config.slice.rule())
        self._gaps = PacketGaps()
        self._before = 0
        self._source: tuple[Header, int, int] | None = None
        """Header of the newest packet, rows and columns."""
        self._tell()

    def on_events(self, packet: EventPacket) -> Iterator[tuple[str, Message]]:
        events = kept(events_of(packet))
        self._source = (packet.header, packet.height_px, packet.width_px)
        yield from self._given(self._slicer.add(events, self._gaps.lost_before(packet)))

    def on_stamps(self, message: Message) -> Iterator[tuple[str, Message]]:
        assert isinstance(self._slicer, StampSlicer)
        yield from self._given(self._slicer.stamp(message.header.t_sensor_ns))

    def finish(self) -> Iterator[tuple[str, Message]]:
        yield from self._given(self._slicer.finish())

    def reset(self, reason: str) -> None:
        del reason
        self._slicer.reset()
        self._gaps.reset()
        self._tell()

    def _given(self, slices: list[EventSlice]) -> Iterator[tuple[str, Message]]:
        self._tell()
        for piece in slices:
            assert self._source is not None  # a slice has begun with a packet
            header, height, width = self._source
            events = kept(piece.events)  # its own memory: what waits is cut further
            yield "slices", EventPacket(
                header=derived(header, t_sensor_ns=piece.end_ns), height_px=height, width_px=width,
                t_ns=events.t_ns, x=events.x, y=events.y, polarity=events.polarity,
                dropped=piece.dropped, events_before=self._before,
            )  # fmt: skip
            self._before += len(events) + piece.dropped

    def _tell(self) -> None:
        self.notes = (self._slicer.account.line(),)
