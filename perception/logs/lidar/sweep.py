"""A sweep as a decoder of packets makes it, and what every decoder offers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from perception.messages import Header, PointCloud

Float32: TypeAlias = NDArray[np.float32]
FULL_TURN = 36000
WRONG_SIZE, WRONG_CONTENT = "packet of another size", "packet of another content"


@dataclass(frozen=True, eq=False)
class Points:
    """Points in the sensor's own frame, each with the time at which it was measured.

    Attributes:
        xyz_m: (N, 3) in the frame that the vendor's own ROS driver uses, so that extrinsics from elsewhere fit.
        intensity: (N,) in the vendor's scale.
        ring: (N,) beams from the bottom up.
        t_ns: (N,) host or sensor time.
    """

    xyz_m: Float32
    intensity: Float32
    ring: NDArray[np.uint16]
    t_ns: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.t_ns)

    @staticmethod
    def joined(parts: list[Points]) -> Points:
        """Return the points of all parts, in their order."""
        if not parts:
            empty = np.empty(0, np.float32)
            return Points(empty.reshape(0, 3), empty, np.empty(0, np.uint16), np.empty(0, np.int64))
        return Points(
            np.concatenate([part.xyz_m for part in parts]), np.concatenate([part.intensity for part in parts]),
            np.concatenate([part.ring for part in parts]), np.concatenate([part.t_ns for part in parts]),
        )  # fmt: skip


class Turn:
    """Follows the azimuth of packets, hundredths of a degree, and tells when a full turn has passed.

    A packet that comes a little late steps back less than half a turn and moves nothing.
    """

    def __init__(self) -> None:
        self._turned = 0
        self._last: int | None = None

    def passed(self, azimuth: int) -> bool:
        """Take the next packet's azimuth; True where it completes a turn."""
        step = 0 if self._last is None else (azimuth - self._last) % FULL_TURN
        if step > FULL_TURN // 2:
            return False
        self._last = azimuth
        self._turned += step
        if self._turned < FULL_TURN:
            return False
        self._turned = 0
        return True


class SweepDecoder(Protocol):
    """Takes packets in their order and gives sweeps."""

    name: str
    intensity_scale: float
    skipped: Counter[str]

    def feed(self, packet: bytes, t_ns: int) -> Iterator[Points]:
        """Take one UDP payload that arrived at host time `t_ns`; yield the sweep that it completes, if any."""
        ...

    def finish(self) -> Iterator[Points]:
        """Yield what is left at the end of a recording."""
        ...


class PacketDecoder(SweepDecoder, Protocol):
    """A decoder whose packets can be read one by one."""

    def points(self, packet: bytes, t_ns: int) -> Points | None:
        """Decode one packet by itself, for recordings that hold the packets of each turn together."""
        ...


def point_cloud(points: Points, *, frame_id: str, clock: str, seq: int, intensity_scale: float) -> PointCloud:
    """Return the message of a sweep: stamped by its last point, points in the order of time."""
    t_ns = int(points.t_ns.max())
    return PointCloud(
        header=Header(frame_id=frame_id, t_sensor_ns=t_ns, clock=clock, seq=seq),
        xyz_m=points.xyz_m,
        intensity=points.intensity,
        intensity_scale=intensity_scale,
        ring=points.ring,
        t_offset_ns=np.clip(points.t_ns - t_ns, -(2**31), 0).astype(np.int32),
    )


__all__ = ["WRONG_CONTENT", "WRONG_SIZE", "PacketDecoder", "Points", "SweepDecoder", "Turn", "point_cloud"]
