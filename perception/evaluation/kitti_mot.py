"""How KITTI counts a tracker: matches by frame, what is ignored, switches, fragments, and what follows from them.

Source: the KITTI tracking devkit (evaluate_tracking.py, Geiger, Lenz, Milan), of which AB3DMOT uses a copy with another
overlap. Kept as it is there: tracks of the neighbouring class (vans for cars), boxes of 25 pixels or less and boxes
that lie in a DontCare region are ignored unless they match; truth that is truncated, heavily occluded or of the
neighbouring class is ignored, matched or not; its true positives count as such in recall, precision and MOTP all the
same. A box that has once matched stays exempt from being ignored when the same results are counted again at another
threshold: the devkit's objects remember it, and its published numbers hold that.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numba
import numpy as np
from numpy.typing import NDArray

from perception.evaluation.kitti_tracking_files import DONT_CARE, Rows, TrackedSequence
from perception.ops.matching import UNMATCHED, best_columns, shared_area_2d

CLASSES = ("Car", "Pedestrian", "Cyclist")
NEIGHBOUR = {"car": "van", "pedestrian": "person_sitting"}
MIN_HEIGHT_PX = 25
MAX_OCCLUSION, MAX_TRUNCATION = 2, 0
DONT_CARE_SHARE = 0.5
MOSTLY_TRACKED, MOSTLY_LOST = 0.8, 0.2
NEVER = 1e5

Overlap = Callable[[Rows, Rows], NDArray[np.float64]]
"""Overlap (N, M), 0 to 1, of truth and results of one frame."""


@dataclass
class Counts:
    """What one pass over all sequences counts, and the devkit's figures made of it."""

    truth: int = 0
    true_positives: int = 0
    false_positives: int = 0
    false_negatives: int = 0
    switches: int = 0
    fragments: int = 0
    overlap: float = 0.0
    frames: int = 0
    trajectories: int = 0
    mostly_tracked: int = 0
    mostly_lost: int = 0
    scores: list[float] = field(default_factory=list)
    """Score of the track of each true positive."""

    def mota(self) -> float:
        wrong = self.false_negatives + self.false_positives + self.switches
        return 1 - wrong / self.truth if self.truth else -math.inf

    def scaled_mota(self, recall: float) -> float:
        """Return sMOTA: MOTA without what a recall below one cannot reach (Weng et al., IROS 2020, equation 3)."""
        wrong = self.false_negatives + self.false_positives + self.switches - (1 - recall) * self.truth
        return min(1.0, max(0.0, 1 - wrong / (recall * self.truth))) if self.truth else -math.inf

    def motp(self) -> float:
        return self.overlap / self.true_positives if self.true_positives else 0.0

    def recall(self) -> float:
        return _share(self.true_positives, self.true_positives + self.false_negatives)

    def precision(self) -> float:
        return _share(self.true_positives, self.true_positives + self.false_positives)

    def f1(self) -> float:
        return _share(2 * self.precision() * self.recall(), self.precision() + self.recall())

    def figures(self) -> dict[str, float]:
        """Return the figures by the names that the benchmark's tables use, shares in percent."""
        shares = {
            "MOTA": self.mota(), "MOTP": self.motp(), "recall": self.recall(), "precision": self.precision(),
            "F1": self.f1(), "MT": _share(self.mostly_tracked, self.trajectories),
            "ML": _share(self.mostly_lost, self.trajectories),
        }  # fmt: skip
        counts = {
            "IDS": self.switches, "FRAG": self.fragments, "TP": self.true_positives, "FP": self.false_positives,
            "FN": self.false_negatives, "truth": self.truth,
        }  # fmt: skip
        return {name: round(100 * share, 4) for name, share in shares.items()} | counts


def _share(part: float, whole: float) -> float:
    return part / whole if whole else 0.0


class ClassCounter:
    """Counts one class over all sequences, once or at many thresholds.

    Args:
        sequences: truth and results.
        name: such as "Car".
        overlap: of truth and result boxes of one frame.
        least: smallest overlap of a match.
    """

    def __init__(self, sequences: Sequence[TrackedSequence], name: str, overlap: Overlap, least: float) -> None:
        self.name, self.frames = name.lower(), sum(sequence.frames for sequence in sequences)
        self._sequences = [_SequenceOfClass(sequence, self.name, overlap, least) for sequence in sequences]

    @classmethod
    def joined(cls, counters: Sequence[ClassCounter]) -> ClassCounter:
        """Return a counter of the sequences of all of these, of one class and overlap, that begins anew."""
        made = cls((), counters[0].name, overlap=lambda _, __: np.empty((0, 0)), least=0.0)
        made.frames = sum(counter.frames for counter in counters)
        made._sequences = [sequence.anew() for counter in counters for sequence in counter._sequences]
        return made

    def has_results(self) -> bool:
        """True where any result is of this class."""
        return any(len(sequence.results.frame) for sequence in self._sequences)

    def count(self, threshold: float = -math.inf) -> Counts:
        """Count all tracks whose mean score is at least the threshold."""
        counts = Counts(frames=self.frames)
        for sequence in self._sequences:
            sequence.count(counts, threshold)
        return counts


class _SequenceOfClass:
    """The rows of one class in one sequence, in the order of frames, and what never changes between thresholds."""

    def __init__(self, sequence: TrackedSequence, name: str, overlap: Overlap, least: float) -> None:
        wanted = (name, NEIGHBOUR.get(name, name), DONT_CARE)
        truth, self.results = (_of_types(rows, wanted) for rows in (sequence.truth, sequence.results))
        care = truth.kind != DONT_CARE
        self.truth, dont_care = truth.of(care), truth.of(~care)
        neighbour = NEIGHBOUR.get(name, "")
        self._least = least
        self._truth_at, self._results_at, dont_care_at = (
            np.searchsorted(rows.frame, np.arange(sequence.frames + 1))
            for rows in (self.truth, self.results, dont_care)
        )
        self._ignored_truth = (
            (self.truth.occlusion > MAX_OCCLUSION)
            | (self.truth.truncation > MAX_TRUNCATION)
            | (self.truth.kind == neighbour)
        )
        boxes = self.results.box_px
        small = np.abs(boxes[:, 1] - boxes[:, 3]) <= MIN_HEIGHT_PX
        self._ignorable = small | (self.results.kind == neighbour)
        blocks = []
        for frame in np.flatnonzero(np.diff(self._results_at)):
            shown = slice(*self._results_at[frame : frame + 2])
            regions = dont_care.box_px[slice(*dont_care_at[frame : frame + 2])]
            self._ignorable[shown] |= _lie_in(boxes[shown], regions)
            expected = slice(*self._truth_at[frame : frame + 2])
            blocks.append(overlap(_part(self.truth, expected), _part(self.results, shown)).ravel())
        self._overlaps = np.concatenate(blocks) if blocks else np.empty(0)
        self._score = self.results.score.copy()
        self._valid = np.zeros(len(self._score), np.bool_)
        track_of = np.unique(self.results.track, return_inverse=True)[1]
        self._by_track = np.argsort(track_of, kind="stable")
        self._tracks_at = np.concatenate(([0], np.cumsum(np.bincount(track_of)))).astype(np.int64)
        identity = np.unique(self.truth.track, return_inverse=True)[1]
        self._in_trajectories = np.argsort(identity, kind="stable")
        self._trajectories_at = np.concatenate(([0], np.cumsum(np.bincount(identity)))).astype(np.int64)
        self._ignored_in_trajectories = self._ignored_truth[self._in_trajectories]

    def anew(self) -> _SequenceOfClass:
        """Return the same, with nothing remembered of counts."""
        made = copy.copy(self)
        made._score, made._valid = self.results.score.copy(), np.zeros(len(self._valid), np.bool_)
        return made

    def count(self, counts: Counts, threshold: float) -> None:
        row = np.full(len(self.truth.frame), UNMATCHED)
        wrong, overlap = _match_frames(
            self._truth_at, self._results_at, self._overlaps, self._kept(threshold), self._ignorable, self._valid,
            self._least, row,
        )  # fmt: skip
        seen = row != UNMATCHED
        missed_ignored = int((self._ignored_truth & ~seen).sum())
        counts.true_positives += int(seen.sum())
        counts.false_negatives += int((~seen).sum()) - missed_ignored
        counts.false_positives += wrong
        counts.truth += int((~self._ignored_truth).sum())
        counts.overlap += overlap
        counts.scores += self._score[row[seen]].tolist()
        tracks = np.where(seen, self.results.track[row], -1) if len(self.results.track) else row
        self._count_trajectories(counts, tracks)

    def _kept(self, threshold: float) -> NDArray[np.bool_]:
        """Average the score of each track, as its boxes hold it from the last time, and compare.

        The sum is taken in the order of the rows, one after the other, since thresholds are scores of tracks and the
        last bit decides.
        """
        _average(self._score, self._by_track, self._tracks_at)
        return np.asarray(self._score >= threshold)

    def _count_trajectories(self, counts: Counts, matched: NDArray[np.int64]) -> None:
        tracks, ignored, at = matched[self._in_trajectories], self._ignored_in_trajectories, self._trajectories_at
        found = _judge_trajectories(tracks, ignored, at, MOSTLY_TRACKED, MOSTLY_LOST)
        counts.trajectories += found[0]
        counts.switches += found[1]
        counts.fragments += found[2]
        counts.mostly_tracked += found[3]
        counts.mostly_lost += found[4]


@numba.njit(cache=True)  # type: ignore[misc,untyped-decorator,unused-ignore]
def _average(score: Any, rows: Any, at: Any) -> None:
    """Give all rows of a track the mean of their scores; track k has the rows rows[at[k]:at[k + 1]]."""
    for k in range(len(at) - 1):
        total = 0.0
        for i in range(at[k], at[k + 1]):
            total += score[rows[i]]
        for i in range(at[k], at[k + 1]):
            score[rows[i]] = total / (at[k + 1] - at[k])


@numba.njit(cache=True)  # type: ignore[misc,untyped-decorator,unused-ignore]
def _judge_trajectories(tracks: Any, ignored: Any, at: Any, mostly_tracked: float, mostly_lost: float) -> Any:
    """Return trajectories that count, identity switches, fragments, mostly tracked and mostly lost ones.

    Trajectory k of the truth is seen as tracks[at[k]:at[k + 1]], frame after frame; -1 is not seen.
    """
    count = switches = fragments = tracked_well = lost = 0
    for k in range(len(at) - 1):
        seen, skip = tracks[at[k] : at[k + 1]], ignored[at[k] : at[k + 1]]
        if skip.all():
            continue
        count += 1
        if (seen == -1).all():
            lost += 1
            continue
        more_switches, more_fragments, tracked = _interruptions(seen, skip)
        switches += more_switches
        fragments += more_fragments
        share = tracked / (len(seen) - skip.sum())
        tracked_well += share > mostly_tracked
        lost += share < mostly_lost
    return count, switches, fragments, tracked_well, lost


@numba.njit(cache=True)  # type: ignore[misc,untyped-decorator,unused-ignore]
def _interruptions(seen: Any, ignored: Any) -> Any:
    """Return identity switches, fragments and tracked frames of one trajectory."""
    switches = fragments = 0
    last = seen[0]
    tracked = int(seen[0] >= 0)
    for at in range(1, len(seen)):
        if ignored[at]:
            last = -1
            continue
        before, now = seen[at - 1], seen[at]
        switches += last != -1 and last != now and now != -1 and before != -1  # noqa: PLR1714 - numba
        fragments += at < len(seen) - 1 and before != now and last != -1 and now != -1 and seen[at + 1] != -1
        if now != -1:
            tracked += 1
            last = now
    at = len(seen) - 1
    fragments += at > 0 and seen[at - 1] != seen[at] and last != -1 and seen[at] != -1 and not ignored[at]
    return switches, fragments, tracked


@numba.njit(cache=True)  # type: ignore[misc,untyped-decorator,unused-ignore]
def _match_frames(
    truth_at: Any, results_at: Any, overlaps: Any, kept: Any, ignorable: Any, valid: Any, least: float, row: Any
) -> Any:
    """Match frame by frame; fill `row`, the result of each truth box, and `valid`, which results ever matched.

    Returns:
        False positives, and the sum of overlaps of the true ones.
    """
    wrong, total, at = 0, 0.0, 0
    for frame in range(len(truth_at) - 1):
        expected, first = truth_at[frame + 1] - truth_at[frame], results_at[frame]
        given = results_at[frame + 1] - first
        block = overlaps[at : at + expected * given].reshape(expected, given)
        at += expected * given
        shown = np.empty(given, np.int64)
        count = 0
        for k in range(given):
            if kept[first + k]:
                shown[count] = k
                count += 1
        if expected and count:
            flipped = expected > count
            cost = np.full((min(expected, count), max(expected, count)), NEVER)
            for i in range(expected):
                for k in range(count):
                    apart = 1 - block[i, shown[k]]
                    if apart <= 1 - least:
                        if flipped:
                            cost[k, i] = apart
                        else:
                            cost[i, k] = apart
            best = best_columns(cost)
            for i in range(len(best)):
                if cost[i, best[i]] < NEVER:
                    who, what = (best[i], i) if flipped else (i, best[i])
                    row[truth_at[frame] + who] = first + shown[what]
                    valid[first + shown[what]] = True
                    total += 1 - cost[i, best[i]]
                    wrong -= 1
        for k in range(count):
            if valid[first + shown[k]] or not ignorable[first + shown[k]]:
                wrong += 1
    return wrong, total


def _lie_in(boxes: NDArray[np.float64], regions: NDArray[np.float64]) -> NDArray[np.bool_]:
    """True for each image box of which more than half lies in one of the regions."""
    area = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    return np.asarray((shared_area_2d(boxes, regions) > np.maximum(DONT_CARE_SHARE * area, 0)[:, None]).any(axis=1))


def _of_types(rows: Rows, wanted: Sequence[str]) -> Rows:
    """Return rows whose type contains a wanted word, as the devkit chooses them, in the order of frames."""
    chosen = rows.of(np.array([any(word in kind for word in wanted) for kind in rows.kind.tolist()], np.bool_))
    order = np.argsort(chosen.frame, kind="stable")
    return Rows(*(getattr(chosen, name)[order] for name in Rows.__dataclass_fields__))


def _part(rows: Rows, part: slice) -> Rows:
    return Rows(*(getattr(rows, name)[part] for name in Rows.__dataclass_fields__))


__all__ = ["CLASSES", "ClassCounter", "Counts", "Overlap"]
