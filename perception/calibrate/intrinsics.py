"""Intrinsics of one camera from views of a board, for every camera model.

One least squares problem for all models: the intrinsics are shared, each view has the pose of its board. The first
guess tries focal lengths over a wide range, without distortion, and keeps the one that explains the corners best, so
nothing has to be known of the camera. Equal to OpenCV's calibration where it has the model.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from perception.calibrate.board_pose import board_pose, first_pose, reprojection
from perception.calibrate.boards import Board, BoardView
from perception.calibrate.least_squares import Block, Solution, by_motion, solve, turned
from perception.errors import GeometryError, UserError
from perception.geometry.cameras import Camera, Model
from perception.geometry.transforms import Transform

Float: TypeAlias = NDArray[np.float64]

FEWEST_VIEWS = 3
MOST_VIEWS = 60
OUTLIER_PX = 1.0
"""Beyond this a corner counts by its distance, not by its square."""
WORST_VIEW = 4.0
"""A view is left out when its rms is so many times the median's."""
WEAK_PRIOR_PX = 0.01
"""Pull on each coefficient of `rational_polynomial`, pixels: its fraction can hold huge numbers that cancel."""
FISHEYES = ("kannala_brandt", "double_sphere", "ocam")


@dataclass(frozen=True)
class IntrinsicsResult:
    """What a calibration of intrinsics found.

    Attributes:
        camera: the intrinsics; `max_angle_rad` of a fisheye is what the corners covered.
        board: the board.
        views: the views that were used.
        poses: optical_from_board of each.
        errors_px: (N, 2) of each, expected minus seen.
        rms_px: of all corners' distances.
        deviation: standard deviation of each intrinsic number, by name.
        projection_std_px: largest standard deviation that the intrinsics leave in a pixel of the covered part.
        left_out: views that were found and not used, with the reason.
    """

    camera: Camera
    board: Board
    views: tuple[BoardView, ...]
    poses: tuple[Transform, ...]
    errors_px: tuple[Float, ...]
    rms_px: float
    deviation: dict[str, float]
    projection_std_px: float
    left_out: dict[str, str]


@dataclass(frozen=True)
class _State:
    camera: Camera
    poses: tuple[Transform, ...]


def calibrate_intrinsics(
    board: Board, views: Sequence[BoardView], width_px: int, height_px: int, model: Model = "plumb_bob"
) -> IntrinsicsResult:
    """Calibrate one camera.

    Args:
        board: the board in all views.
        views: at least three, of different tilts; corners all over the picture.
        width_px: of the pictures.
        height_px: of the pictures.
        model: the camera model to fit.

    Raises:
        UserError: too few views.
        GeometryError: no camera of this model explains the views.
    """
    if len(views) < FEWEST_VIEWS:
        raise UserError(
            f"the board was found in {len(views)} pictures; {FEWEST_VIEWS} are the least, 20 are good. "
            "Are --board and the pictures of the same board, and is it sharp and whole?"
        )
    left_out: dict[str, str] = {}
    chosen = different_views(views, width_px, left_out)
    start = _first_camera(board, chosen, width_px, height_px, model)
    chosen = [view for view in chosen if _has_pose(start, board, view, left_out)]
    state = _State(start, tuple(board_pose(start, board, view)[0] for view in chosen))
    for stage in _stages(model):
        state = _refined(replace(state, camera=_as_model(state.camera, stage, board, chosen)), board, chosen).state
    errors = _errors(state, board, chosen)
    rms = np.array([_rms(error) for error in errors])
    good = rms <= max(WORST_VIEW * float(np.median(rms)), 0.3)
    if not good.all() and good.sum() >= FEWEST_VIEWS:
        left_out |= {view.name: f"rms {value:.2f} px, far above the others"
                     for view, value, kept in zip(chosen, rms, good, strict=True) if not kept}  # fmt: skip
        chosen = [view for view, kept in zip(chosen, good, strict=True) if kept]
        state = _State(state.camera, tuple(pose for pose, kept in zip(state.poses, good, strict=True) if kept))
    solution = _refined(state, board, chosen)
    return _result(solution, board, chosen, left_out)


def different_views(views: Sequence[BoardView], width_px: int, left_out: dict[str, str]) -> list[BoardView]:
    """Return views that differ: a log holds many of a board that hardly moved, which would drown the others."""
    kept: list[BoardView] = []
    for view in views:
        if any(_moved_px(view, other) < 0.02 * width_px for other in kept):
            left_out[view.name] = "the board is where it was in another picture"
        else:
            kept.append(view)
    if len(kept) > MOST_VIEWS:
        picked = {round(index) for index in np.linspace(0, len(kept) - 1, MOST_VIEWS)}
        left_out |= {view.name: "enough others" for index, view in enumerate(kept) if index not in picked}
        kept = [view for index, view in enumerate(kept) if index in picked]
    return kept if len(kept) >= FEWEST_VIEWS else list(views)


def _moved_px(a: BoardView, b: BoardView) -> float:
    common, in_a, in_b = np.intersect1d(a.ids, b.ids, return_indices=True)
    if not len(common):
        return np.inf
    return float(np.linalg.norm(a.pixels[in_a] - b.pixels[in_b], axis=1).mean())


def _stages(model: Model) -> tuple[Model, ...]:
    """Models with many numbers begin from simpler ones."""
    stages: dict[str, tuple[Model, ...]] = {
        "rational_polynomial": ("plumb_bob", "rational_polynomial"), "ocam": ("kannala_brandt", "ocam")
    }  # fmt: skip
    return stages.get(model, (model,))


def _first_camera(board: Board, views: Sequence[BoardView], width: int, height: int, model: Model) -> Camera:
    first = _stages(model)[0]
    zero: dict[str, tuple[float, ...]] = {
        "plumb_bob": (0.0,) * 5, "kannala_brandt": (0.0,) * 4, "double_sphere": (0.0, 0.5)
    }  # fmt: skip
    best: tuple[float, Camera] | None = None
    for share in np.geomspace(0.12, 4.0, 18):
        camera = Camera(first, width, height, (share * width,) * 2, ((width - 1) / 2, (height - 1) / 2), zero[first])
        errors = []
        for view in views:
            try:
                pose = first_pose(camera, board, view)
                errors.append(_rms(reprojection(camera, board, view, pose)[0]))
            except GeometryError:
                errors.append(1e3)
        score = float(np.median(errors))
        if best is None or score < best[0]:
            best = (score, camera)
    assert best is not None
    return best[1]


def _has_pose(camera: Camera, board: Board, view: BoardView, left_out: dict[str, str]) -> bool:
    try:
        board_pose(camera, board, view)
    except GeometryError as error:
        left_out[view.name] = str(error)
        return False
    return True


def _as_model(camera: Camera, model: Model, board: Board, views: Sequence[BoardView]) -> Camera:
    """Return a camera of another model that begins where this one is."""
    if camera.model == model:
        return camera
    if model == "rational_polynomial":
        return replace(camera, model=model, coefficients=(*camera.coefficients, 0.0, 0.0, 0.0))
    assert model == "ocam"
    rays, _ = camera.unproject(np.concatenate([view.pixels for view in views]))
    widest = float(np.arctan2(np.hypot(rays[:, 0], rays[:, 1]), rays[:, 2]).max()) * 1.05
    angle = np.linspace(0.0, widest, 400)
    radius = np.hypot(*(camera.project(np.stack((np.sin(angle), 0 * angle, np.cos(angle)), 1), inside=False)[0]
                        - camera.center_px).T)  # fmt: skip
    terms = 5 + int(widest / 0.35)  # more where there is more to describe
    polynomial = np.polynomial.Polynomial.fit(angle - np.pi / 2, radius, terms - 1).convert().coef
    coefficients = (1.0, 0.0, 0.0, 0, terms, *map(float, polynomial))
    return Camera("ocam", camera.width_px, camera.height_px, (1.0, 1.0), camera.center_px, coefficients)


def names_of(camera: Camera) -> list[str]:
    """Return the names of the numbers that are fitted."""
    if camera.model == "ocam":
        return ["cx", "cy", *(f"b{index}" for index in range(len(camera.coefficients) - 5))]
    words = {
        "plumb_bob": ["k1", "k2", "p1", "p2", "k3"],
        "rational_polynomial": ["k1", "k2", "p1", "p2", "k3", "k4", "k5", "k6"],
        "kannala_brandt": ["k1", "k2", "k3", "k4"],
        "double_sphere": ["xi", "alpha"],
    }[camera.model]
    return ["fx", "fy", "cx", "cy", *words]


def numbers_of(camera: Camera) -> Float:
    """Return the numbers that are fitted."""
    if camera.model == "ocam":
        return np.array((*camera.center_px, *camera.coefficients[5:]))
    return np.array((*camera.focal_px, *camera.center_px, *camera.coefficients))


def with_numbers(camera: Camera, numbers: Float) -> Camera:
    """Return the camera with other numbers. Raises GeometryError where no camera has them."""
    values = tuple(float(number) for number in numbers)
    if camera.model == "ocam":
        cx, cy, *by_angle = values
        return replace(camera, center_px=(cx, cy), coefficients=(*camera.coefficients[:5], *by_angle))
    fx, fy, cx, cy, *coefficients = values
    return replace(camera, focal_px=(fx, fy), center_px=(cx, cy), coefficients=tuple(coefficients))


def by_intrinsics(camera: Camera, points: Float) -> Float:
    """Return the derivative (N, 2, S) of pixels by the numbers of the camera, by central differences."""
    numbers = numbers_of(camera)
    columns = []
    for index in range(len(numbers)):
        step = np.zeros(len(numbers))
        step[index] = 1e-6 * max(1.0, abs(numbers[index]))
        ahead, _ = with_numbers(camera, numbers + step).project(points, inside=False)
        behind, _ = with_numbers(camera, numbers - step).project(points, inside=False)
        columns.append((ahead - behind) / (2 * step[index]))
    return np.stack(columns, axis=2)


def _refined(state: _State, board: Board, views: Sequence[BoardView]) -> Solution[_State]:
    def blocks(at: _State) -> list[Block]:
        found = []
        for view, pose in zip(views, at.poses, strict=True):
            error, by_point, points = reprojection(at.camera, board, view, pose)
            shared = by_intrinsics(at.camera, points).reshape(error.size, -1)
            found.append(Block(error.ravel(), shared, (by_point @ by_motion(points)).reshape(-1, 6)))
        if at.camera.model == "rational_polynomial":
            pull = WEAK_PRIOR_PX * np.eye(12)[4:]
            found.append(Block(pull @ numbers_of(at.camera), pull, np.zeros((8, 0))))
        return found

    def moved(at: _State, shared: Float, own: list[Float]) -> _State:
        camera = with_numbers(at.camera, numbers_of(at.camera) + shared)
        return _State(camera, tuple(turned(pose, step) for pose, step in zip(at.poses, own, strict=False)))

    return solve(state, blocks, moved, robust=OUTLIER_PX, pairs=True)


def _errors(state: _State, board: Board, views: Sequence[BoardView]) -> list[Float]:
    return [reprojection(state.camera, board, view, pose)[0]
            for view, pose in zip(views, state.poses, strict=True)]  # fmt: skip


def _rms(error: Float) -> float:
    return float(np.sqrt((error**2).sum(axis=1).mean()))


def _result(
    solution: Solution[_State], board: Board, views: list[BoardView], left_out: dict[str, str]
) -> IntrinsicsResult:
    state = solution.state
    errors = _errors(state, board, views)
    points = np.concatenate([pose.apply(board.points_m[view.ids])
                             for view, pose in zip(views, state.poses, strict=True)])  # fmt: skip
    angle = float(np.arctan2(np.hypot(points[:, 0], points[:, 1]), points[:, 2]).max())
    by_number = by_intrinsics(state.camera, points)
    spread = np.einsum("nis,st,nit->ni", by_number, solution.covariance, by_number)
    camera = state.camera
    if camera.model in FISHEYES:
        camera = replace(camera, max_angle_rad=min(angle * 1.03, camera.angle_limit_rad))
    return IntrinsicsResult(
        camera, board, tuple(views), state.poses, tuple(errors), _rms(np.concatenate(errors)),
        dict(zip(names_of(camera), map(float, solution.deviation), strict=True)),
        float(np.sqrt(spread.sum(axis=1).max())), left_out,
    )  # fmt: skip


__all__ = ["IntrinsicsResult", "calibrate_intrinsics", "different_views"]
