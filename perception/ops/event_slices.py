"""Cut a stream of events into slices: by time, by count, by whichever comes first, or at another sensor's stamps.

A slice depends on the stream alone, never on how it was packed. Under overload a slice is thinned by a stated rule: of
one with more than `max_events`, every 2nd, 4th, 8th, ... event is kept, the first always, so that at most `max_events`
remain; memory is bounded by that. Every event is accounted for: at any time events in = events out + events dropped,
where an event counts as in once its slice is given out; those of the open slice are told apart.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

import numpy as np

from perception.errors import ShapeError
from perception.ops.events import Events

By: TypeAlias = Literal["time", "count", "adaptive", "stamps"]
THINNED = "thinned under overload"
LOST = "lost before they came here"
LATE = "earlier than an event before them"
CUT_OFF = "of a slice that a reset cut off"
NO_STAMP = "more than may wait for a stamp"


@dataclass(frozen=True)
class SliceRule:
    """How a stream is cut.

    Raises:
        ShapeError: numbers that cut nothing.
    """

    by: By = "time"
    period_ns: int = 10_000_000
    """time: a slice ends at each whole multiple of it; adaptive: the longest slice."""
    count: int = 50_000
    """count and adaptive: events of a slice."""
    min_ns: int = 0
    """count and adaptive: the shortest slice; what comes beyond `count` before it has passed belongs to it as well."""
    max_events: int = 1_000_000
    """Events kept of one slice; the others are dropped by the rule above."""
    max_gap_ns: int = 1_000_000_000
    """time: after a longer silence the slices without events are left out, and the next one says so."""

    def __post_init__(self) -> None:
        if self.period_ns < 1 or self.count < 1 or self.max_events < 2 or self.min_ns < 0 or self.max_gap_ns < 1:
            raise ShapeError(f"{self}: period_ns, count and max_gap_ns from 1, max_events from 2, min_ns from 0")


@dataclass(frozen=True)
class EventSlice:
    """Events with begin <= t < end, and how many of that span were dropped."""

    begin_ns: int
    end_ns: int
    events: Events
    dropped: int = 0
    after_gap: bool = False
    """Whether silence, or a loss of the stream, parts it from the slice before."""


@dataclass
class EventAccount:
    """What became of the events whose fate is decided, and how many wait in the open slice."""

    received: int = 0
    given: int = 0
    dropped: Counter[str] = field(default_factory=Counter)
    waiting: int = 0

    @property
    def balanced(self) -> bool:
        """Whether events in = events out + events dropped."""
        return self.received == self.given + sum(self.dropped.values())

    def drop(self, reason: str, count: int) -> None:
        """Count events that came in, or should have, and are dropped."""
        self.received += count
        self.dropped[reason] += count

    def line(self) -> str:
        """Return the account as a line for the status."""
        reasons = ", ".join(f"{count} {reason}" for reason, count in self.dropped.items() if count)
        dropped = f"{sum(self.dropped.values())} dropped" + (f" ({reasons})" if reasons else "")
        return f"events: {self.received} in = {self.given} out + {dropped}; {self.waiting} wait in the open slice"


class _Open:
    """The slice that is being filled, thinned as it grows."""

    def __init__(self, max_events: int) -> None:
        self._most = max_events
        self._kept: list[Events] = []
        self._length, self._stride = 0, 1
        self.seen = 0

    def add(self, events: Events) -> None:
        """Take the next events."""
        first = -self.seen % self._stride
        self.seen += len(events)
        chosen = events[first :: self._stride]
        if not len(chosen):
            return
        self._kept.append(chosen)
        self._length += len(chosen)
        while self._length > self._most:
            self._kept = [Events.joined(self._kept)[::2]]
            self._length, self._stride = len(self._kept[0]), self._stride * 2

    def take(self) -> tuple[Events, int]:
        """Return what was kept and how many were dropped, and begin anew."""
        events = self._kept[0] if len(self._kept) == 1 else Events.joined(self._kept)
        dropped = self.seen - len(events)
        self._kept, self._length, self._stride, self.seen = [], 0, 1, 0
        return events, dropped


class EventSlicer:
    """Cuts one stream; see the module's text."""

    def __init__(self, rule: SliceRule) -> None:
        self.rule = rule
        self.account = EventAccount()
        self._open = _Open(rule.max_events)
        self._begin_ns: int | None = None
        self._last_ns = -(1 << 62)
        self._lost = 0
        self._gap = False

    def add(self, events: Events, lost: int = 0) -> list[EventSlice]:
        """Take the next events of the stream; `lost` were lost just before them. Returns the slices that ended."""
        slices = list(self._cut(self._sound(events, lost)))
        self.account.waiting = self._open.seen
        return slices

    def advance(self, t_ns: int) -> list[EventSlice]:
        """Take the promise that no event before `t_ns` comes any more; returns the slices that ended by it."""
        slices = list(self._ended_by(t_ns))
        self._last_ns = max(self._last_ns, t_ns)
        self.account.waiting = self._open.seen
        return slices

    def finish(self) -> list[EventSlice]:
        """Give out the open slice, which ends with its last event."""
        slices = [self._close(self._last_ns + 1)] if self._open.seen else []
        self.account.waiting = 0
        return slices

    def reset(self) -> None:
        """Begin anew after a seek or a jump of the clock; the events of the open slice are dropped."""
        if self._open.seen:
            self.account.drop(CUT_OFF, self._open.seen)
        self._open.take()
        self._begin_ns, self._last_ns, self._gap = None, -(1 << 62), True
        self.account.waiting = 0

    def _sound(self, events: Events, lost: int) -> Events:
        """Count what was lost, and leave out events that are earlier than one before them."""
        if lost:
            self.account.drop(LOST, lost)
        highest = np.maximum.accumulate(np.concatenate(([self._last_ns], events.t_ns)))[:-1]
        ordered = events.t_ns >= highest
        late = int((~ordered).sum())
        if late:
            self.account.drop(LATE, late)
            events = events[ordered]
        self._lost += lost + late
        if len(events):
            self._last_ns = int(events.t_ns[-1])
        return events

    def _cut(self, events: Events) -> Iterator[EventSlice]:
        while len(events):
            first_ns = int(events.t_ns[0])
            yield from self._ended_by(first_ns)
            if self._begin_ns is None:
                self._begin(first_ns)
            place, end_ns = self._next_cut(events)
            self._open.add(events[:place])
            events = events[place:]
            if end_ns is not None:
                yield self._close(end_ns)

    def _begin(self, first_ns: int) -> None:
        self._begin_ns = first_ns // self.rule.period_ns * self.rule.period_ns if self.rule.by == "time" else first_ns

    def _next_cut(self, events: Events) -> tuple[int, int | None]:
        """Return how many events still belong to the open slice, and where it ends if it does by count."""
        assert self._begin_ns is not None
        limit_ns = self._limit_ns()
        by_time = len(events) if limit_ns is None else int(np.searchsorted(events.t_ns, limit_ns))
        if self.rule.by == "time":
            return by_time, None
        # The slice ends with the first event that makes it large enough and long enough.
        large = self.rule.count - self._open.seen - 1
        long = int(np.searchsorted(events.t_ns, self._begin_ns + self.rule.min_ns))
        by_count = max(large, long, 0) + 1
        if by_count <= min(by_time, len(events)):
            return by_count, int(events.t_ns[by_count - 1]) + 1
        return by_time, None

    def _limit_ns(self) -> int | None:
        """Return the instant at which the open slice ends by time, if it is known."""
        if self._begin_ns is None:
            return None
        return None if self.rule.by == "count" else self._begin_ns + self.rule.period_ns

    def _ended_by(self, t_ns: int) -> Iterator[EventSlice]:
        """Give out slices whose end in time has passed."""
        while (limit_ns := self._limit_ns()) is not None and limit_ns <= t_ns:
            if self.rule.by == "adaptive" and not self._open.seen:
                self._begin_ns = None
                return
            if self.rule.by == "time" and not self._open.seen and t_ns - limit_ns > self.rule.max_gap_ns:
                self._begin(t_ns)
                self._gap = True
                return
            yield self._close(limit_ns)

    def _close(self, end_ns: int) -> EventSlice:
        assert self._begin_ns is not None
        piece = self._given(self._begin_ns, end_ns, *self._open.take())
        self._begin_ns = end_ns if self.rule.by == "time" else None
        return piece

    def _given(self, begin_ns: int, end_ns: int, events: Events, thinned: int) -> EventSlice:
        """Account for a slice and make it."""
        self.account.received += len(events) + thinned
        self.account.given += len(events)
        if thinned:
            self.account.dropped[THINNED] += thinned
        piece = EventSlice(begin_ns, end_ns, events, thinned + self._lost, self._gap)
        self._lost, self._gap = 0, False
        return piece


class StampSlicer(EventSlicer):
    """Cuts at the stamps of another sensor, which may come before or after the events around them.

    A slice holds the events from one stamp to the next; the first begins with the stream. Events wait for the stamp
    that ends their slice; of those that wait, at most twice `max_events` are kept, and later ones are dropped.
    """

    def __init__(self, rule: SliceRule) -> None:
        super().__init__(rule)
        self._stamps: deque[int] = deque()
        self._waiting = Events.none()

    def add(self, events: Events, lost: int = 0) -> list[EventSlice]:
        sound = self._sound(events, lost)
        if self._begin_ns is None and len(sound):
            self._begin_ns = int(sound.t_ns[0])
        slices: list[EventSlice] = []
        while len(sound):
            cut = int(np.searchsorted(sound.t_ns, self._stamps[0])) if self._stamps else len(sound)
            self._wait(sound[:cut])
            sound = sound[cut:]
            slices += self._ended(int(sound.t_ns[0]) if len(sound) else self._last_ns)
        self.account.waiting = len(self._waiting)
        return slices

    def _wait(self, events: Events) -> None:
        room = 2 * self.rule.max_events - len(self._waiting)
        if len(events) > room:
            self.account.drop(NO_STAMP, len(events) - room)
            self._lost += len(events) - room
        self._waiting = Events.joined([self._waiting, events[:room]])

    def stamp(self, t_ns: int) -> list[EventSlice]:
        """Take a stamp of the other sensor; one that is not later than those before it is passed over."""
        if t_ns > max(self._stamps, default=-(1 << 62)) and (self._begin_ns is None or t_ns > self._begin_ns):
            self._stamps.append(t_ns)
        return self.advance(self._last_ns)

    def advance(self, t_ns: int) -> list[EventSlice]:
        slices = self._ended(t_ns)
        self._last_ns = max(self._last_ns, t_ns)
        self.account.waiting = len(self._waiting)
        return slices

    def _ended(self, t_ns: int) -> list[EventSlice]:
        slices = []
        while self._stamps and self._stamps[0] <= t_ns:
            end_ns = self._stamps.popleft()
            cut = int(np.searchsorted(self._waiting.t_ns, end_ns))
            if self._begin_ns is not None:
                slices.append(self._thinned(self._waiting[:cut], self._begin_ns, end_ns))
            self._waiting, self._begin_ns = self._waiting[cut:], end_ns
        return slices

    def _thinned(self, events: Events, begin_ns: int, end_ns: int) -> EventSlice:
        self._open.add(events)
        return self._given(begin_ns, end_ns, *self._open.take())

    def finish(self) -> list[EventSlice]:
        slices = []
        if len(self._waiting) and self._begin_ns is not None:
            slices.append(self._thinned(self._waiting, self._begin_ns, self._last_ns + 1))
        self._waiting, self.account.waiting = Events.none(), 0
        return slices

    def reset(self) -> None:
        self._open.add(self._waiting)
        self._waiting = Events.none()
        self._stamps.clear()
        super().reset()


def slicer_of(rule: SliceRule) -> EventSlicer:
    """Return the slicer of a rule."""
    return StampSlicer(rule) if rule.by == "stamps" else EventSlicer(rule)


__all__ = [
    "LATE",
    "LOST",
    "NO_STAMP",
    "THINNED",
    "By",
    "EventAccount",
    "EventSlice",
    "EventSlicer",
    "SliceRule",
    "StampSlicer",
    "slicer_of",
]
