"""Choose the settings of the KITTI tracker by leaving one sequence out at a time, and say what they are worth.

    python benchmarks/tune_tracking.py DATA [--classes Car]

DATA holds label/, calib/ and detection/*_CLASS/, one file per sequence. For each sequence the setting is chosen, and
the scores of the detector are calibrated, on all others; what is printed as "left out" are the results of all sequences
together, each tracked by a setting that never saw it. The last line of a class is the setting chosen on all sequences,
which stands in perception/tracking/kitti.py.
"""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from perception.evaluation.kitti_mot import ClassCounter
from perception.evaluation.kitti_tracking_files import Rows, TrackedSequence, read_rows
from perception.evaluation.reliability import fit_reliability
from perception.evaluation.tracking import IOUS_3D, Figures, averaged_over_recall, overlap_3d
from perception.ops.boxes_3d import iou_3d
from perception.ops.matching import assign
from perception.tracking.kitti import KITTI_SETTINGS, SequenceTracks, kitti_settings, track_sequence
from perception.tracking.kitti_files import CLASSES, Projection, SequenceDetections, read_detections
from perception.tracking.settings import ClassSettings

GRID: Mapping[str, Mapping[str, Sequence[Any]]] = {
    "Car": {
        "position_m": (0.1, 0.2), "coast_s": (0.1, 0.2), "show_existence": (0.05, 0.1),
    },
    "Pedestrian": {"coast_s": (0.2, 0.3, 0.4), "show_existence": (0.02, 0.05), "hit_odds": (4.0, 6.0)},
    "Cyclist": {"coast_s": (0.2, 0.3, 0.4), "hit_odds": (4.0, 6.0)},
}  # fmt: skip
ALIKE = {"Car": ("car", "van"), "Pedestrian": ("pedestrian",), "Cyclist": ("cyclist",)}


class Recordings:
    """All sequences of one class."""

    def __init__(self, data: Path, name: str) -> None:
        self.name = name
        self.sequences = sorted(file.stem for file in (data / "label").glob("*.txt"))
        (folder,) = (data / "detection").glob(f"*_{name}*")
        self.detections = {one: read_detections([folder / f"{one}.txt"]) for one in self.sequences}
        self.truth = {one: read_rows(data / "label" / f"{one}.txt", results=False) for one in self.sequences}
        self.projection = {one: Projection.read(data / "calib" / f"{one}.txt") for one in self.sequences}

    def tracked(self, sequence: str, settings: ClassSettings, line: tuple[float, float] | None) -> TrackedSequence:
        """Track one sequence; `line` is slope and offset of the detector's scores."""
        whole = kitti_settings(dict.fromkeys(CLASSES, settings))
        if line is not None:
            trust = replace(whole.reliability[""], by_class=dict.fromkeys(CLASSES, line))
            whole = replace(whole, reliability={"": trust})
        results = as_rows(track_sequence(self.detections[sequence], self.projection[sequence], whole))
        truth = self.truth[sequence]
        frames = max(int(rows.frame.max(initial=0)) for rows in (results, truth)) + 1
        return TrackedSequence(sequence, frames, truth, results)

    def figures(self, tracked: Sequence[TrackedSequence]) -> list[Figures]:
        counters = (ClassCounter(tracked, self.name, overlap_3d, least) for least in IOUS_3D)
        return [averaged_over_recall(counter) for counter in counters]

    def line(self, sequences: Sequence[str]) -> tuple[float, float]:
        """Return slope and offset of the detector's scores on these sequences; right is an overlap of a quarter."""
        scores, right = zip(*(self._outcomes(one) for one in sequences), strict=True)
        return fit_reliability(np.concatenate(scores), np.concatenate(right))

    def _outcomes(self, sequence: str) -> tuple[Any, Any]:
        found, truth = self.detections[sequence], self.truth[sequence]
        boxes = boxes_of(found)
        wanted = np.isin(truth.kind, ALIKE[self.name])
        right = np.zeros(len(found.frame), np.bool_)
        for frame in np.unique(found.frame):
            rows, expected = np.flatnonzero(found.frame == frame), wanted & (truth.frame == frame)
            if expected.any():
                right[rows] = assign(1 - iou_3d(boxes[rows], truth.box_3d[expected]), 0.75) >= 0
        return found.score, right


def boxes_of(found: SequenceDetections) -> Any:
    """Return boxes (N, 7) in the axes of `Rows`: x right, y forward, z up."""
    center = found.center_m
    return np.column_stack((-center[:, 1], center[:, 0], center[:, 2], found.size_lwh_m, found.yaw_rad + np.pi / 2))


def as_rows(tracks: SequenceTracks) -> Rows:
    box = tracks.boxes
    box_3d = np.column_stack((-box[:, 1], box[:, 0], box[:, 2:6], box[:, 6] + np.pi / 2))
    kind = np.array([CLASSES[label].lower() for label in tracks.label], "U20")
    none = np.zeros(len(tracks.frame), np.int64)
    return Rows(tracks.frame, tracks.track, kind, none, none, tracks.box_px, box_3d, tracks.score)


def candidates(name: str) -> Iterator[ClassSettings]:
    grid = GRID[name]
    for values in itertools.product(*grid.values()):
        yield replace(KITTI_SETTINGS[name], **dict(zip(grid, values, strict=True)))


def worth(figures: Sequence[Figures]) -> float:
    return float(np.mean([one[name] for one in figures for name in ("sAMOTA", "MOTA")]))


def told(figures: Sequence[Figures]) -> str:
    parts = (
        f"sAMOTA {one['sAMOTA']:.2f} MOTA {one['MOTA']:.2f} MOTP {one['MOTP']:.2f} IDS {one['IDS']} FRAG {one['FRAG']}"
        for one in figures
    )
    return " | ".join(parts)


def tune(data: Path, name: str) -> None:
    recordings = Recordings(data, name)
    names = recordings.sequences
    line = recordings.line(names)
    best: dict[str, tuple[float, ClassSettings]] = dict.fromkeys(("", *names), (-1.0, KITTI_SETTINGS[name]))
    for settings in candidates(name):
        tracked = {one: recordings.tracked(one, settings, line) for one in names}
        for left_out in ("", *names):
            value = worth(recordings.figures([tracked[one] for one in names if one != left_out]))
            if value > best[left_out][0]:
                best[left_out] = value, settings
        print(f"  {shown(name, settings)}: {told(recordings.figures(list(tracked.values())))}", flush=True)
    honest = []
    for one in names:
        chosen, fitted = best[one][1], recordings.line([other for other in names if other != one])
        honest.append(recordings.tracked(one, chosen, fitted))
        print(f"  without {one}: {shown(name, chosen)}, slope {fitted[0]:.3f} offset {fitted[1]:.3f}")
    print(f"{name} left out: {told(recordings.figures(honest))}")
    final = [recordings.tracked(one, best[""][1], line) for one in names]
    print(f"{name} chosen: {shown(name, best[''][1])}, slope {line[0]:.3f} offset {line[1]:.3f}")
    print(f"{name} chosen: {told(recordings.figures(final))}", flush=True)


def shown(name: str, settings: ClassSettings) -> str:
    return " ".join(f"{key}={getattr(settings, key):g}" for key in GRID[name])


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--classes", nargs="+", default=list(GRID), choices=list(GRID))
    arguments = parser.parse_args()
    for wanted in arguments.classes:
        tune(arguments.data, wanted)
