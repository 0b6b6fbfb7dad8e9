"""Make one list of objects of what all detectors say, and track it.

in:  fused, the fuser's objects with the semantics of their points; detections, boxes of any number of detectors in any
     frame of the rig, each at its own rate and delay; regions, boxes in pictures, which support objects that they show;
     recognitions and skeletons, which are attached to the object whose region or place is theirs.
     ego, by which tracks live in `odom` while the vehicle moves.
out: objects, in `base_link` at the newest stamp that any detector has spoken of, at each word of a detector.

A detector is known by its first model's card; `reliability` says what its scores are worth. A word that comes late is
inserted at its own time. Without ego motion tracks live in the moving `base_link`: they have no velocity over ground,
and the list says so.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from typing import Annotated, Literal, Self, TypeVar

import msgspec
import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, field_validator

from perception.errors import ContractError, SensorError, did_you_mean
from perception.geometry.cameras import Camera
from perception.geometry.transforms import Transform
from perception.messages import (
    Detections2D,
    Detections3D,
    Header,
    Odometry,
    Pose3D,
    Recognition,
    TrackedObjects,
    derived,
    host,
)
from perception.nodes._moving_points import extrapolated
from perception.nodes._object_memory import REMEMBERED_NS, ObjectMemory
from perception.ops.matching import UNMATCHED, assign
from perception.runtime.node import Lookup, Node, NodeConfig, NodeSetup, On, Out
from perception.tracking.admitted import admitted
from perception.tracking.classes import FAMILIES, OBJECTS, OTHER
from perception.tracking.in_image import match_regions, outlines
from perception.tracking.object_list import fused_objects
from perception.tracking.object_packing import packed_objects
from perception.tracking.seen_objects import SeenObjects, seen_objects
from perception.tracking.settings import Reliability, TrackerSettings
from perception.tracking.tracker import Tracker
from perception.tracking.tracks import DetectionBatch, FieldOfView, Support, Tracks, boxes_of, some_of

T = TypeVar("T")
NO_EGO_MOTION = "no ego motion: objects have no velocity over ground"
EGO_LOOKED_FOR_NS = (0, 20_000_000, 50_000_000, 100_000_000, 200_000_000, 500_000_000)
"""Where no odometry has come up to an instant, the motion of the vehicle goes on as it was so long before."""


class ReliabilityConfig(BaseModel):
    """What a detector's scores are worth: probability = 1 / (1 + exp(-(slope * log-odds of the score + offset)))."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)
    slope: float = 1.0
    """Of the line through the scores' log-odds; below 1 for a detector that is too sure of itself."""
    offset: float = 0.0
    """Of that line."""
    noise: Annotated[float, Field(gt=0, le=20)] = 1.0
    """How many times further than usual its boxes scatter."""
    score_min: Annotated[float, Field(ge=0, le=1)] | None = None
    """In place of the tracker's: below which score its detections are not looked at."""
    confusion: dict[str, dict[str, Annotated[float, Field(ge=0, le=1)]]] = Field(default_factory=dict)
    """How often it calls what is truly of the first class by the second's name, of boxes that are in their place."""

    @field_validator("confusion")
    @classmethod
    def _known_classes(cls, confusion: dict[str, dict[str, float]]) -> dict[str, dict[str, float]]:
        for name in (*confusion, *(said for row in confusion.values() for said in row)):
            if name not in OBJECTS:
                known = ", ".join(OBJECTS)
                raise ValueError(f"'{name}' is no class of the tracker; it knows {known}.{did_you_mean(name, OBJECTS)}")
        return confusion


class ObjectTrackerConfig(NodeConfig):
    """Settings of the tracker of objects."""

    reliability: dict[str, ReliabilityConfig] = Field(default_factory=dict)
    """By detector: the name of its model's card (or all of its name before a space or `@`), or `default`."""
    matching: Literal["hungarian", "greedy"] = "hungarian"
    """How detections are given to tracks."""
    affinity: Literal["giou", "mahalanobis"] | None = None
    """By what: overlap of boxes or distance over uncertainty; by default as each class does best."""
    score_min: Annotated[float, Field(ge=0, le=1)] = 0.05
    """Detections below are not looked at."""
    range_m: Annotated[float, Field(gt=0)] = 60.0
    """How far detectors see: beyond it, what is not detected may be there all the same."""
    show_existence: Annotated[float, Field(ge=0, le=1)] = 0.3
    """Objects less probable than this are not given out."""
    overlap_max: Annotated[float, Field(ge=0, le=1)] = 0.2
    """Two things are not in one place: of two objects that share more than this part of the smaller one's ground, the
    less probable one is not given out."""
    region_overlap_min: Annotated[float, Field(gt=0, le=1)] = 0.3
    """Overlap in the picture from which a region is an object's."""
    history_ms: Annotated[float, Field(ge=0)] = 1000.0
    """How late a detection may come and still be inserted at its own time."""
    valid_for_ms: Annotated[float, Field(gt=0)] = 500.0
    """How long planners may extrapolate objects."""


class ObjectTracker(Node):
    """See the module's text."""

    Config = ObjectTrackerConfig
    fused = On[TrackedObjects](keep="all", optional=True)
    detections = On[Detections3D](keep="all", optional=True)
    regions = On[Detections2D](keep="all", optional=True)
    recognitions = On[Recognition](keep="all", optional=True)
    skeletons = On[Pose3D](keep="all", optional=True)
    ego = Lookup[Odometry](deadline_ms=100)
    objects = Out[TrackedObjects]()

    @classmethod
    def create(cls, config: ObjectTrackerConfig, setup: NodeSetup) -> Self:
        return cls(config, has_ego=bool(setup.inputs.get("ego")))

    def __init__(self, config: ObjectTrackerConfig | None = None, *, has_ego: bool = True) -> None:
        super().__init__(config or ObjectTrackerConfig())
        self.has_ego = has_ego
        self.degraded = () if has_ego else (NO_EGO_MOTION,)
        self.tracker = Tracker(_settings(self.config, has_ego=has_ego))
        self._prefix = 0
        self._headers: dict[str, Header] = {}
        self._memory = ObjectMemory()

    def reset(self, reason: str) -> None:
        self.tracker.reset()
        self._headers.clear()
        self._memory.clear()

    def warm_up(self) -> None:
        two = DetectionBatch(  # apart, since two in one place are one
            t_ns=0, source="warm-up", classes=("car", "person"), center_m=np.diag((9.0, 0, 0))[:2],
            size_lwh_m=np.ones((2, 3)),
            yaw_rad=np.zeros(2), label=np.array([0, 1]), score=np.full(2, 0.9), velocity_mps=np.ones((2, 2)),
        )  # fmt: skip
        admitted(two.center_m, two.size_lwh_m, two.yaw_rad, np.ones((2, 2)), two.score, np.eye(4), 0.0, 0.5)
        for count in (1, 2):  # one row of an array is compiled for itself
            trial = Tracker(self.tracker.settings)
            for turn in range(8):  # seen with its front at the other end in the end, so that it is turned around too
                turned = replace(two, t_ns=turn * 100_000_000, yaw_rad=np.full(2, 0.0 if turn < 2 else np.pi))
                trial.add(turned.of(np.arange(count)))
            trial.shown(trial.tracks, 0)
            here = Transform.identity()
            made = fused_objects(
                trial.tracks, 0, here, trial.names, trial.sources, trial.motion_models, trial.process_noise,
                ObjectMemory().attached(trial.tracks, 0, here), over_ground=True,
            )  # fmt: skip
            packed_objects(made)
            seen_objects(made.as_field())

    def on_detections(self, detections: Detections3D) -> TrackedObjects:
        return self._list(detections.header, self.take(detections))

    def take(self, detections: Detections3D) -> Transform:
        """Track the boxes of one detector, without making the list; return where the vehicle was at their stamp."""
        header = detections.header
        names = detections.identities or detections.classes
        velocity = None if detections.velocity_mps is None else np.asarray(host(detections.velocity_mps), np.float64)
        return self._take(
            header, names, np.asarray(host(detections.center_m), np.float64),
            np.asarray(host(detections.size_lwh_m), np.float64), np.asarray(host(detections.yaw_rad), np.float64),
            np.asarray(host(detections.label), np.int64), np.asarray(host(detections.score), np.float64), velocity,
        )  # fmt: skip

    def on_fused(self, fused: TrackedObjects) -> TrackedObjects:
        seen, header = seen_objects(fused.objects), fused.header
        pose = self._take(
            header, seen.names, seen.center_m, seen.size_lwh_m, seen.yaw_rad, seen.label, seen.score,
            seen.velocity_mps, seen,
        )  # fmt: skip
        return self._list(header, pose)

    def on_regions(self, regions: Detections2D) -> None:
        found = self._seen_in(regions.header, np.asarray(host(regions.box_px), np.float64))
        if found is None:
            return
        ids, hit = found
        names = regions.classes
        known = tuple(name if name in OBJECTS else OTHER for name in names)
        label = np.asarray(host(regions.label), np.int64)[hit]
        score = np.asarray(host(regions.score), np.float64)[hit]
        source = _detector(regions.header)
        self.tracker.add(Support(t_ns=regions.header.t_sensor_ns, source=source, classes=known, ids=ids,
                                 label=label, score=score))  # fmt: skip
        self._headers[source] = regions.header

    def on_recognitions(self, recognition: Recognition) -> None:
        region = recognition.region_px
        if region is None:
            return  # of the whole field of view: of no one object
        found = self._seen_in(recognition.header, np.array([region], np.float64))
        if found is not None and len(found[0]):
            self._memory.recognised[int(found[0][0])] = recognition.header.t_sensor_ns, recognition.top

    def on_skeletons(self, pose: Pose3D) -> None:
        people = self.tracker.names.index("person")
        tracks = self._tracks_at(pose.header)
        tracks = tracks[tracks["label"] == people]
        if not len(tracks) or not pose.skeletons:
            return
        frame_from_pose = self._tracks_from(pose.header)
        joints = [frame_from_pose.apply(np.array(one.joints_m, np.float64)) for one in pose.skeletons]
        middle = np.array([np.median(one, axis=0) for one in joints])
        apart = np.linalg.norm(middle[:, None, :2] - tracks["mean"][None, :, :2], axis=2)
        for index, row in enumerate(assign(apart, 1.0)):
            if row != UNMATCHED:
                moved = joints[index] - np.append(tracks["mean"][row, :2], 0.0)
                identity = int(tracks["id"][row])
                self._memory.skeletons[identity] = (pose.header.t_sensor_ns, pose.skeletons[index], moved)

    def _take(
        self,
        header: Header,
        names: Sequence[str],
        center: NDArray[np.float64],
        size: NDArray[np.float64],
        yaw: NDArray[np.float64],
        label: NDArray[np.int64],
        score: NDArray[np.float64],
        velocity: NDArray[np.float64] | None,
        looks: SeenObjects | None = None,
    ) -> Transform:
        """Track boxes that stand in the frame of `header`, and return where the vehicle was then."""
        if not self._prefix:
            self._prefix = _prefix(header)
        pose = self._odom_from_base_link(header.t_sensor_ns)
        frame = pose @ self.rig.base_link_from(header.frame_id)
        over_ground = velocity is not None and self.has_ego
        fast = np.full((len(yaw), 2), np.nan) if velocity is None else velocity
        source = _detector(header)
        kept, center, size, yaw, fast = admitted(
            center, size, yaw, fast, score, frame.matrix, self._score_min(source), self.config.overlap_max
        )
        view = FieldOfView(float(pose.translation_m[0]), float(pose.translation_m[1]), range_m=self.config.range_m)
        batch = DetectionBatch(
            t_ns=header.t_sensor_ns, source=source, classes=_known(names), center_m=center, size_lwh_m=size,
            yaw_rad=yaw, label=label[kept], score=score[kept], velocity_mps=fast if over_ground else None, seen=view,
        )  # fmt: skip
        self.tracker.add(batch)
        self._headers[source] = header
        if looks is not None and self.tracker.t_ns == header.t_sensor_ns:
            detection = self.tracker.tracks["detection"]
            seen = np.flatnonzero(detection >= 0)
            rows = kept[detection[seen]]
            ids = self.tracker.tracks["id"][seen]
            self._memory.looks.note(ids, batch.t_ns, looks.looks, looks.share[rows], looks.num_points[rows])
        return pose

    def _score_min(self, source: str) -> float:
        settings: ObjectTrackerConfig = self.config
        trust = settings.reliability.get(source) or settings.reliability.get("default")
        return settings.score_min if trust is None or trust.score_min is None else trust.score_min

    def _list(self, header: Header, pose: Transform) -> TrackedObjects:
        """Return all objects at the newest stamp of the tracker, given the vehicle's pose at the header's."""
        tracker, t_ns = self.tracker, self.tracker.t_ns
        assert t_ns is not None
        tracks = some_of(tracker.tracks, tracker.shown(tracker.tracks, t_ns))
        odom_from_base_link = pose if t_ns == header.t_sensor_ns else self._odom_from_base_link(t_ns)
        base_link = odom_from_base_link.inverse()
        attached = self._memory.attached(tracks, t_ns, base_link)
        self._memory.forget_all_but(tracker.tracks)
        objects = fused_objects(
            tracks, t_ns, base_link, tracker.names, tracker.sources, tracker.motion_models,
            tracker.process_noise, attached, over_ground=self.has_ego, id_prefix=self._prefix,
        )  # fmt: skip
        others = [
            one for one in self._headers.values() if t_ns - one.t_sensor_ns <= REMEMBERED_NS and one is not header
        ]
        made = derived(header, *others, frame_id="base_link", t_sensor_ns=t_ns)
        if not self.has_ego:
            made = msgspec.structs.replace(made, degraded=(*made.degraded, NO_EGO_MOTION))
        seven = (*odom_from_base_link.translation_m.tolist(), *odom_from_base_link.rotation_xyzw.tolist())
        return TrackedObjects(
            header=made, objects=objects.as_field(), odom_from_base_link=seven if self.has_ego else None,
            valid_until_ns=t_ns + round(self.config.valid_for_ms * 1e6),
        )  # fmt: skip

    def _seen_in(
        self, header: Header, regions: NDArray[np.float64]
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]] | None:
        """Return ids of the tracks that regions (M, 4) of a picture are, and which regions; None before any track."""
        if self.tracker.t_ns is None:
            return None
        sensor = self.rig.sensor_of_frame(header.frame_id)
        if sensor is None or sensor.camera is None:
            raise ContractError(f"regions stand in '{header.frame_id}', no camera of rig '{self.rig.name}'")
        camera: Camera = sensor.camera
        tracks = self._tracks_at(header)
        outline, visible = outlines(boxes_of(tracks), camera, self._tracks_from(header).inverse())
        match = match_regions(outline, visible, regions, self.config.region_overlap_min)
        hit = np.flatnonzero(match != UNMATCHED)
        return tracks["id"][match[hit]], hit

    def _tracks_at(self, header: Header) -> Tracks:
        return self.tracker.tracks_at(header.t_sensor_ns)

    def _tracks_from(self, header: Header) -> Transform:
        """Return the transform from a message's frame, at its stamp, to the frame that tracks live in."""
        return self._odom_from_base_link(header.t_sensor_ns) @ self.rig.base_link_from(header.frame_id)

    def _odom_from_base_link(self, t_ns: int) -> Transform:
        """Return the vehicle's pose; identity where tracks live in the moving `base_link`.

        Raises:
            SensorError: there is no odometry near this instant.
        """
        if not self.has_ego:
            return Transform.identity()
        for back_ns in EGO_LOOKED_FOR_NS:
            found = self.ego.at(t_ns - back_ns)
            if found is not None:
                return extrapolated(found, t_ns)
        raise SensorError(
            f"no ego motion in the {EGO_LOOKED_FOR_NS[-1] / 1e6:.0f} ms before {t_ns}: objects cannot be placed"
        )


def _settings(config: ObjectTrackerConfig, *, has_ego: bool) -> TrackerSettings:
    classes = {
        name: replace(
            one, matching=config.matching, affinity=config.affinity or one.affinity,
            show_existence=config.show_existence, motion=one.motion if has_ego else "straight",
            acceleration_mps2=one.acceleration_mps2 if has_ego else max(15.0, one.acceleration_mps2),
        )
        for name, one in OBJECTS.items()
    }  # fmt: skip
    trust = {
        "" if name == "default" else name: Reliability(
            slope=one.slope, offset=one.offset, noise=one.noise, confusion=one.confusion
        )
        for name, one in config.reliability.items()
    }
    return TrackerSettings(
        classes=classes, families=FAMILIES, reliability=trust, overlap_max=config.overlap_max,
        history_s=config.history_ms / 1000,
    )  # fmt: skip


def _known(names: Sequence[str]) -> tuple[str, ...]:
    """Return the names that there are settings for, and `OTHER` in the place of the others."""
    return tuple(name if name in OBJECTS else OTHER for name in names)


def _detector(header: Header) -> str:
    """Return the name of who speaks: its first model's card, or the frame that it speaks in."""
    return header.models[0].card if header.models else header.frame_id or "detections"


def _prefix(header: Header) -> int:
    """Return the upper half of all ids of this start: of the run and the stamp at which it began."""
    text = f"{header.run} {header.t_sensor_ns}".encode()
    return (int.from_bytes(hashlib.blake2b(text, digest_size=4).digest()) & 0x7FFF_FFFF) << 32


__all__ = ["ObjectTracker", "ObjectTrackerConfig"]
