"""Which sensor moved, and whether it matters."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from perception.calibrate.bump.sweep import Estimate

BUMP_RAD = np.radians(1.0)
BUMP_M = 0.05
SHARE = 0.5
"""A sensor has moved when it seems to be off by more than this share of a bump."""
SURE = 3.0
"""Standard deviations."""
GAIN = 0.025
"""A camera has moved when its lines fit better by this share elsewhere than where the rig says."""
CLEARLY_SURE, CLEAR_GAIN = 2.5, 0.12
"""A large gain needs less to be sure of."""


@dataclass(frozen=True)
class Finding:
    """What the recording says of one sensor.

    Attributes:
        sensor: its name.
        state: ok, moved, or unknown where the recording does not tell.
        estimate: how far it seems to be off.
        blind: axes along which a bump would not be seen.
        reason: why it is unknown, or whom else it may be.
    """

    sensor: str
    state: str
    estimate: Estimate | None
    blind: tuple[str, ...] = ()
    reason: str = ""

    def text(self) -> str:
        """Return one line."""
        if self.estimate is None:
            return f"{self.sensor}: {self.state}: {self.reason}"
        turn, shift = np.degrees(self.estimate.moved[:3]), 100 * self.estimate.moved[3:]
        words = (
            f"{self.sensor}: {self.state}, turned by {turn[0]:+.2f} {turn[1]:+.2f} {turn[2]:+.2f} degrees (roll pitch "
            f"yaw), displaced by {shift[0]:+.1f} {shift[1]:+.1f} {shift[2]:+.1f} cm (x y z)"
        )
        words += f"; blind for {', '.join(self.blind)}" if self.blind else ""
        return words + (f"; {self.reason}" if self.reason else "")


AXES = ("roll", "pitch", "yaw", "x", "y", "z")


def judged(lidar: Mapping[str, Estimate | None], cameras: Mapping[str, Estimate | None]) -> list[Finding]:
    """Return one finding per sensor.

    A LiDAR is judged by odometry and road, a camera by the LiDAR. Where every camera seems to be off by the same, it is
    the LiDAR that moved.
    """
    findings = [_judge(name, estimate, "too little of the road and of still surfaces is seen twice")
                for name, estimate in lidar.items()]  # fmt: skip
    seen = [
        _judge(name, estimate, "too few lines of the LiDAR are in its picture") for name, estimate in cameras.items()
    ]
    return [*_blamed(findings, seen), *seen]


def _blamed(lidars: list[Finding], cameras: list[Finding]) -> list[Finding]:
    moved = [finding for finding in cameras if finding.state == "moved" and finding.estimate is not None]
    if len(moved) < 2 or len(moved) < len([f for f in cameras if f.estimate is not None]):
        return lidars
    offsets = np.stack([finding.estimate.moved for finding in moved if finding.estimate is not None])
    apart = np.abs(offsets - np.median(offsets, axis=0)).max(axis=0)
    alike = (apart[:3] < 0.4 * BUMP_RAD).all() and (apart[3:] < 0.6 * BUMP_M).all()
    if not alike:
        return lidars
    return [
        Finding(f.sensor, "moved", f.estimate, f.blind, "every camera is off alike: it is this LiDAR, or they all")
        for f in lidars
    ]  # fmt: skip


def _judge(sensor: str, estimate: Estimate | None, why: str) -> Finding:
    if estimate is None:
        return Finding(sensor, "unknown", None, reason=why)
    limit = np.array([BUMP_RAD] * 3 + [BUMP_M] * 3)
    blind = tuple(axis for axis, deviation, bump in zip(AXES, estimate.deviation, limit, strict=True)
                  if SURE * deviation > bump)  # fmt: skip
    off = np.abs(estimate.moved) > SHARE * limit
    sure = np.abs(estimate.moved) > SURE * estimate.deviation
    fits_better = (estimate.better > SURE and estimate.gain > GAIN) or (
        estimate.better > CLEARLY_SURE and estimate.gain > CLEAR_GAIN
    )
    state = "moved" if (off & sure).any() and fits_better else "ok"
    return Finding(sensor, state, estimate, blind)


__all__ = ["Finding", "judged"]
