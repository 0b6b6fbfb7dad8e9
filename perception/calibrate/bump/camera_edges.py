"""Camera against LiDAR: outlines in depth fall on edges in the picture, if the camera is where the rig says.

Each outline is projected and looked for along its own direction: it is drawn to the gradients around it (mean shift),
within a window that shrinks as the camera's place gets better. Outlines that find nothing, or move on their own, weigh
little. The answer is the small motion of the camera that brings most outlines home.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from perception.calibrate.bump.ego_track import EgoTrack
from perception.calibrate.bump.lidar_edges import KINDS, SceneLines
from perception.calibrate.bump.lidar_motion import jackknife, rotation_vector
from perception.calibrate.bump.sweep import Estimate
from perception.calibrate.least_squares import by_motion, turned
from perception.geometry.cameras import Camera
from perception.geometry.transforms import Transform

Float: TypeAlias = NDArray[np.float64]

WINDOWS_PX = (9.0, 9.0, 9.0, 6.0, 4.0, 3.0, 2.5, 2.5, 2.5, 2.5)
"""Half widths of the search, for a picture 512 wide and 80 degrees; scaled with the focal length."""
USUAL_FOCAL_PX = 300.0
WEAKEST = 8.0
"""Grey values over two pixels below which there is no edge."""
STRONG = 25.0
"""Grey values at which an edge counts half."""
LATEST_S = 0.03
"""How far the instants of an outline and of a picture may be apart: what moves on its own is elsewhere by then."""
MARGIN_PX = 12
FEWEST_EDGES = 400
NEAR_STEPS = 6
SEARCHED_RAD = np.radians(np.arange(-1.5, 1.51, 0.25))
GROUPS = 8
KIND_BIAS_PX = 0.3
"""What all lines of a kind may be off together: blur, rounded edges, sensors at different heights."""


@dataclass(frozen=True, eq=False)
class Shot:
    """A picture with the outlines of the sweep around it.

    Attributes:
        t_ns: stamp of the picture.
        grey: (H, W) float64.
        base_m: (E, 3) outlines in `base_link` at the picture's instant.
        further_m: (E, 3) the same a little further out.
        kind: (E,) as of the lines.
    """

    t_ns: int
    grey: Float
    base_m: Float
    further_m: Float
    kind: NDArray[np.int64]


def make_shot(t_ns: int, grey: NDArray[np.uint8], lines: SceneLines, track: EgoTrack) -> Shot:
    """Move the lines of the sweeps around a picture to its instant; those of other instants are left out."""
    near = lines.chosen((np.abs(lines.t_ns - t_ns) < LATEST_S * 1e9) & track.covers(lines.t_ns))
    back = track.at(t_ns).inverse()
    base, further = (back.apply(track.apply(points, near.t_ns)) for points in (near.base_m, near.further_m))
    return Shot(t_ns, _smooth(grey), base, further, near.kind)


def camera_moved(camera: Camera, base_link_from_optical: Transform, shots: Sequence[Shot]) -> Estimate | None:
    """Estimate how far a camera is from its place in the rig; None where too few lines are seen.

    The deviations hold what differs from picture to picture, and what a kind of line may be wrong by altogether.
    """
    scale = float(np.sqrt(abs(np.linalg.det(camera.jacobian(np.array([[0.0, 0.0, 1.0]]))[0][:, :2])))) / USUAL_FOCAL_PX
    first = _scores(camera, base_link_from_optical, shots, scale)
    best: tuple[float, Transform, list[_Drawn]] | None = None
    searched = _searched(camera, base_link_from_optical, shots[::2], scale)
    near = WINDOWS_PX[-NEAR_STEPS:]
    starts = ((base_link_from_optical, WINDOWS_PX), (base_link_from_optical, near), (searched, near))
    for start, windows in starts:  # from far, from where the rig says, and from the best rotation nearby
        found = _converged(camera, start, shots, [max(w * scale, 1.5) for w in windows])
        if found is None:
            continue
        score = float(_scores(camera, found[0], shots, scale).sum())
        if best is None or score > best[0]:
            best = (score, *found)
    if best is None:
        return None
    _, pose, drawn = best
    gain = _scores(camera, pose, shots, scale) - first
    groups = np.array([part.sum() for part in np.array_split(gain, min(GROUPS, len(gain)))])
    better = float(groups.mean() / max(groups.std(ddof=1) / np.sqrt(len(groups)), 1e-9))
    matrix = sum(found.matrix for found in drawn)
    statistical = jackknife(_grouped([(found.matrix, found.goal) for found in drawn]))
    common = np.linalg.solve(matrix + 1e-9 * np.eye(6), KIND_BIAS_PX * sum(found.by_kind for found in drawn))
    deviation = np.sqrt(statistical**2 + (common**2).sum(axis=1))
    turn = rotation_vector(pose @ base_link_from_optical.inverse())
    shift = pose.translation_m - base_link_from_optical.translation_m
    share = float(gain.sum() / max(float(first.sum()), 1e-9))
    return Estimate(
        np.array([*turn, *shift]), np.asarray(deviation), sum(found.edges for found in drawn), better, share
    )


def _searched(camera: Camera, pose: Transform, shots: Sequence[Shot], scale: float) -> Transform:
    """Return the pose turned, one axis after the other, to where most lines lie on edges: drawing may lead astray."""
    for axis in (1, 2, 0, 1):
        turns = [turned_in_place(pose, angle * np.eye(6)[axis]) for angle in SEARCHED_RAD]
        pose = max(turns, key=lambda turn: float(_scores(camera, turn, shots, scale).sum()))
    return pose


def _converged(
    camera: Camera, pose: Transform, shots: Sequence[Shot], windows: Sequence[float]
) -> tuple[Transform, list[_Drawn]] | None:
    """Follow the lines home; None where too few are seen."""
    drawn: list[_Drawn] = []
    for window in windows:
        drawn = [found for shot in shots if (found := _drawn(camera, pose, shot, window)).edges]
        if sum(found.edges for found in drawn) < FEWEST_EDGES or len(drawn) < 4:
            return None
        matrix, goal = np.sum([f.matrix for f in drawn], axis=0), np.sum([f.goal for f in drawn], axis=0)
        pose = turned_in_place(pose, _solved(matrix, goal))
    return pose, drawn


def _scores(camera: Camera, pose: Transform, shots: Sequence[Shot], scale: float) -> Float:
    """Return for each picture how many of its lines lie on an edge, (S,)."""
    out = []
    for shot in shots:
        pixels, direction, _ = _looked_for(camera, pose, shot)
        step = direction[:, None]
        places = pixels[:, None] + np.array([-1.0, -0.5, 0.0, 0.5, 1.0])[None, :, None] * max(scale, 0.6) * step
        gradient = np.abs(_sampled(shot.grey, places + step) - _sampled(shot.grey, places - step))
        squared = np.maximum(gradient - WEAKEST, 0.0) ** 2
        out.append(float((squared / (squared + STRONG**2)).mean(axis=1).sum()) if len(pixels) else 0.0)
    return np.array(out)


def turned_in_place(pose: Transform, step: Float) -> Transform:
    """Return a pose turned about its own place, and displaced, in the axes of its parent."""
    after = turned(pose, np.array([*step[:3], 0.0, 0.0, 0.0]))
    return Transform(pose.translation_m + step[3:], after.rotation_xyzw)


@dataclass(frozen=True, eq=False)
class _Drawn:
    """Normal equations of one picture, and the right side that one pixel of bias of each kind would add (6, K)."""

    matrix: Float
    goal: Float
    by_kind: Float
    edges: int


def _drawn(camera: Camera, pose: Transform, shot: Shot, window_px: float) -> _Drawn:
    """Return the normal equations of one picture: how far each outline is drawn along its direction."""
    pixels, direction, kept = _looked_for(camera, pose, shot)
    if not len(pixels):
        return _Drawn(np.zeros((6, 6)), np.zeros(6), np.zeros((6, KINDS)), 0)
    optical_from_base = pose.inverse()
    points = optical_from_base.apply(shot.base_m[kept])
    shift, weight, slope = _attraction(shot.grey, pixels, direction, window_px)
    # d pixel / d motion of the camera in base_link, about the camera's place: the point moves the other way
    arm = shot.base_m[kept] - pose.translation_m
    by_camera = -np.einsum("nij,jk,nkl->nil", camera.jacobian(points), optical_from_base.rotation, by_motion(arm))
    along = np.einsum("ni,nij->nj", slope, by_camera)
    weighted = along * weight[:, None]
    found = weight > 0.05
    of_kind = shot.kind[kept][:, None] == np.arange(KINDS)
    return _Drawn(along.T @ weighted, weighted.T @ shift, weighted.T @ of_kind, int(found.sum()))


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


def _attraction(grey: Float, pixels: Float, direction: Float, window_px: float) -> tuple[Float, Float, Float]:
    """Return how far each line is drawn along its direction, and how sure that is, and what moves it (N, 2).

    The last is the normal of the edge that was found over its component along the direction: a line that runs aslant
    through the picture moves along the direction of search when it is moved across, too.
    """
    reach = np.arange(-1.5 * window_px, 1.5 * window_px + 0.01, 0.5)
    places = pixels[:, None] + reach[None, :, None] * direction[:, None]
    step = direction[:, None]
    gradient = np.abs(_sampled(grey, places + step) - _sampled(grey, places - step))
    squared = np.maximum(gradient - WEAKEST, 0.0) ** 2
    edge = squared / (squared + STRONG**2)  # a bright marking nearby draws no more than the outline itself
    strong = edge * np.exp(-2.0 * (reach / window_px) ** 2)
    total = strong.sum(axis=1)
    mean = (strong * reach).sum(axis=1) / np.maximum(total, 1e-9)
    spread = (strong * (reach - mean[:, None]) ** 2).sum(axis=1) / np.maximum(total, 1e-9)
    weight = np.where(total > 0.5, 1.0 / (1.0 + spread), 0.0)
    at = pixels + mean[:, None] * direction
    slope = np.stack([_sampled(grey, at + step) - _sampled(grey, at - step) for step in np.eye(2)], axis=1)
    along = (slope * direction).sum(axis=1)
    size = np.linalg.norm(slope, axis=1)
    straight = np.abs(along) > 0.4 * np.maximum(size, 1e-9)
    normal = np.where(straight[:, None], slope / np.where(straight, along, 1.0)[:, None], direction)
    return mean, np.where(straight, weight, 0.0), normal


def _sampled(grey: Float, places: Float) -> Float:
    """Sample bilinearly at places (..., 2), column and row, which lie inside."""
    height, width = grey.shape
    u, v = np.clip(places[..., 0], 0, width - 1.001), np.clip(places[..., 1], 0, height - 1.001)
    left, top = u.astype(np.int64), v.astype(np.int64)
    fu, fv = u - left, v - top
    flat, at = grey.ravel(), top * width + left
    upper = flat[at] * (1 - fu) + flat[at + 1] * fu
    lower = flat[at + width] * (1 - fu) + flat[at + width + 1] * fu
    return np.asarray(upper * (1 - fv) + lower * fv)


def _smooth(grey: NDArray[np.uint8]) -> Float:
    """Return the picture after a binomial filter of 3 x 3, as float."""
    out = grey.astype(np.float64)
    for axis in (0, 1):
        padded = np.pad(out, [(1, 1) if a == axis else (0, 0) for a in (0, 1)], mode="edge")
        first, middle, last = (np.take(padded, range(k, k + out.shape[axis]), axis) for k in range(3))
        out = (first + 2 * middle + last) / 4
    return out


def _solved(matrix: Float, goal: Float) -> Float:
    """Solve, with a weak pull to no motion: directions that nothing tells of stay where they are."""
    pull = np.diag([1.0, 1.0, 1.0, 0.2, 0.2, 0.2]) * 1e-9 * np.trace(matrix)
    return np.asarray(np.linalg.solve(matrix + pull + 1e-9 * np.eye(6), goal))


def _grouped(blocks: list[tuple[Float, Float]], groups: int = GROUPS) -> list[tuple[Float, Float]]:
    """Join pictures that follow each other: they see the same outlines, so their errors are alike."""
    parts = np.array_split(np.arange(len(blocks)), min(groups, len(blocks)))
    return [(sum(blocks[i][0] for i in part), sum(blocks[i][1] for i in part)) for part in parts]


__all__ = ["Shot", "camera_moved", "make_shot"]
