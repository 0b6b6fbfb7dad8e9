"""Decode Velodyne's data packets: VLP-16, Puck Hi-Res, HDL-32E and VLP-32C, one or two returns.

A packet is twelve blocks of 100 bytes (flag, azimuth, 32 returns of distance and reflectivity), the time past the hour
in microseconds, and two factory bytes (return mode, model). The encoder turns clockwise, azimuth 0 is straight ahead.
Sources: Velodyne VLP-16 User Manual 63-9243, VLP-32C 63-9325, HDL-32E 63-9113, sections on packets and timing.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from perception.logs.lidar.sweep import WRONG_CONTENT, WRONG_SIZE, Points, Turn

Float: TypeAlias = NDArray[np.float64]
PACKET_BYTES = 1206
MIN_RANGE_M = 0.1
HOUR_NS = 3_600_000_000_000
_DUAL = 0x39
_BLOCK = np.dtype([("flag", "<u2"), ("azimuth", "<u2"), ("returns", [("distance", "<u2"), ("reflectivity", "u1")], 32)])


@dataclass(frozen=True, eq=False)
class Model:
    """One kind of sensor.

    Attributes:
        elevation_deg: by laser, in the order of the packet.
        azimuth_deg: added to the block's azimuth, by laser.
        unit_m: of a distance.
        cycle_us: from one firing of all lasers to the next.
        laser_us: when in its cycle a laser fires, by laser.
        firings: firings of all lasers in one block.
        focus_m: distance from the axis at which the beams cross; a laser that looks down starts above the centre.
    """

    name: str
    elevation_deg: tuple[float, ...]
    azimuth_deg: tuple[float, ...]
    unit_m: float
    cycle_us: float
    laser_us: tuple[float, ...]
    firings: int
    focus_m: float


_PUCK_US = tuple(2.304 * laser for laser in range(16))
_PUCK = (-15, 1, -13, 3, -11, 5, -9, 7, -7, 9, -5, 11, -3, 13, -1, 15)
VLP16 = Model("VLP-16", tuple(map(float, _PUCK)), (0.0,) * 16, 0.002, 55.296, _PUCK_US, 2, 0.04191)
HI_RES = Model(
    "Puck Hi-Res", tuple(round(angle * 2 / 3, 2) for angle in _PUCK), (0.0,) * 16, 0.002, 55.296, _PUCK_US, 2, 0.04191
)
HDL32E = Model(
    "HDL-32E",
    # The lower and the upper half of the fan fire in turns.
    tuple(round(angle, 2) for i in range(16) for angle in (-92 / 3 + 4 * i / 3, -28 / 3 + 4 * i / 3)),
    (0.0,) * 32, 0.002, 46.08, tuple(1.152 * laser for laser in range(32)), 1, 0.02895,
)  # fmt: skip
VLP32C = Model(
    "VLP-32C",
    (
        -25.0, -1.0, -1.667, -15.639, -11.31, 0.0, -0.667, -8.843, -7.254, 0.333, -0.333, -6.148, -5.333, 1.333, 0.667,
        -4.0, -4.667, 1.667, 1.0, -3.667, -3.333, 3.333, 2.333, -2.667, -3.0, 7.0, 4.667, -2.333, -2.0, 15.0, 10.333,
        -1.333,
    ),
    (1.4, -4.2, 1.4, -1.4, 1.4, -1.4, 4.2, -1.4, 1.4, -4.2, 1.4, -1.4, 4.2, -1.4, 4.2, -1.4, 1.4, -4.2, 1.4, -4.2, 4.2,
     -1.4, 1.4, -1.4, 1.4, -1.4, 1.4, -4.2, 4.2, -1.4, 1.4, -1.4),
    0.004, 55.296, tuple(2.304 * (laser // 2) for laser in range(32)), 1, 0.0424,
)  # fmt: skip
MODELS: Mapping[int, Model] = {0x21: HDL32E, 0x22: VLP16, 0x24: HI_RES, 0x28: VLP32C}
"""By the second factory byte."""


def is_velodyne(packet: bytes) -> bool:
    """Return whether a UDP payload is a Velodyne data packet of 32 or fewer lasers."""
    return len(packet) == PACKET_BYTES and packet[:2] == b"\xff\xee" and packet[100:102] == b"\xff\xee"


class VelodyneDecoder:
    """Assembles full turns.

    Args:
        model: the sensor; None takes it from the packets, and HDL-32E where an old firmware leaves it out.
        sensor_time: stamps come from the packets (time past the hour, completed by the host's hour), as is right for a
            sensor disciplined by GPS or PTP; False stamps by arrival.
    """

    intensity_scale = 255.0

    def __init__(self, model: Model | None = None, *, sensor_time: bool = False) -> None:
        self.model = model
        self.name = "Velodyne"
        self.skipped: Counter[str] = Counter()
        self._sensor_time = sensor_time
        self._behind_ns = 0  # of the sensor's clock, behind the host's
        self._parts: list[Points] = []
        self._turn = Turn()

    def feed(self, packet: bytes, t_ns: int) -> Iterator[Points]:
        points = self.points(packet, t_ns)
        if points is None:
            return
        self._parts.append(points)
        if self._turn.passed(int.from_bytes(packet[2:4], "little")):
            yield from self.finish()

    def points(self, packet: bytes, t_ns: int) -> Points | None:
        if len(packet) != PACKET_BYTES:
            self.skipped[WRONG_SIZE] += 1
            return None
        blocks = np.frombuffer(packet, _BLOCK, 12)
        if (blocks["flag"] != 0xEEFF).any() or (blocks["azimuth"] >= 36000).any():
            self.skipped[WRONG_CONTENT] += 1
            return None
        model = self.model = self.model or MODELS.get(packet[1205], HDL32E)
        self.name = f"Velodyne {model.name}"
        return self._points(model, blocks, packet, t_ns)

    def finish(self) -> Iterator[Points]:
        parts, self._parts = self._parts, []
        sweep = Points.joined(parts)
        if len(sweep):
            yield sweep

    def _points(self, model: Model, blocks: NDArray[np.void], packet: bytes, t_ns: int) -> Points:
        dual = packet[1204] == _DUAL
        lasers = len(model.elevation_deg)
        azimuth = blocks["azimuth"].astype(np.float64) / 100.0
        step = _azimuth_step(azimuth[:: 2 if dual else 1])
        shots = np.arange(12) // (2 if dual else 1)  # pairs of blocks share a shot where there are two returns
        firing = np.repeat(np.arange(model.firings), lasers)
        laser = np.tile(np.arange(lasers), model.firings)
        in_block_us = firing * model.cycle_us + np.array(model.laser_us)[laser]
        block_us = model.firings * model.cycle_us
        t_us = shots[:, None] * block_us + in_block_us[None]
        angle = np.radians(azimuth[:, None] + step * in_block_us[None] / block_us + np.array(model.azimuth_deg)[laser])
        distance = blocks["returns"]["distance"].astype(np.float64) * model.unit_m
        seen = distance >= MIN_RANGE_M
        if dual:
            # Both returns of a shot are the same where there was only one.
            same = blocks["returns"]["distance"][1::2] == blocks["returns"]["distance"][::2]
            seen[1::2] &= ~same
        elevation = np.radians(np.array(model.elevation_deg)[laser])
        flat = distance * np.cos(elevation)
        # The vendor's y is ahead and its azimuth clockwise; x ahead and y left is that turned by a right angle.
        up = distance * np.sin(elevation) - model.focus_m * np.tan(elevation)
        xyz = np.stack((flat * np.cos(angle), -flat * np.sin(angle), up), axis=-1)
        ring = np.argsort(np.argsort(model.elevation_deg))[laser]
        first_ns = self._first_ns(packet, t_ns)
        return Points(
            xyz[seen].astype(np.float32),
            blocks["returns"]["reflectivity"][seen].astype(np.float32),
            np.broadcast_to(ring, seen.shape)[seen].astype(np.uint16),
            (first_ns + np.round(t_us * 1000).astype(np.int64))[seen],
        )

    def _first_ns(self, packet: bytes, t_ns: int) -> int:
        if not self._sensor_time:
            return t_ns
        past_hour = int.from_bytes(packet[1200:1204], "little") * 1000
        # The hour that leaves the clock where the packet before found it: of one that is half an hour off, the nearest
        # hour would change with every delay.
        hour = round((t_ns - self._behind_ns - past_hour) / HOUR_NS)
        first_ns = hour * HOUR_NS + past_hour
        self._behind_ns = t_ns - first_ns
        return first_ns


def _azimuth_step(azimuth_deg: Float) -> float:
    """Return the usual turn from one shot to the next, degrees."""
    return float(np.median(np.diff(azimuth_deg) % 360.0))


__all__ = ["MODELS", "PACKET_BYTES", "Model", "VelodyneDecoder", "is_velodyne"]
