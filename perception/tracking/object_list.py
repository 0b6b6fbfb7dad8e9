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
from perception.tracking.tracks import Tracks, boxes_of, class_probabilities, probability

CLASS_MIN = 0.01
"""Classes less probable than this are left out of an object's list."""
ANY_HEADING, SURE_HEADING = 0.5, 2.0
"""Votes from which the axis is known, and from which the front is."""
KNOWN_FROM = np.array((ANY_HEADING, SURE_HEADING))


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
    turn, label, mean = base_link_from_tracks.yaw_rad(), tracks["label"], tracks["mean"]
    boxes, turns = boxes_of(tracks), model[label] == TURNING
    flat = np.ascontiguousarray(base_link_from_tracks.rotation[:2, :2])
    states, velocity, spread = _seen_from(mean, tracks["cov"], turns, turn, flat)
    number_of: dict[int, int] = {}
    source = np.array([number_of.setdefault(bits, len(number_of)) for bits in tracks["sources"].tolist()], np.int64)
    shares, least = class_probabilities(tracks), min(CLASS_MIN, 0.9 / len(names))  # one of each at least
    semantics, num_points, history, recognitions, skeletons = attached
    return ObjectTable(
        id=tracks["id"] | id_prefix, existence_probability=probability(tracks["existence"]),
        classes=ClassLists.ranked(names, shares, least), center_m=base_link_from_tracks.apply(boxes[:, :3]),
        yaw_rad=boxes[:, 6] + turn, size_lwh_m=boxes[:, 3:6],
        orientation=np.searchsorted(KNOWN_FROM, tracks["heading"], side="right"),
        velocity_mps=velocity, has_velocity=np.full(len(tracks), over_ground), age_ns=t_ns - tracks["born_ns"],
        last_seen_ns=tracks["seen_ns"].copy(), source=source,
        sources=[tuple(name for bit, name in enumerate(sources) if bits >> bit & 1) for bits in number_of],
        semantics=semantics, num_points=num_points,
        covariance_pose=np.column_stack((states[:, [0, 1, 2, 5, 6, 9]], tracks["height"][:, 1])),
        covariance_velocity=spread if over_ground else None,
        motion=Motions(turns, mean[:, 4].copy(), noise[label], states) if over_ground else None,
        history=history, recognitions=recognitions, skeletons=skeletons,
    )  # fmt: skip


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


__all__ = ["Attached", "fused_objects"]
