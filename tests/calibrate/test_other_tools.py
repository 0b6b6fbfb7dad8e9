"""Ground, time offset, camera and LiDAR, event cameras: on made-up data with exact truth."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
from numpy.typing import NDArray

from perception.calibrate.boards import Board
from perception.calibrate.camera_lidar import calibrate_camera_lidar, complaints_of_camera_lidar
from perception.calibrate.event_frames import EventPacketArrays, event_pictures
from perception.calibrate.ground import calibrate_ground, complaints_of_ground
from perception.calibrate.time_offset import Signal, complaints_of_offset, find_offset, picture_motion
from perception.errors import UserError
from perception.geometry.transforms import Transform
from tests.calibrate.rendering import poses, rendered
from tests.calibrate.test_intrinsics import PINHOLE, exact_views

Float = NDArray[np.float64]


def mounted(roll: float, pitch: float, yaw: float, height: float) -> Transform:
    """Return base_link_from_lidar by angles about fixed axes, degrees."""
    r, p, y = np.radians((roll, pitch, yaw)) / 2
    turns = [np.array([np.sin(r), 0, 0, np.cos(r)]), np.array([0, np.sin(p), 0, np.cos(p)]),
             np.array([0, 0, np.sin(y), np.cos(y)])]  # fmt: skip
    zero = (0.0, 0.0, 0.0)
    first, second, third = (Transform.from_quaternion(zero, turn) for turn in turns)
    return Transform(np.array([0.0, 0.0, height]), (third @ second @ first).rotation_xyzw)


def street(base_link_from_lidar: Transform, seed: int) -> Float:
    """Road, a wall and a parked box, with 2 cm of noise, in the sensor's frame."""
    random = np.random.default_rng(seed)
    road = np.column_stack((random.uniform(-15, 15, (3000, 2)), np.zeros(3000)))
    wall = np.column_stack((random.uniform(-15, 15, 800), np.full(800, 8.0), random.uniform(0, 4, 800)))
    roof = np.column_stack((random.uniform(3, 7, 600), random.uniform(-4, -2, 600), np.full(600, 1.5)))
    points = np.concatenate((road, wall, roof)) + random.normal(0, 0.02, (4400, 3))
    return np.asarray(base_link_from_lidar.inverse().apply(points))


def test_height_roll_and_pitch_come_back_from_the_ground() -> None:
    truth = mounted(1.5, -2.5, 30.0, 1.87)
    result = calibrate_ground([street(truth, seed) for seed in range(5)], yaw_rad=np.radians(30.0))
    assert result.height_m == pytest.approx(1.87, abs=0.005)
    assert np.degrees(result.roll_rad) == pytest.approx(1.5, abs=0.1)
    assert np.degrees(result.pitch_rad) == pytest.approx(-2.5, abs=0.1)
    np.testing.assert_allclose(result.base_link_from_lidar.matrix, truth.matrix, atol=0.01)
    assert complaints_of_ground(result) == []


def test_a_sky_without_ground_is_refused() -> None:
    with pytest.raises(UserError, match="no ground in 1 sweeps"):
        calibrate_ground([np.random.default_rng(0).uniform(1, 5, (500, 3))])


def turning(t_s: Float) -> Float:
    return np.asarray(np.sin(2.1 * t_s) + 0.7 * np.sin(5.3 * t_s + 1) + 0.4 * np.sin(11.7 * t_s))


@pytest.mark.parametrize("offset_ms", [-120.0, 0.0, 33.0])
def test_an_offset_between_two_clocks_is_found_to_a_millisecond(offset_ms: float) -> None:
    slow, fast = np.arange(0, 20, 1 / 30), np.arange(0, 20, 1 / 200)
    noise = np.random.default_rng(0).normal(0, 0.05, len(fast))
    stamps = np.round((slow - offset_ms * 1e-3) * 1e9).astype(np.int64) + 10**15
    camera = Signal("cam/image", stamps, turning(slow))
    gyro = Signal("imu/imu", np.round(fast * 1e9).astype(np.int64) + 10**15, turning(fast) + noise)
    result = find_offset(camera, gyro)
    assert result.offset_ms == pytest.approx(offset_ms, abs=1.0)
    assert result.correlation > 0.97
    assert complaints_of_offset(result) == []


def test_signals_that_do_not_agree_say_so() -> None:
    t_s = np.arange(0, 10, 0.01)
    t_ns = np.round(t_s * 1e9).astype(np.int64)
    random = np.random.default_rng(0)
    result = find_offset(Signal("a", t_ns, random.normal(size=1000)), Signal("b", t_ns, random.normal(size=1000)))
    assert any("turn the rig to and fro" in said for said in complaints_of_offset(result))
    with pytest.raises(UserError, match="does not change"):
        find_offset(Signal("a", t_ns, np.ones(1000)), Signal("b", t_ns, turning(t_s)))
    with pytest.raises(UserError, match="overlap"):
        find_offset(Signal("a", t_ns + 10**11, turning(t_s)), Signal("b", t_ns, turning(t_s)))


def test_pictures_that_move_to_the_side_tell_how_fast() -> None:
    texture = np.cumsum(np.random.default_rng(1).normal(size=400))
    at = np.arange(200.0)
    t_ns = (np.arange(6) * 50_000_000).astype(np.int64)
    profiles = np.stack([np.interp(at - 2.5 * k + 100, np.arange(400), texture) for k in range(6)])
    np.testing.assert_allclose(picture_motion(t_ns, profiles), 50.0, rtol=0.1)  # 2.5 px in 50 ms


def scanned(board: Board, optical_from_board: Transform, optical_from_lidar: Transform, seed: int) -> Float:
    """A LiDAR's points on a board a little larger than its corners, and on a wall behind it."""
    random = np.random.default_rng(seed)
    low, high = board.points_m.min(axis=0) - 0.05, board.points_m.max(axis=0) + 0.05
    on = random.uniform(low, high, (150, 3)) * (1, 1, 0)
    wall = np.column_stack((random.uniform(-3, 3, (400, 2)), np.full(400, 6.0)))
    points = np.concatenate((optical_from_board.apply(on), wall)) + random.normal(0, 0.01, (550, 3))
    return np.asarray(optical_from_lidar.inverse().apply(points))


def test_boards_lay_a_lidar_on_a_camera() -> None:
    board = Board.parse("chessboard:7x5:0.12")
    truth = Transform.from_quaternion((0.1, -0.3, -0.2), (0.5, -0.5, 0.5, 0.5))
    where = poses(board, 16, 2.6, seed=3, spread=0.12)
    views = [(exact_views(PINHOLE, board, [pose], 0.05), scanned(board, pose, truth, index))
             for index, pose in enumerate(where)]  # fmt: skip
    pairs = [(view[0], points) for view, points in views if view]
    guess = Transform.from_quaternion((0.08, -0.02, 0.03), (0.01, -0.012, 0.008, 0.99985)) @ truth
    result = calibrate_camera_lidar(PINHOLE, board, pairs, guess)
    off = result.optical_from_lidar @ truth.inverse()
    assert np.degrees(off.angle_rad()) < 0.2
    assert np.linalg.norm(result.optical_from_lidar.translation_m - truth.translation_m) < 0.012
    assert result.rms_m < 0.015
    assert not any("uncertain" in said for said in complaints_of_camera_lidar(result))
    with pytest.raises(UserError, match="4 are the least"):
        calibrate_camera_lidar(PINHOLE, board, pairs[:3], guess)


def events_of(pictures: list[NDArray[np.uint8]], step_ns: int, threshold: float = 0.2) -> Iterator[EventPacketArrays]:
    """Events of a sequence of pictures: one per threshold of log intensity that a pixel passes."""
    level = np.log(pictures[0].astype(float) + 10)
    for number, grey in enumerate(pictures[1:]):
        change = np.log(grey.astype(float) + 10) - level
        count = np.fix(change / threshold).astype(int)
        level += count * threshold
        y, x = np.nonzero(count)
        times = np.repeat(np.arange(len(y)), np.abs(count[y, x]))
        t = np.sort(np.linspace(number * step_ns, (number + 1) * step_ns - 1, len(times)).astype(np.int64))
        yield EventPacketArrays(t, x[times], y[times], (count[y, x] > 0).astype(np.int64)[times])


def test_a_blinking_board_is_found_in_accumulated_events() -> None:
    board = Board.parse("chessboard:9x6:0.024")
    pose = poses(board, 1, 0.35, spread=0.0)[0]
    on = rendered(board, PINHOLE, pose, background=0)
    off = np.zeros_like(on)
    found = [board.find(grey) for _, grey in event_pictures(
        events_of([off, on, off, on, off], 10_000_000), 480, 320, "accumulate", 10.0)]  # fmt: skip
    seen = [view for view in found if view is not None]
    assert len(seen) >= 2
    expected, _ = PINHOLE.project(pose.apply(board.points_m))
    for view in seen:
        assert np.median(np.linalg.norm(view.pixels - expected, axis=1)) < 0.6


def test_a_moving_board_is_found_in_reconstructed_pictures() -> None:
    board = Board.parse("chessboard:9x6:0.024")
    start = poses(board, 1, 0.35, spread=0.0)[0]
    way = [Transform(start.translation_m + k * np.array([0.0012, 0.0008, 0.0]), start.rotation_xyzw) for k in range(40)]
    pictures = [rendered(board, PINHOLE, pose) for pose in way]
    found = list(event_pictures(events_of(pictures, 2_000_000), 480, 320, "reconstruct", 2.0))
    views = [(number, board.find(grey)) for number, (_, grey) in enumerate(found) if number > 35]
    seen = [(number, view) for number, view in views if view is not None]
    assert len(seen) >= 2
    number, view = seen[-1]
    assert view is not None
    expected, _ = PINHOLE.project(way[number + 1].apply(board.points_m))
    assert np.median(np.linalg.norm(view.pixels - expected, axis=1)) < 1.5
