"""CLEAR MOT and identity scores of trackers.

Source: Bernardin & Stiefelhagen, "Evaluating Multiple Object Tracking Performance: The CLEAR MOT Metrics", 2008, and
Ristani et al., "Performance Measures and a Data Set for Multi-Target, Multi-Camera Tracking", 2016; counted as
cheind/py-motmetrics does: an object keeps its last track while that is still near enough, only then are the others
matched; a switch is a match with another track than the object's last one.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, fields

import numpy as np

from perception.evaluation.assignment import best_assignment
from perception.evaluation.track_frames import Float, TrackFrame, TrackSequence, all_ids, dense_ids

_NEVER = 1e6  # the cost of a pair that must not match
MOSTLY_TRACKED, MOSTLY_LOST = 0.8, 0.2


@dataclass(frozen=True)
class ClearCounts:
    """What is counted over sequences; counts of several sequences add up.

    Attributes:
        objects: true boxes.
        predictions: reported boxes.
        matches: true boxes that a reported one matched, switches included.
        misses: true boxes without a match.
        false_positives: reported boxes without a match.
        switches: matches with another track than the last one.
        fragmentations: times that a tracked object was lost and found again.
        unique_objects: true objects.
        mostly_tracked: objects tracked for 80 % of their life or more.
        mostly_lost: objects tracked for less than 20 %.
        distance: the sum of 1 - similarity over matches.
        id_true_positives: boxes right under the best one-to-one assignment of tracks to objects.
    """

    objects: int = 0
    predictions: int = 0
    matches: int = 0
    misses: int = 0
    false_positives: int = 0
    switches: int = 0
    fragmentations: int = 0
    unique_objects: int = 0
    mostly_tracked: int = 0
    mostly_lost: int = 0
    distance: float = 0.0
    id_true_positives: int = 0

    def __add__(self, other: ClearCounts) -> ClearCounts:
        names = [field.name for field in fields(self)]
        return ClearCounts(*(getattr(self, name) + getattr(other, name) for name in names))

    @property
    def partially_tracked(self) -> int:
        """Objects that are neither mostly tracked nor mostly lost."""
        return self.unique_objects - self.mostly_tracked - self.mostly_lost

    @property
    def mota(self) -> float:
        """Accuracy: 1 - (misses + false positives + switches) / objects; NaN without objects."""
        return 1.0 - _ratio(self.misses + self.false_positives + self.switches, self.objects)

    @property
    def motp(self) -> float:
        """Precision as py-motmetrics gives it: the mean of 1 - similarity of the matches."""
        return _ratio(self.distance, self.matches)

    @property
    def recall(self) -> float:
        """Matches per true box."""
        return _ratio(self.matches, self.objects)

    @property
    def precision(self) -> float:
        """Matches per reported box."""
        return _ratio(self.matches, self.predictions)

    @property
    def idf1(self) -> float:
        """The F1 score of identities."""
        return _ratio(2 * self.id_true_positives, self.objects + self.predictions)

    @property
    def idp(self) -> float:
        """Precision of identities."""
        return _ratio(self.id_true_positives, self.predictions)

    @property
    def idr(self) -> float:
        """Recall of identities."""
        return _ratio(self.id_true_positives, self.objects)


def clear(sequences: Iterable[TrackSequence], min_similarity: float = 0.5) -> ClearCounts:
    """Count over sequences; a pair below `min_similarity` never matches."""
    return sum((_clear_of(sequence, min_similarity) for sequence in sequences), ClearCounts())


@dataclass(frozen=True, eq=False)
class MatchedFrame:
    """One instant with its matches.

    Attributes:
        frame: the instant.
        pairs: (row, column) of the matched truth and results.
        switched: those of the pairs that are switches.
    """

    frame: TrackFrame
    pairs: list[tuple[int, int]]
    switched: list[tuple[int, int]]


def matched_frames(sequence: TrackSequence, min_similarity: float) -> Iterator[MatchedFrame]:
    """Match one instant after the other; what an object was matched with last decides first."""
    last: dict[int, int] = {}
    for frame in sequence:
        matched = _match(frame, last, min_similarity)
        for row, column in matched.pairs:
            last[int(frame.truth[row])] = int(frame.results[column])
        yield matched


def lives(matched: Iterable[MatchedFrame]) -> dict[int, list[bool]]:
    """Return for every object whether it was matched, at each instant of its life."""
    seen: dict[int, list[bool]] = defaultdict(list)
    for at in matched:
        rows = {row for row, _ in at.pairs}
        for row, identity in enumerate(at.frame.truth):
            seen[int(identity)].append(row in rows)
    return seen


def counts_of(matched: Sequence[MatchedFrame], id_true_positives: int = 0) -> ClearCounts:
    """Count over the matched instants of one sequence."""
    seen = lives(matched)
    shares = [float(np.mean(life)) for life in seen.values()]
    matches = sum(len(at.pairs) for at in matched)
    objects = sum(len(at.frame.truth) for at in matched)
    predictions = sum(len(at.frame.results) for at in matched)
    return ClearCounts(
        objects=objects,
        predictions=predictions,
        matches=matches,
        misses=objects - matches,
        false_positives=predictions - matches,
        switches=sum(len(at.switched) for at in matched),
        fragmentations=sum(map(_fragmentations, seen.values())),
        unique_objects=len(seen),
        mostly_tracked=sum(share >= MOSTLY_TRACKED for share in shares),
        mostly_lost=sum(share < MOSTLY_LOST for share in shares),
        distance=sum(1.0 - float(at.frame.similarity[pair]) for at in matched for pair in at.pairs),
        id_true_positives=id_true_positives,
    )


def _clear_of(sequence: TrackSequence, min_similarity: float) -> ClearCounts:
    matched = list(matched_frames(sequence, min_similarity))
    return counts_of(matched, _id_true_positives(sequence, min_similarity))


def _match(frame: TrackFrame, last: dict[int, int], min_similarity: float) -> MatchedFrame:
    allowed = frame.similarity >= min_similarity
    columns = {int(identity): column for column, identity in enumerate(frame.results)}
    kept: list[tuple[int, int]] = []
    cost = np.where(allowed, 1.0 - frame.similarity, _NEVER)
    for row, identity in enumerate(frame.truth):
        column = columns.get(last.get(int(identity), -1))
        if column is not None and cost[row, column] < _NEVER:
            kept.append((row, column))
            cost[row], cost[:, column] = _NEVER, _NEVER
    rows, found = best_assignment(cost)
    fresh = [(int(r), int(c)) for r, c in zip(rows, found, strict=True) if cost[r, c] < _NEVER]
    switched = [(r, c) for r, c in fresh if last.get(int(frame.truth[r]), frame.results[c]) != frame.results[c]]
    return MatchedFrame(frame, kept + fresh, switched)


def _fragmentations(life: list[bool]) -> int:
    """Count the gaps between the first and the last instant at which the object was tracked."""
    tracked = np.flatnonzero(life)
    return int((np.diff(tracked) > 1).sum())


def _id_true_positives(sequence: TrackSequence, min_similarity: float) -> int:
    truth, results = all_ids(sequence)
    together: Float = np.zeros((len(truth), len(results)))
    for frame in sequence:
        rows, columns = dense_ids(frame.truth, truth), dense_ids(frame.results, results)
        together[np.ix_(rows, columns)] += frame.similarity >= min_similarity
    chosen = best_assignment(-together)
    return int(together[chosen].sum())


def _ratio(part: float, whole: float) -> float:
    return part / whole if whole else float("nan")


__all__ = ["ClearCounts", "MatchedFrame", "clear", "counts_of", "lives", "matched_frames"]
