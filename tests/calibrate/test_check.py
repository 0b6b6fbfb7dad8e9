"""Bumped sensors are found in simulated drives, and an unchanged rig is left alone."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from perception.calibrate.bump.camera_overlap import Overlap
from perception.calibrate.bump.ego_track import EgoTrack
from perception.calibrate.bump.estimate import Estimate, displaced, inflation
from perception.calibrate.bump.findings import AXES, Finding, judged
from perception.calibrate.bump.lidar_edges import rings_of, scene_lines
from perception.calibrate.bump.sweep import Sweep
from perception.cli.calibrate.check import check_rig
from perception.cli.main import main
from perception.errors import UserError
from perception.geometry.frames import FrameTree
from perception.geometry.rig import Rig
from perception.geometry.transforms import Transform
from perception.logs.log import Log

DEGREE = np.radians(1.0)


def run(*arguments: str | Path) -> int:
    with pytest.raises(SystemExit) as ended:
        main([*map(str, arguments)])
    assert isinstance(ended.value.code, int)
    return ended.value.code


def bumped(rig: Rig, frame: str, *step: float) -> Rig:
    """Return a rig that says another place of a frame than it has: turned (rad) and displaced (m) in base_link."""
    transforms = dict(rig.frames.transforms)
    parent = rig.base_link_from(rig.frames.parents[frame])
    transforms[frame] = parent.inverse() @ displaced(rig.base_link_from(frame), np.array(step))
    return replace(rig, frames=FrameTree(rig.frames.parents, transforms))


def states(found: list[Finding]) -> dict[str, str]:
    return {finding.sensor: finding.state for finding in found}


def test_an_unchanged_rig_is_left_alone(drive: tuple[Path, Path], capsys: pytest.CaptureFixture[str]) -> None:
    launch, log = drive
    assert run("calibrate", "check", log, launch) == 0
    printed = capsys.readouterr().out
    assert "moved:" not in printed
    assert "lidar: " in printed
    assert "cam_front: " in printed
    assert "no sensor " in printed


def test_a_degree_or_five_centimetres_are_flagged_at_the_sensor_that_moved(log: Log) -> None:
    assert log.rig is not None
    bumps = {"lidar": (0, 0, 0, 0, 0, 0.05), "cam_front": (0, 0, DEGREE, 0, 0, 0)}
    rig = log.rig
    for frame, step in bumps.items():
        rig = bumped(rig, frame, *step)
    found = {finding.sensor: finding for finding in check_rig(log, rig, "ego")}
    assert {name for name, finding in found.items() if finding.state == "moved"} == set(bumps)
    for frame, step in bumps.items():
        # the check estimates how far the sensor is from where the rig says: the bump, undone
        axis = int(np.argmax(np.abs(step)))
        assert found[frame].moved[axis] == pytest.approx(-step[axis], abs=0.4 * abs(step[axis]))


def test_a_lidar_that_is_turned_by_a_degree_is_flagged_by_motion_alone(log: Log) -> None:
    assert log.rig is not None
    alone = {name: sensor for name, sensor in log.rig.sensors.items() if sensor.kind != "camera"}
    (finding,) = check_rig(log, replace(bumped(log.rig, "lidar", 0, 0, DEGREE, 0, 0, 0), sensors=alone), "ego")
    assert finding.state == "moved"
    assert finding.moved[2] == pytest.approx(-DEGREE, rel=0.05)
    assert {"x", "y"} <= set(finding.blind)  # it drives straight on: nothing tells them


def test_a_log_without_lidar_odometry_or_motion_is_refused(drive: tuple[Path, Path], log: Log) -> None:
    assert log.rig is not None
    with pytest.raises(UserError, match="no odometry on 'odom'; it has"):
        check_rig(log, log.rig, "odom")
    sensors = {name: sensor for name, sensor in log.rig.sensors.items() if sensor.kind != "lidar"}
    with pytest.raises(UserError, match="no LiDAR of rig"):
        check_rig(log, replace(log.rig, sensors=sensors), "ego")
    with pytest.raises(UserError, match="the check needs 10 m"):
        check_rig(log, log.rig, "ego", seconds=0.5)
    assert run("calibrate", "check", drive[0].parent / "absent.mcap", drive[0]) == 2
    assert run("calibrate", "check", drive[1], "no_such.yaml") == 2


SURE, UNSURE = np.diag([1e-3**-2] * 6), np.diag([1e-3**-2] * 3 + [0.1**-2] + [1e-3**-2] * 2)


def estimate_of(*moved: float, information: np.ndarray = SURE) -> Estimate:
    return Estimate.at(np.array(moved), information, 1000)


def test_the_lidar_is_named_where_all_cameras_are_off_by_the_same() -> None:
    still, off = estimate_of(0, 0, 0, 0, 0, 0), estimate_of(0, 0, 0, 0, 0.05, 0)
    open_y = estimate_of(0, 0, 0, 0, 0, 0, information=np.diag([1e6, 1e6, 1e6, 1e6, 1e-6, 1e6]))
    places = {"lidar": Transform.identity(), "left": Transform.identity(), "right": Transform.identity()}
    both = judged(("lidar", open_y), {"left": off, "right": off}, places)
    assert states(both) == {"lidar": "moved", "left": "ok", "right": "ok"}
    np.testing.assert_allclose(both[0].moved[4], -0.05, atol=1e-4)  # cameras off to the left: a LiDAR off to the right
    one = judged(("lidar", still), {"left": off, "right": still}, places)
    assert states(one) == {"lidar": "ok", "left": "moved", "right": "ok"}


def test_a_lidar_that_turns_carries_what_a_distant_camera_sees() -> None:
    """Turned by 0.02 about z, things 2 m ahead of the LiDAR go 4 cm to the left: a camera there seems to go right."""
    places = {"lidar": Transform.identity(), "front": Transform.from_quaternion((2, 0, 0), (0, 0, 0, 1))}
    turned_lidar = estimate_of(0, 0, 0.02, 0, 0, 0)
    found = judged(("lidar", turned_lidar), {"front": estimate_of(0, 0, -0.02, 0, -0.04, 0)}, places)
    assert states(found) == {"lidar": "moved", "front": "ok"}


def test_a_bump_that_is_told_as_a_little_of_two_axes_is_one() -> None:
    """0.45 degrees of roll and a lift of 2.3 cm: 0.9 and 0.92 of what matters, 1.29 together; 0.3 and 1.5 cm: 0.85."""
    places = {"lidar": Transform.identity(), "left": Transform.identity()}
    still = estimate_of(0, 0, 0, 0, 0, 0)
    for roll_deg, lift_m, state in ((0.45, 0.023, "moved"), (0.3, 0.015, "ok")):
        off = estimate_of(np.radians(roll_deg), 0, 0, 0, 0, lift_m)
        assert states(judged(("lidar", still), {"left": off}, places))["left"] == state


def test_where_lidar_and_camera_cannot_be_told_apart_both_are_named() -> None:
    nothing = estimate_of(0, 0, 0, 0, 0, 0, information=np.eye(6))
    places = {"lidar": Transform.identity(), "front": Transform.identity()}
    found = judged(("lidar", nothing), {"front": estimate_of(0, 0, 0.02, 0, 0, 0)}, places)
    (moved,) = [finding for finding in found if finding.state == "moved"]
    assert "this recording cannot tell which" in moved.text()


def test_the_camera_that_two_others_contradict_is_named() -> None:
    places = {name: Transform.identity() for name in ("lidar", "front", "left", "rear")}
    still = estimate_of(0, 0, 0, 0, 0, 0, information=np.diag([1e6] * 3 + [1.0] * 3))
    relative = np.hstack([np.eye(6), -np.eye(6)]) / 0.005
    off = np.array([0, 0, 0, 0, 0.05, 0]) / 0.005
    information = relative.T @ relative
    overlaps = {
        ("front", "left"): Overlap(information, relative.T @ off),
        ("front", "rear"): Overlap(information, relative.T @ off),
    }
    cameras = {"front": still, "left": still, "rear": still}
    found = judged(("lidar", estimate_of(0, 0, 0, 0, 0, 0)), cameras, places, {}, overlaps)
    assert states(found) == {"lidar": "ok", "front": "moved", "left": "ok", "rear": "ok"}
    assert not found[1].rivals
    del overlaps["front", "rear"]
    (moved,) = [
        finding for finding in judged(("lidar", None), cameras, places, {}, overlaps) if finding.state == "moved"
    ]
    assert {moved.sensor, *moved.rivals} >= {"front", "left"}  # two that contradict each other: it may be either


def test_what_a_recording_does_not_tell_is_said_and_is_not_ok() -> None:
    places = {"lidar": Transform.identity()}
    (finding,) = judged(("lidar", estimate_of(0, 0, 0, 0.2, 0, 0, information=UNSURE)), {}, places)
    assert finding.state == "partly"
    assert "not observable from this recording: x" in finding.text()
    assert "ok" not in finding.text()
    (unknown,) = judged(("lidar", None), {}, places)
    assert unknown.state == "unknown"
    assert unknown.blind == AXES


def test_errors_of_one_thing_count_once_in_the_spread() -> None:
    """Eight parts that each pull by 1 with weight 1 in turn to either side vary by 8 / 7 of what one number would."""
    blocks = [(np.eye(1), np.array([1.0 if k % 2 else -1.0])) for k in range(8)]
    assert inflation(blocks) == pytest.approx(8 / 7)
    often = [(100 * matrix, 100 * goal) for matrix, goal in blocks]
    assert inflation(often) == pytest.approx(800 / 7)


def test_a_track_between_two_poses_is_their_middle() -> None:
    half = np.sqrt(0.5)
    track = EgoTrack.of([0, 100], [(0, 0, 0), (2, 0, 0)], [(0, 0, 0, 1), (0, 0, half, half)])
    middle = track.at(50)
    np.testing.assert_allclose(middle.translation_m, [1, 0, 0])
    assert middle.yaw_rad() == pytest.approx(np.pi / 4)
    np.testing.assert_allclose(track.apply(np.array([[1.0, 0, 0]]), np.array([100])), [[2, 1, 0]], atol=1e-12)
    assert track.distance_m() == 2.0


def test_a_box_in_a_sweep_has_its_sides_where_they_are() -> None:
    """A wall 10 m ahead from -1 to 1 m, another 30 m ahead behind it; the sensor 1.9 m above the road."""
    azimuth, elevation = np.meshgrid(
        np.radians(np.arange(-20, 20, 0.4)), np.radians(np.arange(-8.5, 8, 1.0)), indexing="ij"
    )
    ring = np.broadcast_to(np.arange(azimuth.shape[1]), azimuth.shape)
    near = np.abs(10 * np.tan(azimuth)) < 1
    flat = np.where(near, 10.0, 30.0) / np.cos(azimuth)
    xyz = np.stack((flat * np.cos(azimuth), flat * np.sin(azimuth), flat * np.tan(elevation)), axis=-1).reshape(-1, 3)
    sweep = Sweep(0, xyz, np.zeros(len(xyz), np.int64), ring.ravel().astype(np.int64))
    lines = scene_lines(sweep, Transform.from_quaternion((0, 0, 1.9), (0, 0, 0, 1)))
    sides = lines.base_m[lines.kind < 2]
    assert len(sides) > 10
    np.testing.assert_allclose(np.abs(sides[:, 1]), 1.0, atol=10 * np.radians(0.25))
    np.testing.assert_array_equal(rings_of(replace(sweep, ring=None)), sweep.ring)
