"""Where the right camera is to the left one, from views of one board in both."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from perception.calibrate.board_pose import board_pose, reprojection
from perception.calibrate.boards import Board, BoardView
from perception.calibrate.intrinsics import FEWEST_VIEWS, OUTLIER_PX
from perception.calibrate.least_squares import Block, Solution, by_motion, solve, turned
from perception.errors import GeometryError, UserError
from perception.geometry.cameras import Camera
from perception.geometry.transforms import Transform

Float: TypeAlias = NDArray[np.float64]


@dataclass(frozen=True)
class StereoResult:
    """What a calibration of extrinsics between two cameras found.

    Attributes:
        right_from_left: between the optical frames.
        pairs: names of the pictures that were used.
        poses: left_from_board of each.
        left_errors_px: (N, 2) of each, expected minus seen.
        right_errors_px: the same.
        rms_px: of the distances of all corners in both pictures, as OpenCV's stereoCalibrate counts.
        rotation_std_rad: (3,) standard deviations of a small turn about x, y, z of the right camera.
        translation_std_m: (3,).
        epipolar_rms_px: rms distance of rows after rectification; None for cameras that cannot be rectified.
    """

    right_from_left: Transform
    pairs: tuple[str, ...]
    poses: tuple[Transform, ...]
    left_errors_px: tuple[Float, ...]
    right_errors_px: tuple[Float, ...]
    rms_px: float
    rotation_std_rad: Float
    translation_std_m: Float
    epipolar_rms_px: float | None

    @property
    def baseline_m(self) -> float:
        """Distance of the two cameras."""
        return float(np.linalg.norm(self.right_from_left.translation_m))


@dataclass(frozen=True)
class _State:
    right_from_left: Transform
    poses: tuple[Transform, ...]


def calibrate_stereo(
    board: Board, views: Sequence[tuple[BoardView, BoardView]], left: Camera, right: Camera
) -> StereoResult:
    """Calibrate a pair with known intrinsics, of any models, also of two kinds.

    Args:
        board: the board in all views.
        views: (left, right) of one instant each.
        left: intrinsics.
        right: intrinsics.

    Raises:
        UserError: the board was found in both pictures of too few pairs.
        GeometryError: nothing explains the views.
    """
    pairs = [(a, _counted_alike(board, a, b)) for a, b in views]
    guesses: list[tuple[Transform, Transform]] = []
    usable = []
    for a, b in pairs:
        try:
            in_left, in_right = board_pose(left, board, a)[0], board_pose(right, board, b)[0]
        except GeometryError:
            continue
        guesses.append((in_left, in_right @ in_left.inverse()))
        usable.append((a, b))
    if len(usable) < FEWEST_VIEWS:
        raise UserError(
            f"the board was found in both pictures of {len(usable)} pairs; {FEWEST_VIEWS} are the least, 15 are good"
        )
    state = _State(_middle([guess for _, guess in guesses]), tuple(pose for pose, _ in guesses))
    solution = _solved(state, board, usable, left, right)
    return _result(solution, board, usable, left, right)


def _counted_alike(board: Board, left: BoardView, right: BoardView) -> BoardView:
    """Return the right view with corners counted from the same end as in the left one.

    A chessboard of two even or two odd sides looks the same turned by half.
    """
    if board.kind != "chessboard" or (board.columns + board.rows) % 2:
        return right
    along_left, along_right = (view.pixels[-1] - view.pixels[0] for view in (left, right))
    if along_left @ along_right >= 0:
        return right
    return BoardView(right.name, right.t_ns, right.ids, right.pixels[::-1])


def _middle(guesses: Sequence[Transform]) -> Transform:
    """Return the guess with the smallest sum of differences to the others: one bad view does not move it."""

    def apart(a: Transform, b: Transform) -> float:
        return (a.inverse() @ b).angle_rad() + float(np.linalg.norm(a.translation_m - b.translation_m))

    return min(guesses, key=lambda guess: sum(apart(guess, other) for other in guesses))


def _solved(
    state: _State, board: Board, pairs: Sequence[tuple[BoardView, BoardView]], left: Camera, right: Camera
) -> Solution[_State]:
    def blocks(at: _State) -> list[Block]:
        found = []
        for (a, b), pose in zip(pairs, at.poses, strict=True):
            error, by_point, points = reprojection(left, board, a, pose)
            own = (by_point @ by_motion(points)).reshape(-1, 6)
            in_right = at.right_from_left @ pose
            error_right, by_right, points_right = reprojection(right, board, b, in_right)
            shared = (by_right @ by_motion(points_right)).reshape(-1, 6)
            rotated = by_right @ at.right_from_left.rotation
            own_right = (rotated @ by_motion(pose.apply(board.points_m[b.ids]))).reshape(-1, 6)
            found.append(
                Block(
                    np.concatenate((error.ravel(), error_right.ravel())),
                    np.concatenate((np.zeros((error.size, 6)), shared)), np.concatenate((own, own_right)),
                )
            )  # fmt: skip
        return found

    def moved(at: _State, shared: Float, own: list[Float]) -> _State:
        poses = tuple(turned(pose, step) for pose, step in zip(at.poses, own, strict=True))
        return _State(turned(at.right_from_left, shared), poses)

    return solve(state, blocks, moved, robust=OUTLIER_PX, pairs=True)


def _result(
    solution: Solution[_State], board: Board, pairs: Sequence[tuple[BoardView, BoardView]], left: Camera, right: Camera
) -> StereoResult:
    state = solution.state
    in_left, in_right = [], []
    for (a, b), pose in zip(pairs, state.poses, strict=True):
        in_left.append(reprojection(left, board, a, pose)[0])
        in_right.append(reprojection(right, board, b, state.right_from_left @ pose)[0])
    everything = np.concatenate((*in_left, *in_right))
    deviation = solution.deviation
    return StereoResult(
        state.right_from_left, tuple(a.name for a, _ in pairs), state.poses, tuple(in_left), tuple(in_right),
        float(np.sqrt((everything**2).sum(axis=1).mean())), deviation[:3], deviation[3:],
        _epipolar_rms(pairs, left, right, state.right_from_left),
    )  # fmt: skip


def _epipolar_rms(
    pairs: Sequence[tuple[BoardView, BoardView]], left: Camera, right: Camera, right_from_left: Transform
) -> float | None:
    """Return the rms difference of rows of a corner in rectified pictures: what stereo matching will meet."""
    from perception.geometry.rectification import stereo_rectification

    try:
        found = stereo_rectification(left, right, right_from_left)
    except GeometryError:
        return None
    rows = []
    for a, b in pairs:
        _, in_a, in_b = np.intersect1d(a.ids, b.ids, return_indices=True)
        rays_a, seen_a = left.unproject(a.pixels[in_a])
        rays_b, seen_b = right.unproject(b.pixels[in_b])
        at_a, valid_a = found.camera.project(rays_a @ found.left_rotation, inside=False)
        at_b, valid_b = found.camera.project(rays_b @ found.right_rotation, inside=False)
        rows.append((at_a - at_b)[seen_a & seen_b & valid_a & valid_b, 1])
    together = np.concatenate(rows)
    return float(np.sqrt((together**2).mean())) if len(together) else None


__all__ = ["StereoResult", "calibrate_stereo"]
