"""Which way a camera looks, by texture: a surface keeps its looks while the vehicle drives past it.

A point of the LiDAR is projected into two pictures that were taken some way apart; both must show the same grey there.
How it moves through the picture depends on the direction in which the camera looks while it drives. This needs no
outlines, and is wrong for other reasons than they are. Of the camera's displacement it tells too little to be used.

Direct alignment as in Engel et al., "Direct sparse odometry", PAMI 2018, with the LiDAR's depths and the motion of the
vehicle given, and the camera's place unknown.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from perception.calibrate.bump.ego_track import EgoTrack
from perception.calibrate.bump.estimate import BUMP, PRIOR_RAD, Estimate, displaced
from perception.calibrate.bump.looks import (
    JUDGED,
    LEAST_SLOPE,
    MOST_REFERENCES,
    Grey,
    Looks,
    exposure,
    misfit,
    sampled,
    weights,
)
from perception.calibrate.bump.pulls import told_by_pulls
from perception.calibrate.bump.surface_points import SurfacePoints
from perception.geometry.cameras import Camera
from perception.geometry.transforms import Transform

Float: TypeAlias = NDArray[np.float64]
Index: TypeAlias = NDArray[np.int64]
Mask: TypeAlias = NDArray[np.bool_]

WAY_M = (0.8, 4.5)
"""Between the pictures of a pair: far enough that things move through the picture, near enough that they look alike."""
MOST_NEARER = 1.4
"""Times that a point may be nearer in one picture of a pair: pixels blur what is far."""
MOST_POINTS = 500
"""Of a pair of pictures."""
STAGES = ((6, 3), (4, 2), (2, 2))
"""How often pictures are smoothed, and how many steps are taken: coarse to fine."""
NEAR = 12.0
"""Of what is asked, a step looks as far as the smoothing over this."""
COARSE = 3
"""Every so many points are looked at on the way."""
LONGEST_STEP = 1.5
"""In bumps, along each axis."""
RIDGE = 0.01
"""Share of the firmest direction's curvature that is added to all."""
BANDS_M = (6.0, 9.0, 13.0, 18.0)
"""Distances between which points agree about as well: far ones are blurred by the pixels."""
UNLIKE = 0.8
"""Usual difference of the pictures of a pair, over their contrast, from which on they do not show what the LiDAR
measures (a cabin); of pictures that have nothing to do with each other it is 1.4."""
SCALE = 5e-4
"""Standard deviation of the odometry's scale, after the LiDAR found it."""
FLOOR_RAD = np.radians([1.0, 0.15, 0.15])
"""What a camera may seem to be turned for other reasons. A roll turns it about the way: what it sees moves as before,
and only depths tell, which a wet road mirrors wrongly."""
FEWEST_POINTS, FEWEST_THINGS = 1500, 40
SURE = 3.0
"""Standard deviations."""
UNKNOWNS = 7
"""The camera's motion, and the odometry's scale."""
BEFORE = np.diag([*[PRIOR_RAD**-2] * 3, *[0.05**-2] * 3, SCALE**-2])
"""(7, 7) inverse covariance before the pictures are looked at: no camera is displaced by much more than a bump."""
ALIKE = 60.0
"""So many points are about as wrong as one, as a step counts them: else they lead down the valley in which a camera
beside the vehicle is rolled and lifted by any amount."""
ASKED = np.array([*(BUMP * ([0.5] * 3 + [1.0] * 3)), 2 * SCALE])
"""(7,) how far to either side pictures are asked how the fit changes. Slopes of pictures alone would do where both are
sharp and without noise; else they promise knowledge of motions that change nothing."""


def camera_turned(
    looks: Looks, base_link_from_optical: Transform, points_at: Callable[[int], SurfacePoints | None], track: EgoTrack
) -> Estimate | None:
    """Estimate how far a camera is turned from where the rig says; None where too little texture is seen.

    Args:
        looks: the camera's pictures.
        base_link_from_optical: of the rig.
        points_at: the LiDAR's points around an instant.
        track: the vehicle's motion.

    Returns:
        An estimate without information about the displacement.
    """
    pairs = _Pairs.of(looks, base_link_from_optical, points_at, track)
    if pairs is None or len(pairs.first) < FEWEST_POINTS or pairs.things < FEWEST_THINGS:
        return None
    at = np.zeros(UNKNOWNS)
    few = pairs.every(COARSE)
    for blur, steps in STAGES:
        for _ in range(steps):
            fit = _Fit(few, looks, blur, base_link_from_optical, at)
            before = ALIKE / COARSE * BEFORE
            at += _step(fit.curvature(blur / NEAR) + before, fit.goal(at) - before @ at)
    fit = _Fit(pairs, looks, JUDGED, base_link_from_optical, at)
    if not _surely_better(fit, at):
        at = np.zeros(UNKNOWNS)
        fit = _Fit(pairs, looks, JUDGED, base_link_from_optical, at)
    return _told(fit, at) if np.median(fit.usual) < UNLIKE else None


def _surely_better(fit: _Fit, at: Float) -> bool:
    """Whether pictures agree there more than where the rig says, by more than chance, and it may be believed.

    On a wet road, brightness goes with the view more than with the road: pictures that are smoothed much then agree
    best many degrees and decimetres away. What they tell near the rig is worth more than what they tell there.
    """
    if at @ BEFORE @ at > SURE**2:
        return False
    (there, seen), (here, seen_here) = fit.misfits(at), fit.misfits(np.zeros(UNKNOWNS))
    both = seen & seen_here
    gain = np.bincount(fit.pairs.thing[both], (here - there)[both])
    return bool(gain.sum() > SURE * np.sqrt((gain**2).sum()))


def _step(curvature: Float, goal: Float) -> Float:
    """Return where to go: by Newton, downhill also where the cost is bent the other way, and not too far."""
    sizes, axes = np.linalg.eigh(ASKED[:, None] * curvature * ASKED)
    sizes = np.abs(sizes) + RIDGE * np.abs(sizes).max()
    step = axes @ ((axes.T @ (ASKED * goal)) / sizes)
    return np.asarray(ASKED * step / max(1.0, float(np.abs(step).max()) / LONGEST_STEP))


@dataclass(frozen=True, eq=False)
class _Pairs:
    """Points, each in two pictures.

    Attributes:
        first: (N,) picture.
        second: (N,) the same.
        points: (N, 3) in `base_link` at either picture.
        ways: (N, 3) how they move with the odometry's scale, at either.
        thing: (N,) 0 to T - 1.
    """

    first: Index
    second: Index
    points: tuple[Float, Float]
    ways: tuple[Float, Float]
    thing: Index

    @cached_property
    def pair(self) -> Index:
        """(N,) a number for each pair of pictures."""
        _, number = np.unique(self.first * (1 << 20) + self.second, return_inverse=True)
        return np.asarray(number, np.int64)

    @property
    def things(self) -> int:
        """How many there are."""
        return int(self.thing.max(initial=-1)) + 1

    @classmethod
    def of(
        cls, looks: Looks, pose: Transform, points_at: Callable[[int], SurfacePoints | None], track: EgoTrack
    ) -> _Pairs | None:
        """Choose points that the rig's camera sees in two pictures, where the first has texture."""
        covered = track.covers(looks.t_ns)
        rotation, place = track.rotations_and_translations(looks.t_ns)
        random, found = np.random.default_rng(0), []
        for a in range(0, len(looks.t_ns), max(1, len(looks.t_ns) // MOST_REFERENCES)):
            points = points_at(int(looks.t_ns[a])) if covered[a] else None
            if points is None:
                continue
            at_a = (points.odom_m - place[a]) @ rotation[a]
            points = points.chosen(np.flatnonzero(looks.slope_at(a, at_a, pose) > LEAST_SLOPE))
            way_m = np.linalg.norm(place - place[a], axis=1)
            for b in np.flatnonzero(covered & (way_m > WAY_M[0]) & (way_m < WAY_M[1])):
                at_b = (points.odom_m - place[b]) @ rotation[b]
                nearer = np.linalg.norm(at_b - pose.translation_m, axis=1) / np.linalg.norm(
                    (points.odom_m - place[a]) @ rotation[a] - pose.translation_m, axis=1
                )
                alike = (nearer > 1 / MOST_NEARER) & (nearer < MOST_NEARER)
                seen = np.flatnonzero(alike & looks.seen(at_b, pose))
                if len(seen) > MOST_POINTS:
                    seen = random.choice(seen, MOST_POINTS, replace=False)
                chosen = points.chosen(seen)
                found.append(_pair(a, int(b), chosen, place, rotation))
        if not found:
            return None
        first, second, thing = (np.concatenate([getattr(pair, name) for pair in found])
                                for name in ("first", "second", "thing"))  # fmt: skip
        points_, ways = (
            (np.concatenate([getattr(pair, name)[0] for pair in found]),
             np.concatenate([getattr(pair, name)[1] for pair in found])) for name in ("points", "ways")
        )  # fmt: skip
        return cls(first, second, points_, ways, np.unique(thing, return_inverse=True)[1])

    def every(self, n: int) -> _Pairs:
        """Return every so many of them."""
        return _Pairs(
            self.first[::n], self.second[::n], (self.points[0][::n], self.points[1][::n]),
            (self.ways[0][::n], self.ways[1][::n]), self.thing[::n],
        )  # fmt: skip

    def off(self, pictures: Grey, camera: Camera, rig: Transform, at: Float) -> tuple[Float, Float, Mask]:
        """Return how much the two pictures differ at each point (N,), by what (N, 7), and where both show it.

        `at` (7,) are the motions from where the rig says.
        """
        pose = displaced(rig, at[:6])
        optical_from_base = pose.inverse()
        error, derivative = np.zeros(len(self.first)), np.zeros((len(self.first), UNKNOWNS))
        seen = np.ones(len(self.first), np.bool_)
        for side, which, sign in ((0, self.first, -1.0), (1, self.second, 1.0)):
            base = self.points[side] + at[6] * self.ways[side]
            points = optical_from_base.apply(base)
            pixels, visible = camera.project(points)
            grey, slope = sampled(pictures, which, pixels)
            middle, contrast = exposure(grey, self.pair, 1e-3)
            slope /= contrast[:, None]
            by_point = sign * np.einsum("ni,nij->nj", slope, camera.jacobian(points) @ optical_from_base.rotation)
            derivative[:, :3] -= np.cross(base - pose.translation_m, by_point)
            derivative[:, 3:6] -= by_point
            derivative[:, 6] += (by_point * self.ways[side]).sum(axis=1)
            error += sign * (grey - middle) / contrast
            seen &= visible
        return error, derivative, seen


def _pair(a: int, b: int, points: SurfacePoints, place: Float, rotation: Float) -> _Pairs:
    def both(vectors: Callable[[int], Float]) -> tuple[Float, Float]:
        return vectors(a) @ rotation[a], vectors(b) @ rotation[b]

    count = len(points.odom_m)
    return _Pairs(
        np.full(count, a), np.full(count, b), both(lambda k: points.odom_m - place[k]),
        both(lambda k: points.vehicle_m - place[k]), points.thing,
    )  # fmt: skip


class _Fit:
    """How well pictures agree around some motions `at` (7,)."""

    def __init__(self, pairs: _Pairs, looks: Looks, blur: int, rig: Transform, at: Float) -> None:
        self.pairs, self.rig, self.at = pairs, rig, at.copy()
        self.pictures, self.camera = looks.smoothed(blur), looks.camera
        error, _, seen = pairs.off(self.pictures, self.camera, rig, at)
        band = np.digitize(np.linalg.norm(pairs.points[0], axis=1), BANDS_M)
        usual = [np.median(np.abs(error[seen & (band == k)])) if (seen & (band == k)).any() else 1.0
                 for k in range(len(BANDS_M) + 1)]  # fmt: skip
        self.usual = 1.4826 * np.maximum(usual, 1e-3)[band]

    def pulls(self, at: Float) -> Float:
        """Return what each point pulls for (N, 7)."""
        error, derivative, seen = self.pairs.off(self.pictures, self.camera, self.rig, at)
        return np.asarray(-derivative * (weights(error, self.usual, seen) * error)[:, None])

    def misfits(self, at: Float) -> tuple[Float, Mask]:
        """Return how badly each point fits (N,), and where both pictures show it."""
        error, _, seen = self.pairs.off(self.pictures, self.camera, self.rig, at)
        return misfit(error, self.usual), seen

    def goal(self, at: Float) -> Float:
        """Return what all of them pull for (7,): the cost's slope, downwards."""
        return np.asarray(self.pulls(at).sum(axis=0))

    def curvature(self, share: float = 1.0) -> Float:
        """Return by how much the pull falls with each unknown (7, 7), between a share of what is asked to each side."""
        steps = np.diag(share * ASKED)
        columns = [(self.goal(self.at - step) - self.goal(self.at + step)) / (2 * step.sum()) for step in steps]
        bent = np.stack(columns, axis=1)
        return np.asarray((bent + bent.T) / 2)


def _told(fit: _Fit, at: Float) -> Estimate:
    """Return what the pulls of things tell, of the turn alone.

    A turn that fits only with a displacement that is not to be expected is none: what is known beforehand of the
    displacement counts in the answer as in its deviation.
    """
    known, goal = told_by_pulls(fit.curvature(), fit.pulls(at), fit.pairs.thing, at, ASKED)
    covariance = np.linalg.inv(known + BEFORE)
    turn = (covariance @ goal)[:3]
    information = np.zeros((6, 6))
    information[:3, :3] = np.linalg.inv(covariance[:3, :3] + np.diag(FLOOR_RAD**2))
    return Estimate.at(np.array([*turn, 0.0, 0.0, 0.0]), information, len(fit.pairs.first))


__all__ = ["camera_turned"]
