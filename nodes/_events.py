"""What nodes on events share: packets as events with what was lost between them, and the settings of slices."""

from __future__ import annotations

from typing import Annotated

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from perception.errors import ShapeError
from perception.messages import EventPacket, host
from perception.ops.event_slices import LOST, By, EventAccount, EventSlice, SliceRule
from perception.ops.events import Events


class SliceConfig(BaseModel):
    """How a stream of events is cut."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    by: By = "time"
    """time: at whole multiples of `period_ms`; count: every `count` events; adaptive: whichever comes first; stamps: at
    the stamps of the input `stamps`."""
    period_ms: Annotated[float, Field(gt=0)] = 10.0
    """time: length of a slice; adaptive: the longest one."""
    count: Annotated[int, Field(ge=1)] = 50_000
    """count and adaptive: events of a slice."""
    min_ms: Annotated[float, Field(ge=0)] = 0.0
    """count and adaptive: the shortest slice."""
    max_events: Annotated[int, Field(ge=2)] = 1_000_000
    """Of a slice with more, every 2nd, 4th, 8th, ... event is kept, the first always, and the others are counted."""
    max_gap_ms: Annotated[float, Field(gt=0)] = 1000.0
    """time: after a longer silence the empty slices are left out."""

    def rule(self) -> SliceRule:
        """Return the rule in nanoseconds."""
        return SliceRule(
            by=self.by, period_ns=max(1, round(self.period_ms * 1e6)), count=self.count,
            min_ns=round(self.min_ms * 1e6), max_events=self.max_events, max_gap_ns=round(self.max_gap_ms * 1e6),
        )  # fmt: skip


def events_of(packet: EventPacket) -> Events:
    """Return a packet's events, views of it.

    Raises:
        ShapeError: an event outside the sensor, or a size that no sensor has.
    """
    if packet.height_px < 1 or packet.width_px < 1:
        raise ShapeError(f"events of a sensor with {packet.width_px} x {packet.height_px} pixels")
    events = Events(host(packet.t_ns), host(packet.x), host(packet.y), host(packet.polarity))
    events.check_fits(packet.height_px, packet.width_px)
    return events


class PacketGaps:
    """Tells how many events of a stream were lost between its packets, or left out by who made them."""

    def __init__(self) -> None:
        self._expected: int | None = None

    def lost_before(self, packet: EventPacket) -> int:
        """Return how many events of the stream are missing since the packet before; it counts as taken."""
        lost = packet.dropped
        if packet.events_before is not None:
            if self._expected is not None and packet.events_before > self._expected:
                lost += packet.events_before - self._expected
            self._expected = packet.events_before + len(host(packet.t_ns)) + packet.dropped
        return lost

    def reset(self) -> None:
        """Forget the stream, after a seek or a restart."""
        self._expected = None


class PacketSlices:
    """Takes each packet as a slice: for readers of an `event_slicer`, which has cut the stream already."""

    def __init__(self) -> None:
        self.account = EventAccount()
        self._end_ns: int | None = None

    def add(self, events: Events, lost: int, stamp_ns: int) -> list[EventSlice]:
        """Return the packet's slice, from the end of the one before to its stamp."""
        begin_ns = int(events.t_ns[0]) if self._end_ns is None and len(events) else self._end_ns or stamp_ns
        self._end_ns = max(stamp_ns, begin_ns)
        self.account.received += len(events)
        self.account.given += len(events)
        if lost:
            self.account.drop(LOST, lost)
        return [EventSlice(begin_ns, self._end_ns, events, lost)]

    def reset(self) -> None:
        """Begin anew after a seek or a jump of the clock."""
        self._end_ns = None


def kept(events: Events) -> Events:
    """Return a copy that stays valid after the message is gone."""
    return Events(np.array(events.t_ns), np.array(events.x), np.array(events.y), np.array(events.polarity))


__all__ = ["PacketGaps", "PacketSlices", "SliceConfig", "events_of", "kept"]
