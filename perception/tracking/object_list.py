"""From tracks to the list that planners read: in `base_link`, with every covariance and flag."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numba
import numpy as np
from numpy.typing import NDArray

from perception.geometry.transforms import Transform
from perception.messages import ObjectClass, Skeleton
from perception.tracking.class_lists import ClassLists
from perception.tracking.motion import TURNING
from perception.tracking.object_table import Motions, ObjectTable, PastPoses
from perception.tracking.tracks import Tracks, probability

CLASS_MIN = 0.01
"""Classes less probable than this are left out of an object's list."""
ANY_HEADING, SURE_HEADING = 0.5, 2.0
"""Votes from which the axis is known, and from which the front is."""
POSE_OF_STATE = (0, 1, 2, 5, 6, 9)
"""Of the upper triangle of a state's covariance, what is of place and yaw."""


class Attached(NamedTuple):
    """What is known of N tracks beside their motion; see `ObjectTable`."""

    semantics: ClassLists
    num_points: NDArray[np.int64]
    history: PastPoses | None = None
    recognitions: Sequence[tuple[ObjectClass, ...]] | None = None
    skeletons: Sequence[Skeleton | None] | None = None


def fused_objects(
    tracks: Tracks,
    t_ns: int,
    base_link_from_tracks: Transform,
    names: Sequence[str],
    sources: Sequence[str],
    model: NDArray[np.int64],
    noise: NDArray[np.float64],
    attached: Attached,
    *,
    over_ground: bool,
    id_prefix: int = 0,
) -> ObjectTable:
    """Return tracks as planners read them; nothing of the answer changes when the tracks do.

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
    turn = base_link_from_tracks.yaw_rad()
    columns = _columns(
        tracks, model, noise, base_link_from_tracks.rotation, base_link_from_tracks.translation_m, turn, t_ns, id_prefix
    )
    ids, exists, shares, center, yaw, size, orientation, velocity, stamps, bits, pose, spread, motion = columns
    number_of: dict[int, int] = {}
    source = np.array([number_of.setdefault(one, len(number_of)) for one in bits.tolist()], np.int64)
    least = min(CLASS_MIN, 0.9 / len(names))  # one of each at least
    semantics, num_points, history, recognitions, skeletons = attached
    return ObjectTable(
        id=ids, existence_probability=exists, classes=ClassLists.ranked(names, shares, least), center_m=center,
        yaw_rad=yaw, size_lwh_m=size, orientation=orientation, velocity_mps=velocity,
        has_velocity=np.full(len(ids), over_ground), age_ns=stamps[0], last_seen_ns=stamps[1], source=source,
        sources=[tuple(name for bit, name in enumerate(sources) if one >> bit & 1) for one in number_of],
        semantics=semantics, num_points=num_points, covariance_pose=pose,
        covariance_velocity=spread if over_ground else None, motion=Motions(*motion) if over_ground else None,
        history=history, recognitions=recognitions, skeletons=skeletons,
    )  # fmt: skip


@numba.njit(cache=True)  # type: ignore[misc,untyped-decorator,unused-ignore]
def _columns(
    tracks: Any, model: Any, noise: Any, rotation: Any, origin: Any, turn: float, t_ns: int, id_prefix: int
) -> Any:
    """Return the columns of a table, of tracks that are given in other axes: `rotation` (3, 3), `origin` (3,), `turn`.

    Places turn always, the last two numbers of a state only where they are a velocity, in `straight` tracks.

    Returns:
        In the order of their use: (N,) ids, (N,) existence, (N, K) shares of the classes, (N, 3) centres, (N,) yaws,
        (N, 3) sizes, (N,) how much is known of the heading, (N, 2) velocities, (2, N) age and last stamp, (N,) sources,
        (N, 7) covariance of the pose, (N, 3) of the velocity, and the motion: turns, yaw rate, noise, covariance.
    """
    count = len(tracks)
    ids, bits, orientation = np.empty(count, np.int64), np.empty(count, np.int64), np.empty(count, np.int64)
    exists, yaw, rate, turns = np.empty(count), np.empty(count), np.empty(count), np.empty(count, np.bool_)
    center, size, velocity = np.empty((count, 3)), np.empty((count, 3)), np.empty((count, 2))
    pose, spread, states = np.empty((count, 7)), np.empty((count, 3)), np.empty((count, 15))
    shares, pushed, stamps = np.empty((count, len(model))), np.empty((count, 2)), np.empty((2, count), np.int64)
    of_turning, of_straight, by_state = np.eye(5), np.eye(5), np.zeros((2, 5))
    for axes, at in ((of_turning, 0), (of_straight, 0), (of_straight, 3)):
        axes[at, at] = axes[at + 1, at + 1] = math.cos(turn)
        axes[at, at + 1], axes[at + 1, at] = -math.sin(turn), math.sin(turn)
    for k in range(count):
        track = tracks[k]
        mean, cov = track.mean, track.cov
        ids[k], bits[k], exists[k] = track.id | id_prefix, track.sources, probability(track.existence)
        stamps[0, k], stamps[1, k] = t_ns - track.born_ns, track.seen_ns
        orientation[k] = (track.heading >= ANY_HEADING) + (track.heading >= SURE_HEADING)
        turns[k], rate[k] = model[track.label] == TURNING, mean[4]
        whole = 0.0
        for i in range(len(model)):
            shares[k, i] = math.exp(track.evidence[i])
            whole += shares[k, i]
        for i in range(len(model)):
            shares[k, i] /= whole
        yaw[k] = mean[2] + turn
        for i in range(3):
            size[k, i] = track.size[i]
            center[k, i] = rotation[i, 0] * mean[0] + rotation[i, 1] * mean[1] + rotation[i, 2] * track.height[0]
            center[k, i] += origin[i]
        for i in range(2):
            pushed[k, i] = noise[track.label, i]
        _velocity(mean, turns[k], rotation, velocity[k], by_state)
        _covariances(cov, of_turning if turns[k] else of_straight, by_state, states[k], pose[k], spread[k])
        pose[k, 6] = track.height[1]
    motion = turns, rate, pushed, states
    return ids, exists, shares, center, yaw, size, orientation, velocity, stamps, bits, pose, spread, motion


@numba.njit(cache=True)  # type: ignore[misc,untyped-decorator,unused-ignore]
def _velocity(mean: Any, turns: bool, rotation: Any, velocity: Any, by_state: Any) -> None:
    """Write the velocity (2,) of a track over ground, and its derivative (2, 5) by the state."""
    by_state[:] = 0.0
    cosine, sine, speed = math.cos(mean[2]), math.sin(mean[2]), mean[3]
    for i in range(2):
        if turns:
            by_state[i, 3] = rotation[i, 0] * cosine + rotation[i, 1] * sine
            by_state[i, 2] = speed * (rotation[i, 1] * cosine - rotation[i, 0] * sine)
            velocity[i] = speed * by_state[i, 3]
        else:
            by_state[i, 3], by_state[i, 4] = rotation[i, 0], rotation[i, 1]
            velocity[i] = rotation[i, 0] * mean[3] + rotation[i, 1] * mean[4]


@numba.njit(cache=True)  # type: ignore[misc,untyped-decorator,unused-ignore]
def _covariances(cov: Any, axes: Any, by_state: Any, state: Any, pose: Any, velocity: Any) -> None:
    """Write the covariances of a track in other axes: state (15,), place and yaw (6,), velocity (3,)."""
    at = 0
    for i in range(5):
        for j in range(i, 5):
            state[at] = _between(axes[i], cov, axes[j])
            at += 1
    for i in range(6):
        pose[i] = state[POSE_OF_STATE[i]]
    velocity[0] = _between(by_state[0], cov, by_state[0])
    velocity[1] = _between(by_state[0], cov, by_state[1])
    velocity[2] = _between(by_state[1], cov, by_state[1])


@numba.njit(cache=True)  # type: ignore[misc,untyped-decorator,unused-ignore]
def _between(row: Any, cov: Any, column: Any) -> float:
    total = 0.0
    for i in range(5):
        if row[i] != 0:  # most are
            for j in range(5):
                total += row[i] * cov[i, j] * column[j]
    return total


__all__ = ["Attached", "fused_objects"]
