"""Choose the settings of the KITTI tracker by leaving one sequence out at a time, and say what they are worth.

    python benchmarks/tune_tracking.py DATA [--classes Car] [--jobs 2]

DATA holds label/, calib/ and detection/*_CLASS/, one file per sequence. For each sequence the setting is chosen, and
the scores of the detector are calibrated, on all others; what is printed as "left out" are the results of all sequences
together, each tracked by a setting that never saw it. (While candidates are compared, all have the calibration of all
sequences, and what is not in the grid stays as it stands in perception/tracking/kitti.py.) The last line of a class is
the setting chosen on all sequences, which stands there.
"""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from perception.evaluation.kitti_mot import ClassCounter
from perception.evaluation.kitti_tracking_files import Rows, TrackedSequence, read_rows
from perception.evaluation.reliability import fit_reliability
from perception.evaluation.tracking import IOUS_3D, Figures, averaged_over_recall, overlap_3d
from perception.ops.boxes_3d import iou_3d
from perception.ops.matching import assign
from perception.tracking.kitti import KITTI_SETTINGS, SequenceTracks, followed, given_out, kitti_settings
from perception.tracking.kitti_files import CLASSES, Projection, SequenceDetections, read_detections
from perception.tracking.settings import ClassSettings, TrackerSettings
from perception.tracking.tracks import Tracks

GRID: Mapping[str, Mapping[str, Sequence[Any]]] = {
    "Car": {"position_m": (0.1, 0.2, 0.3), "heading_drift_radps": (0.5, 1.0), "coast_s": (0.1, 0.2)},
    "Pedestrian": {"coast_s": (0.2, 0.3, 0.4), "show_existence": (0.02, 0.05), "hit_odds": (4.0, 6.0)},
    "Cyclist": {"coast_s": (0.2, 0.3, 0.4), "hit_odds": (4.0, 6.0)},
}  # fmt: skip
SHOWN = ("coast_s", "show_existence", "confirm_s")
"""What decides only which tracks are given out."""
ALIKE = {"Car": ("car", "van"), "Pedestrian": ("pedestrian",), "Cyclist": ("cyclist",)}

Followed: TypeAlias = list[tuple[int, Tracks]]
"""Stamp and tracks of each frame."""
Counters: TypeAlias = list[ClassCounter]
"""Of one sequence, for each overlap."""


class Recordings:
    """All sequences of one class."""

    def __init__(self, data: Path, name: str) -> None:
        self.name = name
        self.sequences = sorted(file.stem for file in (data / "label").glob("*.txt"))
        (folder,) = (data / "detection").glob(f"*_{name}*")
        self.detections = {one: read_detections([folder / f"{one}.txt"]) for one in self.sequences}
        self.truth = {one: read_rows(data / "label" / f"{one}.txt", results=False) for one in self.sequences}
        self.projection = {one: Projection.read(data / "calib" / f"{one}.txt") for one in self.sequences}
        self._outcomes = {one: self._outcomes_of(one) for one in self.sequences}

    def followed(self, sequence: str, settings: TrackerSettings) -> Followed:
        return followed(self.detections[sequence], self.projection[sequence], settings)

    def counted(self, sequence: str, frames: Followed, settings: TrackerSettings) -> Counters:
        """Return counters, one for each overlap, of what the settings give out of a sequence's tracks."""
        results = as_rows(given_out(frames, self.detections[sequence], self.projection[sequence], settings))
        truth = self.truth[sequence]
        last = max(int(rows.frame.max(initial=0)) for rows in (results, truth))
        tracked = TrackedSequence(sequence, last + 1, truth, results)
        return [ClassCounter([tracked], self.name, overlap_3d, least) for least in IOUS_3D]

    def line(self, sequences: Sequence[str]) -> tuple[float, float]:
        """Return slope and offset of the detector's scores on these sequences; right is an overlap of a quarter."""
        scores, right = zip(*(self._outcomes[one] for one in sequences), strict=True)
        return fit_reliability(np.concatenate(scores), np.concatenate(right))

    def _outcomes_of(self, sequence: str) -> tuple[Any, Any]:
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


def with_line(settings: ClassSettings, line: tuple[float, float]) -> TrackerSettings:
    """Return settings of a tracker of one class; `line` is slope and offset of the detector's scores."""
    whole = kitti_settings(dict.fromkeys(CLASSES, settings))
    trust = replace(whole.reliability[""], by_class=dict.fromkeys(CLASSES, line))
    return replace(whole, reliability={"": trust})


def judged(
    recordings: Recordings, line: tuple[float, float], base: ClassSettings
) -> list[tuple[ClassSettings, dict[str, list[Figures]]]]:
    """Return all settings that track as `base` does, with the figures without each sequence, and of all as ""."""
    names, grid = recordings.sequences, GRID[recordings.name]
    frames = {one: recordings.followed(one, with_line(base, line)) for one in names}
    found = []
    for shown_by in _each(grid, [key for key in grid if key in SHOWN]):
        settings = replace(base, **shown_by)
        whole = with_line(settings, line)
        counters = {one: recordings.counted(one, frames[one], whole) for one in names}
        found.append((settings, {out: figures([counters[one] for one in names if one != out]) for out in ("", *names)}))
    return found


def _each(grid: Mapping[str, Sequence[Any]], keys: Sequence[str]) -> Iterator[dict[str, Any]]:
    for values in itertools.product(*(grid[key] for key in keys)):
        yield dict(zip(keys, values, strict=True))


def figures(counters: Sequence[Counters]) -> list[Figures]:
    """Return the figures of sequences together, for each overlap."""
    return [averaged_over_recall(ClassCounter.joined(of_overlap)) for of_overlap in zip(*counters, strict=True)]


def least_regret(found: Sequence[Sequence[Figures]]) -> int:
    """Return the candidate whose worst figure is least below the best that any candidate has of that figure.

    sAMOTA and MOTA at both overlaps count alike: a mean of them would give one up for another, and be moved from
    sequence to sequence by the figure that scatters most.
    """
    table = np.array([[one[name] for one in figures for name in ("sAMOTA", "MOTA")] for figures in found])
    return int((table.max(axis=0) - table).max(axis=1).argmin())


def told(figures: Sequence[Figures]) -> str:
    parts = (
        f"sAMOTA {one['sAMOTA']:.2f} MOTA {one['MOTA']:.2f} MOTP {one['MOTP']:.2f} IDS {one['IDS']} FRAG {one['FRAG']}"
        for one in figures
    )
    return " | ".join(parts)


def tune(data: Path, name: str, jobs: int) -> None:
    recordings = Recordings(data, name)
    names, grid = recordings.sequences, GRID[name]
    line = recordings.line(names)
    bases = [replace(KITTI_SETTINGS[name], **one) for one in _each(grid, [key for key in grid if key not in SHOWN])]
    settings: list[ClassSettings] = []
    found: dict[str, list[list[Figures]]] = {left_out: [] for left_out in ("", *names)}
    with ProcessPoolExecutor(jobs) as pool:
        for of_base in pool.map(partial(judged, recordings, line), bases):
            for candidate, without in of_base:
                settings.append(candidate)
                for left_out, of_candidates in found.items():
                    of_candidates.append(without[left_out])
                print(f"  {shown(name, candidate)}: {told(without[''])}", flush=True)
    honest = []
    for one in names:
        chosen, fitted = settings[least_regret(found[one])], recordings.line([other for other in names if other != one])
        whole = with_line(chosen, fitted)
        honest.append(recordings.counted(one, recordings.followed(one, whole), whole))
        print(f"  without {one}: {shown(name, chosen)}, slope {fitted[0]:.3f} offset {fitted[1]:.3f}")
    print(f"{name} left out: {told(figures(honest))}")
    best = least_regret(found[""])
    print(f"{name} chosen: {shown(name, settings[best])}, slope {line[0]:.3f} offset {line[1]:.3f}")
    print(f"{name} chosen: {told(found[''][best])}", flush=True)


def shown(name: str, settings: ClassSettings) -> str:
    return " ".join(f"{key}={getattr(settings, key):g}" for key in GRID[name])


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--classes", nargs="+", default=list(GRID), choices=list(GRID))
    parser.add_argument("--jobs", type=int, default=2, help="Processes; each tracks with settings of its own.")
    arguments = parser.parse_args()
    for wanted in arguments.classes:
        tune(arguments.data, wanted, arguments.jobs)
