"""The points of one sweep with the classes of the pixels they fall on: painted as they stood, then as they have moved.

What stands still is moved to the instant of a picture by ego motion alone, so a sweep can be painted before anybody has
said what moves in it. Once boxes with velocities are known, the points in them are painted anew where they were at the
instant of each picture; those that were painted already are not judged anew by what has moved before or off them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from perception.geometry.cameras import Camera
from perception.nodes._moving_points import Float, MovingPoints
from perception.ops.moving_points import in_cone
from perception.ops.painting import (
    EACH_LABEL,
    UNKNOWN,
    Surface,
    count_labels,
    hidden_anew,
    hidden_behind,
    on_tiles,
    surface_of,
    take_labels,
)
from perception.ops.projection import pixels_of

NO_CAMERA = 255
NOT_SAID = np.zeros((0, 0), np.uint8)


class Eye(NamedTuple):
    """A camera as its masks are looked up."""

    camera: Camera
    """Of the mask's size."""
    optical_from_base_link: Float
    """(3, 4)."""
    cosine_of_view: float
    """Of an angle to the optical axis beyond which the camera sees nothing."""


@dataclass(frozen=True)
class View:
    """What one camera saw."""

    t_ns: int
    eye: Eye
    label: NDArray[np.uint8]
    """(H, W)."""
    confidence: NDArray[np.uint8] | None
    """(H, W)."""


class _Seen(NamedTuple):
    """Which points of the sweep lie in one camera's picture, and the surface that they make."""

    surface: Surface
    number: NDArray[np.int64]
    """Of each point of the surface, among all of the sweep."""


class Painting:
    """A sweep's points, each with the class that the camera gives it that was exposed nearest to its instant.

    Attributes:
        points: where and when they were measured.
        tiles: of the points where they are at the sweep's stamp, NaN for those that move.
        later_s: (N,) how long before the sweep's stamp each of those was measured. span_s: the least and the most.
        xyz_m: (N, 3) where all are at the sweep's stamp, in the order in which they came.
        label: (N,) classes. confidence: (N,), 255 is certain. camera: (N,) which view gave them, 255 for none.
    """

    def __init__(self, points: MovingPoints, now_ns: int, views: Sequence[View], ring_gap_rad: float) -> None:
        self.points, self.now_ns, self._ring_gap_rad = points, now_ns, ring_gap_rad
        base_link_m = points.base_link_m(now_ns)
        self.xyz_m, self.tiles = base_link_m.astype(np.float32), on_tiles(base_link_m)
        self.later_s = ((now_ns - points.t_ns) * 1e-9).take(self.tiles.order)
        self.span_s = (float(self.later_s.min()), float(self.later_s.max()))
        self._moved, self._moved_m = np.zeros(0, np.int64), np.zeros((0, 3))
        self._seen: list[_Seen] = []
        self.label, self.confidence, self.camera = self._paint(points, views, None)

    def move(self, places: NDArray[np.int64], velocity_mps: Float, views: Sequence[View]) -> None:
        """Let points (M,) move at velocities (M, 3) over ground, axes of `odom`, and paint them again, once.

        Args:
            places: of them, in the order of the tiles.
            velocity_mps: of each.
            views: those that the sweep was painted with; they are not kept between.
        """
        moved = self.tiles.order.take(places)
        points = self.points.of(moved, velocity_mps)
        moves = np.zeros(len(self.label), np.bool_)
        moves[moved] = True
        self.label[moved], self.confidence[moved], self.camera[moved] = self._paint(points, views, moves)
        self.tiles.points_m[places] = np.nan  # gone from their tiles
        self._moved, self._moved_m = moved, points.base_link_m(self.now_ns)
        self.xyz_m[moved] = self._moved_m

    def labels_in(
        self, boxes: tuple[Float, Float, Float], margin_m: float, column_of: NDArray[np.int64] = EACH_LABEL
    ) -> NDArray[np.int32]:
        """Count the labels in boxes: centres (K, 3), sizes (K, 3) and yaws (K,), at the sweep's stamp.

        Returns:
            (K, C), each label in its column of `column_of` (256,).
        """
        counts = np.zeros((len(boxes[0]), int(column_of.max()) + 1), np.int32)
        count_labels(self.tiles, self.label, boxes, margin_m, column_of, counts)
        if len(self._moved):
            count_labels(on_tiles(self._moved_m), self.label[self._moved], boxes, margin_m, column_of, counts)
        return counts

    def _paint(
        self, points: MovingPoints, views: Sequence[View], moves: NDArray[np.bool_] | None
    ) -> tuple[NDArray[np.uint8], NDArray[np.uint8], NDArray[np.uint8]]:
        """Return labels, confidences and cameras of points: of all, or of those that move, before what does not."""
        count = len(points.t_ns)
        label, camera = np.full(count, UNKNOWN, np.uint8), np.full(count, NO_CAMERA, np.uint8)
        confidence = np.zeros(count, np.uint8)
        nearest_ns = np.full(count, np.iinfo(np.int64).max)
        placed: dict[int, tuple[Float, NDArray[np.int64]]] = {}
        for index, view in enumerate(views):
            if view.t_ns not in placed:  # cameras that are triggered together see the same places
                placed[view.t_ns] = points.base_link_m(view.t_ns), np.abs(view.t_ns - points.t_ns)
            places, apart_ns = placed[view.t_ns]
            near, optical = in_cone(places, view.eye.optical_from_base_link, view.eye.cosine_of_view)
            inside, row, column = pixels_of(view.eye.camera, optical)
            seen = near.take(inside)
            if moves is None:
                surface = surface_of(optical.take(inside, axis=0))
                self._seen.append(_Seen(surface, seen.take(surface.order)))
                hidden = hidden_behind(surface, self._ring_gap_rad)
            elif len(seen):
                before = self._seen[index]
                hidden = hidden_anew(optical, inside, self._ring_gap_rad, before.surface, before.number, moves)
            else:
                continue
            sure = NOT_SAID if view.confidence is None else view.confidence
            take_labels(
                seen, row, column, hidden, view.label, sure, apart_ns, index, nearest_ns, label, confidence, camera
            )
        return label, confidence, camera


__all__ = ["NO_CAMERA", "Eye", "Painting", "View"]
