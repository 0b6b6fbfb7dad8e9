"""Bring messages that arrive a little out of order into the order of their stamps.

A stamp far ahead of those before it is believed only if the next message follows it: one flipped bit costs one message,
and not all that come after it.
"""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Iterable, Iterator

from perception.messages import Message

WINDOW_NS = 500_000_000
LEAP_NS = 10_000_000_000
LATE = "message that came later than half a second after younger ones"
AHEAD = "message whose stamp is far ahead of those around it"


def in_stamp_order(
    messages: Iterable[tuple[str, Message]], skipped: Counter[str], *, window_ns: int = WINDOW_NS
) -> Iterator[tuple[str, Message]]:
    """Yield (topic, message) by stamp, topic and seq; what comes later than the window is left out and counted."""
    waiting: list[tuple[int, str, int, int, Message]] = []
    newest = given = -(2**63)
    for count, (topic, message) in enumerate(_believed(messages, skipped)):
        t_ns = message.header.t_sensor_ns
        if t_ns < given:
            skipped[f"{topic}: {LATE}"] += 1
            continue
        heapq.heappush(waiting, (t_ns, topic, message.header.seq, count, message))
        newest = max(newest, t_ns)
        while waiting and waiting[0][0] < newest - window_ns:
            given, topic, _, _, message = heapq.heappop(waiting)  # noqa: PLW2901 - the one that leaves
            yield topic, message
    while waiting:
        _, topic, _, _, message = heapq.heappop(waiting)
        yield topic, message


def _believed(messages: Iterable[tuple[str, Message]], skipped: Counter[str]) -> Iterator[tuple[str, Message]]:
    """Hold back a message that leaps ahead, and the first of all, until the next one confirms its stamp."""
    newest = -(2**63)
    held: tuple[str, Message] | None = None
    for topic, message in messages:
        t_ns = message.header.t_sensor_ns
        if held is not None:
            held_ns = held[1].header.t_sensor_ns
            if t_ns >= held_ns - LEAP_NS:
                newest = max(newest, held_ns)
                yield held
            else:
                skipped[f"{held[0]}: {AHEAD}"] += 1
            held = None
        if t_ns > newest + LEAP_NS:
            held = topic, message
            continue
        newest = max(newest, t_ns)
        yield topic, message
    if held is not None:
        yield held


def within(
    messages: Iterable[tuple[str, Message]], from_ns: int | None, until_ns: int | None
) -> Iterator[tuple[str, Message]]:
    """Yield those of ordered messages with from_ns <= stamp < until_ns."""
    for topic, message in messages:
        t_ns = message.header.t_sensor_ns
        if until_ns is not None and t_ns >= until_ns:
            return
        if from_ns is None or t_ns >= from_ns:
            yield topic, message


__all__ = ["in_stamp_order", "within"]
