"""The tracks of a tracker as one structured array, and the detections of one instant as another."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import numba
import numpy as np
from numpy.typing import NDArray

from perception.errors import ShapeError

Tracks = NDArray[np.void]
Float = NDArray[np.float64]
MAX_ODDS = 7.0
"""Log-odds are kept within: nobody is more certain than 1 in 1,100."""
LEAST_PROBABILITY = float(1 / (1 + np.exp(MAX_ODDS)))


def track_type(classes: int) -> np.dtype[np.void]:
    """Return the row of a track; positions in the tracker's frame, metres."""
    return np.dtype(
        [
            ("id", np.int64),  # 0 while it is being made
            ("born_ns", np.int64),  # stamp of the first detection
            ("seen_ns", np.int64),  # stamp of the last one
            ("label", np.int64),  # most probable class
            ("evidence", np.float64, (classes,)),  # log of each class's likelihood, highest 0
            ("existence", np.float64),  # log-odds
            ("mean", np.float64, (5,)),  # see perception.tracking.motion
            ("cov", np.float64, (5, 5)),
            ("height", np.float64, (2,)),  # of the centre: mean and variance
            ("size", np.float64, (3,)),  # length, width, height
            ("size_variance", np.float64, (3,)),
            ("heading", np.float64),  # votes for the heading less those for the opposite one, of the last few
            ("sources", np.int64),  # bit i: source i has seen it
            ("score", np.float64),  # of the last detection, log-odds
            ("detection", np.int64),  # its place in the last batch, -1 where that did not see the track
        ]
    )


@dataclass(frozen=True, eq=False, kw_only=True)
class DetectionBatch:
    """What one detector says of one instant, in the tracker's frame.

    Attributes:
        t_ns: its stamp.
        source: who says it; reliability is by source.
        classes: names that `label` refers to.
        center_m: (N, 3). size_lwh_m: (N, 3). yaw_rad: (N,).
        label: (N,) index into classes.
        score: (N,) as the detector gives it.
        velocity_mps: (N, 2) over the frame, NaN where it is not measured, or None.
        seen: tells for (M, 2) positions whether this detector could have seen something there; None means everywhere.
    """

    t_ns: int
    source: str
    classes: tuple[str, ...]
    center_m: NDArray[np.float64]
    size_lwh_m: NDArray[np.float64]
    yaw_rad: NDArray[np.float64]
    label: NDArray[np.int64]
    score: NDArray[np.float64]
    velocity_mps: NDArray[np.float64] | None = None
    seen: FieldOfView | None = None

    def __post_init__(self) -> None:
        count = len(self.yaw_rad)
        expected = {"center_m": (count, 3), "size_lwh_m": (count, 3), "label": (count,), "score": (count,)}
        if self.velocity_mps is not None:
            expected["velocity_mps"] = (count, 2)
        for name, shape in expected.items():
            if np.shape(getattr(self, name)) != shape:
                raise ShapeError(f"{name} of {self.source}: shape {np.shape(getattr(self, name))}; expected {shape}")
        if count and not 0 <= int(self.label.min()) <= int(self.label.max()) < len(self.classes):
            raise ShapeError(f"labels of {self.source} go beyond its {len(self.classes)} classes")

    def of(self, chosen: NDArray[Any]) -> DetectionBatch:
        """Return some of the detections."""
        names = ("center_m", "size_lwh_m", "yaw_rad", "label", "score", "velocity_mps")
        parts = {name: value[chosen] for name in names if (value := getattr(self, name)) is not None}
        return replace(self, **parts)

    def sound(self) -> DetectionBatch:
        """Return the detections whose numbers are finite and whose sizes are positive."""
        good = sound(self.center_m, self.size_lwh_m, self.yaw_rad) & np.isfinite(self.score)
        return self if good.all() else self.of(good)

    def boxes(self) -> NDArray[np.float64]:
        """Return (N, 7) x, y, z, length, width, height, yaw."""
        return np.column_stack((self.center_m, self.size_lwh_m, self.yaw_rad))

    def measured(self, index: NDArray[np.int64]) -> NDArray[np.float64]:
        """Return (n, 5) x, y, yaw, velocity along x and y of some, NaN where it is not measured."""
        measured = np.full((len(index), 5), np.nan)
        measured[:, :2], measured[:, 2] = self.center_m[index, :2], self.yaw_rad[index]
        if self.velocity_mps is not None:
            measured[:, 3:] = self.velocity_mps[index]
        return measured


@dataclass(frozen=True, eq=False, kw_only=True)
class Support:
    """What another sensor says of tracks that are there, such as a camera that sees them in its picture.

    Attributes:
        t_ns: its stamp.
        source: who says it.
        classes: names that `label` refers to.
        ids: (N,) of the tracks.
        label: (N,) index into classes.
        score: (N,) as the detector gives it.
    """

    t_ns: int
    source: str
    classes: tuple[str, ...]
    ids: NDArray[np.int64]
    label: NDArray[np.int64]
    score: NDArray[np.float64]

    def sound(self) -> Support:
        """Return itself: there is nothing to leave out."""
        return self


@dataclass(frozen=True)
class FieldOfView:
    """A sector seen from one place: `contains` says what is in it."""

    x_m: float = 0.0
    y_m: float = 0.0
    yaw_rad: float = 0.0
    half_angle_rad: float = np.pi
    range_m: float = np.inf

    def contains(self, xy_m: NDArray[np.float64]) -> NDArray[np.bool_]:
        """True for each of (N, 2) positions in the sector."""
        return np.asarray(_in_sector(xy_m, self.sector))

    @property
    def sector(self) -> tuple[float, float, float, float, float]:
        """Its five numbers, for `in_sector`."""
        return self.x_m, self.y_m, self.yaw_rad, self.half_angle_rad, self.range_m


EVERYWHERE = FieldOfView()


@numba.njit(cache=True)  # type: ignore[misc,untyped-decorator,unused-ignore]
def in_sector(x: float, y: float, sector: tuple[float, float, float, float, float]) -> bool:
    """Return whether a place lies in a field of view."""
    from_x, from_y, yaw, half_angle, reach = sector
    dx, dy = x - from_x, y - from_y
    if dx * dx + dy * dy > reach * reach:
        return False
    if half_angle >= math.pi:
        return True
    return abs((math.atan2(dy, dx) - yaw + math.pi) % (2 * math.pi) - math.pi) <= half_angle


@numba.njit(cache=True)  # type: ignore[misc,untyped-decorator,unused-ignore]
def _in_sector(xy_m: Any, sector: tuple[float, float, float, float, float]) -> Any:
    inside = np.empty(len(xy_m), np.bool_)
    for k in range(len(xy_m)):
        inside[k] = in_sector(xy_m[k, 0], xy_m[k, 1], sector)
    return inside


@numba.njit(cache=True)  # type: ignore[misc,untyped-decorator,unused-ignore]
def sound(center_m: Any, size_lwh_m: Any, yaw_rad: Any) -> Any:
    """Return True for each box (N,) whose numbers are finite and whose sizes are positive."""
    good = np.isfinite(yaw_rad)
    for k in range(len(good)):
        for i in range(3):
            good[k] &= np.isfinite(center_m[k, i]) and 0 < size_lwh_m[k, i] < np.inf
    return good


@numba.njit(cache=True)  # type: ignore[misc,untyped-decorator,unused-ignore]
def boxes_of(tracks: Any) -> Any:
    """Return (N, 7) x, y, z, length, width, height, yaw."""
    boxes = np.empty((len(tracks), 7))
    for k in range(len(tracks)):
        box_of(tracks[k], boxes[k])
    return boxes


@numba.njit(cache=True)  # type: ignore[misc,untyped-decorator,unused-ignore]
def box_of(track: Any, box: Any) -> None:
    """Write the box of one track into `box` (7,)."""
    box[0], box[1], box[2] = track.mean[0], track.mean[1], track.height[0]
    box[3], box[4], box[5], box[6] = track.size[0], track.size[1], track.size[2], track.mean[2]


def some_of(tracks: Tracks, chosen: NDArray[np.bool_]) -> Tracks:
    """Return the tracks for which `chosen` (N,) is True: where that is all of them themselves, no copy."""
    return tracks if chosen.all() else tracks.compress(chosen)  # rows are long: a third of the time of an index


@numba.njit(cache=True)  # type: ignore[misc,untyped-decorator,unused-ignore]
def probability(odds: Any) -> Any:
    """Return the probability of log-odds."""
    return 1 / (1 + np.exp(-odds))


@numba.njit(cache=True)  # type: ignore[misc,untyped-decorator,unused-ignore]
def odds(probability: Any) -> Any:
    """Return log-odds of probabilities, within MAX_ODDS."""
    inside = np.minimum(np.maximum(probability, LEAST_PROBABILITY), 1 - LEAST_PROBABILITY)
    return np.log(inside / (1 - inside))


@numba.njit(cache=True)  # type: ignore[misc,untyped-decorator,unused-ignore]
def within(odds: Any, most: float) -> Any:
    """Return log-odds, or votes, no further from 0 than `most`."""
    return np.minimum(np.maximum(odds, -most), most)


__all__ = [
    "EVERYWHERE", "MAX_ODDS", "DetectionBatch", "FieldOfView", "Support", "Tracks", "box_of", "boxes_of", "in_sector",
    "odds", "probability", "some_of", "sound", "track_type", "within",
]  # fmt: skip
