"""Score pairs of truth and output messages, whatever their task.

Boxes by the rules of nuScenes within 50 m, and, where objects have ids, HOTA and CLEAR with similarity 1 - d / 2 m;
masks by mIoU; poses by MPJPE in one frame of the rig; recognitions by top-1 and top-5.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from perception.evaluation import pose, recognition
from perception.evaluation.breakdown import Curves, Table, all_curves, by_distance, by_visibility, confusion, matched
from perception.evaluation.calibration import reliability
from perception.evaluation.deliveries import Pair
from perception.evaluation.detection_nuscenes import SceneBoxes, evaluate
from perception.evaluation.segmentation import Confusion
from perception.evaluation.track_frames import Float, TrackFrame
from perception.evaluation.tracking_clear import clear
from perception.evaluation.tracking_hota import hota
from perception.geometry.frames import FrameTree
from perception.geometry.transforms import Transform
from perception.messages import (
    Detections3D,
    FusedObject,
    Message,
    Pose3D,
    Recognition,
    SegmentationMask,
    TrackedObjects,
    host,
)
from perception.messages.masks import mask_labels

RANGE_M = 50.0
TRACK_DISTANCE_M = 2.0
_SAME = {"person": "pedestrian", "cyclist": "bicycle", "rider": "bicycle", "vehicle": "car"}


@dataclass(frozen=True)
class TaskScores:
    """What one output reached.

    Attributes:
        task: detection, tracking, segmentation, pose or recognition.
        summary: the figures by name; the first is the headline.
        by_class: figures by class.
        frames: true instants that were scored.
        confusion: counts by (true class, answer); of boxes, "background" stands for what is none or was not found.
        confusion_score: of boxes, the score from which on they are in it: where F1 is highest.
        by_distance, by_visibility: figures of boxes by band.
        curves: points (x, y) by curve, by what they show.
    """

    task: str
    summary: Table
    by_class: dict[str, Table] = field(default_factory=dict)
    frames: int = 0
    confusion: dict[str, dict[str, int]] = field(default_factory=dict)
    confusion_score: float | None = None
    by_distance: dict[str, Table] = field(default_factory=dict)
    by_visibility: dict[str, Table] = field(default_factory=dict)
    curves: Mapping[str, Curves] = field(default_factory=dict)


def score(pairs: Sequence[Pair], frames: FrameTree | None = None, *, details: bool = False) -> TaskScores | None:
    """Score an output of any type that has a truth, None for the others.

    Args:
        pairs: truth and output by instant; truths of one type.
        frames: the rig's, by which poses are brought into one frame; without it they must be in the same one.
        details: also by distance and visibility, and curves; it takes about as long again.
    """
    truth = pairs[0].truth if pairs else None
    if isinstance(truth, TrackedObjects | Detections3D):
        return _objects(pairs, details=details)
    if isinstance(truth, SegmentationMask):
        return _masks(pairs)
    if isinstance(truth, Pose3D):
        return _poses(pairs, frames)
    if isinstance(truth, Recognition):
        return _recognitions(pairs)
    return None


def canonical(name: str) -> str:
    """Return the name by which classes of different data sets are compared."""
    plain = name.lower().replace(" ", "_")
    return _SAME.get(plain, plain)


def _objects(pairs: Sequence[Pair], *, details: bool) -> TaskScores:
    poses = {p.truth.header.t_sensor_ns: _pose_of(p.truth) for p in pairs if isinstance(p.truth, TrackedObjects)}
    there = [_boxes_of(pair.truth, place, None, seen_only=True) for place, pair in enumerate(pairs)]
    given = [_boxes_of(pair.output, place, _moved(pair, poses)) for place, pair in enumerate(pairs)]
    truth, results = _joined(there), _joined(given)
    classes = sorted(set(truth.name[truth.range_m < RANGE_M].tolist()))  # a bus that is too far is none that was missed
    if not classes:
        return TaskScores("detection", {"mAP": float("nan")}, frames=len(pairs))
    known = results[np.isin(results.name, classes)]
    scores = evaluate(truth, known, classes, dict.fromkeys(classes, RANGE_M))
    summary = {"mAP": scores.mean_ap, "NDS": scores.nds, **scores.mean_errors}
    by_class = {name: {"AP": scores.class_ap[name], **scores.errors[name]} for name in classes}
    found = matched(truth, known)
    trust = reliability(np.clip(known.score, 0, 1), found >= 0)
    more: dict[str, Any] = {}
    if details:
        visible = np.concatenate([_visible(pair.truth) for pair in pairs])
        visible[truth.range_m >= RANGE_M] = np.nan
        answered, least = confusion(truth[truth.range_m < RANGE_M], results[results.range_m < RANGE_M])
        more = {
            "confusion": answered, "confusion_score": least,
            "by_distance": by_distance(truth, known, found), "by_visibility": by_visibility(visible, found),
            "curves": all_curves(scores, classes, trust),
        }  # fmt: skip
    tracked = isinstance(pairs[0].truth, TrackedObjects) and any(
        isinstance(pair.output, TrackedObjects) and _has_ids(pair.output) for pair in pairs
    )
    if not tracked:
        summary["calibration_error"] = trust.expected_error
        return TaskScores("detection", summary, by_class, len(pairs), **more)
    frames = [_frame(pair, _moved(pair, poses)) for pair in pairs]
    counts = clear([frames], float(np.nextafter(0.0, 1.0)))
    summary |= {
        **hota([frames]).summary(), "MOTA": counts.mota, "IDF1": counts.idf1, "switches": float(counts.switches),
        "fragmentations": float(counts.fragmentations), "calibration_error": trust.expected_error,
    }  # fmt: skip
    return TaskScores("tracking", summary, by_class, len(pairs), **more)


def _pose_of(message: TrackedObjects) -> Transform | None:
    numbers = message.odom_from_base_link
    return None if numbers is None else Transform.from_quaternion(numbers[:3], numbers[3:])


def _moved(pair: Pair, poses: Mapping[int, Transform | None]) -> Transform | None:
    """Return truth's base_link_from_output's base_link: a consumer moves what is stale by the vehicle's own motion."""
    if pair.output is None:
        return None
    now, then = poses.get(pair.truth.header.t_sensor_ns), poses.get(pair.output.header.t_sensor_ns)
    return now.inverse() @ then if now is not None and then is not None and now is not then else None


def _boxes_of(message: object, sample: int, moved: Transform | None, *, seen_only: bool = False) -> SceneBoxes:
    if isinstance(message, TrackedObjects):
        boxes = _boxes_of_objects(message, sample, seen_only=seen_only)
    elif isinstance(message, Detections3D):
        boxes = _boxes_of_detections(message, sample)
    else:
        boxes = _joined([])
    if moved is None or not len(boxes):
        return boxes
    turned = moved.rotate(np.stack((np.cos(boxes.yaw_rad), np.sin(boxes.yaw_rad), np.zeros(len(boxes))), axis=1))
    center = moved.apply(boxes.center_m)
    velocity = moved.rotate(np.hstack((np.nan_to_num(boxes.velocity_mps), np.zeros((len(boxes), 1)))))[:, :2]
    velocity[np.isnan(boxes.velocity_mps).any(axis=1)] = np.nan
    return SceneBoxes(
        boxes.sample, boxes.name, center, boxes.size_lwh_m, np.arctan2(turned[:, 1], turned[:, 0]), velocity,
        boxes.score, boxes.attribute, np.linalg.norm(center[:, :2], axis=1),
    )  # fmt: skip


def _kept(message: TrackedObjects, *, seen_only: bool) -> list[FusedObject]:
    return [o for o in message.objects if o.classes and not (seen_only and o.num_points == 0)]


def _visible(truth: Message) -> Float:
    """Return the share of each true box that nothing hides, NaN where it is not known."""
    if not isinstance(truth, TrackedObjects):
        return np.full(len(_boxes_of(truth, 0, None)), np.nan)
    kept = _kept(truth, seen_only=True)
    return np.array([np.nan if thing.visibility is None else thing.visibility for thing in kept], np.float64)


def _boxes_of_objects(message: TrackedObjects, sample: int, *, seen_only: bool) -> SceneBoxes:
    kept = _kept(message, seen_only=seen_only)
    count = len(kept)
    center = np.array([o.center_m for o in kept], np.float64).reshape(count, 3)
    rotation = np.array([o.rotation_xyzw for o in kept], np.float64).reshape(count, 4)
    yaw = 2.0 * np.arctan2(rotation[:, 2], rotation[:, 3])
    nothing = (np.nan, np.nan, np.nan)
    velocity = np.array([nothing if o.velocity_mps is None else o.velocity_mps for o in kept]).reshape(count, 3)[:, :2]
    best = [max(o.classes, key=lambda entry: entry.probability) for o in kept]
    return SceneBoxes(
        np.full(count, sample, np.int64), np.array([canonical(entry.label) for entry in best], np.str_), center,
        np.array([o.size_lwh_m for o in kept], np.float64).reshape(count, 3), yaw, velocity,
        np.array([o.existence_probability for o in kept], np.float64), np.full(count, "", np.str_),
        np.linalg.norm(center[:, :2], axis=1),
    )  # fmt: skip


def _boxes_of_detections(message: Detections3D, sample: int) -> SceneBoxes:
    center = host(message.center_m).astype(np.float64)
    names = [canonical(name) for name in (message.identities or message.classes)]
    velocity = None if message.velocity_mps is None else host(message.velocity_mps).astype(np.float64)
    return SceneBoxes(
        np.full(len(center), sample, np.int64), np.array([names[label] for label in host(message.label)], np.str_),
        center, host(message.size_lwh_m).astype(np.float64), host(message.yaw_rad).astype(np.float64),
        np.full((len(center), 2), np.nan) if velocity is None else velocity, host(message.score).astype(np.float64),
        np.full(len(center), "", np.str_), np.linalg.norm(center[:, :2], axis=1),
    )  # fmt: skip


def object_boxes(message: Message, *, seen_only: bool = False) -> SceneBoxes:
    """Return the boxes of a message in its own `base_link`; `seen_only` leaves out true ones without a point."""
    return _boxes_of(message, 0, None, seen_only=seen_only)


def _joined(parts: Sequence[SceneBoxes]) -> SceneBoxes:
    some = [part for part in parts if len(part)]
    if not some:
        nothing, text = np.empty(0), np.empty(0, np.str_)
        return SceneBoxes(
            nothing.astype(np.int64), text, nothing.reshape(0, 3), nothing.reshape(0, 3), nothing,
            nothing.reshape(0, 2), nothing, text, nothing,
        )  # fmt: skip
    return SceneBoxes(
        **{name: np.concatenate([getattr(p, name) for p in some]) for name in SceneBoxes.__dataclass_fields__}
    )


def _has_ids(message: TrackedObjects) -> bool:
    return any(thing.id for thing in message.objects)


def _frame(pair: Pair, moved: Transform | None) -> TrackFrame:
    """Return one instant for the tracking metrics; classes must agree."""
    there = _boxes_of(pair.truth, 0, None, seen_only=True)
    ids = _ids(pair.truth, seen_only=True)
    given, ids_given = _boxes_of(pair.output, 0, moved), _ids(pair.output)
    near, near_given = there.range_m < RANGE_M, given.range_m < RANGE_M
    there, ids, given, ids_given = there[near], ids[near], given[near_given], ids_given[near_given]
    apart = np.linalg.norm(there.center_m[:, None, :2] - given.center_m[None, :, :2], axis=2)
    similarity = np.clip(1.0 - apart / TRACK_DISTANCE_M, 0.0, None)
    similarity[there.name[:, None] != given.name[None]] = 0.0
    return TrackFrame(ids, ids_given, similarity)


def _ids(message: object, *, seen_only: bool = False) -> NDArray[np.int64]:
    kept = _kept(message, seen_only=seen_only) if isinstance(message, TrackedObjects) else []
    return np.array([thing.id for thing in kept], np.uint64).astype(np.int64)


def _masks(pairs: Sequence[Pair]) -> TaskScores:
    names: list[str] = []
    for pair in pairs:
        assert isinstance(pair.truth, SegmentationMask)
        names = list(dict.fromkeys([*names, *map(canonical, pair.truth.identities or pair.truth.classes)]))
    counts = Confusion(len(names))
    for pair in pairs:
        assert isinstance(pair.truth, SegmentationMask)
        truth = _labels_as(pair.truth, names)
        given = np.full_like(truth, 255)
        if isinstance(pair.output, SegmentationMask):
            answer = _labels_as(pair.output, names)
            given = answer if answer.shape == truth.shape else given
        counts.add(truth, given)
    scores = counts.scores(counts.true_classes)
    summary = {
        "mIoU": scores.mean_iou, "pixel_accuracy": scores.pixel_accuracy, "mean_accuracy": scores.mean_accuracy,
        "frequency_weighted_IoU": scores.frequency_weighted_iou, "classes": float(len(counts.true_classes)),
    }  # fmt: skip
    by_class = {names[k]: {"IoU": float(scores.iou[k])} for k in counts.true_classes}
    answers = [*names, "unknown"]
    counted = {names[k]: {answers[j]: int(n) for j, n in enumerate(counts.counts[k]) if n} for k in counts.true_classes}
    return TaskScores("segmentation", summary, by_class, len(pairs), counted)


def compared_labels(truth: SegmentationMask, output: SegmentationMask) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Return both masks (H, W) as labels of the truth's classes, 255 for all else."""
    names = list(dict.fromkeys(map(canonical, truth.identities or truth.classes)))
    return _labels_as(truth, names), _labels_as(output, names)


def _labels_as(mask: SegmentationMask, names: Sequence[str]) -> NDArray[np.uint8]:
    table = np.full(256, 255, np.uint8)
    for label, name in enumerate(map(canonical, mask.identities or mask.classes)):
        if name in names:
            table[label] = names.index(name)
    return table[mask_labels(mask)]


def _poses(pairs: Sequence[Pair], frames: FrameTree | None) -> TaskScores:
    truths, answers = [], []
    for pair in pairs:
        assert isinstance(pair.truth, Pose3D)
        if not (isinstance(pair.output, Pose3D) and pair.output.skeletons and pair.truth.skeletons):
            continue
        names = pair.truth.joint_names
        if set(names) <= set(pair.output.joint_names):
            truths.append(_joints_in_base(pair.truth, names, frames))
            answers.append(_joints_in_base(pair.output, names, frames))
    if not truths:
        return TaskScores("pose", {"MPJPE_mm": float("nan")}, frames=len(pairs))
    scores = pose.evaluate(np.stack(truths), np.stack(answers))
    summary = {
        "MPJPE_mm": scores.mpjpe_mm, "PA_MPJPE_mm": scores.pa_mpjpe_mm, "PCK_150mm": scores.pck,
        "AUC_150mm": scores.auc, "answered": len(truths) / len(pairs),
    }  # fmt: skip
    assert isinstance(pairs[0].truth, Pose3D)
    names = pairs[0].truth.joint_names
    by_joint = {name: {"MPJPE_mm": float(v)} for name, v in zip(names, scores.by_joint_mm, strict=True)}
    return TaskScores("pose", summary, by_joint, len(pairs))


def _joints_in_base(message: Pose3D, names: Sequence[str], frames: FrameTree | None) -> Float:
    """Return the first body's joints (J, 3) in `base_link`, or in the message's frame where there are no frames."""
    order = [message.joint_names.index(name) for name in names]
    joints = np.array(message.skeletons[0].joints_m, np.float64)[order]
    return joints if frames is None else frames.base_link_from(message.header.frame_id).apply(joints)


def _recognitions(pairs: Sequence[Pair]) -> TaskScores:
    truth: dict[str, str] = {}
    answers: dict[str, list[str]] = {}
    for place, pair in enumerate(pairs):
        assert isinstance(pair.truth, Recognition)
        truth[str(place)] = canonical(pair.truth.top[0].label)
        if isinstance(pair.output, Recognition):
            answers[str(place)] = [canonical(entry.label) for entry in pair.output.top]
    scores = recognition.evaluate(truth, answers)
    answers_of: dict[str, dict[str, int]] = {}
    for (true, answer), count in scores.confusion.items():
        answers_of.setdefault(true, {})[answer or "none"] = count
    summary = {"top1": scores.top1, "top5": scores.top5, "mean_class_top1": scores.mean_class_top1}
    return TaskScores(
        "recognition",
        summary,
        {name: {"top1": value} for name, value in scores.by_class.items()},
        len(pairs),
        answers_of,
    )


__all__ = ["RANGE_M", "TaskScores", "canonical", "compared_labels", "object_boxes", "score"]
