"""Where a board is in front of a camera with known intrinsics of any model."""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from perception.calibrate.boards import Board, BoardView
from perception.calibrate.least_squares import Block, by_motion, solve, transform_of, turned
from perception.errors import GeometryError
from perception.geometry.cameras import Camera
from perception.geometry.transforms import Transform

Float: TypeAlias = NDArray[np.float64]

FLATTEST = 0.17
"""Cosine to the optical axis beyond which (80 degrees) a corner does not take part in the first guess."""


def first_pose(camera: Camera, board: Board, view: BoardView) -> Transform:
    """Return optical_from_board from the homography of the board's plane to the rays.

    Raises:
        GeometryError: too few corners have rays in front of the camera.

    Source: Zhang, "A flexible new technique for camera calibration", PAMI 2000, section 3.1.
    """
    rays, seen = camera.unproject(view.pixels)
    usable = seen & (rays[:, 2] > FLATTEST)
    if usable.sum() < 5:
        raise GeometryError(f"{view.name}: {usable.sum()} corners in front of the camera; a pose needs 5")
    image = rays[usable, :2] / rays[usable, 2:]
    plane = board.points_m[view.ids[usable], :2]
    homography = _homography(plane, image)
    scale = 2.0 / (np.linalg.norm(homography[:, 0]) + np.linalg.norm(homography[:, 1]))
    homography *= scale * (1.0 if homography[2, 2] > 0 else -1.0)
    x, y = homography[:, 0], homography[:, 1]
    return transform_of(np.stack((x, y, np.cross(x, y)), axis=1), homography[:, 2])


def board_pose(camera: Camera, board: Board, view: BoardView) -> tuple[Transform, float]:
    """Return optical_from_board and the rms of the corners, pixels.

    Raises:
        GeometryError: too few corners, or the camera cannot show the board there.
    """
    solution = solve(
        first_pose(camera, board, view),
        lambda pose: [_block(camera, board, view, pose)],
        lambda pose, _, own: turned(pose, own[0]),
        robust=2.0, pairs=True, iterations=20,
    )  # fmt: skip
    return solution.state, solution.rms


def reprojection(
    camera: Camera, board: Board, view: BoardView, optical_from_board: Transform
) -> tuple[Float, Float, Float]:
    """Return errors (N, 2) expected minus seen, their derivative (N, 2, 3) by the points, and the points (N, 3).

    Raises:
        GeometryError: a corner cannot be seen there.
    """
    points = optical_from_board.apply(board.points_m[view.ids])
    pixels, valid = camera.project(points, inside=False)
    if not valid.all():
        raise GeometryError(f"{view.name}: a corner cannot be seen from there")
    return pixels - view.pixels, camera.jacobian(points), points


def _block(camera: Camera, board: Board, view: BoardView, pose: Transform) -> Block:
    error, by_point, points = reprojection(camera, board, view, pose)
    by_own = (by_point @ by_motion(points)).reshape(-1, 6)
    return Block(error.ravel(), np.zeros((error.size, 0)), by_own)


def _homography(plane: Float, image: Float) -> Float:
    """Return the homography (3, 3) from plane points to image points (N, 2) by the direct linear transform."""
    middle, spread = plane.mean(axis=0), plane.std() + 1e-12
    x, y = ((plane - middle) / spread).T
    u, v = image.T
    one, zero = np.ones_like(x), np.zeros_like(x)
    rows = np.concatenate(
        (
            np.stack((x, y, one, zero, zero, zero, -u * x, -u * y, -u), axis=1),
            np.stack((zero, zero, zero, x, y, one, -v * x, -v * y, -v), axis=1),
        )
    )
    solution = np.linalg.svd(rows)[2][-1].reshape(3, 3)
    normalise = np.array([[1 / spread, 0, -middle[0] / spread], [0, 1 / spread, -middle[1] / spread], [0, 0, 1]])
    return np.asarray(solution @ normalise)


__all__ = ["board_pose", "first_pose", "reprojection"]
