"""Detection by the rules of nuScenes: mAP over centre distances, five errors of true positives, NDS.

Source: Caesar et al., "nuScenes: a multimodal dataset for autonomous driving", CVPR 2020, section 3.1, and what
nutonomy/nuscenes-devkit (python-sdk/nuscenes/eval/detection/algo.py) really computes: precision interpolated at 101
recalls, errors averaged from the first prediction on and read at equal confidence, between recall 0.1 and the last one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

Float: TypeAlias = NDArray[np.float64]

DISTANCES_M = (0.5, 1.0, 2.0, 4.0)
TP_DISTANCE_M = 2.0
MIN_RECALL, MIN_PRECISION = 0.1, 0.1
CLASS_RANGE_M = {
    "car": 50.0, "truck": 50.0, "bus": 50.0, "trailer": 50.0, "construction_vehicle": 50.0,
    "pedestrian": 40.0, "motorcycle": 40.0, "bicycle": 40.0, "traffic_cone": 30.0, "barrier": 30.0,
}  # fmt: skip
ERRORS = ("trans_err", "scale_err", "orient_err", "vel_err", "attr_err")
UNDEFINED = {"traffic_cone": {"orient_err", "vel_err", "attr_err"}, "barrier": {"vel_err", "attr_err"}}
RECALLS = np.linspace(0.0, 1.0, 101)


@dataclass(frozen=True, eq=False)
class SceneBoxes:
    """N boxes of many samples, of truth or of a detector.

    Attributes:
        sample: (N,) index of the sample (instant) that a box belongs to.
        name: (N,) class.
        center_m: (N, 3), in one frame for truth and results of a sample.
        size_lwh_m: (N, 3).
        yaw_rad: (N,) counter-clockwise from +x.
        velocity_mps: (N, 2); NaN where it is not known.
        score: (N,); not read of truth.
        attribute: (N,) text; "" where there is none.
        range_m: (N,) distance to the vehicle on the ground.
    """

    sample: NDArray[np.int64]
    name: NDArray[np.str_]
    center_m: Float
    size_lwh_m: Float
    yaw_rad: Float
    velocity_mps: Float
    score: Float
    attribute: NDArray[np.str_]
    range_m: Float

    def __len__(self) -> int:
        return len(self.sample)

    def __getitem__(self, chosen: NDArray[Any]) -> SceneBoxes:
        return SceneBoxes(**{name: getattr(self, name)[chosen] for name in self.__dataclass_fields__})

    def within(self, class_range_m: Mapping[str, float]) -> SceneBoxes:
        """Return the boxes nearer than their class's range; classes without a range stay."""
        limits = np.array([class_range_m.get(str(name), np.inf) for name in self.name])
        return self[self.range_m < limits] if len(self) else self


@dataclass(frozen=True, eq=False)
class Curve:
    """One class at one distance, at 101 recalls: precision, confidence, and each error as a running mean."""

    precision: Float
    confidence: Float
    errors: Mapping[str, Float]

    def average_precision(self) -> float:
        """Return AP: the mean precision above 0.1 beyond recall 0.1, scaled to [0, 1]."""
        above = np.clip(self.precision[round(100 * MIN_RECALL) + 1 :] - MIN_PRECISION, 0.0, None)
        return float(above.mean() / (1.0 - MIN_PRECISION))

    def error(self, name: str) -> float:
        """Return the mean of an error between recall 0.1 and the highest recall reached; 1 if that was not passed."""
        reached = np.flatnonzero(self.confidence)
        first, last = round(100 * MIN_RECALL) + 1, int(reached[-1]) if len(reached) else 0
        return 1.0 if last < first else float(self.errors[name][first : last + 1].mean())


@dataclass(frozen=True)
class NuscenesScores:
    """Scores as the official result file names them.

    Attributes:
        ap: by class, by distance in metres.
        errors: by class, by error name; NaN where nuScenes does not define it.
    """

    ap: Mapping[str, Mapping[float, float]]
    errors: Mapping[str, Mapping[str, float]]
    curves: Mapping[str, Curve]
    num_truth: int
    num_results: int

    @property
    def class_ap(self) -> dict[str, float]:
        """AP by class, the mean over distances."""
        return {name: float(np.mean(list(by_distance.values()))) for name, by_distance in self.ap.items()}

    @property
    def mean_ap(self) -> float:
        """MAP, the mean over classes."""
        return float(np.mean(list(self.class_ap.values())))

    @property
    def mean_errors(self) -> dict[str, float]:
        """Each error, the mean over the classes that define it."""
        values = {error: [by_error[error] for by_error in self.errors.values()] for error in ERRORS}
        return {error: float(np.nanmean(of)) if np.isfinite(of).any() else float("nan") for error, of in values.items()}

    @property
    def nds(self) -> float:
        """The nuScenes detection score: five parts mAP, one part each of 1 - error, not below 0."""
        goodness = [max(0.0, 1.0 - error) for error in self.mean_errors.values() if not np.isnan(error)]
        return (5.0 * self.mean_ap + sum(goodness)) / 10.0


def evaluate(
    truth: SceneBoxes, results: SceneBoxes, classes: Sequence[str], class_range_m: Mapping[str, float] = CLASS_RANGE_M
) -> NuscenesScores:
    """Score detections.

    Args:
        truth: labelled boxes, those without a point inside already left out.
        results: detections of the same samples.
        classes: the classes that the means go over; one without truth counts as AP 0, as in the official code.
        class_range_m: boxes farther than their class's range are left out.
    """
    truth, results = truth.within(class_range_m), results.within(class_range_m)
    ap: dict[str, dict[float, float]] = {}
    errors: dict[str, dict[str, float]] = {}
    curves: dict[str, Curve] = {}
    for name in classes:
        of_truth, of_results = truth[truth.name == name], results[results.name == name]
        by_distance = {distance: match(of_truth, of_results, name, distance) for distance in DISTANCES_M}
        ap[name] = {distance: curve.average_precision() for distance, curve in by_distance.items()}
        curves[name] = by_distance[TP_DISTANCE_M]
        undefined = UNDEFINED.get(name, set())
        errors[name] = {e: float("nan") if e in undefined else curves[name].error(e) for e in ERRORS}
    return NuscenesScores(ap, errors, curves, len(truth), len(results))


def match(truth: SceneBoxes, results: SceneBoxes, name: str, distance_m: float) -> Curve:
    """Match the results of one class, best first, each with the nearest free truth of its sample."""
    # The official order: by score, and among equal scores the later entry first.
    order = np.lexsort((np.arange(len(results)), results.score))[::-1]
    of_sample: dict[int, NDArray[np.int64]] = {
        int(sample): np.flatnonzero(truth.sample == sample) for sample in np.unique(truth.sample)
    }
    taken = np.zeros(len(truth), bool)
    hit = np.full(len(results), -1, np.int64)
    for place, index in enumerate(order):
        candidates = of_sample.get(int(results.sample[index]))
        if candidates is None:
            continue
        apart = np.linalg.norm(truth.center_m[candidates, :2] - results.center_m[index, :2], axis=1)
        apart[taken[candidates]] = np.inf
        nearest = int(apart.argmin())
        if apart[nearest] < distance_m:
            taken[candidates[nearest]] = True
            hit[place] = candidates[nearest]
    if not (hit >= 0).any():
        zeros = np.zeros(101)
        return Curve(zeros, zeros, dict.fromkeys(ERRORS, np.ones(101)))
    return _curve(truth, results[order], hit, name)


def _curve(truth: SceneBoxes, ordered: SceneBoxes, hit: NDArray[np.int64], name: str) -> Curve:
    is_hit = hit >= 0
    true_positives, false_positives = np.cumsum(is_hit).astype(float), np.cumsum(~is_hit).astype(float)
    precision = true_positives / (true_positives + false_positives)
    recall = true_positives / len(truth)
    confidence = np.interp(RECALLS, recall, ordered.score, right=0)
    hits, matched = ordered[is_hit], truth[hit[is_hit]]
    raw = {
        "trans_err": np.linalg.norm(matched.center_m[:, :2] - hits.center_m[:, :2], axis=1),
        "scale_err": 1.0 - _aligned_iou(matched.size_lwh_m, hits.size_lwh_m),
        "orient_err": _yaw_difference(matched.yaw_rad, hits.yaw_rad, np.pi if name == "barrier" else 2 * np.pi),
        "vel_err": np.linalg.norm(hits.velocity_mps - matched.velocity_mps, axis=1),
        "attr_err": np.where(matched.attribute == "", np.nan, (matched.attribute != hits.attribute).astype(float)),
    }
    errors = {
        error: np.interp(confidence[::-1], hits.score[::-1], _running_mean(values)[::-1])[::-1]
        for error, values in raw.items()
    }
    return Curve(np.interp(RECALLS, recall, precision, right=0), confidence, errors)


def _aligned_iou(a: Float, b: Float) -> Float:
    """Return the IoU of boxes that share centre and heading, from sizes (N, 3)."""
    shared = np.minimum(a, b).prod(axis=1)
    return np.asarray(shared / (a.prod(axis=1) + b.prod(axis=1) - shared))


def _yaw_difference(a: Float, b: Float, period: float) -> Float:
    difference = (a - b + period / 2) % period - period / 2
    return np.abs(np.where(difference > np.pi, difference - 2 * np.pi, difference))


def _running_mean(values: Float) -> Float:
    """Return the mean of values[:i+1] at each i, NaN left out; ones where nothing is known at all."""
    known = ~np.isnan(values)
    if not known.any():
        return np.ones_like(values)
    counts = np.cumsum(known)
    sums = np.nancumsum(values)
    return np.asarray(np.divide(sums, counts, out=np.zeros_like(sums), where=counts > 0))


__all__ = ["CLASS_RANGE_M", "DISTANCES_M", "ERRORS", "Curve", "NuscenesScores", "SceneBoxes", "evaluate", "match"]
