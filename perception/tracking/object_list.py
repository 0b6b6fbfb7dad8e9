"""From tracks to the list that planners read: in `base_link`, with every covariance and flag."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from perception.geometry.transforms import Transform
from perception.messages import FusedObject, ObjectClass, ObjectMotion, PastPose, Skeleton
from perception.messages.covariance import pose_covariance, velocity_covariance
from perception.tracking.motion import TURNING, velocities
from perception.tracking.tracks import Tracks, boxes_of, class_probabilities, probability

UPPER = np.triu_indices(5)
PLANE = (0, 1, 2, 5, 6, 9)
"""Where x, y and yaw stand in the upper triangle of a state."""
CLASS_MIN = 0.01
"""Classes less probable than this are left out of an object's list."""
SURE_HEADING, ANY_HEADING = 2.0, 0.5
"""Votes from which the front is known, and from which the axis is."""


@dataclass(frozen=True)
class Attached:
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
    turn = base_link_from_tracks.yaw_rad()
    boxes = boxes_of(tracks)
    half = (boxes[:, 6] + turn) / 2
    kind = model[tracks["label"]]
    cov = _rotated(tracks["cov"], kind, turn)
    velocity, spread = velocities(tracks["mean"], tracks["cov"], kind)
    flat = base_link_from_tracks.rotation[:2, :2]
    velocity, spread = velocity @ flat.T, flat @ spread @ flat.T
    columns = zip(
        tracks["id"].tolist(), probability(tracks["existence"]).tolist(), _classes(tracks, names),
        base_link_from_tracks.apply(boxes[:, :3]).tolist(), np.sin(half).tolist(), np.cos(half).tolist(),
        boxes[:, 3:6].tolist(), velocity.tolist(), tracks["height"][:, 1].tolist(),
        spread[:, (0, 0, 1), (0, 1, 1)].tolist(),
        cov[:, UPPER[0], UPPER[1]].tolist(), (t_ns - tracks["born_ns"]).tolist(), tracks["seen_ns"].tolist(),
        tracks["sources"].tolist(), (kind == TURNING).tolist(), tracks["mean"][:, 4].tolist(),
        noise[tracks["label"]].tolist(), tracks["heading"].tolist(), strict=True,
    )  # fmt: skip
    by_bits = {bits: tuple(name for bit, name in enumerate(sources) if bits >> bit & 1)
               for bits in np.unique(tracks["sources"]).tolist()}  # fmt: skip
    found = []
    for (
        identity, exists, classes, place, sine, cosine, size, moves, height, fast, state, age, seen, bits, turns, rate,
        push, votes,
    ) in columns:  # fmt: skip
        more = attached.get(identity, NOTHING)
        word: Literal["turning", "straight"] = "turning" if turns else "straight"
        motion = ObjectMotion(word, rate if turns else 0, push[0], push[1], tuple(state)) if over_ground else None
        one = FusedObject(
            id=id_prefix | identity, existence_probability=exists, classes=classes, center_m=tuple(place),
            rotation_xyzw=(0, 0, sine, cosine), size_lwh_m=tuple(size), orientation_availability=_orientation(votes),
            velocity_mps=(*moves, 0) if over_ground else None,
            covariance_pose=pose_covariance([state[at] for at in PLANE], height),
            covariance_velocity=velocity_covariance(fast) if over_ground else None, has_position_covariance=True,
            has_velocity=over_ground, has_velocity_covariance=over_ground, age_ns=age, last_seen_ns=seen,
            sources=by_bits[bits], semantics=more.semantics, num_points=more.num_points,
            motion=motion, history=history.get(identity, ()), recognitions=more.recognitions, skeleton=more.skeleton,
        )  # fmt: skip
        found.append(one)
    return tuple(found)


def _orientation(votes: float) -> Literal["unavailable", "sign_unknown", "available"]:
    if votes >= SURE_HEADING:
        return "available"
    return "sign_unknown" if votes >= ANY_HEADING else "unavailable"


def _classes(tracks: Tracks, names: Sequence[str]) -> list[tuple[ObjectClass, ...]]:
    """Return each track's classes, most probable first."""
    share = class_probabilities(tracks)
    order = np.argsort(-share, axis=1, kind="stable")
    shares = np.take_along_axis(share, order, axis=1)
    counts = np.maximum((shares >= CLASS_MIN).sum(axis=1), 1)
    return [
        tuple(ObjectClass(names[index], part) for index, part in zip(indices[:count], parts[:count], strict=True))
        for indices, parts, count in zip(order.tolist(), shares.tolist(), counts.tolist(), strict=True)
    ]


def _rotated(cov: NDArray[np.float64], kind: NDArray[np.int64], turn: float) -> NDArray[np.float64]:
    """Return covariances (N, 5, 5) in axes that are turned: places always, velocities of `straight` tracks."""
    cosine, sine = np.cos(turn), np.sin(turn)
    rotation = np.repeat(np.eye(5)[None], len(cov), axis=0)
    rotation[:, :2, :2] = [[cosine, -sine], [sine, cosine]]
    rotation[kind != TURNING, 3:, 3:] = [[cosine, -sine], [sine, cosine]]
    return np.asarray(rotation @ cov @ rotation.transpose(0, 2, 1))


__all__ = ["NOTHING", "Attached", "fused_objects"]
