"""Messages kept by stamp: what joins and lookups search."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Callable

from perception.geometry.transforms import Transform
from perception.messages import Message, Odometry
from perception.messages.message import Header

BEFORE_ALL = -(2**63)
AFTER_ALL = 2**63 - 1
ALL = slice(None)


class History:
    """Messages of one topic in the order of their stamps, and the bound below which none comes any more."""

    def __init__(self) -> None:
        self._stamps: list[int] = []
        self._messages: list[Message] = []
        self.bound_ns = BEFORE_ALL

    def __len__(self) -> int:
        return len(self._stamps)

    def add(self, t_ns: int, message: Message) -> None:
        at = bisect_right(self._stamps, t_ns)
        self._stamps.insert(at, t_ns)
        self._messages.insert(at, message)

    def nearest(self, t_ns: int) -> tuple[int, Message] | None:
        """Return (stamp, message) with the stamp nearest to `t_ns`; of two equally near the earlier."""
        at = bisect_left(self._stamps, t_ns)
        around = [index for index in (at - 1, at) if 0 <= index < len(self._stamps)]
        best = min(around, key=lambda index: (abs(self._stamps[index] - t_ns), index), default=None)
        return None if best is None else (self._stamps[best], self._messages[best])

    def last_before(self, t_ns: int) -> int:
        """Return the last stamp at or before `t_ns`, or `BEFORE_ALL`."""
        at = bisect_right(self._stamps, t_ns) - 1
        return self._stamps[at] if at >= 0 else BEFORE_ALL

    def around(self, t_ns: int, within: slice = ALL) -> tuple[Message | None, Message | None]:
        """Return the last message at or before `t_ns` and the first at or after it, of those within a slice."""
        start, stop, _ = within.indices(len(self._stamps))
        before, after = bisect_right(self._stamps, t_ns, start, stop) - 1, bisect_left(self._stamps, t_ns, start, stop)
        return (
            self._messages[before] if before >= start else None,
            self._messages[after] if after < stop else None,
        )

    def answers(self, t_ns: int, reach_ns: int) -> bool:
        """True where what is known of `t_ns` will not change: a message at or after it is there, or none will come.

        One that would come later than `reach_ns` after it is not waited for. A bound that equals `t_ns` is no answer:
        a message of that very stamp may follow.
        """
        return self.newest_ns() >= t_ns or self.bound_ns > min(t_ns + reach_ns, AFTER_ALL - 1)

    def window(self, t_ns: int, history_ns: int, reach_ns: int) -> slice:
        """Return the messages that a call at `t_ns` may see, which its stamp alone decides.

        From the last that is at least `history_ns` old to the first at or after the stamp, if that is within the reach.
        """
        stop = bisect_left(self._stamps, t_ns)
        if stop < len(self._stamps) and self._stamps[stop] <= t_ns + reach_ns:
            stop += 1
        return slice(self._last_place(t_ns - history_ns), stop)

    def forget_older(self, t_ns: int) -> None:
        """Drop what no window that begins at `t_ns` or later sees."""
        at = self._last_place(t_ns)
        del self._stamps[:at], self._messages[:at]

    def _last_place(self, t_ns: int) -> int:
        return max(0, bisect_right(self._stamps, t_ns) - 1)

    def forget_before(self, t_ns: int) -> list[int]:
        """Drop what is older and return its stamps."""
        at = bisect_left(self._stamps, t_ns)
        gone = self._stamps[:at]
        del self._stamps[:at], self._messages[:at]
        return gone

    def newest_ns(self) -> int:
        return self._stamps[-1] if self._stamps else BEFORE_ALL

    def total_bytes(self, size_of: Callable[[Message], int]) -> int:
        return sum(map(size_of, self._messages))

    def clear(self) -> None:
        self._stamps.clear()
        self._messages.clear()


class LookupHandle:
    """What stands on the node in place of the declared `Lookup`.

    Args:
        history: its messages.
        history_ns: how far back a call looks.
        reach_ns: how far after a call's stamp the message may lie that is waited for.
    """

    def __init__(self, history: History, history_ns: int, reach_ns: int) -> None:
        self._history, self._history_ns, self._reach_ns = history, history_ns, reach_ns
        self._call_ns: int | None = None

    def answers(self, t_ns: int) -> bool:
        """True where a call at this stamp may run."""
        return self._history.answers(t_ns, self._reach_ns)

    def call_at(self, t_ns: int) -> None:
        """In lockstep: show the coming call what its stamp decides, however much more has arrived, and forget."""
        self._call_ns = t_ns
        self._history.forget_older(t_ns - self._history_ns)

    def at(self, t_ns: int) -> Message | None:
        """Return the message interpolated to `t_ns`: between two Odometry messages, else the one exactly there.

        None where there is nothing on both sides. Types other than Odometry give the last one at or before `t_ns`.
        """
        seen = ALL
        if self._call_ns is not None:
            seen = self._history.window(self._call_ns, self._history_ns, self._reach_ns)
        before, after = self._history.around(t_ns, seen)
        if before is None:
            return None
        if not isinstance(before, Odometry):
            return before
        if before.header.t_sensor_ns == t_ns:
            return before
        if not isinstance(after, Odometry):
            return None
        return interpolated_odometry(before, after, t_ns)


def interpolated_odometry(before: Odometry, after: Odometry, t_ns: int) -> Odometry:
    """Return the pose between two: straight line, slerp, and velocities in proportion."""
    start, end = before.header.t_sensor_ns, after.header.t_sensor_ns
    part = (t_ns - start) / (end - start)
    pose = Transform.from_quaternion(before.translation_m, before.rotation_xyzw).interpolated(
        Transform.from_quaternion(after.translation_m, after.rotation_xyzw), part
    )
    header = before.header
    x, y, z = map(float, pose.translation_m)
    qx, qy, qz, qw = map(float, pose.rotation_xyzw)
    return Odometry(
        header=Header(
            frame_id=header.frame_id, t_sensor_ns=t_ns, clock=header.clock, schema=header.schema,
            degraded=tuple(dict.fromkeys((*header.degraded, *after.header.degraded))),
        ),
        translation_m=(x, y, z),
        rotation_xyzw=(qx, qy, qz, qw),
        velocity_mps=_between(before.velocity_mps, after.velocity_mps, part),
        angular_velocity_radps=_between(before.angular_velocity_radps, after.angular_velocity_radps, part),
        covariance=before.covariance,
    )  # fmt: skip


Triple = tuple[float, float, float]


def _between(a: Triple, b: Triple, part: float) -> Triple:
    x, y, z = (start + part * (end - start) for start, end in zip(a, b, strict=True))
    return x, y, z


__all__ = ["AFTER_ALL", "BEFORE_ALL", "History", "LookupHandle", "interpolated_odometry"]
