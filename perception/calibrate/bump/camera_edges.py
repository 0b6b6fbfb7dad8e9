"""Camera against LiDAR: outlines in depth fall on edges in the picture, if the camera is where the rig says.

Each outline is projected and looked for along its own direction: it is drawn to the edges around it, within a window
that shrinks as the camera's place gets better (coarse to fine). Outlines that find nothing, or move on their own, weigh
little. The answer is the small motion of the camera that brings most outlines home, with the information (the Hessian)
of those that did.

What all lines of one kind are off together (blur, rounded edges, half a step of the LiDAR) is estimated along. Lines of
one thing are wrong together, too, however often it is seen: a thing counts as a few lines at most, and how much things
disagree tells how sure the answer is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from perception.calibrate.bump.edge_search import attraction, edge_share, smooth
from perception.calibrate.bump.ego_track import EgoTrack
from perception.calibrate.bump.estimate import BUMP, PRIOR, Estimate, displaced, motion_between
from perception.calibrate.bump.lidar_edges import KINDS, SceneLines
from perception.calibrate.least_squares import by_motion
from perception.geometry.cameras import Camera
from perception.geometry.transforms import Transform

Float: TypeAlias = NDArray[np.float64]
Index: TypeAlias = NDArray[np.int64]

WINDOWS_PX = (9.0, 9.0, 9.0, 6.0, 4.0, 3.0, 2.5, 2.5)
"""Half widths of the search, for a picture 512 wide and 80 degrees; scaled with the focal length."""
USUAL_FOCAL_PX = 300.0
FINEST_PX = 1.5
FINER = 0.7
"""From window to window, until the finest, whatever the focal length."""
LATEST_S = 0.03
"""How far the instants of an outline and of a picture may be apart: what moves on its own is elsewhere by then."""
MARGIN_PX = 12
FEWEST_EDGES = 300
WEAKEST = 0.01
"""Weight of a line below which it counts for none."""
FEWEST_THINGS = 20
NEAR_STEPS = 4
SEARCH = ((3.0, 2), (3.0, 1), (3.0, 0), (1.0, 1), (1.0, 2), (1.0, 0), (1.0, 1))
"""How far off a line an edge still counts, pixels, and the axis that is searched: yaw shows at most lines."""
SEARCHED_RAD = np.radians(np.arange(-1.5, 1.51, 0.25))
LEAST_REACH_PX = 0.6
KIND_BIAS_PX = 0.15
"""What all lines of a kind may be off together, before anything is known."""
THING_M = np.array([4.0, 4.0, 12.0, 12.0])
"""Lines of one kind within such a square of the world are one thing: roofs and feet of walls are long."""
THING_SHARE = 0.3
"""Variance of what the lines of a thing are off together, over that of a line."""
SURE = 3.0
"""Standard deviations."""
JUDGED_PX = 3.0
"""Half width of the search by which the information is told; what is found in a narrower one looks too sure."""
UNKNOWNS = 6 + KINDS
"""The camera's motion, and what each kind of line is off."""


@dataclass(frozen=True, eq=False)
class Shot:
    """A picture with the outlines of the sweep around it.

    Attributes:
        t_ns: stamp of the picture.
        grey: (H, W) float64.
        base_m: (E, 3) outlines in `base_link` at the picture's instant.
        further_m: (E, 3) the same a little further out.
        kind: (E,) as of the lines.
        thing: (E,) a number for each thing, the same in all shots.
        half_rad: (E,) as of the lines.
    """

    t_ns: int
    grey: Float
    base_m: Float
    further_m: Float
    kind: NDArray[np.int64]
    thing: NDArray[np.int64]
    half_rad: Float


def make_shot(
    t_ns: int, grey: NDArray[np.uint8], lines: SceneLines, track: EgoTrack, latest_s: float = LATEST_S
) -> Shot:
    """Move the lines of the sweeps around a picture to its instant; those of other instants are left out."""
    near = lines.chosen((np.abs(lines.t_ns - t_ns) < latest_s * 1e9) & track.covers(lines.t_ns))
    back = track.at(t_ns).inverse()
    odom, further = (track.apply(points, near.t_ns) for points in (near.base_m, near.further_m))
    column, row = np.floor(odom[:, :2] / THING_M[near.kind, None]).astype(np.int64).T % (1 << 20)
    thing = (near.kind << 40) | (column << 20) | row
    return Shot(t_ns, smooth(grey), back.apply(odom), back.apply(further), near.kind, thing, near.half_rad)


def camera_moved(
    camera: Camera, base_link_from_optical: Transform, shots: Sequence[Shot], prior: Float = PRIOR, sure: float = SURE,
    turn: Float | None = None,
) -> Estimate | None:  # fmt: skip
    """Estimate how far a camera is from its place in the rig; None where too few lines are seen.

    Args:
        camera: intrinsics.
        base_link_from_optical: of the rig.
        shots: in the order of time.
        prior: (6, 6) inverse covariance of the camera's motion before the pictures are looked at.
        sure: standard deviations by which lines must fit better elsewhere than near where the rig says.
        turn: (3,) how far something else says that it is turned: looked at first.
    """
    if not shots:
        return None
    rig = base_link_from_optical
    first = rig if turn is None else displaced(rig, np.array([*turn, 0.0, 0.0, 0.0]))
    lines = _Lines.of(camera, rig, shots)
    pose = _best(lines, rig, first, prior, sure)
    if pose is not None and (astray := _astray(lines, pose)):
        lines = lines.without(astray)
        pose = _best(lines, rig, first, prior, sure)
    drawn = None if pose is None else lines.drawn(pose, max(JUDGED_PX * lines.scale, FINEST_PX))
    if pose is None or drawn is None:
        return None
    information = _as_seen(_information(drawn), lines, pose)
    return Estimate.at(motion_between(rig, pose), information, drawn.count, prior)


def _best(lines: _Lines, rig: Transform, first: Transform, prior: Float, sure: float) -> Transform | None:
    """Return where the lines lie on edges: near what is looked at first, unless they surely do better elsewhere."""
    near = WINDOWS_PX[-NEAR_STEPS:]
    pose = _converged(lines, rig, first, near, prior)
    if pose is None:
        return None
    known = lines.scores(pose)
    for start, windows in ((rig, WINDOWS_PX), (_searched(lines, rig), near)):
        other = _converged(lines, rig, start, windows, prior)
        if other is not None and _evidence(scores := lines.scores(other), known) > sure:
            pose, known = other, scores
    return pose


def _astray(lines: _Lines, pose: Transform) -> list[int]:
    """Return the kinds of lines that alone would lie on edges better a bump away: a kerb beside the foot of a wall.

    What runs along the whole street is wrong all along it: no number of things tells that it is.
    """
    here, kinds = lines.scores(pose), lines.kinds
    gains = [lines.scores(displaced(pose, sign * step)) - here for step in np.diag(BUMP) for sign in (-1, 1)]
    return [kind for kind in range(KINDS) if any(_sum_over_spread(gain[kinds == kind]) > SURE for gain in gains)]


@dataclass(frozen=True, eq=False)
class _Lines:
    """All lines that a camera sees, with the pictures in which they are looked for.

    Attributes:
        camera: intrinsics.
        pictures: (S, H, W).
        which: (N,) picture of each line.
        base_m: (N, 3).
        further_m: (N, 3).
        kind: (N,).
        thing: (N,) 0 to T - 1.
        share: (N,) weight of a line, so that a thing weighs no more than a few lines.
        half_px: (N,) how far to either side of where it is looked for the line may be.
        scale: focal length over the usual.
    """

    camera: Camera
    pictures: Float
    which: Index
    base_m: Float
    further_m: Float
    kind: Index
    thing: Index
    share: Float
    half_px: Float
    scale: float

    @classmethod
    def of(cls, camera: Camera, pose: Transform, shots: Sequence[Shot]) -> _Lines:
        """Return the lines that a camera at a place sees."""
        names = ("base_m", "further_m", "kind", "thing", "half_rad")
        base, further, kind, thing, half = (np.concatenate([getattr(shot, name) for shot in shots]) for name in names)
        which = np.repeat(np.arange(len(shots)), [len(shot.kind) for shot in shots])
        pictures, focal = np.stack([shot.grey for shot in shots]), _focal_px(camera)
        ones, scale = np.ones(len(kind)), focal / USUAL_FOCAL_PX
        every = cls(camera, pictures, which, base, further, kind, thing, ones, half * focal, scale)
        _, _, kept = every.looked_for(pose)
        _, number, count = np.unique(thing[kept], return_inverse=True, return_counts=True)
        share = np.asarray(1.0 / (1.0 + THING_SHARE * count), np.float64)[number]
        return cls(
            camera, pictures, which[kept], base[kept], further[kept], kind[kept], number, share, every.half_px[kept],
            scale,
        )  # fmt: skip

    @property
    def kinds(self) -> Index:
        """(T,) kind of each thing."""
        out = np.zeros(int(self.thing.max(initial=0)) + 1, np.int64)
        out[self.thing] = self.kind
        return out

    def without(self, kinds: Sequence[int]) -> _Lines:
        """Return the lines of other kinds."""
        left = ~np.isin(self.kind, kinds)
        _, thing = np.unique(self.thing[left], return_inverse=True)
        return replace(
            self, which=self.which[left], base_m=self.base_m[left], further_m=self.further_m[left],
            kind=self.kind[left], thing=thing, share=self.share[left], half_px=self.half_px[left],
        )  # fmt: skip

    def looked_for(self, pose: Transform) -> tuple[Float, Float, Index]:
        """Return pixels (M, 2) and directions (M, 2) of the lines that the pictures should show, and which they are."""
        optical_from_base = pose.inverse()
        pixels, seen = self.camera.project(optical_from_base.apply(self.base_m))
        ahead, seen_ahead = self.camera.project(optical_from_base.apply(self.further_m))
        direction = ahead - pixels
        length = np.linalg.norm(direction, axis=1)
        last = np.array(self.pictures.shape[:0:-1]) - 1
        inner = ((pixels > MARGIN_PX) & (pixels < last - MARGIN_PX)).all(axis=1)
        kept = np.flatnonzero(seen & seen_ahead & inner & (length > 1e-6))
        return pixels[kept], direction[kept] / length[kept, None], kept

    def scores(self, pose: Transform, reach: float = 1.0) -> Float:
        """Return how much of each thing (T,) lies on edges, or within `reach` (before scaling) of them."""
        pixels, direction, kept = self.looked_for(pose)
        reach_px = np.maximum(self.half_px[kept], max(reach * self.scale, LEAST_REACH_PX))
        on = edge_share(self.pictures, self.which[kept], pixels, direction, reach_px)
        weighed = np.bincount(self.thing[kept], self.share[kept] * on, int(self.thing.max(initial=0)) + 1)
        return np.asarray(weighed, np.float64)

    def drawn(self, pose: Transform, window_px: float) -> _Drawn | None:
        """Return how far the lines are drawn along their directions; None where too few are."""
        pixels, direction, kept = self.looked_for(pose)
        window = np.maximum(window_px, self.half_px[kept])
        shift, weight, firm, slope = attraction(self.pictures, self.which[kept], pixels, direction, window)
        weight, firm = weight * (window_px / window) ** 2, firm * (window_px / window) ** 2
        found = weight > WEAKEST
        kept, slope, shift = kept[found], slope[found], shift[found]
        thing, share = self.thing[kept], self.share[kept]
        if len(kept) < FEWEST_EDGES or len(np.unique(thing)) < FEWEST_THINGS:
            return None
        optical_from_base = pose.inverse()
        points = optical_from_base.apply(self.base_m[kept])
        # d pixel / d motion of the camera in base_link, about the camera's place: the point moves the other way
        arm = self.base_m[kept] - pose.translation_m
        by_point = self.camera.jacobian(points) @ optical_from_base.rotation
        along = -np.einsum("ni,nij,njk->nk", slope, by_point, by_motion(arm))
        derivative = np.column_stack((along, self.kind[kept][:, None] == np.arange(KINDS)))
        return _Drawn.of(derivative, shift, weight[found] * share, firm[found] * share, thing)


def _evidence(scores: Float, than: Float) -> float:
    """Return by how many standard deviations things lie on edges more: the gain of all over the spread of each."""
    return _sum_over_spread(scores - than)


def _sum_over_spread(gain: Float) -> float:
    return float(gain.sum() / max(np.sqrt((gain**2).sum()), 1e-9))


def _as_seen(information: Float, lines: _Lines, pose: Transform) -> Float:
    """Return the information with each axis as sure as a bump along it would be seen.

    The slope near the best place is steeper than all the way to a bump: lines lie on other edges there, too. So the
    pictures are asked: how surely would they tell the best place from one that is a bump away?
    """
    here = lines.scores(pose)
    size = np.sqrt(np.maximum(np.diag(information), 1e-12)) * BUMP
    seen = [min(_evidence(here, lines.scores(displaced(pose, sign * step))) for sign in (-1, 1))
            for step in np.diag(BUMP)]  # fmt: skip
    share = np.clip(np.array(seen) / size, 1e-3, 1.0)
    return np.asarray(information * np.outer(share, share))


def _sizes(windows: Sequence[float], scale: float) -> list[float]:
    sizes = [max(window * scale, FINEST_PX) for window in windows]
    while sizes[-1] > FINEST_PX:
        sizes.append(max(sizes[-1] * FINER, FINEST_PX))
    return [*sizes, FINEST_PX, FINEST_PX]


def _focal_px(camera: Camera) -> float:
    ahead = camera.jacobian(np.array([[0.0, 0.0, 1.0]]))[0][:, :2]
    return float(np.sqrt(abs(np.linalg.det(ahead))))


def _information(drawn: _Drawn) -> Float:
    """Return the information (6, 6) of the motion: what each thing pulls for, against how much things disagree.

    White, "Maximum likelihood estimation of misspecified models", Econometrica 1982, over things; a thing that is much
    of what is known counts with what it would pull had the others decided (as in a jackknife).
    """
    slope, goal = drawn.slopes.sum(axis=0), drawn.goals.sum(axis=0)
    firm = slope + drawn.variance * _before(PRIOR)
    left = drawn.goals - drawn.slopes @ np.linalg.solve(firm, goal)
    alone = np.eye(UNKNOWNS) - drawn.slopes @ np.linalg.inv(firm)
    pulls = np.linalg.solve(alone, left[..., None])[..., 0]
    spread = pulls.T @ pulls + 1e-9 * np.trace(slope) * np.eye(UNKNOWNS)
    known = slope @ np.linalg.solve(spread, slope)
    kinds = known[6:, 6:] + np.eye(KINDS) / KIND_BIAS_PX**2
    return np.asarray(known[:6, :6] - known[:6, 6:] @ np.linalg.solve(kinds, known[6:, :6]))


def _before(prior: Float) -> Float:
    """Return the inverse covariance of all unknowns before the pictures are looked at."""
    out = np.zeros((UNKNOWNS, UNKNOWNS))
    out[:6, :6], out[6:, 6:] = prior, np.eye(KINDS) / KIND_BIAS_PX**2
    return out


def _searched(lines: _Lines, pose: Transform) -> Transform:
    """Return the pose turned, one axis after the other, to where most lines lie on edges: drawing may lead astray."""
    for reach, axis in SEARCH:
        turns = [displaced(pose, angle * np.eye(6)[axis]) for angle in SEARCHED_RAD]
        pose = turns[int(np.argmax([lines.scores(turn, reach).sum() for turn in turns]))]
    return pose


def _converged(
    lines: _Lines, rig: Transform, pose: Transform, windows: Sequence[float], prior: Float
) -> Transform | None:
    """Follow the lines home; None where too few are seen."""
    for window in _sizes(windows, lines.scale):
        drawn = lines.drawn(pose, window)
        if drawn is None:
            return None
        before = drawn.variance * _before(prior)
        so_far = np.concatenate((motion_between(rig, pose), np.zeros(KINDS)))
        goal = drawn.goals.sum(axis=0) - before @ so_far
        pose = displaced(pose, np.linalg.solve(drawn.matrices.sum(axis=0) + before, goal)[:6])
    return pose


@dataclass(frozen=True, eq=False)
class _Drawn:
    """Normal equations of things: of the camera's motion, and of what each kind of line is off."""

    matrices: Float
    """(T, UNKNOWNS, UNKNOWNS) of the step to take."""
    slopes: Float
    """(T, UNKNOWNS, UNKNOWNS) by how much the goals really change with the unknowns."""
    goals: Float
    """(T, UNKNOWNS)."""
    variance: float
    """Mean square of how far a line is drawn, pixels squared."""
    count: int
    """Lines that found an edge."""

    @classmethod
    def of(cls, derivative: Float, shift: Float, weight: Float, firm: Float, thing: Index) -> _Drawn:
        """Sum what lines pull for over things: derivatives (N, UNKNOWNS), the others (N,)."""
        order = np.argsort(thing, kind="stable")
        derivative, thing = derivative[order], thing[order]
        shift, weight, firm = (of[order] for of in (shift, weight, firm))
        starts = np.flatnonzero(np.diff(thing, prepend=-1))
        squares = derivative[:, :, None] * derivative[:, None, :]
        matrices, slopes = (np.add.reduceat(squares * by[:, None, None], starts, axis=0) for by in (weight, firm))
        goals = np.add.reduceat(derivative * (weight * shift)[:, None], starts, axis=0)
        return cls(matrices, slopes, goals, float((weight * shift**2).sum() / weight.sum()), len(shift))


__all__ = ["Shot", "camera_moved", "make_shot"]
