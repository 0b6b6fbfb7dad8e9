"""How a surface looks from two places tells where the camera is."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from perception.calibrate.bump.camera_overlap import View, cameras_against
from perception.calibrate.bump.camera_texture import UNKNOWNS, _surely_better, camera_turned
from perception.calibrate.bump.ego_track import EgoTrack
from perception.calibrate.bump.estimate import displaced
from perception.calibrate.bump.looks import Looks, misfit, sampled, weights
from perception.calibrate.bump.surface_points import SurfacePoints
from perception.calibrate.bump.sweep import Sweep
from perception.calibrate.least_squares import transform_of
from perception.geometry.cameras import Camera
from perception.geometry.transforms import Transform

CAMERA = Camera("plumb_bob", 320, 192, (190.0, 190.0), (159.5, 89.5), (0.0, 0.0, 0.0, 0.0, 0.0))
LOOKS_AHEAD = np.array([[0.0, 0.0, 1.0], [-1.0, 0.0, 0.0], [0.0, -1.0, 0.0]])  # base_link from optical axes
LOOKS_BEHIND = LOOKS_AHEAD * np.array([[-1.0], [-1.0], [1.0]])
PLACE_M = np.array([1.9, 0.0, 1.5])
LIDAR_M = np.array([1.2, 0.0, 1.9])
STEP_NS = 200_000_000


def true_place() -> Transform:
    return transform_of(LOOKS_AHEAD, PLACE_M)


def track() -> EgoTrack:
    """Eight metres a second straight on, for three seconds."""
    return EgoTrack.of([0, 15 * STEP_NS], [(0, 0, 0), (24, 0, 0)], [(0, 0, 0, 1)] * 2)


def world(random: np.random.Generator) -> np.ndarray:
    """Points on the road and on walls to both sides (N, 3), in odom."""
    road = random.uniform((0, -4, 0), (60, 4, 0), (30000, 3))
    left = random.uniform((0, 5, 0), (60, 5, 5), (15000, 3))
    right = random.uniform((0, -4, 0), (60, -4, 5), (15000, 3))
    return np.concatenate([road, left, right])


def shade(points: np.ndarray) -> np.ndarray:
    """A smooth pattern in space, grey values (N,)."""
    waves = np.random.default_rng(3).normal(0, 2.5, (8, 3))  # radians per metre
    return np.asarray(128 + 14 * np.sin(points @ waves.T + np.arange(8)).sum(axis=1))


def drawn(at_m: float, camera: Camera, place: Transform) -> np.ndarray:
    """Cast every pixel on the planes of `world`, and one that closes it, and shade what is hit."""
    v, u = np.mgrid[: camera.height_px, : camera.width_px]
    rays, _ = camera.unproject(np.stack((u.ravel(), v.ravel()), axis=1).astype(float))
    toward = rays @ place.rotation.T
    begin = place.translation_m + np.array([at_m, 0, 0])
    nearest = np.full(len(toward), np.inf)
    with np.errstate(divide="ignore"):
        for axis, offset in ((2, 0.0), (1, 5.0), (1, -4.0), (0, 60.0)):
            far = (offset - begin[axis]) / toward[:, axis]
            nearest = np.where((far > 0) & (far < nearest), far, nearest)
    grey = shade(begin + nearest[:, None] * toward)
    picture: np.ndarray = np.clip(np.rint(grey), 0, 255).reshape(v.shape).astype(np.uint8)
    return picture


def around(track: EgoTrack, odom: np.ndarray, thing_m: float = 4.0) -> Callable[[int], SurfacePoints]:
    def points_at(t_ns: int) -> SurfacePoints:
        vehicle = track.at(t_ns).translation_m
        base = odom - vehicle
        near = (np.linalg.norm(base - LIDAR_M, axis=1) < 20.0) & (base[:, 0] > 1.0)
        cell = np.floor(odom[near] / thing_m).astype(np.int64)
        thing = (cell[:, 0] * 1000 + cell[:, 1]) * 1000 + cell[:, 2]
        return SurfacePoints(odom[near], np.broadcast_to(vehicle, (near.sum(), 3)), base[near], thing)

    return points_at


def test_a_camera_that_was_turned_is_found_by_what_it_sees_twice() -> None:
    pictures = [(k * STEP_NS, drawn(1.6 * k, CAMERA, true_place())) for k in range(1, 15)]
    turn = np.radians([0.0, -1.0, 0.8])
    said = displaced(true_place(), -np.array([*turn, 0.0, 0.0, 0.0]))
    found = camera_turned(Looks(CAMERA, pictures), said, around(track(), world(np.random.default_rng(1))), track())
    assert found is not None
    np.testing.assert_allclose(found.moved[1:3], turn[1:], atol=np.radians(0.25))
    assert np.diag(found.information)[3:].max() == 0.0  # where the camera is, it does not say


def test_a_camera_that_was_displaced_is_found_by_what_another_saw_before() -> None:
    behind = transform_of(LOOKS_BEHIND, np.array([-0.6, 0.0, 1.4]))
    looks = [Looks(CAMERA, [(k * STEP_NS, drawn(1.6 * k, CAMERA, place)) for k in range(1, 15)])
             for place in (true_place(), behind)]  # fmt: skip
    off = np.array([0, 0, 0, 0, 0.05, -0.05])
    told = cameras_against(
        View(looks[0], true_place()), View(looks[1], displaced(behind, -off)),
        around(track(), world(np.random.default_rng(1)), 1.0), track(),
    )  # fmt: skip
    assert told is not None
    firm = np.diag([1e6] * 3 + [0.0] * 3)  # had it only been displaced
    np.testing.assert_allclose(
        np.linalg.solve(told.information[6:12, 6:12] + firm, told.goal[6:12])[4:], off[4:], atol=0.012
    )
    for axis in (3, 4):  # of both together, or the LiDAR, along the road, they know nothing
        together = np.tile(0.05 * np.eye(6)[axis], 2)
        assert together @ told.information @ together < 1.0


@pytest.mark.parametrize(
    ("better", "displaced_m", "believed"),
    [
        (25, 0.0, True),  # 25 things agree more, by 1 each: 25 over the root of 25 are 5 standard deviations
        (21, 0.0, True),  # 21 - 4: 3.4
        (19, 0.0, False),  # 19 - 6: 2.6
        (0, 0.0, False),
        (25, 0.2, False),  # no camera is bumped by that
    ],
)
def test_the_rig_is_left_for_where_things_surely_agree_more_and_a_camera_may_be(
    better: int, displaced_m: float, believed: bool
) -> None:
    at = np.zeros(UNKNOWNS)
    at[1], at[5] = np.radians(1.0), displaced_m
    gain = np.where(np.arange(25) < better, 1.0, -1.0)
    fit: Any = SimpleNamespace(
        misfits=lambda there: (np.zeros(25) if there.any() else gain, np.ones(25, np.bool_)),
        pairs=SimpleNamespace(thing=np.arange(25)),
    )
    assert _surely_better(fit, at) == believed


def test_weights_are_the_slope_of_the_misfit() -> None:
    """Over the error, as of squares: d misfit / d error = error times weight, up to a factor for all."""
    error, step, usual = np.array([0.1, 0.5, 2.0]), 1e-6, 0.4
    slope = (misfit(error + step, usual) - misfit(error - step, usual)) / (2 * step)
    per_weight = slope / (error * weights(error, usual, np.ones(3, np.bool_)))
    np.testing.assert_allclose(per_weight, per_weight[0], rtol=1e-6)


def test_a_ramp_is_sampled_with_its_slope() -> None:
    ramp = np.tile(np.arange(40, dtype=np.float32) * 3, (1, 30, 1))
    value, slope = sampled(ramp, np.zeros(2, np.int64), np.array([[10.25, 7.5], [20.0, 12.0]]))
    np.testing.assert_allclose(value, [30.75, 60.0])
    np.testing.assert_allclose(slope, [[3.0, 0.0], [3.0, 0.0]], atol=1e-6)


def test_large_pictures_are_halved_with_their_camera() -> None:
    grey = np.random.default_rng(2).integers(20, 120, (192, 320)).astype(np.uint8)
    large = Camera("plumb_bob", 1280, 768, (760.0, 760.0), (638.5, 358.5), (0.0, 0.0, 0.0, 0.0, 0.0))
    half = Looks(large, [(0, np.kron(grey, np.ones((4, 4), np.uint8)))])
    assert (half.camera.width_px, half.camera.focal_px[0]) == (320, 190.0)
    np.testing.assert_allclose(half.smoothed(0)[0], grey)


def test_points_beside_the_end_of_a_surface_are_left_out() -> None:
    angle = np.radians(np.arange(-20.0, 20.0))
    depth = np.where(angle < 0, 5.0, 12.0)
    xyz = np.stack((depth * np.cos(angle), depth * np.sin(angle), np.zeros(40)), axis=1)
    sweep = Sweep(0, xyz, np.zeros(40, np.int64), np.zeros(40, np.int64))
    kept = SurfacePoints.around(0, [sweep], Transform.identity(), EgoTrack.standing())
    left = np.sort(np.degrees(np.arctan2(kept.base_m[:, 1], kept.base_m[:, 0])).round().astype(int))
    np.testing.assert_array_equal(left, [*range(-20, -2), *range(2, 20)])
