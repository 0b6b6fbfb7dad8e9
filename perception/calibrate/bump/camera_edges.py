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
WEAKEST = 0.05
"""Weight of a line below which it counts for none."""
FEWEST_THINGS = 20
NEAR_STEPS = 4
SEARCH = ((3.0, 2), (3.0, 1), (3.0, 0), (1.0, 1), (1.0, 2), (1.0, 0), (1.0, 1))
"""How far off a line an edge still counts, pixels, and the axis that is searched: yaw shows at most lines."""
SEARCHED_RAD = np.radians(np.arange(-1.5, 1.51, 0.25))
KIND_BIAS_PX = 0.15
"""What all lines of a kind may be off together, before anything is known."""
THING_M = 4.0
"""Lines of one kind within such a square of the world are one thing."""
THING_SHARE = 0.3
"""Variance of what the lines of a thing are off together, over that of a line."""
SURE = 3.0
"""Standard deviations by which lines must fit better elsewhere than near where the rig says."""
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
        weight: (E,) of the line among others.
    """

    t_ns: int
    grey: Float
    base_m: Float
    further_m: Float
    kind: NDArray[np.int64]
    thing: NDArray[np.int64]
    weight: Float


def make_shot(
    t_ns: int, grey: NDArray[np.uint8], lines: SceneLines, track: EgoTrack, latest_s: float = LATEST_S
) -> Shot:
    """Move the lines of the sweeps around a picture to its instant; those of other instants are left out."""
    near = lines.chosen((np.abs(lines.t_ns - t_ns) < latest_s * 1e9) & track.covers(lines.t_ns))
    back = track.at(t_ns).inverse()
    odom, further = (track.apply(points, near.t_ns) for points in (near.base_m, near.further_m))
    column, row = np.floor(odom[:, :2] / THING_M).astype(np.int64).T % (1 << 20)
    thing = (near.kind << 40) | (column << 20) | row
    return Shot(t_ns, smooth(grey), back.apply(odom), back.apply(further), near.kind, thing, np.ones(len(thing)))


def camera_moved(
    camera: Camera, base_link_from_optical: Transform, shots: Sequence[Shot], prior: Float = PRIOR
) -> Estimate | None:
    """Estimate how far a camera is from its place in the rig; None where too few lines are seen.

    Args:
        camera: intrinsics.
        base_link_from_optical: of the rig.
        shots: in the order of time.
        prior: (6, 6) inverse covariance of the camera's motion before the pictures are looked at.
    """
    seen = _in_view(camera, base_link_from_optical, shots)
    scale = _focal_px(camera) / USUAL_FOCAL_PX
    near = WINDOWS_PX[-NEAR_STEPS:]
    stays = _converged(camera, base_link_from_optical, base_link_from_optical, seen, _sizes(near, scale), prior)
    if stays is None:
        return None
    searched = _searched(camera, base_link_from_optical, seen, scale)
    pose, known = stays, _scores(camera, stays, seen, scale)
    for start, windows in ((base_link_from_optical, WINDOWS_PX), (searched, near)):
        other = _converged(camera, base_link_from_optical, start, seen, _sizes(windows, scale), prior)
        if other is not None and _evidence(scores := _scores(camera, other, seen, scale), known) > SURE:
            pose, known = other, scores
    drawn = _drawn(camera, pose, seen, max(JUDGED_PX * scale, FINEST_PX))
    if drawn is None:
        return None
    information = _as_seen(_information(drawn), camera, pose, seen, scale)
    return Estimate.at(motion_between(base_link_from_optical, pose), information, drawn.count, prior)


def _in_view(camera: Camera, pose: Transform, shots: Sequence[Shot]) -> list[Shot]:
    """Return the shots with the lines that the camera sees, those of a thing weighing no more than a few lines."""
    seen = []
    for shot in shots:
        _, _, kept = _looked_for(camera, pose, shot)
        seen.append(replace(shot, **{name: getattr(shot, name)[kept]
                                     for name in ("base_m", "further_m", "kind", "thing", "weight")}))  # fmt: skip
    every = np.concatenate([shot.thing for shot in seen])
    _, number, count = np.unique(every, return_inverse=True, return_counts=True)
    weights = np.split((1.0 / (1.0 + THING_SHARE * count))[number], np.cumsum([len(shot.thing) for shot in seen])[:-1])
    numbers = np.split(number, np.cumsum([len(shot.thing) for shot in seen])[:-1])
    return [replace(shot, thing=numbers[k], weight=weights[k]) for k, shot in enumerate(seen)]


def _evidence(scores: Float, than: Float) -> float:
    """Return by how many standard deviations things lie on edges more: the gain of all over the spread of each."""
    gain = scores - than
    return float(gain.sum() / max(np.sqrt((gain**2).sum()), 1e-9))


def _as_seen(information: Float, camera: Camera, pose: Transform, shots: Sequence[Shot], scale: float) -> Float:
    """Return the information with each axis as sure as a bump along it would be seen.

    The slope near the best place is steeper than all the way to a bump: lines lie on other edges there, too. So the
    pictures are asked: how surely would they tell the best place from one that is a bump away?
    """
    here = _scores(camera, pose, shots, scale)
    size = np.sqrt(np.maximum(np.diag(information), 1e-12)) * BUMP
    seen = [min(_evidence(here, _scores(camera, displaced(pose, sign * step), shots, scale)) for sign in (-1, 1))
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


def _searched(camera: Camera, pose: Transform, shots: Sequence[Shot], scale: float) -> Transform:
    """Return the pose turned, one axis after the other, to where most lines lie on edges: drawing may lead astray."""
    for reach, axis in SEARCH:
        turns = [displaced(pose, angle * np.eye(6)[axis]) for angle in SEARCHED_RAD]
        pose = max(turns, key=lambda turn: _scores(camera, turn, shots, reach * scale).sum())
    return pose


def _converged(
    camera: Camera, rig: Transform, pose: Transform, shots: Sequence[Shot], windows: Sequence[float], prior: Float
) -> Transform | None:
    """Follow the lines home; None where too few are seen."""
    for window in windows:
        drawn = _drawn(camera, pose, shots, window)
        if drawn is None:
            return None
        before = drawn.variance * _before(prior)
        so_far = np.concatenate((motion_between(rig, pose), np.zeros(KINDS)))
        goal = drawn.goals.sum(axis=0) - before @ so_far
        pose = displaced(pose, np.linalg.solve(drawn.matrices.sum(axis=0) + before, goal)[:6])
    return pose


def _scores(camera: Camera, pose: Transform, shots: Sequence[Shot], scale: float) -> Float:
    """Return how much of each thing (T,) lies on edges."""
    total = np.zeros(1 + max((int(shot.thing.max()) for shot in shots if len(shot.thing)), default=0))
    for shot in shots:
        pixels, direction, kept = _looked_for(camera, pose, shot)
        share = edge_share(shot.grey, pixels, direction, max(scale, 0.6))
        total += np.bincount(shot.thing[kept], shot.weight[kept] * share, len(total))
    return total


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


def _drawn(camera: Camera, pose: Transform, shots: Sequence[Shot], window_px: float) -> _Drawn | None:
    """Return how far the lines are drawn along their directions; None where too few are."""
    parts = [_drawn_in(camera, pose, shot, window_px) for shot in shots]
    derivative, shift, weight, firm, thing = (np.concatenate([part[k] for part in parts]) for k in range(5))
    if len(shift) < FEWEST_EDGES:
        return None
    _, thing = np.unique(thing, return_inverse=True)
    count = int(thing.max()) + 1
    if count < FEWEST_THINGS:
        return None
    order = np.argsort(thing, kind="stable")
    starts = np.searchsorted(thing[order], np.arange(count))
    derivative, shift, weight, firm = derivative[order], shift[order], weight[order], firm[order]
    squares = derivative[:, :, None] * derivative[:, None, :]
    matrices, slopes = (np.add.reduceat(squares * of[:, None, None], starts, axis=0) for of in (weight, firm))
    goals = np.add.reduceat(derivative * (weight * shift)[:, None], starts, axis=0)
    return _Drawn(matrices, slopes, goals, float((weight * shift**2).sum() / weight.sum()), len(shift))


def _drawn_in(camera: Camera, pose: Transform, shot: Shot, window_px: float) -> tuple[Float, ...]:
    """Return derivatives (N, UNKNOWNS), shifts, weights, firmness and things (N,) of lines that find an edge."""
    pixels, direction, kept = _looked_for(camera, pose, shot)
    shift, weight, firm, slope = attraction(shot.grey, pixels, direction, window_px)
    found = weight > WEAKEST
    kept, slope = kept[found], slope[found]
    optical_from_base = pose.inverse()
    points = optical_from_base.apply(shot.base_m[kept])
    # d pixel / d motion of the camera in base_link, about the camera's place: the point moves the other way
    arm = shot.base_m[kept] - pose.translation_m
    by_camera = -np.einsum("nij,jk,nkl->nil", camera.jacobian(points), optical_from_base.rotation, by_motion(arm))
    along = np.einsum("ni,nij->nj", slope, by_camera)
    of_kind = shot.kind[kept][:, None] == np.arange(KINDS)
    share = shot.weight[kept]
    return np.column_stack((along, of_kind)), shift[found], weight[found] * share, firm[found] * share, shot.thing[kept]


def _looked_for(camera: Camera, pose: Transform, shot: Shot) -> tuple[Float, Float, NDArray[np.int64]]:
    """Return pixels (N, 2) and directions (N, 2) of the lines that the picture should show, and which they are."""
    optical_from_base = pose.inverse()
    pixels, seen = camera.project(optical_from_base.apply(shot.base_m))
    ahead, seen_ahead = camera.project(optical_from_base.apply(shot.further_m))
    direction = ahead - pixels
    length = np.linalg.norm(direction, axis=1)
    height, width = shot.grey.shape
    inner = ((pixels > MARGIN_PX) & (pixels < np.array([width, height]) - 1 - MARGIN_PX)).all(axis=1)
    kept = np.flatnonzero(seen & seen_ahead & inner & (length > 1e-6))
    return pixels[kept], direction[kept] / length[kept, None], kept


__all__ = ["Shot", "camera_moved", "make_shot"]
