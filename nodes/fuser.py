"""Fuse LiDAR points, segmentation masks and LiDAR boxes into painted points and objects for planners.

in:  scene.sweep, points as of their own instants; scene.masks, of any number of cameras; scene.boxes, of a detector.
     ego, which moves each point to the instant of a mask.
out: painted, the sweep's points in `base_link` at the sweep's stamp, each with the class of the pixel it falls on;
     objects, the boxes with what their points look like.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Annotated, Any

import msgspec
import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from perception.errors import ContractError, ShapeError
from perception.geometry.boxes import Boxes
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
)
from perception.ops.painting import UNKNOWN, hidden_points
from perception.runtime.node import Join, Lookup, Many, Maybe, Node, NodeConfig, Out

TIME_STEP_NS = 5_000_000
"""Points are moved by ego motion in groups of so much time: a vehicle turns less than 0.2 degrees in it."""
NO_EGO_MOTION = "no ego motion: points are not moved to the instants of the pictures"


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

    def on_scene(
        self, sweep: PointCloud, masks: Sequence[SegmentationMask], boxes: Detections3D | None
    ) -> Iterator[tuple[str, Message]]:
        xyz = host(sweep.xyz_m)
        finite = np.isfinite(xyz).all(axis=1)
        if len(xyz) and not finite.any():
            raise ShapeError(f"none of the {len(xyz)} points is finite")
        xyz = xyz[finite]
        times = self._times(sweep)[finite]
        classes, identities = _classes(masks)
        moved = self._in_odom(sweep, xyz, times)
        painted = np.full(len(xyz), UNKNOWN, np.uint8)
        camera = np.full(len(xyz), 255, np.uint8)
        for index, mask in enumerate(masks):
            self._paint(mask, index, moved, painted, camera)
        sources = [sweep.header, *(mask.header for mask in masks), *([boxes.header] if boxes is not None else [])]
        header = derived(*sources, frame_id="base_link")
        if moved.odom_from_base_link is None:
            header = msgspec.structs.replace(header, degraded=(*header.degraded, NO_EGO_MOTION))
        points = moved.in_base_link(sweep.header.t_sensor_ns)
        yield "painted", PaintedPoints(
            header=header, classes=classes, xyz_m=points.astype(np.float32), label=painted, camera=camera,
            cameras=tuple(mask.header.frame_id.removesuffix("_optical") for mask in masks),
        )  # fmt: skip
        yield "objects", self._objects(header, boxes, points, painted, identities, moved)

    def _times(self, sweep: PointCloud) -> NDArray[np.int64]:
        count = len(host(sweep.xyz_m))
        stamp = sweep.header.t_sensor_ns if sweep.deskewed_to_ns is None else sweep.deskewed_to_ns
        if sweep.t_offset_ns is None or sweep.deskewed_to_ns is not None:
            return np.full(count, stamp)
        return stamp + host(sweep.t_offset_ns).astype(np.int64)

    def _in_odom(self, sweep: PointCloud, xyz: NDArray[Any], times: NDArray[np.int64]) -> _Moved:
        base_link_from_lidar = self.rig.base_link_from(sweep.header.frame_id)
        points = base_link_from_lidar.apply(xyz.astype(np.float64))
        now = self._odom_from_base_link(sweep.header.t_sensor_ns)
        if now is None:
            return _Moved(points, None, self)
        steps = times // TIME_STEP_NS
        in_odom = np.empty_like(points)
        for step in np.unique(steps):
            of_step = steps == step
            at_ns = int(times[of_step].mean())
            pose = self._odom_from_base_link(at_ns) or now
            in_odom[of_step] = pose.apply(points[of_step])
        return _Moved(in_odom, now, self)

    def _odom_from_base_link(self, t_ns: int) -> Transform | None:
        ego = self.ego.at(t_ns)
        return None if ego is None else Transform.from_quaternion(ego.translation_m, ego.rotation_xyzw)

    def _paint(
        self, mask: SegmentationMask, index: int, moved: _Moved, painted: NDArray[np.uint8], camera: NDArray[np.uint8]
    ) -> None:
        """Paint the points that this camera sees and that no camera before it has painted."""
        frame = mask.header.frame_id
        sensor = self.rig.sensor_of_frame(frame)
        if sensor is None or sensor.camera is None:
            raise ContractError(f"a mask stands in '{frame}', which is no camera of rig '{self.rig.name}'")
        label = host(mask.label)
        model = sensor.camera
        if label.shape != (model.height_px, model.width_px):
            model = model.scaled(label.shape[1], label.shape[0])
        points = moved.in_base_link(mask.header.t_sensor_ns)
        optical = self.rig.base_link_from(frame).inverse().apply(points)
        pixels, valid = model.project(optical)
        valid &= painted == UNKNOWN
        valid[valid] &= ~hidden_points(pixels[valid], optical[valid, 2], label.shape)
        column, row = np.rint(pixels[valid]).astype(np.int64).T
        painted[valid] = label[np.clip(row, 0, label.shape[0] - 1), np.clip(column, 0, label.shape[1] - 1)]
        seen = valid.copy()
        seen[valid] = painted[valid] != UNKNOWN
        camera[seen] = index

    def _objects(
        self,
        header: Header,
        boxes: Detections3D | None,
        points: NDArray[Any],
        painted: NDArray[np.uint8],
        identities: tuple[str, ...],
        moved: _Moved,
    ) -> TrackedObjects:
        valid_ns = header.t_sensor_ns + round(self.config.valid_for_ms * 1e6)
        ego = moved.odom_from_base_link
        pose = None if ego is None else (*map(float, ego.translation_m), *map(float, ego.rotation_xyzw))
        found: tuple[FusedObject, ...] = ()
        if boxes is not None:
            found = tuple(
                _fused(self._in_base_link(boxes), boxes, points, painted, identities, self.config.box_margin_m)
            )
        return TrackedObjects(header=header, objects=found, odom_from_base_link=pose, valid_until_ns=valid_ns)  # type: ignore[arg-type]

    def _in_base_link(self, boxes: Detections3D) -> Boxes:
        made = Boxes(
            host(boxes.center_m).astype(np.float64), host(boxes.size_lwh_m).astype(np.float64),
            host(boxes.yaw_rad).astype(np.float64),
        )  # fmt: skip
        frame = boxes.header.frame_id
        return made if frame == "base_link" else made.transformed(self.rig.base_link_from(frame))


class _Moved:
    """Points in `odom` (or, without ego motion, in `base_link`), to be had in `base_link` at any instant."""

    def __init__(self, points: NDArray[Any], odom_from_base_link: Transform | None, fuser: Fuser) -> None:
        self._points, self.odom_from_base_link, self._fuser = points, odom_from_base_link, fuser

    def in_base_link(self, t_ns: int) -> NDArray[Any]:
        if self.odom_from_base_link is None:
            return self._points
        pose = self._fuser._odom_from_base_link(t_ns) or self.odom_from_base_link
        return pose.inverse().apply(self._points)


def _classes(masks: Sequence[SegmentationMask]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return names and identities of the classes, which all masks must share."""
    if not masks:
        return (), ()
    first = masks[0]
    for mask in masks[1:]:
        if mask.classes != first.classes:
            raise ContractError(f"masks of different classes: {first.header.frame_id} and {mask.header.frame_id}")
    return first.classes, first.identities or first.classes


def _fused(  # noqa: PLR0917 - arrays that belong together
    made: Boxes,
    boxes: Detections3D,
    points: NDArray[Any],
    painted: NDArray[np.uint8],
    identities: tuple[str, ...],
    margin_m: float,
) -> Iterator[FusedObject]:
    names = boxes.identities or boxes.classes
    score, label = host(boxes.score), host(boxes.label)
    velocity = None if boxes.velocity_mps is None else host(boxes.velocity_mps)
    inside = made.contain(points, margin_m) if len(points) else np.zeros((len(score), 0), np.bool_)
    for index in range(len(score)):
        seen = painted[inside[index]]
        seen = seen[seen != UNKNOWN]
        half = made.yaw_rad[index] / 2
        x, y, z = (float(value) for value in made.center_m[index])
        length, width, height = (float(value) for value in made.size_lwh_m[index])
        moving = None if velocity is None or not np.isfinite(velocity[index]).all() else velocity[index]
        yield FusedObject(
            id=0, existence_probability=float(score[index]),
            classes=(ObjectClass(names[int(label[index])], float(score[index])),),
            center_m=(x, y, z), rotation_xyzw=(0.0, 0.0, float(np.sin(half)), float(np.cos(half))),
            size_lwh_m=(length, width, height),
            velocity_mps=None if moving is None else (float(moving[0]), float(moving[1]), 0.0),
            has_velocity=moving is not None, last_seen_ns=boxes.header.t_sensor_ns,
            semantics=_shares(seen, identities), num_points=int(inside[index].sum()),
        )  # fmt: skip


def _shares(seen: NDArray[np.uint8], identities: tuple[str, ...]) -> tuple[ObjectClass, ...]:
    """Return the share of each identity among the painted points of a box, largest first."""
    shares: dict[str, float] = {}
    for label, count in zip(*np.unique(seen, return_counts=True), strict=True):
        name = identities[int(label)] if int(label) < len(identities) else "unknown"
        shares[name] = shares.get(name, 0.0) + float(count) / len(seen)
    return tuple(
        ObjectClass(name, share) for name, share in sorted(shares.items(), key=lambda item: (-item[1], item[0]))
    )
