"""HOTA: detection, association and localisation of trackers in one score.

Source: Luiten et al., "HOTA: A Higher Order Metric for Evaluating Multi-Object Tracking", IJCV 2020; equal to
JonathonLuiten/TrackEval (MIT).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from perception.evaluation.assignment import best_assignment
from perception.evaluation.track_frames import Float, TrackFrame, TrackSequence, all_ids, dense_ids

Ids: TypeAlias = NDArray[np.int64]
ALPHAS: Float = np.arange(0.05, 0.99, 0.05)
_EPSILON = float(np.finfo("float").eps)


@dataclass(frozen=True, eq=False)
class HotaScores:
    """Scores at the 19 localisation thresholds 0.05, 0.10 ... 0.95; `mean` of each is what papers print."""

    true_positives: Float
    false_negatives: Float
    false_positives: Float
    association: Float  # AssA
    association_recall: Float
    association_precision: Float
    localisation: Float  # LocA

    @property
    def detection(self) -> Float:
        """DetA: detections found, per detection found, missed or invented."""
        return self.true_positives / np.maximum(1, self.true_positives + self.false_negatives + self.false_positives)

    @property
    def hota(self) -> Float:
        """The geometric mean of DetA and AssA."""
        return np.asarray(np.sqrt(self.detection * self.association))

    def summary(self) -> dict[str, float]:
        """Return the means over thresholds under the usual names."""
        found_of_true = self.true_positives / np.maximum(1, self.true_positives + self.false_negatives)
        found_of_given = self.true_positives / np.maximum(1, self.true_positives + self.false_positives)
        columns = {
            "HOTA": self.hota, "DetA": self.detection, "AssA": self.association, "DetRe": found_of_true,
            "DetPr": found_of_given, "AssRe": self.association_recall, "AssPr": self.association_precision,
            "LocA": self.localisation,
        }  # fmt: skip
        return {name: float(values.mean()) for name, values in columns.items()}


def hota(sequences: Sequence[TrackSequence]) -> HotaScores:
    """Score sequences together: counts add up, associations are averaged over the matched detections."""
    return _combined([_hota_of(sequence) for sequence in sequences])


def _hota_of(sequence: TrackSequence) -> HotaScores:
    truth, results = all_ids(sequence)
    alignment, life_truth, life_results = _alignment(sequence, truth, results)
    together = np.zeros((len(ALPHAS), len(truth), len(results)))
    counts = np.zeros((4, len(ALPHAS)))  # true positives, misses, inventions, similarity of the true positives
    for frame in sequence:
        rows, columns = dense_ids(frame.truth, truth), dense_ids(frame.results, results)
        matched = best_assignment(-(alignment[np.ix_(rows, columns)] * frame.similarity))
        similarity = frame.similarity[matched]
        near = similarity[None] >= ALPHAS[:, None] - _EPSILON  # (A, matches)
        hits = near.sum(axis=1)
        counts += np.stack((hits, len(rows) - hits, len(columns) - hits, (near * similarity).sum(axis=1)))
        together[:, rows[matched[0]], columns[matched[1]]] += near
    hits = np.maximum(1, counts[0])
    union = np.maximum(1, life_truth[:, None] + life_results[None] - together)

    def averaged(whole: Float) -> Float:
        return np.asarray((together * together / whole).sum(axis=(1, 2)) / hits)

    return HotaScores(
        true_positives=counts[0],
        false_negatives=counts[1],
        false_positives=counts[2],
        association=averaged(union),
        association_recall=averaged(np.maximum(1, life_truth)[:, None]),
        association_precision=averaged(np.maximum(1, life_results)[None]),
        localisation=np.maximum(1e-10, counts[3]) / np.maximum(1e-10, counts[0]),
    )


def _alignment(sequence: TrackSequence, truth: Ids, results: Ids) -> tuple[Float, Float, Float]:
    """Return how well each object and track fit over the whole sequence (G, R), and how long each of them lives."""
    potential = np.zeros((len(truth), len(results)))
    life_truth, life_results = np.zeros(len(truth)), np.zeros(len(results))
    for frame in sequence:
        rows, columns = dense_ids(frame.truth, truth), dense_ids(frame.results, results)
        potential[np.ix_(rows, columns)] += _share(frame)
        life_truth[rows] += 1
        life_results[columns] += 1
    return potential / np.maximum(1, life_truth[:, None] + life_results[None] - potential), life_truth, life_results


def _share(frame: TrackFrame) -> Float:
    """Return each pair's similarity as a share of what its row and column hold."""
    similarity = frame.similarity
    whole = similarity.sum(axis=0)[None] + similarity.sum(axis=1)[:, None] - similarity
    return np.asarray(np.divide(similarity, whole, out=np.zeros_like(similarity), where=whole > _EPSILON))


def _combined(parts: Sequence[HotaScores]) -> HotaScores:
    hits = sum((part.true_positives for part in parts), np.zeros(len(ALPHAS)))

    def total(name: str) -> Float:
        return sum((getattr(part, name) * part.true_positives for part in parts), np.zeros(len(ALPHAS)))

    def weighted(name: str) -> Float:
        return np.asarray(total(name) / np.maximum(1, hits))

    return HotaScores(
        true_positives=hits,
        false_negatives=sum((part.false_negatives for part in parts), np.zeros(len(ALPHAS))),
        false_positives=sum((part.false_positives for part in parts), np.zeros(len(ALPHAS))),
        association=weighted("association"),
        association_recall=weighted("association_recall"),
        association_precision=weighted("association_precision"),
        # As in the original: 1 where nothing was matched at all.
        localisation=np.maximum(1e-10, total("localisation")) / np.maximum(1e-10, hits),
    )


__all__ = ["ALPHAS", "HotaScores", "hota"]
