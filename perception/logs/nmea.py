"""NMEA 0183: sentences of satellite receivers and inertial units, gathered into one fix for each instant.

Used are GGA, RMC, VTG, GST, HDT and THS of any talker, and VectorNav's VNIMU; the rest is counted and let pass. A fix
gathers the sentences that bear one time of day; VTG, HDT and THS bear none and belong to the fix that is open, or else
to the next. It is complete when another time begins or nothing has come for `SETTLE_NS`.

Sources: NMEA 0183 version 4.11 (sentences, checksum), VectorNav VN-200 user manual, "IMU Measurements" (VNIMU).
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

DAY_NS, SECOND_NS = 86_400_000_000_000, 1_000_000_000
SETTLE_NS = 20_000_000
LATE_NS = 10 * SECOND_NS
"""A time so little before the last one overtook it on the way; farther back, the receiver's clock was set."""
MAX_SENTENCE = 256
"""The standard allows 82 characters; proprietary sentences and long positions are longer."""
KNOT_MPS = 1852 / 3600
STANDS_MPS = 0.05
"""Below this a course is not needed to know the velocity."""
CHECKSUM, UNREADABLE, UNUSED, PROPRIETARY = (
    "wrong checksum",
    "unreadable",
    "sentences not used",
    "proprietary sentences",
)
LATE, NO_FIX, CLOCK_SET = "late or repeated fixes", "no fix", "times set"
Triple: TypeAlias = tuple[float, float, float]


@dataclass
class Fix:
    """What a receiver says of one instant.

    Attributes:
        of_day_ns: UTC since midnight; a leap second is the first of the next minute.
        arrival_ns: host time at which its first sentence came.
        valid: the receiver has a fix; else no position is given.
        latitude_deg, longitude_deg: WGS-84.
        altitude_m: above the ellipsoid, or above the sea where the receiver gives no separation of the two.
        speed_mps, course_rad: over ground, clockwise from true north.
        heading_rad: of the vehicle, clockwise from true north.
        std_m: east, north, up.
    """

    of_day_ns: int
    arrival_ns: int
    valid: bool = True
    latitude_deg: float | None = None
    longitude_deg: float | None = None
    altitude_m: float | None = None
    speed_mps: float | None = None
    course_rad: float | None = None
    heading_rad: float | None = None
    std_m: Triple | None = None

    def utc_ns(self, near_ns: int) -> int:
        """Return the instant since the Unix epoch, of the day that brings it nearest to `near_ns`."""
        return self.of_day_ns + DAY_NS * round((near_ns - self.of_day_ns) / DAY_NS)

    @property
    def velocity_enu_mps(self) -> Triple | None:
        """East, north and up, which no sentence gives and is 0; None where there is no speed, or no course to it."""
        if self.speed_mps is None or (self.course_rad is None and self.speed_mps >= STANDS_MPS):
            return None
        course = self.course_rad or 0.0
        return self.speed_mps * math.sin(course), self.speed_mps * math.cos(course), 0.0


@dataclass(frozen=True)
class Inertia:
    """One VNIMU sentence, in the unit's own frame."""

    arrival_ns: int
    acceleration_mps2: Triple
    angular_velocity_radps: Triple


Item: TypeAlias = Fix | Inertia


class NmeaDecoder:
    """Takes the bytes of one receiver in the order in which they come.

    Attributes:
        skipped: what was let pass, by reason.
    """

    def __init__(self) -> None:
        self.skipped: Counter[str] = Counter()
        self._rest = b""
        self._open: Fix | None = None
        self._touched_ns = 0
        self._last_of_day_ns: int | None = None
        self._timeless: list[Callable[[Fix], None]] = []

    def feed(self, data: bytes, t_ns: int) -> Iterator[Item]:
        """Take one datagram that arrived at host time `t_ns`: whole sentences, or pieces of a stream of them."""
        yield from self.idle(t_ns)
        lines = (self._rest + data).replace(b"\r", b"\n").split(b"\n")
        self._rest = lines.pop()
        if _is_whole(self._rest):  # some give no end of line
            lines.append(self._rest)
            self._rest = b""
        self._rest = self._rest[-MAX_SENTENCE:]
        for line in lines:
            if line.strip():
                yield from self._sentence(line.strip(), t_ns)

    def idle(self, t_ns: int) -> Iterator[Fix]:
        """Yield the fix that is open where nothing was added to it for a while."""
        if self._open is not None and t_ns - self._touched_ns > SETTLE_NS:
            yield from self.finish()

    def finish(self) -> Iterator[Fix]:
        """Yield the fix that is open."""
        fix, self._open = self._open, None
        if fix is None:
            return
        if fix.valid and fix.latitude_deg is not None:
            yield fix
        else:
            self.skipped[NO_FIX] += 1

    def _sentence(self, line: bytes, t_ns: int) -> Iterator[Item]:
        begin = line.rfind(b"$")  # what stands before belongs to a sentence that lost its end
        body, star, said = line[begin + 1 :].partition(b"*")
        if begin != 0:
            self.skipped[UNREADABLE] += 1
        if begin < 0:
            return
        if not star or len(line) > MAX_SENTENCE:
            self.skipped[UNREADABLE] += 1
            return
        if not _is_checksum(body, said):
            self.skipped[CHECKSUM] += 1
            return
        fields = body.decode("ascii", "replace").split(",")
        try:
            yield from self._known(fields[0], fields[1:], t_ns)
        except (ValueError, IndexError):
            self.skipped[UNREADABLE] += 1

    def _known(self, name: str, fields: Sequence[str], t_ns: int) -> Iterator[Item]:
        if name == "VNIMU":
            values = [_number(field) for field in fields[3:9]]
            yield Inertia(t_ns, (values[0], values[1], values[2]), (values[3], values[4], values[5]))
        elif name.startswith("P") or name.startswith("VN"):
            self.skipped[PROPRIETARY] += 1
        elif name[2:] in _TIMED:
            yield from self._timed(_TIMED[name[2:]](fields), _of_day_ns(fields[0]), t_ns)
        elif name[2:] in _TIMELESS:
            self._add(_TIMELESS[name[2:]](fields), t_ns)
        else:
            self.skipped[UNUSED] += 1

    def _timed(self, add: Callable[[Fix], None], of_day_ns: int | None, t_ns: int) -> Iterator[Fix]:
        if of_day_ns is None:  # a receiver that has seen no satellite yet
            self.skipped[NO_FIX] += 1
            return
        if self._open is None or self._open.of_day_ns != of_day_ns:
            last = self._last_of_day_ns
            if last is not None and (last - of_day_ns) % DAY_NS < LATE_NS:
                self.skipped[LATE] += 1
                return
            if last is not None and (of_day_ns - last) % DAY_NS > DAY_NS // 2:
                self.skipped[CLOCK_SET] += 1
            yield from self.finish()
            self._open, self._last_of_day_ns = Fix(of_day_ns, t_ns), of_day_ns
            for waiting in self._timeless:
                waiting(self._open)
            self._timeless.clear()
        self._add(add, t_ns)

    def _add(self, add: Callable[[Fix], None], t_ns: int) -> None:
        if self._open is None:
            self._timeless = [*self._timeless, add][-4:]
        else:
            add(self._open)
            self._touched_ns = t_ns


def checksum(body: bytes) -> int:
    """Return the exclusive or of all bytes between `$` and `*`."""
    value = 0
    for byte in body:
        value ^= byte
    return value


def _is_checksum(body: bytes, said: bytes) -> bool:
    try:
        return int(said[:2], 16) == checksum(body) and len(said) == 2
    except ValueError:
        return False


def _is_whole(piece: bytes) -> bool:
    return len(piece) > 3 and piece[-3:-2] == b"*" and _is_checksum(piece[piece.rfind(b"$") + 1 : -3], piece[-2:])


def _number(field: str) -> float:
    value = float(field)
    if not math.isfinite(value):
        raise ValueError(f"'{field}' is no number")
    return value


def _optional(field: str) -> float | None:
    return _number(field) if field else None


def _of_day_ns(field: str) -> int | None:
    """Return the nanoseconds since midnight of hhmmss.sss; None where the field is empty."""
    if not field:
        return None
    hours, minutes, seconds = int(field[:2]), int(field[2:4]), _number(field[4:])
    if hours > 23 or minutes > 59 or not 0 <= seconds < 61:
        raise ValueError(f"'{field}' is no time of day")
    return (hours * 3600 + minutes * 60) * SECOND_NS + round(seconds * SECOND_NS)


def _degrees(field: str, side: str, most: float) -> float | None:
    """Return the degrees of dddmm.mmm and a hemisphere; None where they are empty."""
    if not field or not side:
        return None
    whole, minutes = divmod(_number(field), 100.0)
    degrees = whole + minutes / 60.0
    if minutes >= 60 or degrees > most or side not in "NSEW":
        raise ValueError(f"'{field},{side}' is no position")
    return -degrees if side in "SW" else degrees


def _set(**values: object) -> Callable[[Fix], None]:
    """Return what writes those values that are known into a fix."""

    def add(fix: Fix) -> None:
        for name, value in values.items():
            if value is not None:
                setattr(fix, name, value)

    return add


def _gga(fields: Sequence[str]) -> Callable[[Fix], None]:
    altitude, separation = _optional(fields[8]), _optional(fields[10])
    valid = fields[5] not in ("", "0")
    return _set(
        latitude_deg=_degrees(fields[1], fields[2], 90.0), longitude_deg=_degrees(fields[3], fields[4], 180.0),
        altitude_m=None if altitude is None else altitude + (separation or 0.0), valid=None if valid else False,
    )  # fmt: skip


def _rmc(fields: Sequence[str]) -> Callable[[Fix], None]:
    speed, course = _optional(fields[6]), _optional(fields[7])
    return _set(
        latitude_deg=_degrees(fields[2], fields[3], 90.0), longitude_deg=_degrees(fields[4], fields[5], 180.0),
        speed_mps=None if speed is None else speed * KNOT_MPS,
        course_rad=None if course is None else math.radians(course), valid=None if fields[1] == "A" else False,
    )  # fmt: skip


def _gst(fields: Sequence[str]) -> Callable[[Fix], None]:
    north, east, up = _optional(fields[5]), _optional(fields[6]), _optional(fields[7])
    return _set(std_m=None if north is None or east is None or up is None else (east, north, up))


def _vtg(fields: Sequence[str]) -> Callable[[Fix], None]:
    course, knots = _optional(fields[0]), _optional(fields[4])
    return _set(
        speed_mps=None if knots is None else knots * KNOT_MPS,
        course_rad=None if course is None else math.radians(course),
    )


def _hdt(fields: Sequence[str]) -> Callable[[Fix], None]:
    heading = _optional(fields[0])
    invalid = len(fields) > 1 and fields[1] == "V"  # of THS
    return _set(heading_rad=None if heading is None or invalid else math.radians(heading))


_Reader: TypeAlias = Callable[[Sequence[str]], Callable[[Fix], None]]
_TIMED: Mapping[str, _Reader] = {"GGA": _gga, "RMC": _rmc, "GST": _gst}
_TIMELESS: Mapping[str, _Reader] = {"VTG": _vtg, "HDT": _hdt, "THS": _hdt}


__all__ = ["Fix", "Inertia", "NmeaDecoder", "checksum"]
