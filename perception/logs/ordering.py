"""Bring messages that arrive out of order into the order of their stamps.

What a network says of an instant is recorded long after the sensors' messages of that instant: a second and more on a
small machine. So messages are held back until others are ten seconds younger, or half a second where so many bytes come
between that memory would run short.

A stamp far ahead of those before it is believed only if the next message follows it: one flipped bit costs one message,
and not all that come after it.
"""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Iterable, Iterator

from perception.messages import Message, array_bytes

LONGEST_NS, SHORTEST_NS = 10_000_000_000, 500_000_000
MAX_HELD_BYTES = 128 << 20
"""Of arrays; beyond them a message waits for the shortest time alone."""
LEAP_NS = 10_000_000_000
LATE = "message that came long after younger ones"
AHEAD = "message whose stamp is far ahead of those around it"


def in_stamp_order(
    messages: Iterable[tuple[str, Message]], skipped: Counter[str], *, max_held_bytes: int = MAX_HELD_BYTES
) -> Iterator[tuple[str, Message]]:
    """Yield (topic, message) by stamp, topic and seq; what comes after younger ones left is left out and counted."""
    waiting: list[tuple[int, str, int, int, Message]] = []
    newest = given = -(2**63)
    held = 0
    for count, (topic, message) in enumerate(_believed(messages, skipped)):
        t_ns = message.header.t_sensor_ns
        if t_ns < max(given, newest - LONGEST_NS):
            skipped[f"{topic}: {LATE}"] += 1
            continue
        heapq.heappush(waiting, (t_ns, topic, message.header.seq, count, message))
        newest, held = max(newest, t_ns), held + array_bytes(message)
        while waiting and waiting[0][0] < newest - (SHORTEST_NS if held > max_held_bytes else LONGEST_NS):
            given, topic, _, _, message = heapq.heappop(waiting)  # noqa: PLW2901 - the one that leaves
            held -= array_bytes(message)
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
