"""Fuse LiDAR points, segmentation masks and LiDAR boxes into painted points and objects for planners.

in:  scene.sweep, points as of their own instants; scene.masks, of any number of cameras; scene.boxes, of a detector.
     ego, which moves each point to the instant of a mask.
out: painted, the sweep's points in `base_link` at the sweep's stamp, each with the class of the pixel it falls on;
     objects, the boxes with what their points look like. Without boxes nothing is said of objects: no detection is not
     the same as no object.

A point takes the class from the camera that was exposed nearest to the instant at which the point was measured. What
stands still is moved there by ego motion, points in a box also by the box's velocity. Points that a camera cannot see,
since something nearer is in the way, are not painted by it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import Annotated, Any, Self

import msgspec
import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from perception.errors import ContractError, ShapeError
from perception.geometry.boxes import Boxes
from perception.geometry.cameras import Camera
from perception.geometry.transforms import Transform
from perception.messages import (
    Detections3D,
    FusedObject,
    Header,
    Message,
    ObjectClass,
    Odometry,
    PaintedPoints,
    PointCloud,
    SegmentationMask,
    TrackedObjects,
    derived,
    host,
    mask_labels,
)
from perception.nodes._moving_points import MovingPoints, extrapolated
from perception.ops.moving_points import compile_all, in_cone
from perception.ops.painting import UNKNOWN, boxes_of_points, hidden_points, labels_in_boxes
from perception.runtime.node import Join, Lookup, Many, Maybe, Node, NodeConfig, NodeSetup, Out

NO_EGO_MOTION = "no ego motion: points are not moved to the instants of the pictures"
NO_BOXES = "no boxes of this instant"
RING_GAP_RAD = np.radians(1.3)
"""Where the rig does not say how far the rings of a LiDAR lie apart."""
NO_CAMERA = 255


class FuserConfig(NodeConfig):
    """Settings of the fuser."""

    valid_for_ms: Annotated[float, Field(gt=0)] = 500.0
    """How long planners may extrapolate objects."""
    box_margin_m: Annotated[float, Field(ge=0, le=1)] = 0.1
    """Points so far outside a box still count as its own."""


class Fuser(Node):
    """See the module's text."""

    Config = FuserConfig
    scene = Join(
        sweep=PointCloud, masks=Many[SegmentationMask], boxes=Maybe[Detections3D], tolerance_ms=60, deadline_ms=150
    )
    ego = Lookup[Odometry](deadline_ms=100)
    painted = Out[PaintedPoints]()
    objects = Out[TrackedObjects]()

    @classmethod
    def create(cls, config: FuserConfig, setup: NodeSetup) -> Self:
        return cls(config, cameras=len(setup.inputs.get("masks", ())), box_topics=setup.inputs.get("boxes", ()))

    def __init__(self, config: FuserConfig | None = None, cameras: int = 0, box_topics: Sequence[str] = ()) -> None:
        super().__init__(config or FuserConfig())
        self.cameras, self.box_topics = cameras, tuple(box_topics)

    def warm_up(self) -> None:
        compile_all()
        one = np.ones((1, 3))
        hidden_points(one, RING_GAP_RAD)
        size, yaw, speed = np.ones((1, 3)), np.zeros(1), np.ones((1, 2))
        boxes_of_points(one, np.zeros(1), one, size, yaw, speed, self.config.box_margin_m)
        labels_in_boxes(one, np.zeros(1, np.uint8), one, size, yaw, self.config.box_margin_m)

    def on_scene(
        self, sweep: PointCloud, masks: Sequence[SegmentationMask], boxes: Detections3D | None
    ) -> Iterator[tuple[str, Message]]:
        now_ns = sweep.header.t_sensor_ns
        ego = self.ego.at(now_ns)
        points = self._moving(sweep, ego)
        placed = None if boxes is None else _Placed.of(boxes, self._base_link_now_from(boxes, now_ns, ego), now_ns)
        if placed is not None:
            self._move_with_boxes(points, placed, now_ns, ego)
        classes, identities = _classes(masks)
        label, confidence, camera = self._painted(points, masks, self._ring_gap_rad(sweep))
        header = self._header(sweep, masks, boxes, ego)
        base_link_m = points.base_link_m(now_ns)
        yield "painted", PaintedPoints(
            header=header, classes=classes, xyz_m=base_link_m.astype(np.float32), label=label, camera=camera,
            confidence=confidence, identities=identities,
            cameras=tuple(mask.header.frame_id.removesuffix("_optical") for mask in masks),
        )  # fmt: skip
        if boxes is not None and placed is not None:
            margin = self.config.box_margin_m
            counts = labels_in_boxes(base_link_m, label, placed.center_m, placed.size_lwh_m, placed.yaw_rad, margin)
            yield "objects", TrackedObjects(
                header=header, objects=tuple(_fused(placed, boxes, counts, identities, self.box_topics)),
                odom_from_base_link=None if ego is None else (*ego.translation_m, *ego.rotation_xyzw),
                valid_until_ns=now_ns + round(self.config.valid_for_ms * 1e6),
            )  # fmt: skip

    def _header(
        self, sweep: PointCloud, masks: Sequence[SegmentationMask], boxes: Detections3D | None, ego: Odometry | None
    ) -> Header:
        found = [] if boxes is None else [boxes.header]  # first: objects are known by the model that detected them
        sources = [sweep.header, *found, *(mask.header for mask in masks)]
        header = derived(*sources, frame_id="base_link")
        reasons = [NO_EGO_MOTION] if ego is None else []
        if len(masks) < self.cameras:
            reasons.append(f"masks of {len(masks)} of {self.cameras} cameras")
        if boxes is None and self.box_topics:
            reasons.append(NO_BOXES)
        return msgspec.structs.replace(header, degraded=(*header.degraded, *reasons))

    def _moving(self, sweep: PointCloud, ego: Odometry | None) -> MovingPoints:
        """Return the sweep's finite points, each at its own instant and place."""
        xyz = host(sweep.xyz_m)
        there = np.isfinite(xyz)
        finite = there[:, 0] & there[:, 1] & there[:, 2]  # numpy is slow along an axis of three
        if not finite.any():
            raise ShapeError(f"sweep of {len(xyz)} points, none of them finite")
        kept = slice(None) if finite.all() else finite
        base_link_m = self.rig.base_link_from(sweep.header.frame_id).apply(xyz[kept].astype(np.float64))
        stamp = sweep.header.t_sensor_ns if sweep.deskewed_to_ns is None else sweep.deskewed_to_ns
        times = np.full(len(base_link_m), stamp, np.int64)
        if sweep.t_offset_ns is not None and sweep.deskewed_to_ns is None:
            times += host(sweep.t_offset_ns)[kept]
        return MovingPoints.measured(base_link_m, times, lambda t_ns: self._pose(t_ns, ego))

    def _pose(self, t_ns: int, ego: Odometry | None) -> Transform | None:
        """Return odom_from_base_link; beyond the ends of what is known, the motion of the sweep's stamp goes on."""
        found = self.ego.at(t_ns)
        if found is not None:
            return Transform.from_quaternion(found.translation_m, found.rotation_xyzw)
        return None if ego is None else extrapolated(ego, t_ns)

    def _base_link_now_from(self, boxes: Detections3D, now_ns: int, ego: Odometry | None) -> Transform:
        """Return where the boxes' frame at their stamp is in `base_link` at the sweep's."""
        mount = self.rig.base_link_from(boxes.header.frame_id)
        now, then = self._pose(now_ns, ego), self._pose(boxes.header.t_sensor_ns, ego)
        return mount if now is None or then is None else now.inverse() @ then @ mount

    def _move_with_boxes(self, points: MovingPoints, placed: _Placed, now_ns: int, ego: Odometry | None) -> None:
        """Give points in boxes that move the velocity of their box."""
        moves = np.hypot(*placed.velocity_mps.T) > 0.2
        if not moves.any():
            return
        owner = boxes_of_points(
            points.base_link_m(now_ns), (now_ns - points.t_ns) * 1e-9, placed.center_m[moves],
            placed.size_lwh_m[moves], placed.yaw_rad[moves], placed.velocity_mps[moves], self.config.box_margin_m,
        )  # fmt: skip
        velocity = np.column_stack((placed.velocity_mps[moves], np.zeros(int(moves.sum()))))
        pose = self._pose(now_ns, ego)
        over_ground = velocity if pose is None else pose.rotate(velocity)
        points.velocity_mps[owner >= 0] = over_ground[owner[owner >= 0]]

    def _painted(
        self, points: MovingPoints, masks: Sequence[SegmentationMask], ring_gap_rad: float
    ) -> tuple[NDArray[np.uint8], NDArray[np.uint8] | None, NDArray[np.uint8]]:
        """Return (N,) classes, their confidence where a mask has it, and (N,) index of the camera that gave them."""
        count = len(points.t_ns)
        label, camera = np.full(count, UNKNOWN, np.uint8), np.full(count, NO_CAMERA, np.uint8)
        confidence = np.zeros(count, np.uint8)
        nearest_ns = np.full(count, np.iinfo(np.int64).max)
        placed: dict[int, NDArray[np.float64]] = {}
        for index, mask in enumerate(masks):
            stamp_ns = mask.header.t_sensor_ns
            if stamp_ns not in placed:  # cameras that are triggered together see the same places
                placed[stamp_ns] = points.base_link_m(stamp_ns)
            labels = mask_labels(mask)
            seen, row, column = self._seen_by(mask, labels.shape, placed[stamp_ns], ring_gap_rad)
            found, apart_ns = labels[row, column], np.abs(stamp_ns - points.t_ns[seen])
            takes = (found != UNKNOWN) & (apart_ns < nearest_ns[seen])
            taken = seen[takes]
            label[taken], camera[taken], nearest_ns[taken] = found[takes], index, apart_ns[takes]
            if mask.confidence is not None:
                confidence[taken] = host(mask.confidence)[row, column][takes]
        return label, confidence if any(mask.confidence is not None for mask in masks) else None, camera

    def _seen_by(
        self, mask: SegmentationMask, size: tuple[int, ...], base_link_m: NDArray[Any], ring_gap_rad: float
    ) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
        """Return which points the camera sees, and the row and the column of the pixel of each."""
        camera = self._camera_of(mask, size)
        optical_from_base_link = np.ascontiguousarray(
            self.rig.base_link_from(mask.header.frame_id).inverse().matrix[:3]
        )
        near, optical = in_cone(base_link_m, optical_from_base_link, _cosine_of_view(camera))
        pixels, valid = camera.project(optical)
        inside = np.flatnonzero(valid)
        shown = inside[~hidden_points(optical[inside], ring_gap_rad)]
        column, row = np.rint(pixels[shown]).astype(np.int64).T
        return near[shown], np.minimum(row, size[0] - 1), np.minimum(column, size[1] - 1)

    def _camera_of(self, mask: SegmentationMask, size: tuple[int, ...]) -> Camera:
        sensor = self.rig.sensor_of_frame(mask.header.frame_id)
        if sensor is None or sensor.camera is None:
            raise ContractError(f"a mask stands in '{mask.header.frame_id}', no camera of rig '{self.rig.name}'")
        height, width = size
        if (height, width) == (sensor.camera.height_px, sensor.camera.width_px):
            return sensor.camera
        return sensor.camera.scaled(width, height)

    def _ring_gap_rad(self, sweep: PointCloud) -> float:
        sensor = self.rig.sensor_of_frame(sweep.header.frame_id)
        if sensor is None or sensor.lidar is None or sensor.lidar.rings < 2:
            return float(RING_GAP_RAD)
        low, high = sensor.lidar.vertical_fov_deg
        return float(np.radians((high - low) / (sensor.lidar.rings - 1)))


@lru_cache(maxsize=64)
def _cosine_of_view(camera: Camera) -> float:
    """Return the cosine of an angle to the optical axis beyond which the camera sees nothing, a little too wide."""
    return float(np.cos(min(1.02 * camera.field_of_view().widest_rad + 0.01, np.pi)))


class _Placed:
    """Boxes in `base_link` at one instant, with velocities over ground (N, 2); unknown ones are NaN-free zeros."""

    def __init__(self, boxes: Boxes, velocity_mps: NDArray[np.float64], known: NDArray[np.bool_]) -> None:
        self.center_m, self.size_lwh_m, self.yaw_rad = boxes.center_m, boxes.size_lwh_m, boxes.yaw_rad
        self.velocity_mps, self.has_velocity = velocity_mps, known

    @classmethod
    def of(cls, boxes: Detections3D, base_link_from_boxes: Transform, now_ns: int) -> Self:
        center, size, yaw = (
            np.asarray(host(values), np.float64) for values in (boxes.center_m, boxes.size_lwh_m, boxes.yaw_rad)
        )
        velocity = np.zeros((len(yaw), 3))
        known = np.zeros(len(yaw), np.bool_)
        if boxes.velocity_mps is not None:
            measured = np.asarray(host(boxes.velocity_mps), np.float64)
            known = np.asarray(np.isfinite(measured).all(axis=1))
            velocity[known, :2] = measured[known]
        center = center + velocity * ((now_ns - boxes.header.t_sensor_ns) * 1e-9)
        placed = Boxes(center, size, yaw).transformed(base_link_from_boxes)
        return cls(placed, np.ascontiguousarray(base_link_from_boxes.rotate(velocity)[:, :2]), known)


def _classes(masks: Sequence[SegmentationMask]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return names and identities of the classes, which all masks must share."""
    if not masks:
        return (), ()
    first = masks[0]
    for mask in masks[1:]:
        if mask.classes != first.classes:
            raise ContractError(f"masks of different classes: {first.header.frame_id} and {mask.header.frame_id}")
    return first.classes, first.identities or first.classes


def _fused(
    placed: _Placed,
    boxes: Detections3D,
    counts: NDArray[np.int64],
    identities: tuple[str, ...],
    topics: tuple[str, ...],
) -> Iterator[FusedObject]:
    names, half = boxes.identities or boxes.classes, placed.yaw_rad / 2
    columns = zip(
        host(boxes.score).tolist(), host(boxes.label).tolist(), placed.center_m.tolist(), np.sin(half).tolist(),
        np.cos(half).tolist(), placed.size_lwh_m.tolist(), placed.velocity_mps.tolist(), placed.has_velocity.tolist(),
        _shares(counts, identities), counts.sum(axis=1).tolist(), strict=True,
    )  # fmt: skip
    for score, label, place, sine, cosine, size, velocity, moves, semantics, points in columns:
        yield FusedObject(
            id=0, existence_probability=score, classes=(ObjectClass(names[label], score),), center_m=tuple(place),
            rotation_xyzw=(0.0, 0.0, sine, cosine), size_lwh_m=tuple(size),
            velocity_mps=(*velocity, 0.0) if moves else None, has_velocity=moves,
            last_seen_ns=boxes.header.t_sensor_ns, sources=topics, semantics=semantics, num_points=points,
        )  # fmt: skip


def _shares(counts: NDArray[np.int64], identities: tuple[str, ...]) -> list[tuple[ObjectClass, ...]]:
    """Return for each box the share of each identity among its painted points, largest first."""
    shares: list[dict[str, float]] = [{} for _ in counts]
    rows, labels = np.nonzero(counts[:, :UNKNOWN])
    part = counts[rows, labels] / counts[:, :UNKNOWN].sum(axis=1)[rows]
    for row, label, share in zip(rows.tolist(), labels.tolist(), part.tolist(), strict=True):
        name = identities[label] if label < len(identities) else "unknown"
        shares[row][name] = shares[row].get(name, 0.0) + share
    return [
        tuple(ObjectClass(*entry) for entry in sorted(one.items(), key=lambda entry: (-entry[1], entry[0])))
        for one in shares
    ]
