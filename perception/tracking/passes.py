"""What happens to all tracks, compiled: they move, are seen or missed, begin, live on, are shown.

Tracks are rows of `track_type`, changed in place; classes are rows of `class_table`.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numba
import numpy as np
from numpy.typing import NDArray

from perception.ops.boxes_bev import apart
from perception.tracking.association import matched
from perception.tracking.class_evidence import add_evidence
from perception.tracking.motion import TURN_RADPS, TURNING, convert, predict, turn_around, update, update_alone
from perception.tracking.tracks import MAX_ODDS, in_sector, odds, probability, within

HEADING_VOTES = 5.0
LATE_S = 1e-6
"""More than rounding."""


class Seen(NamedTuple):
    """N detections of one instant, in the tracker's frame.

    Attributes:
        center_m: (N, 3). size_lwh_m: (N, 3). yaw_rad: (N,).
        velocity_mps: (N, 2), NaN where it is not measured.
        label: (N,) by the classes of the tracker.
        score: (N,) log-odds that each is of something real.
    """

    center_m: NDArray[np.float64]
    size_lwh_m: NDArray[np.float64]
    yaw_rad: NDArray[np.float64]
    velocity_mps: NDArray[np.float64]
    label: NDArray[np.int64]
    score: NDArray[np.float64]


@numba.njit(cache=True)  # type: ignore[misc,untyped-decorator,unused-ignore]
def move(tracks: Any, classes: Any, seconds: float, memory_s: float) -> None:
    """Move tracks on by some seconds; without news, the odds that they are still there fall by e in `memory_s`."""
    step, room = np.empty((5, 5)), np.empty((5, 5))
    left = math.exp(-max(0.0, seconds) / memory_s)
    for track in tracks:
        kind = classes[track.label]
        predict(track.mean, track.cov, kind.model, kind.acceleration_mps2, kind.turn, seconds, step, room)
        track.height[1] += (2 * kind.height_m * seconds) ** 2
        for i in range(3):
            track.size_variance[i] += (kind.size_drift_mps * seconds) ** 2
        track.existence = odds(probability(track.existence) * left)


@numba.njit(cache=True)  # type: ignore[misc,untyped-decorator,unused-ignore]
def meant(label: Any, score: Any, number: Any, lines: Any, are_odds: bool) -> Any:
    """Return what labels (N,) and scores (N,) of a detector mean: classes of the tracker, log-odds of something real.

    Args:
        label: by the C classes of the detector.
        score: as it gives them.
        number: (C,) the tracker's class of each.
        lines: (C, 2) slope and offset of the line through the log-odds of its scores.
        are_odds: True where scores are log-odds already.
    """
    classes, sure = np.empty(len(label), np.int64), np.empty(len(label))
    for k in range(len(label)):
        classes[k] = number[label[k]]
        raw = score[k] if are_odds else odds(score[k])
        sure[k] = within(lines[label[k], 0] * raw + lines[label[k], 1], MAX_ODDS)
    return classes, sure


@numba.njit(cache=True)  # type: ignore[misc,untyped-decorator,unused-ignore]
def observe(
    tracks: Any, seen: Any, said: Any, classes: Any, sought: Any, sector: Any, widen: float, weight: float,
    source: int, t_ns: int,
) -> Any:  # fmt: skip
    """Match, take and miss what one detector saw, or should have; return its detections (n,) that are of no track.

    Args:
        tracks: N tracks at `t_ns`.
        seen: the detections.
        said: (K, K) how often their detector calls an object of the first class by the name of the second.
        classes: (K,).
        sought: (K,) True for the classes that it knows.
        sector: where it sees, see `FieldOfView`.
        widen: how many times further than usual the detections scatter.
        weight: what one word counts.
        source: number of their detector.
        t_ns: their stamp.
    """
    match = matched(tracks, seen, classes, widen)
    _take(tracks, match, seen, said, classes, widen, weight, source, t_ns)
    old, count = np.zeros(len(seen.label), np.bool_), 0
    for k in range(len(tracks)):
        track = tracks[k]
        if match[k] >= 0:
            old[match[k]] = True
        elif sought[track.label] and in_sector(track.mean[0], track.mean[1], sector):
            lost = weight * math.log1p(-classes[track.label].detection_probability)
            track.existence = max(track.existence + lost, -MAX_ODDS)
    new = np.empty(len(old), np.int64)
    for j in range(len(old)):
        if not old[j]:
            new[count] = j
            count += 1
    return new[:count]


@numba.njit(cache=True)  # type: ignore[misc,untyped-decorator,unused-ignore]
def _take(
    tracks: Any, match: Any, seen: Any, said: Any, classes: Any, widen: float, weight: float, source: int, t_ns: int
) -> None:
    """Take detections into the tracks that they are of: `match` (N,), below 0 for none; the rest as in `observe`."""
    measured, derivative, room = np.empty(5), np.empty(5), np.empty(5)
    for k in range(len(tracks)):
        track, j = tracks[k], match[k]
        track.detection = j
        if j < 0:
            continue
        kind = classes[track.label]
        _measure(seen, j, measured)
        agrees = update(
            track.mean, track.cov, kind.model, measured, widen * kind.position_m, widen * kind.heading_rad,
            widen * kind.velocity_mps, derivative, room,
        )  # fmt: skip
        track.heading = within(track.heading + agrees, HEADING_VOTES)
        if track.heading < 0:
            turn_around(track.mean, track.cov, kind.model)
            track.heading = -track.heading
        height = track.height
        update_alone(height[:1], height[1:], 0, seen.center_m[j, 2], widen * kind.height_m)
        for i in range(3):
            update_alone(track.size, track.size_variance, i, seen.size_lwh_m[j, i], widen * kind.size_m)
        track.existence = within(track.existence + weight * (seen.score[j] + kind.hit_odds), MAX_ODDS)
        track.label = add_evidence(track.evidence, said, seen.label[j], probability(seen.score[j]))
        convert(track.mean, track.cov, kind.model, classes[track.label].model)
        track.seen_ns, track.score = t_ns, seen.score[j]
        track.sources |= 1 << source


@numba.njit(cache=True)  # type: ignore[misc,untyped-decorator,unused-ignore]
def _measure(seen: Any, j: int, measured: Any) -> None:
    """Write what detection `j` measured, as `update` takes it, into `measured` (5,)."""
    measured[0], measured[1], measured[2] = seen.center_m[j, 0], seen.center_m[j, 1], seen.yaw_rad[j]
    measured[3], measured[4] = seen.velocity_mps[j, 0], seen.velocity_mps[j, 1]


@numba.njit(cache=True)  # type: ignore[misc,untyped-decorator,unused-ignore]
def begin(tracks: Any, index: Any, seen: Any, said: Any, classes: Any, widen: float, source: int, t_ns: int) -> None:
    """Begin tracks (N,), all zeros but for their ids, with the detections `index` (N,); the rest as in `observe`."""
    measured, derivative, room = np.empty(5), np.empty(5), np.empty(5)
    for k in range(len(tracks)):
        track, j = tracks[k], index[k]
        kind = classes[seen.label[j]]
        track.born_ns = track.seen_ns = t_ns
        track.label, track.detection, track.heading, track.sources = seen.label[j], j, 1, 1 << source
        add_evidence(track.evidence, said, seen.label[j], probability(seen.score[j]))
        track.existence = track.score = seen.score[j]
        _measure(seen, j, measured)
        for i in range(3):
            track.mean[i] = measured[i]
            track.size[i], track.size_variance[i] = seen.size_lwh_m[j, i], (widen * kind.size_m) ** 2
        track.height[0], track.height[1] = seen.center_m[j, 2], (widen * kind.height_m) ** 2
        cov = track.cov
        cov[0, 0] = cov[1, 1] = (widen * kind.position_m) ** 2
        cov[2, 2], cov[3, 3] = (widen * kind.heading_rad) ** 2, kind.speed_mps**2
        cov[4, 4] = TURN_RADPS**2 if kind.model == TURNING else kind.speed_mps**2
        if np.isfinite(measured[3]) and np.isfinite(measured[4]):  # of a turning object, its speed along the heading
            update(
                track.mean, cov, kind.model, measured, widen * kind.position_m, widen * kind.heading_rad,
                widen * kind.velocity_mps, derivative, room,
            )  # fmt: skip


@numba.njit(cache=True)  # type: ignore[misc,untyped-decorator,unused-ignore]
def living(tracks: Any, classes: Any, least_odds: float, t_ns: int) -> Any:
    """Return True for each track that is kept: it probably exists, and was seen not too long ago."""
    kept = np.empty(len(tracks), np.bool_)
    for k in range(len(tracks)):
        track = tracks[k]
        unseen_s = (t_ns - track.seen_ns) * 1e-9
        kept[k] = track.existence >= least_odds and unseen_s <= classes[track.label].forget_s + LATE_S
    return kept


@numba.njit(cache=True)  # type: ignore[misc,untyped-decorator,unused-ignore]
def shown(tracks: Any, classes: Any, t_ns: int, overlap_max: float) -> Any:
    """Return True for each track that is to be given out: seen for long enough, not too long ago, and in its own place.

    Of two that share more than `overlap_max` of the smaller one's ground, the less probable one is not given out.
    """
    given = np.empty(len(tracks), np.bool_)
    for k in range(len(tracks)):
        track = tracks[k]
        kind = classes[track.label]
        unseen_s, known_s = (t_ns - track.seen_ns) * 1e-9, (track.seen_ns - track.born_ns) * 1e-9
        recent = unseen_s <= kind.coast_s + LATE_S and known_s >= kind.confirm_s - LATE_S
        given[k] = recent and track.existence >= kind.shown_odds
    if overlap_max >= 1:
        return given
    ground, sure, row = np.empty((given.sum(), 5)), np.empty(given.sum()), 0
    for k in range(len(tracks)):
        if given[k]:
            track = tracks[k]
            ground[row, 0], ground[row, 1], ground[row, 4] = track.mean[0], track.mean[1], track.mean[2]
            ground[row, 2], ground[row, 3], sure[row] = track.size[0], track.size[1], track.existence
            row += 1
    alone, row = apart(ground, sure, overlap_max), 0
    for k in range(len(tracks)):
        if given[k]:
            given[k] = alone[row]
            row += 1
    return given


__all__ = ["Seen", "begin", "living", "meant", "move", "observe", "shown"]
