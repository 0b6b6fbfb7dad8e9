"""Camera against LiDAR: outlines in depth fall on edges in the picture, if the camera is where the rig says.

Each outline is projected and looked for along its own direction: it is drawn to the edges around it, within a window
that shrinks as the camera's place gets better (coarse to fine). Outlines that find nothing, or move on their own, weigh
little. The answer is the small motion of the camera that brings most outlines home, with the information (the Hessian)
of those that did.

What all lines of one kind are off together (blur, rounded edges, half a step of the LiDAR) is estimated along; and how
many lines count as one is told by how much the parts of a recording disagree.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from perception.calibrate.bump.edge_search import attraction, edge_share, smooth
from perception.calibrate.bump.ego_track import EgoTrack
from perception.calibrate.bump.estimate import PRIOR, Estimate, displaced, inflation, motion_between
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
FEWEST_EDGES = 400
FEWEST_SHOTS = 4
NEAR_STEPS = 4
SEARCH = ((3.0, 2), (3.0, 1), (3.0, 0), (1.0, 1), (1.0, 2), (1.0, 0), (1.0, 1))
"""How far off a line an edge still counts, pixels, and the axis that is searched: yaw shows at most lines."""
SEARCHED_RAD = np.radians(np.arange(-1.5, 1.51, 0.25))
KIND_BIAS_PX = 0.3
"""What all lines of a kind may be off together, before anything is known."""
USUAL_INFLATION = 10.0
SECTORS = 8
MOTION = slice(0, 6)


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


def make_shot(
    t_ns: int, grey: NDArray[np.uint8], lines: SceneLines, track: EgoTrack, latest_s: float = LATEST_S
) -> Shot:
    """Move the lines of the sweeps around a picture to its instant; those of other instants are left out."""
    near = lines.chosen((np.abs(lines.t_ns - t_ns) < latest_s * 1e9) & track.covers(lines.t_ns))
    back = track.at(t_ns).inverse()
    base, further = (back.apply(track.apply(points, near.t_ns)) for points in (near.base_m, near.further_m))
    return Shot(t_ns, smooth(grey), base, further, near.kind)


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
    scale = _focal_px(camera) / USUAL_FOCAL_PX
    searched = _searched(camera, base_link_from_optical, shots[::2], scale)
    near = WINDOWS_PX[-NEAR_STEPS:]
    starts = ((base_link_from_optical, WINDOWS_PX), (base_link_from_optical, near), (searched, near))
    best: tuple[float, Transform, list[_Drawn]] | None = None
    for start, windows in starts:  # from far, from where the rig says, and from the best rotation nearby
        sizes = _sizes(windows, scale)
        found = _converged(camera, base_link_from_optical, start, shots, sizes, prior)
        if found is None:
            continue
        score = _score(camera, found[0], shots, scale)
        if best is None or score > best[0]:
            best = (score, *found)
    if best is None:
        return None
    _, pose, drawn = best
    information = _information(drawn)
    return Estimate.at(motion_between(base_link_from_optical, pose), information, sum(d.edges for d in drawn), prior)


def _sizes(windows: Sequence[float], scale: float) -> list[float]:
    sizes = [max(window * scale, FINEST_PX) for window in windows]
    while sizes[-1] > FINEST_PX:
        sizes.append(max(sizes[-1] * FINER, FINEST_PX))
    return [*sizes, FINEST_PX, FINEST_PX]


def _focal_px(camera: Camera) -> float:
    ahead = camera.jacobian(np.array([[0.0, 0.0, 1.0]]))[0][:, :2]
    return float(np.sqrt(abs(np.linalg.det(ahead))))


def _information(drawn: Sequence[_Drawn]) -> Float:
    """Return the information (6, 6) of the motion, what kinds of lines are off together taken out."""
    matrix = np.sum([d.matrix for d in drawn], axis=0) / _inflation(drawn)
    kinds = matrix[6:, 6:] + np.eye(KINDS) / KIND_BIAS_PX**2
    return np.asarray(matrix[:6, :6] - matrix[:6, 6:] @ np.linalg.solve(kinds, matrix[6:, :6]))


def _inflation(drawn: Sequence[_Drawn]) -> float:
    """Return how many lines count as one, as parts of the time, or parts of the picture, disagree."""
    by_sector = [(np.sum([d.matrices[k] for d in drawn], axis=0), np.sum([d.goals[k] for d in drawn], axis=0))
                 for k in range(SECTORS)]  # fmt: skip
    return max(inflation([(d.matrix, d.goal) for d in drawn]), inflation(by_sector))


def _searched(camera: Camera, pose: Transform, shots: Sequence[Shot], scale: float) -> Transform:
    """Return the pose turned, one axis after the other, to where most lines lie on edges: drawing may lead astray."""
    for reach, axis in SEARCH:
        turns = [displaced(pose, angle * np.eye(6)[axis]) for angle in SEARCHED_RAD]
        pose = max(turns, key=lambda turn: _score(camera, turn, shots, reach * scale))
    return pose


def _converged(
    camera: Camera, rig: Transform, pose: Transform, shots: Sequence[Shot], windows: Sequence[float], prior: Float
) -> tuple[Transform, list[_Drawn]] | None:
    """Follow the lines home; None where too few are seen."""
    drawn: list[_Drawn] = []
    counted = USUAL_INFLATION
    for window in windows:
        drawn = [found for shot in shots if (found := _drawn(camera, pose, shot, window)).edges]
        if sum(found.edges for found in drawn) < FEWEST_EDGES or len(drawn) < FEWEST_SHOTS:
            return None
        matrix, goal = np.sum([f.matrix for f in drawn], axis=0), np.sum([f.goal for f in drawn], axis=0)
        before = np.zeros((6 + KINDS, 6 + KINDS))
        before[MOTION, MOTION], before[6:, 6:] = prior, np.eye(KINDS) / KIND_BIAS_PX**2
        pulled = goal - counted * before @ np.concatenate((motion_between(rig, pose), np.zeros(KINDS)))
        pose = displaced(pose, np.linalg.solve(matrix + counted * before, pulled)[MOTION])
        counted = _inflation(drawn)
    return pose, drawn


def _score(camera: Camera, pose: Transform, shots: Sequence[Shot], scale: float) -> float:
    """Return how many lines lie on an edge."""
    total = 0.0
    for shot in shots:
        pixels, direction, _ = _looked_for(camera, pose, shot)
        total += float(edge_share(shot.grey, pixels, direction, max(scale, 0.6)).sum())
    return total


@dataclass(frozen=True, eq=False)
class _Drawn:
    """Normal equations of one picture, in sectors from left to right.

    Unknown are the camera's motion (6), and what each kind of line is off (KINDS).
    """

    matrices: Float
    """(SECTORS, 6 + KINDS, 6 + KINDS)."""
    goals: Float
    """(SECTORS, 6 + KINDS)."""
    edges: int

    @property
    def matrix(self) -> Float:
        return np.asarray(self.matrices.sum(axis=0))

    @property
    def goal(self) -> Float:
        return np.asarray(self.goals.sum(axis=0))


def _drawn(camera: Camera, pose: Transform, shot: Shot, window_px: float) -> _Drawn:
    """Return the normal equations of one picture: how far each outline is drawn along its direction."""
    pixels, direction, kept = _looked_for(camera, pose, shot)
    optical_from_base = pose.inverse()
    points = optical_from_base.apply(shot.base_m[kept])
    shift, weight, slope = attraction(shot.grey, pixels, direction, window_px)
    # d pixel / d motion of the camera in base_link, about the camera's place: the point moves the other way
    arm = shot.base_m[kept] - pose.translation_m
    by_camera = -np.einsum("nij,jk,nkl->nil", camera.jacobian(points), optical_from_base.rotation, by_motion(arm))
    along = np.einsum("ni,nij->nj", slope, by_camera)
    of_kind = shot.kind[kept][:, None] == np.arange(KINDS)
    derivative = np.column_stack((along, of_kind))
    weighted = derivative * weight[:, None]
    sector = np.clip(pixels[:, 0] * SECTORS / camera.width_px, 0, SECTORS - 1).astype(np.int64)
    parts = [sector == k for k in range(SECTORS)]
    matrices = np.stack([derivative[part].T @ weighted[part] for part in parts])
    goals = np.stack([weighted[part].T @ shift[part] for part in parts])
    return _Drawn(matrices, goals, int((weight > 0.05).sum()))


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
