"""Where a LiDAR is to a camera, by the edges that both see: without a board, or after one.

Levinson & Thrun, "Automatic online calibration of cameras and lasers", RSS 2013: jumps of depth lie on edges of the
picture. The search is that of `calibrate check` (bump/camera_edges.py), from a guess that is good to about a degree and
ten centimetres; what boards told before goes in as a prior.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from perception.calibrate.bump.camera_edges import Shot, camera_moved
from perception.calibrate.bump.estimate import PRIOR, displaced
from perception.errors import UserError
from perception.geometry.cameras import Camera
from perception.geometry.transforms import Transform

Float: TypeAlias = NDArray[np.float64]

AXES = ("pitch", "yaw", "roll", "to the side", "up and down", "along the view")
"""Of the optical frame: about x, y, z, then along them."""
MOST_STD = np.array([np.radians(0.5)] * 3 + [0.05] * 3)
"""A scene that leaves an axis less certain than this does not calibrate it."""
GOOD_STD = np.array([np.radians(0.2)] * 3 + [0.025] * 3)
HELD_STD = np.array([1e-6] * 3)
"""Of a translation that is kept."""
BOARD_BIAS = np.array([np.radians(0.05)] * 3 + [0.003] * 3)
GOOD_PICTURES = 8


@dataclass(frozen=True, eq=False)
class EdgesResult:
    """What edges tell of a camera's place.

    Attributes:
        base_link_from_optical: the camera's place, with the LiDAR where the rig says.
        edges: how many lines of the LiDAR were found in pictures.
        pictures: in how many pictures.
        covariance: (6, 6) of a small turn about the camera's axes and a shift along them.
    """

    base_link_from_optical: Transform
    edges: int
    pictures: int
    covariance: Float


def prior_of(covariance: Float, base_link_from_optical: Transform) -> Float:
    """Return the prior that a covariance (6, 6) in the camera's axes is, for motions in the axes of `base_link`.

    What boards may be off all together (a bent board, a wrong size) is added.
    """
    turn = np.kron(np.eye(2), base_link_from_optical.rotation)
    return np.asarray(np.linalg.inv(turn @ (covariance + np.diag(BOARD_BIAS**2)) @ turn.T))


def calibrate_by_edges(
    camera: Camera, base_link_from_optical: Transform, shots: Sequence[Shot], *, prior: Float = PRIOR,
    keep_translation: bool = False,
) -> EdgesResult:  # fmt: skip
    """Move a camera to where the LiDAR's lines fall on edges.

    Args:
        camera: intrinsics.
        base_link_from_optical: the guess.
        shots: pictures with the lines of the LiDAR, in the order of time.
        prior: (6, 6) inverse covariance of the guess, of motions in the axes of `base_link`.
        keep_translation: only turn the camera.

    Raises:
        UserError: too few lines are seen, or the scene leaves an axis open.
    """
    known = prior.copy()
    if keep_translation:
        known[3:, 3:] += np.diag(HELD_STD**-2.0)
    estimate = camera_moved(camera, base_link_from_optical, shots, known, sure=0.0)  # a guess is worth no more
    if estimate is None:
        raise UserError(
            "too few lines of the LiDAR are in the pictures: choose a place with poles, parked vehicles and corners of "
            "houses within 30 m, and check the guess"
        )
    turn = base_link_from_optical.rotation.T
    axes = np.kron(np.eye(2), turn)
    covariance = axes @ estimate.covariance @ axes.T
    deviation = np.sqrt(np.diag(covariance))
    open_ = [f"{name} ({_size(index, deviation[index])})" for index, name in enumerate(AXES)
             if deviation[index] > MOST_STD[index]]  # fmt: skip
    if open_:
        raise UserError(
            f"the scene does not tell the camera's {', '.join(open_)}: record things at 3 to 15 m in all parts of the "
            "picture, and more of it; or use a board"
            + ("" if keep_translation else "; or --only rotation, which keeps the translation of the guess")
        )
    return EdgesResult(
        displaced(base_link_from_optical, estimate.moved), estimate.measurements, len(shots),
        covariance,
    )  # fmt: skip


def complaints_of_edges(result: EdgesResult) -> list[str]:
    """Return what is poor, and what to do; empty is good."""
    deviation = np.sqrt(np.diag(result.covariance))
    weak = [f"{name} ({_size(index, deviation[index])})" for index, name in enumerate(AXES)
            if deviation[index] > GOOD_STD[index]]  # fmt: skip
    said = [f"uncertain in {', '.join(weak)}: record more, with things near and far"] if weak else []
    if result.pictures < GOOD_PICTURES:
        said.append(f"only {result.pictures} pictures: one place may mislead; take 20 and more of a drive")
    return said


def _size(axis: int, deviation: float) -> str:
    return f"{np.degrees(deviation):.1f} degrees" if axis < 3 else f"{deviation * 100:.0f} cm"


__all__ = ["EdgesResult", "calibrate_by_edges", "complaints_of_edges", "prior_of"]
