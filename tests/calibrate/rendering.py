"""Pictures of boards with exact truth: each pixel's ray meets the board, whose drawing is looked up there."""

from __future__ import annotations

from functools import lru_cache

import cv2
import numpy as np
from numpy.typing import NDArray

from perception.calibrate.boards import Board, origin_in_drawing_m
from perception.geometry.cameras import Camera
from perception.geometry.transforms import Transform

SCALE = 4000.0  # pixels of the drawing per metre
MARGIN_M = 0.03


def rendered(
    board: Board, camera: Camera, optical_from_board: Transform, *, supersample: int = 2, background: int = 90
) -> NDArray[np.uint8]:
    """Return the grey picture of a board, averaged over `supersample` squared rays a pixel."""
    drawing = board.drawn(SCALE, MARGIN_M)
    rays, there = _rays(camera, supersample)
    board_from_optical = optical_from_board.inverse()
    origin, directions = board_from_optical.translation_m, rays @ board_from_optical.rotation.T
    with np.errstate(divide="ignore", invalid="ignore"):
        reach = -origin[2] / directions[:, 2]
        places = origin[:2] + reach[:, None] * directions[:, :2]
    zero, up = origin_in_drawing_m(board, MARGIN_M)
    places = np.nan_to_num((zero + places * (1.0, up)) * SCALE - 0.5, nan=-1e6, posinf=-1e6, neginf=-1e6)
    places[~(there & (reach > 0))] = -1e6
    shape = (camera.height_px * supersample, camera.width_px * supersample)
    x, y = (np.clip(axis, -1e6, 1e6).astype(np.float32).reshape(shape) for axis in places.T)
    fine = cv2.remap(drawing, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_CONSTANT, borderValue=background)
    picture = fine.reshape(camera.height_px, supersample, camera.width_px, supersample).mean(axis=(1, 3))
    return np.asarray(picture.round(), np.uint8)


@lru_cache(maxsize=4)
def _rays(camera: Camera, supersample: int) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    offsets = (np.arange(supersample) + 0.5) / supersample - 0.5
    v, u = np.meshgrid(
        (np.arange(camera.height_px)[:, None] + offsets).ravel(),
        (np.arange(camera.width_px)[:, None] + offsets).ravel(),
        indexing="ij",
    )
    return camera.unproject(np.stack((u.ravel(), v.ravel()), axis=1))


def poses(board: Board, count: int, distance_m: float, seed: int = 0, spread: float = 0.35) -> list[Transform]:
    """Return optical_from_board of boards that fill a camera's view: tilted up to 35 degrees, moved about."""
    random = np.random.default_rng(seed)
    found = []
    for _ in range(count):
        tilt = random.uniform(-1, 1, 3) * np.radians([35, 35, 25])
        turn = cv2.Rodrigues(tilt)[0]
        if board.kind == "aprilgrid":
            turn = turn @ np.diag([1.0, -1.0, -1.0])  # its y axis points up
        distance = distance_m * random.uniform(0.8, 1.5)
        middle = np.array([*(random.uniform(-spread, spread, 2) * distance), distance])
        matrix = np.eye(4)
        matrix[:3, :3], matrix[:3, 3] = turn, middle - turn @ board.middle_m
        found.append(Transform.from_matrix(matrix))
    return found
