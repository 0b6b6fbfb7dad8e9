"""Track the recorded detections of KITTI sequences and write KITTI tracking results.

The sequences have no ego motion here, so that tracks live in the frame of the moving camera: every class moves
`straight`, with a velocity relative to the vehicle. The settings are those that `benchmarks/tune_tracking.py` chose by
leaving one sequence out at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from perception.errors import UserError
from perception.geometry.boxes import Boxes
from perception.tracking.kitti_files import (
    CLASSES,
    Projection,
    SequenceDetections,
    find_detections,
    read_detections,
    result_rows,
)
from perception.tracking.settings import ClassSettings, Reliability, TrackerSettings
from perception.tracking.tracker import Tracker
from perception.tracking.tracks import DetectionBatch, Tracks, boxes_of

RATE_HZ = 10.0
IMAGE_PX = (1242.0, 375.0)

KITTI_SETTINGS: Mapping[str, ClassSettings] = {
    "Pedestrian": ClassSettings(
        motion="straight", acceleration_mps2=15.0, position_m=0.15, heading_rad=0.3, heading_drift_radps=2.0,
        size_drift_mps=0.1, giou_min=-0.5, hit_odds=6.0, coast_s=0.4, show_existence=0.02,
    ),
    "Car": ClassSettings(
        motion="straight", acceleration_mps2=15.0, position_m=0.2, heading_rad=0.1, heading_drift_radps=1.0,
        size_drift_mps=0.3, giou_min=-0.5, hit_odds=4.0, coast_s=0.2, show_existence=0.1,
    ),
    "Cyclist": ClassSettings(
        motion="straight", acceleration_mps2=15.0, position_m=0.15, heading_rad=0.2, heading_drift_radps=2.0,
        size_drift_mps=0.1, giou_min=-0.7, hit_odds=4.0, coast_s=0.4, show_existence=0.02,
    ),
}  # fmt: skip
POINTRCNN = Reliability(
    logit=True, by_class={"Car": (0.839, -3.047), "Pedestrian": (1.288, -3.272), "Cyclist": (1.186, -5.097)}
)
"""Of the scores of PointRCNN, as measured on the sequences by the same script."""
UNSEEN_ODDS_PER_S = 10.0
SCORE_STEP = 2.0**-6


def kitti_settings(classes: Mapping[str, ClassSettings] = KITTI_SETTINGS) -> TrackerSettings:
    """Return the settings of a tracker for KITTI detections."""
    return TrackerSettings(classes=classes, reliability={"": POINTRCNN}, existence_min=0.0)


@dataclass(frozen=True, eq=False)
class SequenceTracks:
    """N boxes of tracks, in the order of frames.

    Attributes:
        frame: (N,). track: (N,) ids, from 1 in each sequence. label: (N,) index into CLASSES.
        boxes: (N, 7) x, y, z, length, width, height, yaw in the upright frame of the camera.
        box_px: (N, 4) as detected, or where the box would be seen.
        score: (N,) the track's own, in the units of the detector's.
    """

    frame: NDArray[np.int64]
    track: NDArray[np.int64]
    label: NDArray[np.int64]
    boxes: NDArray[np.float64]
    box_px: NDArray[np.float64]
    score: NDArray[np.float64]


def track_sequence(
    detections: SequenceDetections,
    projection: Projection,
    settings: TrackerSettings | None = None,
    rate_hz: float = RATE_HZ,
) -> SequenceTracks:
    """Track one sequence; each frame is known by what came until then."""
    settings = settings or kitti_settings()
    return given_out(followed(detections, projection, settings, rate_hz), detections, projection, settings)


def followed(
    detections: SequenceDetections, projection: Projection, settings: TrackerSettings, rate_hz: float = RATE_HZ
) -> list[tuple[int, Tracks]]:
    """Return stamp and tracks, shown or not, of each frame."""
    tracker = Tracker(settings)
    edges = np.searchsorted(detections.frame, np.arange(detections.frames() + 1))
    view = projection.field_of_view(_size_px(detections)[0])
    frames = []
    for frame in range(detections.frames()):
        part = slice(*edges[frame : frame + 2])
        batch = DetectionBatch(
            t_ns=round(frame * 1e9 / rate_hz), source="detector", classes=CLASSES, center_m=detections.center_m[part],
            size_lwh_m=detections.size_lwh_m[part], yaw_rad=detections.yaw_rad[part], label=detections.label[part],
            score=detections.score[part], seen=view,
        )  # fmt: skip
        tracker.add(batch)
        frames.append((batch.t_ns, tracker.tracks))
    return frames


def given_out(
    frames: Sequence[tuple[int, Tracks]],
    detections: SequenceDetections,
    projection: Projection,
    settings: TrackerSettings,
) -> SequenceTracks:
    """Return those of the tracks that the settings show, as KITTI's results have them."""
    shown, (width, height) = Tracker(settings).shown, _size_px(detections)
    edges = np.searchsorted(detections.frame, np.arange(detections.frames() + 1))
    view = projection.field_of_view(width)
    trust = settings.reliability[""]
    slope, offset = np.array([trust.by_class[name] for name in CLASSES]).T
    parts = []
    for frame, (t_ns, every) in enumerate(frames):
        tracks = every[shown(every, t_ns)]
        seen = tracks["detection"] >= 0
        tracks = tracks[seen | view.contains(tracks["mean"][:, :2])]
        boxes = boxes_of(tracks)
        box_px = projection.boxes(Boxes(boxes[:, :3], boxes[:, 3:6], boxes[:, 6]).corners(), width, height)
        seen = tracks["detection"] >= 0
        box_px[seen] = detections.box_px[edges[frame] : edges[frame + 1]][tracks["detection"][seen]]
        at = np.full(len(tracks), frame)
        score = tracks["score"] - UNSEEN_ODDS_PER_S * (t_ns - tracks["seen_ns"]) * 1e-9
        score = (score - offset[tracks["label"]]) / slope[tracks["label"]]
        parts.append((at, tracks["id"], tracks["label"], boxes, box_px, score))
    if not parts:
        none = np.empty(0, np.int64)
        return SequenceTracks(none, none, none, np.empty((0, 7)), np.empty((0, 4)), np.empty(0))
    numbers, track, label, boxes, box_px, score = (np.concatenate(column) for column in zip(*parts, strict=True))
    return SequenceTracks(numbers, track, label, boxes, box_px, _track_scores(track, score))


def _size_px(detections: SequenceDetections) -> tuple[float, float]:
    width, height = np.maximum(IMAGE_PX, detections.box_px[:, 2:].max(axis=0, initial=0.0) + 1)
    return float(width), float(height)


def _track_scores(track: NDArray[np.int64], score: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return for each row the mean score of its track, a whole multiple of SCORE_STEP.

    AB3DMOT's protocol takes this mean itself, again at each threshold, and the thresholds are such means: where the
    last bit of a mean differs from time to time, the track that gave a threshold is lost to it by chance. Of equal
    numbers that few bits hold, the mean is exact.
    """
    of_track = np.unique(track, return_inverse=True)[1]
    mean = np.bincount(of_track, score) / np.maximum(np.bincount(of_track), 1)
    return (np.round(mean / SCORE_STEP) * SCORE_STEP)[of_track]


def track_kitti(
    detections: Path,
    calibration: Path,
    out: Path,
    *,
    rate_hz: float = RATE_HZ,
    on_sequence: Callable[[str, int, int], None] = lambda name, frames, tracks: None,
) -> None:
    """Track all sequences of a folder and write NAME.txt each.

    Args:
        detections: folder with a file per sequence, or with a folder of such files per class.
        calibration: folder with NAME.txt, KITTI tracking calibration.
        out: folder for the results; made if it is not there.
        rate_hz: frames per second of the recording.
        on_sequence: called with name, frames and tracks of each sequence that is done.

    Raises:
        UserError: files are missing or of another form, or the results cannot be written.
    """
    files = find_detections(detections)
    if not calibration.is_dir():
        raise UserError(f"{calibration} is no folder; expected one with a KITTI tracking calibration NAME.txt each")
    missing = [name for name in files if not (calibration / f"{name}.txt").is_file()]
    if missing:
        raise UserError(f"{calibration} has no {missing[0]}.txt; each sequence of detections needs its calibration")
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{out} cannot be made: {error.strerror}") from None
    for name, parts in files.items():
        found = read_detections(parts)
        tracks = track_sequence(found, Projection.read(calibration / f"{name}.txt"), rate_hz=rate_hz)
        lines = result_rows(tracks.frame, tracks.track, tracks.label, tracks.boxes, tracks.box_px, tracks.score)
        (out / f"{name}.txt").write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
        on_sequence(name, found.frames(), len(np.unique(tracks.track)))


__all__ = [
    "KITTI_SETTINGS", "RATE_HZ", "SequenceTracks", "followed", "given_out", "kitti_settings", "track_kitti",
    "track_sequence",
]  # fmt: skip
