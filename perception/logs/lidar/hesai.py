"""Decode Hesai's data packets: Pandar40P and PandarXT (16 and 32 beams), one or two returns.

Sources: Hesai Pandar40P User Manual (section "Point Cloud Data Packet") and PandarXT User Manual; beam angles from the
vendor's correction files, of which a sensor's own replaces the default. Points stand in the vendor's frame, as its own
driver gives them: x to the right, y ahead of the cable's opposite side, z up.
"""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from perception.errors import UserError
from perception.logs.lidar.sweep import WRONG_CONTENT, WRONG_SIZE, Points, Turn

MIN_RANGE_M = 0.1
_DUAL = (0x39, 0x3B, 0x3C)


@dataclass(frozen=True, eq=False)
class Layout:
    """Where things lie in a packet.

    Attributes:
        size: bytes of the payload.
        header: bytes before the first block.
        blocks: how many, each an azimuth and a return per beam.
        flag: bytes before the azimuth of a block.
        unit_bytes: of one return: distance u16, reflectivity u8, and what else there is.
        unit_m: of a distance.
        cycle_us: from one block's shot to the next.
        mode, t_us, date: where the return mode, the microseconds and the six bytes of UTC lie, from the end.
    """

    name: str
    size: int
    header: int
    blocks: int
    beams: int
    flag: int
    unit_bytes: int
    unit_m: float
    cycle_us: float
    mode: int
    t_us: int
    date: int

    @property
    def block_bytes(self) -> int:
        """Bytes of one block."""
        return self.flag + 2 + self.beams * self.unit_bytes


PANDAR40P = Layout("Pandar40P", 1262, 0, 10, 40, 2, 3, 0.004, 55.56, 8, 12, 6)
PANDAR_XT32 = Layout("PandarXT-32", 1080, 12, 8, 32, 0, 4, 0.004, 50.0, 18, 10, 16)
PANDAR_XT16 = Layout("PandarXT-16", 568, 12, 8, 16, 0, 4, 0.004, 50.0, 18, 10, 16)
LAYOUTS = (PANDAR40P, PANDAR_XT32, PANDAR_XT16)

DEFAULT_ELEVATION_DEG = {
    "PandarXT-32": tuple(float(15 - beam) for beam in range(32)),
    "PandarXT-16": tuple(float(15 - 2 * beam) for beam in range(16)),
}


@dataclass(frozen=True, eq=False)
class BeamAngles:
    """Elevation and azimuth of every beam, degrees, in the order of the packet."""

    elevation_deg: NDArray[np.float64]
    azimuth_deg: NDArray[np.float64]


def read_angles(path: Path) -> BeamAngles:
    """Read the vendor's correction file: rows of laser, elevation, azimuth.

    Raises:
        UserError: it cannot be read or holds something else.
    """
    try:
        rows = [row for row in csv.reader(path.read_text().splitlines()) if row and row[0].strip().isdigit()]
        numbers = np.array([[float(cell) for cell in row[:3]] for row in rows])
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from None
    except (ValueError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: expected rows of laser,elevation,azimuth: {error}") from None
    if numbers.ndim != 2 or numbers.shape[1] != 3:
        raise UserError(f"{path}: expected rows of laser,elevation,azimuth")
    return BeamAngles(numbers[:, 1], numbers[:, 2])


def layout_of(packet: bytes) -> Layout | None:
    """Return the layout of a UDP payload, None where it is none of Hesai's known ones."""
    for layout in LAYOUTS:
        if len(packet) == layout.size:
            begins = b"\xff\xee" if layout.flag else b"\xee\xff"
            return layout if packet[:2] == begins else None
    return None


class HesaiDecoder:
    """Assembles full turns.

    Args:
        angles: of this sensor; None takes the model's defaults, which Pandar40P has none of.
        sensor_time: stamps come from the packets (UTC), as is right for a sensor disciplined by GPS or PTP.
    """

    intensity_scale = 255.0

    def __init__(self, angles: BeamAngles | None = None, *, sensor_time: bool = False) -> None:
        self.name = "Hesai"
        self.skipped: Counter[str] = Counter()
        self._angles = angles
        self._sensor_time = sensor_time
        self._layout: Layout | None = None
        self._parts: list[Points] = []
        self._turn = Turn()

    def feed(self, packet: bytes, t_ns: int) -> Iterator[Points]:
        points = self.points(packet, t_ns)
        if points is None:
            return
        assert self._layout is not None
        self._parts.append(points)
        place = self._layout.header + self._layout.flag
        if self._turn.passed(int.from_bytes(packet[place : place + 2], "little")):
            yield from self.finish()

    def points(self, packet: bytes, t_ns: int) -> Points | None:
        layout = layout_of(packet)
        if layout is None or (self._layout is not None and layout is not self._layout):
            self.skipped[WRONG_SIZE] += 1
            return None
        self._layout, self.name = layout, f"Hesai {layout.name}"
        rows = np.frombuffer(packet, np.uint8)[layout.header : layout.header + layout.blocks * layout.block_bytes]
        blocks = rows.reshape(layout.blocks, layout.block_bytes)
        azimuth = np.ascontiguousarray(blocks[:, layout.flag : layout.flag + 2]).view("<u2")[:, 0]
        if (azimuth >= 36000).any():
            self.skipped[WRONG_CONTENT] += 1
            return None
        return self._points(layout, blocks, azimuth, packet, t_ns)

    def finish(self) -> Iterator[Points]:
        parts, self._parts = self._parts, []
        sweep = Points.joined(parts)
        if len(sweep):
            yield sweep

    def _points(
        self, layout: Layout, blocks: NDArray[np.uint8], azimuth: NDArray[np.uint16], packet: bytes, t_ns: int
    ) -> Points:
        angles = self._angles or _default_angles(layout)
        units = blocks[:, layout.flag + 2 :].reshape(layout.blocks, layout.beams, layout.unit_bytes)
        counts = np.ascontiguousarray(units[:, :, :2]).view("<u2")[..., 0]
        dual = packet[-layout.mode] in _DUAL
        distance = counts * layout.unit_m
        seen = distance >= MIN_RANGE_M
        if dual:
            seen[1::2] &= counts[1::2] != counts[::2]
        turn = np.radians(azimuth[:, None] / 100.0 + angles.azimuth_deg[None])
        elevation = np.radians(angles.elevation_deg)[None]
        flat = distance * np.cos(elevation)
        xyz = np.stack((flat * np.sin(turn), flat * np.cos(turn), distance * np.sin(elevation)), axis=-1)
        shots = np.arange(layout.blocks) // (2 if dual else 1)
        last_ns = self._last_ns(layout, packet, t_ns)
        t = last_ns - np.round((shots[-1] - shots) * layout.cycle_us * 1000).astype(np.int64)
        ring = np.argsort(np.argsort(angles.elevation_deg))
        return Points(
            xyz[seen].astype(np.float32),
            units[:, :, 2][seen].astype(np.float32),
            np.broadcast_to(ring, seen.shape)[seen].astype(np.uint16),
            np.broadcast_to(t[:, None], seen.shape)[seen],
        )

    def _last_ns(self, layout: Layout, packet: bytes, t_ns: int) -> int:
        if not self._sensor_time:
            return t_ns
        year, month, day, hour, minute, second = packet[len(packet) - layout.date :][:6]
        try:
            whole = datetime(2000 + year % 100, month, day, hour, minute, second, tzinfo=UTC)
        except ValueError:
            self.skipped["packet without a date: stamped by arrival"] += 1
            return t_ns
        place = len(packet) - layout.t_us
        return int(whole.timestamp()) * 1_000_000_000 + int.from_bytes(packet[place : place + 4], "little") * 1000


def _default_angles(layout: Layout) -> BeamAngles:
    elevation = DEFAULT_ELEVATION_DEG.get(layout.name)
    if elevation is None:
        raise UserError(f"{layout.name}: every sensor has angles of its own; give its correction file (CSV)")
    return BeamAngles(np.array(elevation), np.zeros(len(elevation)))


def angles_beside(path: Path, names: Sequence[str] = ("*.csv",)) -> BeamAngles | None:
    """Return the correction file that lies beside a recording, if there is just one."""
    folder = path if path.is_dir() else path.parent
    found = sorted({file for pattern in names for place in (folder, folder.parent) for file in place.glob(pattern)})
    return read_angles(found[0]) if len(found) == 1 else None


__all__ = ["LAYOUTS", "BeamAngles", "HesaiDecoder", "angles_beside", "layout_of", "read_angles"]
