"""From tracks to the list that planners read: in `base_link`, with every covariance and flag."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from itertools import repeat
from typing import Any, Literal, NamedTuple, TypeAlias

import numba
import numpy as np
from numpy.typing import NDArray

from perception.geometry.transforms import Transform
from perception.messages import FusedObject, ObjectClass, ObjectMotion, PastPose, Skeleton
from perception.messages.covariance import pose_covariances, velocity_covariances
from perception.tracking.class_lists import class_lists
from perception.tracking.motion import TURNING
from perception.tracking.tracks import Tracks, boxes_of, class_probabilities, probability

CLASS_MIN = 0.01
"""Classes less probable than this are left out of an object's list."""
ANY_HEADING, SURE_HEADING = 0.5, 2.0
"""Votes from which the axis is known, and from which the front is."""
Orientation: TypeAlias = Literal["unavailable", "sign_unknown", "available"]
KNOWN_FROM = np.array((ANY_HEADING, SURE_HEADING))
ORIENTATIONS: tuple[Orientation, ...] = ("unavailable", "sign_unknown", "available")
MOTIONS: tuple[Literal["turning", "straight"], ...] = ("straight", "turning")


class Attached(NamedTuple):
    """What is known of tracks beside their motion, a column each."""

    semantics: Iterable[tuple[ObjectClass, ...]] = repeat(())
    num_points: Iterable[int] = repeat(0)
    history: Iterable[tuple[PastPose, ...]] = repeat(())
    recognitions: Iterable[tuple[ObjectClass, ...]] = repeat(())
    skeletons: Iterable[Skeleton | None] = repeat(None)


NOTHING = Attached()


def fused_objects(
    tracks: Tracks,
    t_ns: int,
    base_link_from_tracks: Transform,
    names: Sequence[str],
    sources: Sequence[str],
    model: NDArray[np.int64],
    noise: NDArray[np.float64],
    attached: Attached = NOTHING,
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
        attached: what else is known of them, in `base_link` now.
        over_ground: False where the tracker's frame moves, so that velocities are none over ground.
        id_prefix: added to the ids.
    """
    if not len(tracks):
        return ()
    turn, label, mean = base_link_from_tracks.yaw_rad(), tracks["label"], tracks["mean"]
    boxes, bits = boxes_of(tracks), tracks["sources"].tolist()
    half, turns = (boxes[:, 6] + turn) / 2, model[label] == TURNING
    flat = np.ascontiguousarray(base_link_from_tracks.rotation[:2, :2])
    states, velocity, spread = _seen_from(mean, tracks["cov"], turns, turn, flat)
    state = states.T.tolist()
    xx, xy, xt, _, _, yy, yt, _, _, tt, *_ = state
    by_bits = {one: tuple(name for bit, name in enumerate(sources) if one >> bit & 1) for one in set(bits)}
    votes = np.searchsorted(KNOWN_FROM, tracks["heading"], side="right")
    known = repeat(over_ground)
    found = map(
        FusedObject,  # by position, column by column: to name the fields of each object takes twice as long
        (tracks["id"] | id_prefix).tolist(),
        probability(tracks["existence"]).tolist(),
        class_lists(names, class_probabilities(tracks), min(CLASS_MIN, 0.9 / len(names))),  # one of each at least
        zip(*base_link_from_tracks.apply(boxes[:, :3]).T.tolist(), strict=True),
        zip(repeat(0), repeat(0), np.sin(half).tolist(), np.cos(half).tolist(), strict=False),
        zip(*boxes[:, 3:6].T.tolist(), strict=True),
        map(ORIENTATIONS.__getitem__, votes.tolist()),
        zip(*velocity.T.tolist(), repeat(0), strict=False) if over_ground else repeat(None),
        pose_covariances((xx, xy, xt, yy, yt, tt), tracks["height"][:, 1].tolist()),
        velocity_covariances(spread.T.tolist()) if over_ground else repeat(None),
        repeat(True),
        known,
        known,
        (t_ns - tracks["born_ns"]).tolist(),
        tracks["seen_ns"].tolist(),
        map(by_bits.__getitem__, bits),
        attached.semantics,
        attached.num_points,
        repeat(None),  # visibility
        _motions(turns, mean[:, 4], noise[label], state) if over_ground else repeat(None),
        attached.history,
        attached.recognitions,
        attached.skeletons,
    )
    return tuple(found)


def _motions(turns: Any, rate: Any, push: Any, state: list[list[float]]) -> Iterator[ObjectMotion]:
    rates = rate.tolist()
    for straight in np.flatnonzero(~turns).tolist():
        rates[straight] = 0
    kinds = map(MOTIONS.__getitem__, turns.tolist())
    return map(ObjectMotion, kinds, rates, *push.T.tolist(), zip(*state, strict=True))


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
        if row[i] != 0:  # most are
            for j in range(5):
                total += row[i] * cov[i, j] * column[j]
    return total


__all__ = ["NOTHING", "Attached", "fused_objects"]
