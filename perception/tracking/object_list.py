"""From tracks to the list that planners read: in `base_link`, with every covariance and flag."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from itertools import repeat
from typing import Any, Literal, NamedTuple

import numba
import numpy as np
from numpy.typing import NDArray

from perception.geometry.transforms import Transform
from perception.messages import FusedObject, ObjectClass, ObjectMotion, PastPose, Skeleton
from perception.messages.covariance import pose_covariance, velocity_covariance
from perception.tracking.motion import TURNING
from perception.tracking.tracks import Tracks, boxes_of, class_probabilities, probability

CLASS_MIN = 0.01
"""Classes less probable than this are left out of an object's list."""
SURE_HEADING, ANY_HEADING = 2.0, 0.5
"""Votes from which the front is known, and from which the axis is."""


class Attached(NamedTuple):
    """What is known of one track beside its motion."""

    semantics: tuple[ObjectClass, ...] = ()
    num_points: int = 0
    recognitions: tuple[ObjectClass, ...] = ()
    skeleton: Skeleton | None = None


NOTHING = Attached()


def fused_objects(
    tracks: Tracks,
    t_ns: int,
    base_link_from_tracks: Transform,
    names: Sequence[str],
    sources: Sequence[str],
    model: NDArray[np.int64],
    noise: NDArray[np.float64],
    attached: Mapping[int, Attached],
    history: Mapping[int, tuple[PastPose, ...]],
    *,
    over_ground: bool,
    id_prefix: int = 0,
) -> tuple[FusedObject, ...]:
    """Return tracks as planners read them.

    Args:
        tracks: at `t_ns`, in the tracker's frame.
        t_ns: the instant.
        base_link_from_tracks: from the tracker's frame to `base_link` at that instant.
        names: of the classes.
        sources: what bit i of a track's sources stands for.
        model: (K,) motion model by class.
        noise: (K, 2) process noise by class.
        attached: what else is known, by track id.
        history: where tracks were, by track id, in `base_link` now.
        over_ground: False where the tracker's frame moves, so that velocities are none over ground.
        id_prefix: added to the ids.
    """
    if not len(tracks):
        return ()
    turn, label, mean, ids = base_link_from_tracks.yaw_rad(), tracks["label"], tracks["mean"], tracks["id"].tolist()
    boxes, bits = boxes_of(tracks), tracks["sources"].tolist()
    half, turns = (boxes[:, 6] + turn) / 2, model[label] == TURNING
    flat = np.ascontiguousarray(base_link_from_tracks.rotation[:2, :2])
    states, velocity, spread = _seen_from(mean, tracks["cov"], turns, turn, flat)
    state = states.tolist()
    by_bits = {one: tuple(name for bit, name in enumerate(sources) if one >> bit & 1) for one in set(bits)}
    looks, points, recognitions, skeletons = zip(*[attached.get(one, NOTHING) for one in ids], strict=True)
    known = repeat(over_ground)
    found = map(
        FusedObject,  # by position, column by column: to name the fields of each object takes twice as long
        [id_prefix | identity for identity in ids],
        probability(tracks["existence"]).tolist(),
        _classes(tracks, names),
        map(tuple, base_link_from_tracks.apply(boxes[:, :3]).tolist()),
        zip(repeat(0), repeat(0), np.sin(half).tolist(), np.cos(half).tolist(), strict=False),
        map(tuple, boxes[:, 3:6].tolist()),
        map(_orientation, tracks["heading"].tolist()),
        zip(*velocity.T.tolist(), repeat(0), strict=False) if over_ground else repeat(None),
        [
            pose_covariance((one[0], one[1], one[2], one[5], one[6], one[9]), height)
            for one, height in zip(state, tracks["height"][:, 1].tolist(), strict=True)
        ],
        map(velocity_covariance, spread.tolist()) if over_ground else repeat(None),
        repeat(True),
        known,
        known,
        (t_ns - tracks["born_ns"]).tolist(),
        tracks["seen_ns"].tolist(),
        [by_bits[one] for one in bits],
        looks,
        points,
        repeat(None),  # visibility
        _motions(turns, mean[:, 4], noise[label], state) if over_ground else repeat(None),
        [history.get(one, ()) for one in ids],
        recognitions,
        skeletons,
    )
    return tuple(found)


def _motions(turns: Any, rate: Any, push: Any, state: list[list[float]]) -> Iterator[ObjectMotion]:
    words: list[Literal["turning", "straight"]] = ["turning" if one else "straight" for one in turns.tolist()]
    rates = [rate if turns else 0 for rate, turns in zip(rate.tolist(), turns.tolist(), strict=True)]
    return map(ObjectMotion, words, rates, *push.T.tolist(), map(tuple, state))


def _orientation(votes: float) -> Literal["unavailable", "sign_unknown", "available"]:
    if votes >= SURE_HEADING:
        return "available"
    return "sign_unknown" if votes >= ANY_HEADING else "unavailable"


def _classes(tracks: Tracks, names: Sequence[str]) -> list[tuple[ObjectClass, ...]]:
    """Return each track's classes, most probable first."""
    share = class_probabilities(tracks)
    told = share >= CLASS_MIN
    told[np.arange(len(share)), share.argmax(axis=1)] = True
    rows, labels = np.nonzero(told)
    parts = share[rows, labels]
    order = np.lexsort((labels, -parts, rows))
    found: list[list[ObjectClass]] = [[] for _ in share]
    for row, label, part in zip(rows[order].tolist(), labels[order].tolist(), parts[order].tolist(), strict=True):
        found[row].append(ObjectClass(names[label], part))
    return [tuple(one) for one in found]


@numba.njit(cache=True)  # type: ignore[misc,untyped-decorator,unused-ignore]
def _seen_from(mean: Any, cov: Any, turns: Any, turn: float, flat: Any) -> Any:
    """Return states and velocities in other axes.

    Places turn always, the last two numbers of a state only where they are a velocity, in `straight` tracks.

    Args:
        mean: (N, 5) of the tracks.
        cov: (N, 5, 5).
        turns: (N,) True for `turning` tracks.
        turn: by which the axes' x differs, radians.
        flat: (2, 2) the part of the rotation in the plane, which velocities take.

    Returns:
        (N, 15) upper triangles of the states' covariances, (N, 2) velocities, (N, 3) xx, xy, yy of their covariances.
    """
    states, velocity, spread = np.empty((len(mean), 15)), np.empty((len(mean), 2)), np.empty((len(mean), 3))
    of_turning, of_straight, by_state = np.eye(5), np.eye(5), np.zeros((2, 5))
    block = np.array([[math.cos(turn), -math.sin(turn)], [math.sin(turn), math.cos(turn)]])
    of_turning[:2, :2] = of_straight[:2, :2] = of_straight[3:, 3:] = block
    for k in range(len(mean)):
        by_state[:] = 0.0
        if turns[k]:
            cosine, sine, speed = math.cos(mean[k, 2]), math.sin(mean[k, 2]), mean[k, 3]
            for i in range(2):
                by_state[i, 3] = flat[i, 0] * cosine + flat[i, 1] * sine
                by_state[i, 2] = speed * (flat[i, 1] * cosine - flat[i, 0] * sine)
                velocity[k, i] = speed * by_state[i, 3]
        else:
            by_state[:, 3:] = flat
            for i in range(2):
                velocity[k, i] = flat[i, 0] * mean[k, 3] + flat[i, 1] * mean[k, 4]
        rotation, at = of_turning if turns[k] else of_straight, 0
        for i in range(5):
            for j in range(i, 5):
                states[k, at] = _between(rotation[i], cov[k], rotation[j])
                at += 1
        spread[k, 0] = _between(by_state[0], cov[k], by_state[0])
        spread[k, 1] = _between(by_state[0], cov[k], by_state[1])
        spread[k, 2] = _between(by_state[1], cov[k], by_state[1])
    return states, velocity, spread


@numba.njit(cache=True)  # type: ignore[misc,untyped-decorator,unused-ignore]
def _between(row: Any, cov: Any, column: Any) -> float:
    total = 0.0
    for i in range(5):
        for j in range(5):
            total += row[i] * cov[i, j] * column[j]
    return total


__all__ = ["NOTHING", "Attached", "fused_objects"]
