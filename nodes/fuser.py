"""Fuse LiDAR points, segmentation masks and LiDAR boxes into painted points and objects for planners.

in:  scene.sweep, points as of their own instants; scene.masks, of any number of cameras; scene.boxes, of a detector.
     ego, which moves each point to the instant of a mask.
out: painted, the sweep's points in `base_link` at the sweep's stamp, each with the class of the pixel it falls on;
     objects, the boxes with what their points look like. Without boxes nothing is said of objects: no detection is not
     the same as no object.

Masks and points come before a detector has spoken: they are painted then as if everything stood still, and what is in a
box that moves is painted again once the boxes are known (`_painting.py`).

A point takes the class from the camera that was exposed nearest to the instant at which the point was measured. What
stands still is moved there by ego motion, points in a box also by the box's velocity. Points that a camera cannot see,
since something nearer is in the way, are not painted by it.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from typing import Annotated, NamedTuple, Self, TypeAlias

import msgspec
import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from perception.errors import ContractError, ShapeError
from perception.geometry.cameras import Camera
from perception.geometry.transforms import Transform
from perception.messages import (
    Detections3D,
    Header,
    Message,
    Odometry,
    PaintedPoints,
    PointCloud,
    SegmentationMask,
    TrackedObjects,
    derived,
    host,
    mask_labels,
)
from perception.nodes._moving_points import MovingPoints, measured_by, poses
from perception.nodes._painting import Eye, Painting, View
from perception.ops import moving_points, painting, projection
from perception.ops.box_frames import boxes_in_frame
from perception.ops.painting import UNKNOWN, points_of_boxes
from perception.runtime.node import Join, Lookup, Many, Maybe, Node, NodeConfig, NodeSetup, Out
from perception.tracking.class_lists import ClassLists
from perception.tracking.looks import TINY
from perception.tracking.object_table import AVAILABLE, ObjectTable

NO_EGO_MOTION = "no ego motion: points are not moved to the instants of the pictures"
NO_BOXES = "no boxes of this instant"
RING_GAP_RAD = np.radians(1.3)
"""Where the rig does not say how far the rings of a LiDAR lie apart."""
STILL_MPS = 0.2
"""What is slower stands still."""
AHEAD = 8
"""So many sweeps are kept painted for boxes that are still to come."""


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
        sweep=PointCloud, masks=Many[SegmentationMask], boxes=Maybe[Detections3D], tolerance_ms=60, deadline_ms=150,
        early=("sweep", "masks"),
    )  # fmt: skip
    ego = Lookup[Odometry](deadline_ms=100)
    painted = Out[PaintedPoints]()
    objects = Out[TrackedObjects]()

    @classmethod
    def create(cls, config: FuserConfig, setup: NodeSetup) -> Self:
        return cls(config, cameras=len(setup.inputs.get("masks", ())), box_topics=setup.inputs.get("boxes", ()))

    def __init__(self, config: FuserConfig | None = None, cameras: int = 0, box_topics: Sequence[str] = ()) -> None:
        super().__init__(config or FuserConfig())
        self.cameras, self.box_topics = cameras, tuple(box_topics)
        self._eyes: dict[tuple[str, tuple[int, ...]], Eye] = {}
        self._prepared: dict[_Instant, Painting] = {}

    def warm_up(self) -> None:
        nothing = np.zeros((1, 3))
        boxes_in_frame(nothing, nothing[0, :1], np.zeros((1, 2)), np.eye(4), 0.0)
        ClassLists.ranked(("unknown",), np.ones((1, 1)), TINY)
        moving_points.compile_all()
        projection.compile_all()
        painting.compile_all()

    def reset(self, reason: str) -> None:
        self._prepared.clear()

    def prepare_scene(self, sweep: PointCloud, masks: Sequence[SegmentationMask]) -> None:
        """Paint before the boxes come."""
        while len(self._prepared) >= AHEAD:
            del self._prepared[next(iter(self._prepared))]
        self._prepared[_instant(sweep, masks)] = self._painted(sweep, self._views(masks))

    def on_scene(
        self, sweep: PointCloud, masks: Sequence[SegmentationMask], boxes: Detections3D | None
    ) -> Iterator[tuple[str, Message]]:
        now_ns = sweep.header.t_sensor_ns
        ego, views = self.ego.at(now_ns), self._views(masks)
        classes, identities = _classes(masks)
        painted = self._prepared.pop(_instant(sweep, masks), None) or self._painted(sweep, views)
        header = self._header(sweep, masks, boxes, ego)
        if boxes is not None:
            placed = _Placed.of(boxes, self._base_link_now_from(boxes, now_ns, ego), now_ns)
            self._move_with_boxes(painted, placed, views, poses(ego, self.ego.at)(now_ns))
            where = (placed.center_m, placed.size_lwh_m, placed.yaw_rad)
            names, column_of = _names_of_labels(identities)
            counts = painted.labels_in(where, self.config.box_margin_m, column_of)
            yield "objects", TrackedObjects(
                header=header, objects=_fused(placed, boxes, counts, names, self.box_topics).as_field(),
                odom_from_base_link=None if ego is None else (*ego.translation_m, *ego.rotation_xyzw),
                valid_until_ns=now_ns + round(self.config.valid_for_ms * 1e6),
            )  # fmt: skip
        sure = any(view.confidence is not None for view in views)
        yield "painted", PaintedPoints(
            header=header, classes=classes, xyz_m=painted.xyz_m, label=painted.label,
            camera=painted.camera, confidence=painted.confidence if sure else None, identities=identities,
            cameras=tuple(mask.header.frame_id.removesuffix("_optical") for mask in masks),
        )  # fmt: skip

    def _painted(self, sweep: PointCloud, views: Sequence[View]) -> Painting:
        now_ns = sweep.header.t_sensor_ns
        return Painting(self._moving(sweep, self.ego.at(now_ns)), now_ns, views, self._ring_gap_rad(sweep))

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
        mount = self.rig.base_link_from(sweep.header.frame_id)
        return measured_by(sweep, kept, mount, poses(ego, self.ego.at))

    def _base_link_now_from(self, boxes: Detections3D, now_ns: int, ego: Odometry | None) -> Transform:
        """Return where the boxes' frame at their stamp is in `base_link` at the sweep's."""
        mount = self.rig.base_link_from(boxes.header.frame_id)
        if boxes.header.t_sensor_ns == now_ns:
            return mount
        pose_at = poses(ego, self.ego.at)
        now, then = pose_at(now_ns), pose_at(boxes.header.t_sensor_ns)
        return mount if now is None or then is None else now.inverse() @ then @ mount

    def _move_with_boxes(
        self, painted: Painting, placed: _Placed, views: Sequence[View], pose: Transform | None
    ) -> None:
        """Give points in boxes that move the velocity of their box."""
        places, box = points_of_boxes(
            painted.tiles, painted.later_s, painted.span_s, placed.center_m, placed.size_lwh_m, placed.yaw_rad,
            placed.velocity_mps, self.config.box_margin_m, STILL_MPS,
        )  # fmt: skip
        if not len(places):
            return
        velocity = np.zeros((len(placed.velocity_mps), 3))
        velocity[:, :2] = placed.velocity_mps
        over_ground = velocity if pose is None else pose.rotate(velocity)
        painted.move(places, over_ground.take(box, axis=0), views)

    def _views(self, masks: Sequence[SegmentationMask]) -> list[View]:
        views = []
        for mask in masks:
            label = np.ascontiguousarray(mask_labels(mask))  # compiled for those alone
            confidence = None if mask.confidence is None else np.ascontiguousarray(host(mask.confidence))
            views.append(View(mask.header.t_sensor_ns, self._eye(mask.header.frame_id, label.shape), label, confidence))
        return views

    def _eye(self, frame: str, size: tuple[int, ...]) -> Eye:
        if (frame, size) not in self._eyes:
            camera = self._camera_of(frame, size)
            optical_from_base_link = self.rig.base_link_from(frame).inverse().matrix[:3]
            widest_rad = min(1.02 * camera.field_of_view().widest_rad + 0.01, np.pi)  # a little too wide
            eye = Eye(camera, np.ascontiguousarray(optical_from_base_link), float(np.cos(widest_rad)))
            self._eyes[frame, size] = eye
        return self._eyes[frame, size]

    def _camera_of(self, frame: str, size: tuple[int, ...]) -> Camera:
        sensor = self.rig.sensor_of_frame(frame)
        if sensor is None or sensor.camera is None:
            raise ContractError(f"a mask stands in '{frame}', no camera of rig '{self.rig.name}'")
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


_Instant: TypeAlias = tuple[tuple[str, int, int], ...]


def _instant(sweep: PointCloud, masks: Sequence[SegmentationMask]) -> _Instant:
    """Return what tells one sweep with its masks from every other."""
    headers = [message.header for message in (sweep, *masks)]
    return tuple((header.frame_id, header.t_sensor_ns, header.seq) for header in headers)


class _Placed(NamedTuple):
    """Boxes in `base_link` at one instant, with velocities over ground (N, 2), zero where they are not known."""

    center_m: NDArray[np.float64]
    size_lwh_m: NDArray[np.float64]
    yaw_rad: NDArray[np.float64]
    velocity_mps: NDArray[np.float64]
    has_velocity: NDArray[np.bool_]

    @classmethod
    def of(cls, boxes: Detections3D, base_link_from_boxes: Transform, now_ns: int) -> Self:
        center, size, yaw = (
            np.array(host(values), np.float64) for values in (boxes.center_m, boxes.size_lwh_m, boxes.yaw_rad)
        )
        measured = boxes.velocity_mps
        fast = np.full((len(yaw), 2), np.nan) if measured is None else np.array(host(measured), np.float64)
        seconds = (now_ns - boxes.header.t_sensor_ns) * 1e-9
        center, yaw, velocity = boxes_in_frame(center, yaw, fast, base_link_from_boxes.matrix, seconds)
        known = np.isfinite(velocity[:, 0])
        velocity[~known] = 0.0
        return cls(center, size, yaw, velocity, known)


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
    counts: NDArray[np.int32],
    names_of_points: tuple[str, ...],
    topics: tuple[str, ...],
) -> ObjectTable:
    """Return objects; counts (N, C + 1) of their points, by names (C,), then of those that no camera painted."""
    painted, score = counts[:, :-1], np.array(host(boxes.score), np.float64)
    share = painted / np.maximum(painted.sum(axis=1, keepdims=True), 1)
    nothing, label = np.zeros(len(score), np.int64), np.array(host(boxes.label), np.int64)
    return ObjectTable(
        id=nothing, existence_probability=score,
        classes=ClassLists.of_one_each(boxes.identities or boxes.classes, label, score),
        center_m=placed.center_m, yaw_rad=placed.yaw_rad, size_lwh_m=placed.size_lwh_m,
        orientation=np.full(len(score), AVAILABLE), velocity_mps=placed.velocity_mps, has_velocity=placed.has_velocity,
        age_ns=nothing, last_seen_ns=np.full(len(score), boxes.header.t_sensor_ns), source=nothing, sources=[topics],
        semantics=ClassLists.ranked(names_of_points, share, TINY), num_points=counts.sum(axis=1, dtype=np.int64),
    )  # fmt: skip


@functools.cache
def _names_of_labels(identities: tuple[str, ...]) -> tuple[tuple[str, ...], NDArray[np.int64]]:
    """Return the names of painted points in order, and of each label the number of its name, the last for UNKNOWN."""
    names = tuple(sorted({*identities, "unknown"}))
    column_of = np.full(256, names.index("unknown"))
    column_of[: min(len(identities), UNKNOWN)] = [names.index(name) for name in identities[:UNKNOWN]]
    column_of[UNKNOWN] = len(names)
    return names, column_of
