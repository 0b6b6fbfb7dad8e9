"""Where a LiDAR is to a camera, from boards that both see: points of the LiDAR lie on the plane that the camera sees.

Zhang & Pless, "Extrinsic calibration of a camera and laser range finder", IROS 2004: point to plane over all poses of
the board, from a first guess (the rig's) by which the board's points are found. Edges refine it: camera_lidar_edges.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from perception.calibrate.board_pose import board_pose
from perception.calibrate.boards import Board, BoardView
from perception.calibrate.least_squares import Block, by_motion, solve, turned
from perception.errors import GeometryError, UserError
from perception.geometry.cameras import Camera
from perception.geometry.transforms import Transform

Float: TypeAlias = NDArray[np.float64]

FEWEST_BOARDS = 4
FEWEST_POINTS = 12
ROBUST_M = 0.03
WINDOWS_M = (0.35, 0.15, 0.08, 0.05)
"""How far from the board's plane its points are looked for, as the guess gets better."""
MARGIN_M = 0.02


@dataclass(frozen=True)
class CameraLidarResult:
    """What boards tell of a LiDAR and a camera.

    Attributes:
        optical_from_lidar: from the LiDAR's frame to the camera's optical frame.
        boards: how many poses were used.
        points: how many points on them.
        rms_m: of the points' distances from their planes.
        covariance: (6, 6) of a small turn about the camera's axes and a shift along them.
        normals_spread: smallest singular value of the boards' normals, 0 to 1: how well they pin the translation.
        on_board: points (N, 3) in the LiDAR's frame by board.
    """

    optical_from_lidar: Transform
    boards: int
    points: int
    rms_m: float
    covariance: Float
    normals_spread: float
    on_board: tuple[Float, ...]

    @property
    def rotation_std_rad(self) -> Float:
        """(3,) about the camera's axes."""
        return np.sqrt(np.diag(self.covariance)[:3])

    @property
    def translation_std_m(self) -> Float:
        """(3,) along them."""
        return np.sqrt(np.diag(self.covariance)[3:])


def calibrate_camera_lidar(
    camera: Camera, board: Board, pairs: Sequence[tuple[BoardView, Float]], guess: Transform
) -> CameraLidarResult:
    """Calibrate optical_from_lidar.

    Args:
        camera: intrinsics.
        board: the board.
        pairs: views, each with the sweep (N, 3) of its instant in the LiDAR's frame, the board at rest.
        guess: optical_from_lidar to begin with, good to some degrees and 20 cm.

    Raises:
        UserError: too few boards are seen by both.
    """
    planes = []
    for view, points in pairs:
        try:
            planes.append((board_pose(camera, board, view)[0], points[np.isfinite(points).all(axis=1)]))
        except GeometryError:
            continue
    pose, chosen = guess, []
    solution = None
    for window in WINDOWS_M:
        chosen = [(plane, on) for plane, points in planes
                  if len(on := _on_board(board, plane, points, pose, window)) >= FEWEST_POINTS]  # fmt: skip
        if len(chosen) < FEWEST_BOARDS:
            raise UserError(
                f"the LiDAR sees the board in {len(chosen)} of {len(planes)} views; {FEWEST_BOARDS} are the least, 10 "
                "are good. Hold it still at 2 to 6 m, and check that the rig's guess is good to some degrees"
            )
        solution = solve(
            pose, lambda at: [_block(plane, on, at) for plane, on in chosen],  # noqa: B023
            lambda at, shared, _: turned(at, shared), robust=ROBUST_M,
        )  # fmt: skip
        pose = solution.state
    assert solution is not None
    normals = np.stack([plane.rotation[:, 2] for plane, _ in chosen])
    return CameraLidarResult(
        pose, len(chosen), sum(len(on) for _, on in chosen), solution.rms, solution.covariance,
        float(np.linalg.svd(normals, compute_uv=False)[2] / np.sqrt(len(normals))), tuple(on for _, on in chosen),
    )  # fmt: skip


def complaints_of_camera_lidar(result: CameraLidarResult) -> list[str]:
    """Return what is poor, and what to do; empty is good."""
    said = []
    if result.boards < 10:
        said.append(f"only {result.boards} boards: take 10 or more")
    if result.normals_spread < 0.1:
        said.append(
            "the boards face nearly one way: tilt them up, down and to both sides, or one direction stays a guess"
        )
    if result.rms_m > 0.03:
        said.append(f"points lie {result.rms_m * 100:.1f} cm from the boards: was the board at rest, and is it flat?")
    if result.translation_std_m.max() > 0.02 or result.rotation_std_rad.max() > np.radians(0.3):
        said.append(
            f"uncertain by {result.translation_std_m.max() * 100:.1f} cm and "
            f"{np.degrees(result.rotation_std_rad.max()):.2f} degrees: more boards, nearer and farther"
        )
    return said


def _on_board(board: Board, optical_from_board: Transform, points: Float, guess: Transform, window: float) -> Float:
    """Return the points that lie on the board, as far as the guess tells; without its outermost centimetres."""
    there = optical_from_board.inverse().apply(guess.apply(points))
    low, high = board.points_m.min(axis=0), board.points_m.max(axis=0)
    grow = max(window - WINDOWS_M[-1], 0.0) * 0.5 - MARGIN_M
    near = (
        (np.abs(there[:, 2]) < window)
        & (there[:, :2] > low[:2] - grow).all(1)
        & (there[:, :2] < high[:2] + grow).all(1)
    )
    found: Float = np.asarray(points[near])
    if window > 0.1 and len(found) >= FEWEST_POINTS:  # the guess is coarse: keep the plane that most points lie on
        found = _flattest(found)
    return found


def _flattest(points: Float) -> Float:
    random, best = np.random.default_rng(0), np.zeros(len(points), np.bool_)
    for _ in range(60):
        a, b, c = points[random.choice(len(points), 3, replace=False)]
        normal = np.cross(b - a, c - a)
        length = np.linalg.norm(normal)
        if length < 1e-9:
            continue
        on = np.abs((points - a) @ normal / length) < 0.04
        best = on if on.sum() > best.sum() else best
    return np.asarray(points[best])


def _block(optical_from_board: Transform, points: Float, optical_from_lidar: Transform) -> Block:
    normal = optical_from_board.rotation[:, 2]
    moved = optical_from_lidar.apply(points)
    error = (moved - optical_from_board.translation_m) @ normal
    return Block(error, np.einsum("i,nij->nj", normal, by_motion(moved)), np.zeros((len(points), 0)))


__all__ = ["CameraLidarResult", "calibrate_camera_lidar", "complaints_of_camera_lidar"]
