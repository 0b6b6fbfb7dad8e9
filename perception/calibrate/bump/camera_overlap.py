"""Camera against camera, by texture: the road near the vehicle looks the same to each camera that comes past it.

What one camera sees ahead, another sees beside or behind some seconds later. A point of the LiDAR close to both is
projected into a picture of each; both must show the same grey there. Near the vehicle, a centimetre is much of a pixel:
this tells where cameras are, as far as they are not displaced together. Which of the two it is, others must tell.

Direct alignment as in Liu et al., "Online camera pose optimization for the surround-view system", ACM MM 2019, on what
the LiDAR measures in place of a plane, and over time, where cameras have no field of view in common.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from perception.calibrate.bump.ego_track import EgoTrack
from perception.calibrate.bump.estimate import BUMP, carried, displaced
from perception.calibrate.bump.looks import JUDGED, LEAST_SLOPE, MOST_REFERENCES, Looks, exposure, sampled, weights
from perception.calibrate.bump.pulls import told_by_pulls
from perception.calibrate.bump.surface_points import SurfacePoints
from perception.geometry.transforms import Transform

Float: TypeAlias = NDArray[np.float64]
Index: TypeAlias = NDArray[np.int64]
Mask: TypeAlias = NDArray[np.bool_]

REACH_M = 8.0
"""From both cameras: farther off, a pixel is too much road."""
LONGEST_S = 3.0
"""Between the pictures of a pair: later, the odometry has lost centimetres."""
MOST_POINTS, LEAST_POINTS = 200, 30
"""Of a pair of pictures."""
STAGES = ((6, 3), (4, 3), (2, 3))
"""How often pictures are smoothed, and how many steps are taken: coarse to fine."""
LONGEST_STEP = 1.0
"""In bumps, along each axis."""
UNLIKE = 0.6
"""Usual difference of two pictures, over their contrast, from which on they show different things."""
FEWEST_POINTS, FEWEST_THINGS = 1500, 30
SCALE = 5e-4
"""Standard deviation of the odometry's scale, after the LiDAR found it."""
UNKNOWNS = 13
"""Motions of the first camera and the second, and the odometry's scale."""
MOTIONS = 12
BEFORE = np.diag([*[*[np.radians(2.0) ** -2] * 3, *[0.05**-2] * 3] * 2, SCALE**-2])
"""(13, 13) inverse covariance before the pictures are looked at, so that steps go nowhere without reason; of what is
told, it is no part."""
ALIKE = 20.0
"""So many points are about as wrong as one, as a step counts them."""
ASKED = np.array([*(0.5 * BUMP), *(0.5 * BUMP), 2 * SCALE])
"""(13,) how far either camera is moved to ask how the fit changes: slopes of pictures promise more than they keep."""
FLOOR = np.array([*[np.radians(0.03)] * 3, 0.008, 0.004, 0.004])
"""What a camera may seem to be off for other reasons: pixels cover more road along the way than across it."""
FLOOR_TOGETHER = np.array([0.0, 0.0, 0.0, 0.1, 0.1, 0.0])
"""The same of both cameras together. Along a road, they might be displaced by anything and still agree; but the points
are chosen where there is texture, so that they seem to agree best where they are, wherever the LiDAR is."""


@dataclass(frozen=True, eq=False)
class Overlap:
    """What two cameras that see the same tell of their motions (6,), one after the other, the LiDAR being still.

    Attributes:
        information: (12, 12).
        goal: (12,) as of an Estimate.
    """

    information: Float
    goal: Float


@dataclass(frozen=True, eq=False)
class View:
    """A camera: its pictures, and where the rig says that it is."""

    looks: Looks
    base_link_from_optical: Transform


def cameras_against(
    first: View, second: View, points_at: Callable[[int], SurfacePoints | None], track: EgoTrack
) -> Overlap | None:
    """Estimate how far two cameras are from where the rig says; None where they see too little of the same.

    Args:
        first: a camera.
        second: another.
        points_at: the LiDAR's points around an instant.
        track: the vehicle's motion.
    """
    pairs = _Pairs.of((first, second), points_at, track)
    if pairs is None or len(pairs.pair) < FEWEST_POINTS or pairs.thing.max() + 1 < FEWEST_THINGS:
        return None
    at = np.zeros(UNKNOWNS)
    for blur, steps in STAGES:
        for _ in range(steps):
            fit = _Fit(pairs, blur, at)
            at += _step(fit.steepness(), fit.goal(at) - ALIKE * BEFORE @ at)
    fit = _Fit(pairs, JUDGED, at)
    curvature = fit.curvature()
    at += _step(curvature, fit.goal(at) - ALIKE * BEFORE @ at)
    return _told(fit, curvature, at) if fit.usual < UNLIKE else None


def _step(curvature: Float, goal: Float) -> Float:
    """Return where to go: by Newton, downhill also where the cost is bent the other way, and not too far."""
    sizes, axes = np.linalg.eigh(ASKED[:, None] * (curvature + ALIKE * BEFORE) * ASKED)
    step = ASKED * (axes @ ((axes.T @ (ASKED * goal)) / np.maximum(np.abs(sizes), 1e-3)))
    return np.asarray(step / max(1.0, float(np.abs(step / ASKED).max()) / (2 * LONGEST_STEP)))


@dataclass(frozen=True, eq=False)
class _Side:
    """Points as one of two pictures shows them.

    Attributes:
        which: (N,) picture.
        base_m: (N, 3) in `base_link` at the picture's instant.
        way_m: (N, 3) how they move with the odometry's scale.
    """

    which: Index
    base_m: Float
    way_m: Float


@dataclass(frozen=True, eq=False)
class _Pairs:
    """Points, each in a picture of either camera.

    Attributes:
        views: the cameras.
        sides: the same points in either picture.
        pair: (N,) a number for each pair of pictures.
        thing: (N,) 0 to T - 1.
    """

    views: tuple[View, View]
    sides: tuple[_Side, _Side]
    pair: Index
    thing: Index

    @classmethod
    def of(
        cls, views: tuple[View, View], points_at: Callable[[int], SurfacePoints | None], track: EgoTrack
    ) -> _Pairs | None:
        """Choose points near both cameras, where the first sees texture."""
        stamps = [view.looks.t_ns for view in views]
        covered = [track.covers(of) for of in stamps]
        random = np.random.default_rng(0)
        found: list[tuple[_Side, _Side, Index, Index]] = []
        for a in range(0, len(stamps[0]), max(1, len(stamps[0]) // MOST_REFERENCES)):
            points = points_at(int(stamps[0][a])) if covered[0][a] else None
            if points is None:
                continue
            points = points.chosen(np.flatnonzero(_shown(views[0], a, points, track, LEAST_SLOPE)))
            soon = np.abs(stamps[1] - stamps[0][a]) < LONGEST_S * 1e9
            for b in np.flatnonzero(covered[1] & soon):
                seen = np.flatnonzero(_shown(views[1], int(b), points, track))
                if len(seen) > MOST_POINTS:
                    seen = random.choice(seen, MOST_POINTS, replace=False)
                if len(seen) >= LEAST_POINTS:
                    both = points.chosen(seen)
                    sides = (_side(a, int(stamps[0][a]), both, track), _side(int(b), int(stamps[1][b]), both, track))
                    found.append((*sides, np.full(len(seen), len(found)), both.thing))
        if not found:
            return None
        first, second, pair, thing = zip(*found, strict=True)
        _, number = np.unique(np.concatenate(thing), return_inverse=True)
        return cls(views, (_joined(first), _joined(second)), np.concatenate(pair), number)

    def off(self, blur: int, at: Float) -> tuple[Float, Float, Mask]:
        """Return how much the two pictures differ at each point (N,), by what (N, 13), and where both show it."""
        error, derivative = np.zeros(len(self.pair)), np.zeros((len(self.pair), UNKNOWNS))
        seen = np.ones(len(self.pair), np.bool_)
        for number, (view, side, sign) in enumerate(zip(self.views, self.sides, (-1.0, 1.0), strict=True)):
            camera, pose = view.looks.camera, displaced(view.base_link_from_optical, at[6 * number : 6 * number + 6])
            base = side.base_m + at[MOTIONS] * side.way_m
            inverse = pose.inverse()
            points = inverse.apply(base)
            pixels, visible = camera.project(points)
            grey, slope = sampled(view.looks.smoothed(blur), side.which, pixels)
            middle, contrast = exposure(grey, self.pair, 1.0)
            by_point = sign * np.einsum(
                "ni,nij->nj", slope / contrast[:, None], camera.jacobian(points) @ inverse.rotation
            )
            derivative[:, 6 * number : 6 * number + 3] = -np.cross(base - pose.translation_m, by_point)
            derivative[:, 6 * number + 3 : 6 * number + 6] = -by_point
            derivative[:, MOTIONS] += (by_point * side.way_m).sum(axis=1)
            error += sign * (grey - middle) / contrast
            seen &= visible
        return error, derivative, seen


def _shown(view: View, picture: int, points: SurfacePoints, track: EgoTrack, slope: float = 0.0) -> Mask:
    """Return which points (N,) a picture shows, near the camera and where it is steep enough."""
    pose = view.base_link_from_optical
    base = track.at(int(view.looks.t_ns[picture])).inverse().apply(points.odom_m)
    near = np.linalg.norm(base - pose.translation_m, axis=1) < REACH_M
    if slope > 0.0:
        return np.asarray(near & (view.looks.slope_at(picture, base, pose) > slope))
    return np.asarray(near & view.looks.seen(base, pose))


def _side(which: int, t_ns: int, points: SurfacePoints, track: EgoTrack) -> _Side:
    there = track.at(t_ns)
    way = (points.vehicle_m - there.translation_m) @ there.rotation
    return _Side(np.full(len(way), which), there.inverse().apply(points.odom_m), way)


def _joined(sides: Sequence[_Side]) -> _Side:
    return _Side(*(np.concatenate([getattr(side, name) for side in sides]) for name in ("which", "base_m", "way_m")))


class _Fit:
    """How well pictures agree around some motions `at` (13,)."""

    def __init__(self, pairs: _Pairs, blur: int, at: Float) -> None:
        self.pairs, self.blur, self.at = pairs, blur, at.copy()
        self._here = pairs.off(blur, at)
        error, _, seen = self._here
        self.usual = 1.4826 * float(np.median(np.abs(error[seen]))) if seen.any() else np.inf

    def pulls(self, at: Float) -> Float:
        """Return what each point pulls for (N, 13)."""
        here = np.array_equal(at, self.at)
        error, derivative, seen = self._here if here else self.pairs.off(self.blur, at)
        return np.asarray(-derivative * (weights(error, self.usual, seen) * error)[:, None])

    def goal(self, at: Float) -> Float:
        """Return what all of them pull for (13,): the cost's slope, downwards."""
        return np.asarray(self.pulls(at).sum(axis=0))

    def steepness(self) -> Float:
        """Return the curvature (13, 13) by the slopes of pictures: enough for a step."""
        error, derivative, seen = self._here
        return np.asarray(derivative.T @ (derivative * weights(error, self.usual, seen)[:, None]))

    def curvature(self) -> Float:
        """Return by how much the pull falls with each unknown (13, 13), between what is asked to each side.

        It is asked of both cameras together and of one against the other: of a road, two cameras that are displaced
        together show the same, which falls with either alone do not add up to.
        """
        asked = _together_and_apart(*(view.base_link_from_optical.translation_m for view in self.pairs.views))
        falls = np.stack([self.goal(self.at - step) - self.goal(self.at + step) for step in asked.T], axis=1) / 2
        bent = asked.T @ falls
        back = np.linalg.inv(asked)
        return np.asarray(back.T @ (bent + bent.T) @ back / 2)


def _together_and_apart(first_m: Float, second_m: Float) -> Float:
    """Return steps (13, 13), one a column: two places as one body, one place against the other, and the scale."""
    steps = np.zeros((UNKNOWNS, UNKNOWNS))
    half, middle = np.diag(0.5 * BUMP), (first_m + second_m) / 2
    for at, place, sign in ((0, first_m, 1.0), (6, second_m, -1.0)):
        steps[at : at + 6, :6] = carried(place - middle) @ half
        steps[at : at + 6, 6:MOTIONS] = sign / 2 * half
    steps[MOTIONS, MOTIONS] = ASKED[MOTIONS]
    return steps


def _told(fit: _Fit, curvature: Float, at: Float) -> Overlap:
    known, goal = told_by_pulls(curvature, fit.pulls(at), fit.pairs.thing, at, ASKED)
    # the scale is known beforehand; what is off for other reasons adds to what the pictures leave open
    spare = known[MOTIONS:, MOTIONS:] + BEFORE[MOTIONS:, MOTIONS:]
    goal = goal[:MOTIONS] - known[:MOTIONS, MOTIONS:] @ np.linalg.solve(spare, goal[MOTIONS:])
    known = known[:MOTIONS, :MOTIONS] - known[:MOTIONS, MOTIONS:] @ np.linalg.solve(spare, known[MOTIONS:, :MOTIONS])
    floor = np.diag(np.tile(FLOOR**2, 2)) + np.tile(np.diag(FLOOR_TOGETHER**2), (2, 2))
    softened = np.linalg.inv(np.eye(MOTIONS) + known @ floor)
    return Overlap(np.asarray(softened @ known), np.asarray(softened @ goal))


__all__ = ["Overlap", "View", "cameras_against"]
