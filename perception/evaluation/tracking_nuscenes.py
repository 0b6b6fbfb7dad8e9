"""Tracking by the rules of nuScenes: AMOTA, AMOTP and the CLEAR numbers at the best threshold.

Source: nuscenes.org/tracking and nutonomy/nuscenes-devkit (python-sdk/nuscenes/eval/tracking), quirks included: the
score of a track is the mean over its boxes, holes are filled, and a filled box is weighted to the farther neighbour.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from perception.evaluation.track_frames import Float, TrackFrame
from perception.evaluation.tracking_clear import ClearCounts, MatchedFrame, counts_of, lives, matched_frames

MATCH_DISTANCE_M = 2.0
MIN_RECALL, NUM_THRESHOLDS = 0.1, 40
KEYFRAME_PERIOD_S = 0.5
WORST = {"amota": 0.0, "amotp": 2.0, "recall": 0.0, "motar": 0.0, "mota": 0.0, "motp": 2.0, "faf": 500.0}
SUMMED = ("mt", "ml", "tp", "fp", "fn", "ids", "frag")
Scores: TypeAlias = dict[str, float]


@dataclass(frozen=True, eq=False)
class Track:
    """One object, of truth or of a tracker, in one scene.

    Attributes:
        name: class.
        instant: (T,) indices of the scene's instants, ascending.
        center_m: (T, 2) on the ground.
        score: (T,) at every instant the mean score of its boxes; not read of truth.
        holes: instants that were filled.
    """

    name: str
    instant: NDArray[np.int64]
    center_m: Float
    score: Float
    holes: frozenset[int] = frozenset()


@dataclass(frozen=True, eq=False)
class Scene:
    """One sequence: its instants in nanoseconds, true tracks and reported ones."""

    instants_ns: NDArray[np.int64]
    truth: Sequence[Track]
    results: Sequence[Track]


def evaluate(scenes: Sequence[Scene], classes: Sequence[str]) -> dict[str, Scores]:
    """Return scores by class, and under "all" their means (counts: sums); a class without truth scores NaN."""
    filled = [
        Scene(scene.instants_ns, _filled(scene.truth, scene.instants_ns), _filled(scene.results, scene.instants_ns))
        for scene in scenes
    ]
    by_class = {name: _evaluate_class(filled, name) for name in classes}
    names = dict.fromkeys(key for scores in by_class.values() for key in scores)
    return {**by_class, "all": {key: _over_classes(key, by_class) for key in names}}


def _over_classes(key: str, by_class: Mapping[str, Scores]) -> float:
    values = np.array([scores.get(key, np.nan) for scores in by_class.values()])
    if key in SUMMED:
        return float(np.nansum(values))
    return float(np.nanmean(values)) if np.isfinite(values).any() else float("nan")


def _filled(tracks: Sequence[Track], instants_ns: NDArray[np.int64]) -> list[Track]:
    return [_without_holes(track, instants_ns) for track in tracks]


def _without_holes(track: Track, instants_ns: NDArray[np.int64]) -> Track:
    every = np.arange(track.instant[0], track.instant[-1] + 1)
    if len(every) == len(track.instant):
        return track
    right = np.searchsorted(track.instant, every, side="right").clip(max=len(track.instant) - 1)
    left = np.searchsorted(track.instant, every, side="right") - 1
    t, t_left, t_right = (instants_ns[index] for index in (every, track.instant[left], track.instant[right]))
    # The devkit takes the time to the right box as the weight of the right box: kept, to give equal numbers.
    weight = np.divide(t_right - t, t_right - t_left, out=np.zeros(len(every)), where=t_right > t_left)[:, None]
    known = np.isin(every, track.instant)
    between = (1 - weight) * track.center_m[left] + weight * track.center_m[right]
    center = np.where(known[:, None], track.center_m[left], between)
    # A mean of equal scores may round below them, and then misses the threshold of its own track, as in the original.
    score = np.where(
        known, track.score[left], (1 - weight[:, 0]) * track.score[left] + weight[:, 0] * track.score[right]
    )
    return Track(track.name, every, center, score, frozenset(every[~known].tolist()))


def _frames(scene: Scene, name: str, min_score: float) -> list[tuple[int, TrackFrame]]:
    """Return the instants of one class with their places, empty ones left out; similarity is 1 - distance / 2 m."""
    truth = [(i, track) for i, track in enumerate(scene.truth) if track.name == name]
    results = [(i, track) for i, track in enumerate(scene.results) if track.name == name]
    frames = []
    for instant in range(len(scene.instants_ns)):
        ids, center = _at(truth, instant, -np.inf)
        ids_given, center_given = _at(results, instant, min_score)
        if len(ids) + len(ids_given):
            apart = np.linalg.norm(center[:, None] - center_given[None], axis=2)
            frames.append((instant, TrackFrame(ids, ids_given, 1.0 - apart / MATCH_DISTANCE_M)))
    return frames


def _at(tracks: Sequence[tuple[int, Track]], instant: int, min_score: float) -> tuple[NDArray[np.int64], Float]:
    here = [
        (i, track)
        for i, track in tracks
        if track.instant[0] <= instant <= track.instant[-1] and track.score[instant - track.instant[0]] >= min_score
    ]
    # Where two objects claim one track, the order decides: filled boxes come last, by their track's first instant.
    here.sort(key=lambda item: (instant in item[1].holes, item[1].instant[0] if instant in item[1].holes else 0))
    centers = [track.center_m[instant - track.instant[0]] for _, track in here]
    return np.array([i for i, _ in here], np.int64), np.array(centers, np.float64).reshape(-1, 2)


def _matched(frames: Sequence[tuple[int, TrackFrame]]) -> list[MatchedFrame]:
    above_zero = float(np.nextafter(0.0, 1.0))  # nearer than 2 m, not at 2 m
    return list(matched_frames([frame for _, frame in frames], above_zero))


def _evaluate_class(scenes: Sequence[Scene], name: str) -> Scores:
    objects = sum(len(track.instant) for scene in scenes for track in scene.truth if track.name == name)
    if objects == 0:
        return {}
    thresholds = _thresholds(scenes, name, objects)
    at_threshold = {value: _scores_at(scenes, name, value) for value in np.unique(thresholds[~np.isnan(thresholds)])}
    rows = [at_threshold.get(value) for value in thresholds]
    nothing = all(row is None for row in rows)
    if nothing:
        identities = sum(track.name == name for scene in scenes for track in scene.truth)
        best: Scores = {**WORST, "mt": 0.0, "tp": 0.0, "ml": identities, "fn": objects, "tid": 20.0, "lgd": 20.0}
    else:
        best = max((row for row in rows if row is not None), key=lambda row: row["mota"])
    motar = [WORST["motar"] if row is None or np.isnan(row["motar"]) else row["motar"] for row in rows]
    motp = [WORST["motp"] if row is None or np.isnan(row["motp"]) else row["motp"] for row in rows]
    return {**best, "gt": float(objects), "amota": float(np.mean(motar)), "amotp": float(np.mean(motp))}


def _thresholds(scenes: Sequence[Scene], name: str, objects: int) -> Float:
    """Return the score at 40 recalls from 1 down to 0.1; NaN where the recall is not reached."""
    scores = []
    for scene in scenes:
        frames = _frames(scene, name, -np.inf)
        for (instant, frame), at in zip(frames, _matched(frames), strict=True):
            steady = [frame.results[column] for row, column in at.pairs if (row, column) not in at.switched]
            tracks = [scene.results[int(identity)] for identity in steady]
            scores += [track.score[instant - track.instant[0]] for track in tracks]
    if not scores:
        return np.full(NUM_THRESHOLDS, np.nan)
    descending = np.sort(np.array(scores))[::-1]
    recall = np.arange(1, len(descending) + 1) / objects
    wanted = np.linspace(MIN_RECALL, 1, NUM_THRESHOLDS).round(12)
    thresholds = np.interp(wanted, recall, descending, right=0)
    thresholds[wanted > recall.max()] = np.nan
    return np.asarray(thresholds[::-1])


def _scores_at(scenes: Sequence[Scene], name: str, min_score: float) -> Scores:
    matched = [_matched(_frames(scene, name, min_score)) for scene in scenes]
    counts = sum((counts_of(of_scene) for of_scene in matched), ClearCounts())
    steady = counts.matches - counts.switches
    seen = [life for of_scene in matched for life in lives(of_scene).values() if any(life)]
    errors = counts.misses + counts.switches + counts.false_positives
    motar = np.nan if steady == 0 else max(0.0, 1.0 - (errors - (counts.objects - steady)) / steady)
    frames = sum(map(len, matched))
    return {
        "recall": counts.recall, "motar": float(motar), "mota": max(0.0, counts.mota),
        "motp": MATCH_DISTANCE_M * counts.motp, "mt": counts.mostly_tracked, "ml": counts.mostly_lost,
        "faf": 100.0 * counts.false_positives / frames, "tp": steady, "fp": counts.false_positives,
        "fn": counts.misses, "ids": counts.switches, "frag": counts.fragmentations,
        "tid": float(np.mean([life.index(True) for life in seen])) * KEYFRAME_PERIOD_S if seen else float("nan"),
        "lgd": float(np.mean([_longest_gap(life) for life in seen])) * KEYFRAME_PERIOD_S if seen else float("nan"),
    }  # fmt: skip


def _longest_gap(life: Sequence[bool]) -> int:
    edges = np.flatnonzero(np.concatenate(([True], life, [True])))
    return int(np.diff(edges).max()) - 1


__all__ = ["Scene", "Track", "evaluate"]
