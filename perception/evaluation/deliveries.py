"""Which output speaks for which true instant: offline the one of that instant, streaming the newest that was there.

Source of streaming accuracy: Li, Wang & Ramanan, "Towards Streaming Perception", ECCV 2020.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from perception.messages import Message

TOLERANCE_NS = 50_000_000
"""How far an output's stamp may be from the truth's to speak of the same instant."""


@dataclass(frozen=True, eq=False)
class Delivered:
    """An output, and when it was there: the sensor time of its instant plus what it took."""

    message: Message
    available_ns: int

    @property
    def t_ns(self) -> int:
        """The instant that it speaks of."""
        return self.message.header.t_sensor_ns


@dataclass(frozen=True, eq=False)
class Pair:
    """The truth of an instant, and the output that speaks for it, if any."""

    truth: Message
    output: Message | None


def offline(truth: Sequence[Message], outputs: Sequence[Delivered], tolerance_ns: int = TOLERANCE_NS) -> list[Pair]:
    """Pair each output's instant with the nearest truth.

    True instants without an output are left out where the output is slower than the truth: nothing was asked of it.

    Returns:
        One pair per output that has a truth within the tolerance, and one without an output for each true instant in
        between whose output failed: those that lie as far from both neighbours as the outputs' usual period or more.
    """
    stamps = [message.header.t_sensor_ns for message in truth]
    by_place: dict[int, Message] = {}
    for output in outputs:
        place = _nearest(stamps, output.t_ns)
        if place is not None and abs(stamps[place] - output.t_ns) <= tolerance_ns:
            by_place[place] = output.message
    answered = sorted(by_place)
    pairs = [Pair(truth[place], by_place[place]) for place in answered]
    if len(answered) > 1:
        steps = sorted(after - before for before, after in pairwise(answered))
        usual = max(1, steps[len(steps) // 2])
        for before, after in pairwise(answered):
            pairs += [Pair(truth[place], None) for place in range(before + usual, after - usual + 1, usual)]
    return sorted(pairs, key=lambda pair: pair.truth.header.t_sensor_ns)


def streaming(truth: Sequence[Message], outputs: Sequence[Delivered]) -> list[Pair]:
    """Pair every true instant, from the first output on, with the newest output that was available then."""
    ordered = sorted(outputs, key=lambda output: (output.available_ns, output.t_ns))
    times = [output.available_ns for output in ordered]
    newest: list[Delivered] = []
    for output in ordered:
        newest.append(output if not newest or output.t_ns >= newest[-1].t_ns else newest[-1])
    pairs = []
    for message in truth:
        count = bisect_right(times, message.header.t_sensor_ns)
        if count:
            pairs.append(Pair(message, newest[count - 1].message))
        elif outputs and message.header.t_sensor_ns >= min(output.t_ns for output in outputs):
            pairs.append(Pair(message, None))  # the first output was still under way
    return pairs


def _nearest(stamps: Sequence[int], t_ns: int) -> int | None:
    if not stamps:
        return None
    right = bisect_left(stamps, t_ns)
    candidates = [place for place in (right - 1, right) if 0 <= place < len(stamps)]
    return min(candidates, key=lambda place: abs(stamps[place] - t_ns))


__all__ = ["TOLERANCE_NS", "Delivered", "Pair", "offline", "streaming"]
