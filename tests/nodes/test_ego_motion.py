"""Ego motion from speed, turn rate and inertial units: by hand, on simulated truth, and on a minute of real driving."""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from perception.errors import ContractError
from perception.geometry.frames import FrameTree
from perception.geometry.rig import Rig, load_rig
from perception.geometry.transforms import Transform
from perception.messages import Gnss, Header, Imu, ModelId, Odometry
from perception.networks.card import find_card
from perception.nodes.ego_motion import EgoMotion, EgoMotionConfig
from perception.nodes.lidar_detector import LidarDetectorConfig
from perception.nodes.lidar_sweeps_detector import LidarSweepsDetector
from perception.ops.dead_reckoning import GRAVITY_MPS2
from perception.runtime.inline_runner import run_inline
from perception.runtime.launch_file.load import load_launch
from perception.simulation.drive import Drive
from perception.simulation.inertial import GYRO_BIAS
from tests.nodes.test_lidar_detectors import Seen

RIG = load_rig(Path(__file__).parents[2] / "calibration" / "simulated_car")
START_NS = 10**18
Float = NDArray[np.float64]


def at(seconds: float, frame: str = "base_link") -> Header:
    return Header(frame_id=frame, t_sensor_ns=START_NS + round(seconds * 1e9))


def wheels(seconds: float, speed_mps: float, turn_radps: float = 0.0) -> Odometry:
    return Odometry(
        header=at(seconds), translation_m=(0, 0, 0), rotation_xyzw=(0, 0, 0, 1), velocity_mps=(speed_mps, 0, 0),
        angular_velocity_radps=(0, 0, turn_radps),
    )  # fmt: skip


def inertia(seconds: float, turn: Any = (0, 0, 0), force: Any = (0, 0, GRAVITY_MPS2), frame: str = "base_link") -> Imu:
    (wx, wy, wz), (fx, fy, fz) = map(float, turn), map(float, force)
    return Imu(header=at(seconds, frame), angular_velocity_radps=(wx, wy, wz), acceleration_mps2=(fx, fy, fz))


def pose_of(message: Odometry | None) -> Transform:
    assert message is not None
    return Transform.from_quaternion(message.translation_m, message.rotation_xyzw)


def test_half_a_circle_by_speed_and_turn_rate_ends_a_diameter_to_the_left() -> None:
    node, last = EgoMotion(), None
    for k in range(101):  # 5 m/s on a radius of 10 m, half a turn in 2 pi s
        last = node.on_speed(wheels(k * 2 * math.pi / 100, 5.0, 0.5))
    pose = pose_of(last)
    np.testing.assert_allclose(pose.translation_m, [0, 20, 0], atol=1e-5)
    assert abs(pose.yaw_rad()) == pytest.approx(math.pi, abs=1e-5)
    assert last is not None
    assert last.velocity_mps == (5.0, 0.0, 0.0)
    assert last.angular_velocity_radps == (0.0, 0.0, 0.5)
    assert last.header.frame_id == "odom"


def test_a_steady_acceleration_from_rest_makes_half_of_its_square_of_time() -> None:
    node, last = EgoMotion(), None
    for k in range(101):
        last = node.on_speed(wheels(k * 0.05, 2.0 * k * 0.05))
    np.testing.assert_allclose(pose_of(last).translation_m, [25, 0, 0], atol=1e-5)  # 2 m/s2 for 5 s


def test_a_gyro_that_shows_its_bias_at_a_standstill_is_corrected_by_it() -> None:
    for stands_s, most_rad in ((0.0, None), (4.0, 0.002)):
        node, last = EgoMotion(has_imu=True), None
        for k in range(round((stands_s + 20) * 20)):
            seconds = k / 20
            node.on_speed(wheels(seconds, 0.0 if seconds < stands_s else 10.0))
            last = node.on_imu(inertia(seconds, (0, 0, 0.004)))
        yaw = pose_of(last).yaw_rad()
        # 0.004 rad/s for 20 s; what the bias turned it by while standing, before it was known, stays
        assert yaw == pytest.approx(0.08, abs=1e-3) if most_rad is None else abs(yaw) < 0.004 * 1.0 + most_rad


def test_roll_and_pitch_come_from_gravity_and_not_from_acceleration_or_curves() -> None:
    node, last = EgoMotion(has_imu=True), None
    for k in range(800):  # a level road: 2 m/s2 for 5 s, then a curve of 0.3 rad/s at 10 m/s
        seconds = k / 40
        speed, turn = min(2.0 * seconds, 10.0), 0.3 if seconds > 5 else 0.0
        node.on_speed(wheels(seconds, speed))
        last = node.on_imu(inertia(seconds, (0, 0, turn), (2.0 if seconds < 5 else 0, speed * turn, GRAVITY_MPS2)))
    up = pose_of(last).rotation[2]
    assert math.degrees(math.acos(up[2])) < 0.3
    assert abs(pose_of(last).translation_m[2]) < 0.5  # of 175 m
    node = EgoMotion(has_imu=True)
    for k in range(200):  # a road that climbs one in ten: the force tells, since it stands at an angle
        node.on_speed(wheels(k / 40, 10.0))
        last = node.on_imu(inertia(k / 40, force=GRAVITY_MPS2 * np.array([math.sin(0.1), 0, math.cos(0.1)])))
    assert pose_of(last).translation_m[2] == pytest.approx(50 * math.sin(0.1), abs=0.5)


def test_a_unit_away_from_the_axle_feels_the_curve_and_is_turned_into_the_vehicles_frame() -> None:
    mount = Transform.from_quaternion((2.0, 0.0, 1.0), (1.0, 0.0, 0.0, 0.0))  # x ahead, y right, z down
    rig = Rig("rig", {}, FrameTree.of({("base_link", "imu"): mount}))
    node, last = EgoMotion(rig=rig, has_imu=True), None
    for k in range(1000):
        node.on_speed(wheels(k / 100, 10.0))
        force = np.array([-(0.5**2) * 2.0, 10.0 * 0.5, GRAVITY_MPS2])  # centripetal, and what two metres ahead add
        last = node.on_imu(inertia(k / 100, (0, 0, -0.5), force * (1, -1, -1), "imu"))
    pose = pose_of(last)
    assert pose.yaw_rad() == pytest.approx(math.remainder(9.99 * 0.5, 2 * math.pi), abs=1e-3)
    assert math.degrees(math.acos(pose.rotation[2, 2])) < 0.1


def test_the_speed_of_a_satellite_receiver_serves_too_and_needs_a_gyro() -> None:
    def said(seconds: float) -> Gnss:
        return Gnss(header=at(seconds, "gnss"), latitude_deg=48, longitude_deg=11, altitude_m=500,
                    velocity_enu_mps=(3.0, 4.0, 0.0))  # fmt: skip

    with pytest.raises(ContractError, match="connect 'imu'"):
        EgoMotion().on_speed(said(0))
    with pytest.raises(ContractError, match="an Odometry or a Gnss, not a Imu"):
        EgoMotion().on_speed(inertia(0))
    node, last = EgoMotion(has_imu=True), None
    for k in range(201):
        if k % 20 == 0:
            node.on_speed(said(k / 100))
        last = node.on_imu(inertia(k / 100))
    np.testing.assert_allclose(pose_of(last).translation_m, [10, 0, 0], atol=1e-6)


def test_pauses_and_old_speeds_are_told_and_nothing_is_made_up_for_them() -> None:
    node = EgoMotion(EgoMotionConfig(rate_hz=10), has_imu=True)
    assert node.on_imu(inertia(0)) is None  # no speed yet
    node.on_speed(wheels(0.005, 10.0))
    given = [node.on_imu(inertia(k / 100)) for k in range(1, 101)]
    assert sum(message is not None for message in given) == 10  # as the settings say
    assert node.on_imu(inertia(0.5)) is None  # overtaken on its way
    before = node.on_imu(inertia(1.1))
    after = node.on_imu(inertia(3.1))
    assert after is not None
    assert after.header.degraded == (
        "ego motion: 2.0 s without a measurement", "ego motion: the speed is 3.1 s old",
    )  # fmt: skip
    assert pose_of(after).translation_m[0] == pytest.approx(pose_of(before).translation_m[0])


def driven(drive: Drive, seconds: float, *, has_imu: bool) -> tuple[list[Odometry], list[Transform]]:
    """Return what the node says of a simulated drive, and the truth at its stamps, from the first one on."""
    node, found = EgoMotion(rig=drive.rig, has_imu=has_imu), []
    for _, message in drive.messages(seconds):
        said = node.on_imu(message) if isinstance(message, Imu) else node.on_speed(message)
        found += [said] if said is not None else []
    poses = [drive.world.motion.world_from_base_link((m.header.t_sensor_ns - drive.start_ns) * 1e-9) for m in found]
    return found, [poses[0].inverse() @ pose for pose in poses]


@pytest.mark.parametrize("has_imu", [False, True])
def test_the_way_of_a_simulated_drive_is_found_but_for_the_gyros_bias(has_imu: bool) -> None:
    seconds = 12.0
    drive = Drive(RIG, 4, START_NS, sensors=("imu", "ego") if has_imu else ("ego",), with_truth=False)
    found, truth = driven(drive, seconds, has_imu=has_imu)
    turned = math.remainder(pose_of(found[-1]).yaw_rad() - truth[-1].yaw_rad(), 2 * math.pi)
    apart = np.array([pose_of(m).translation_m - pose_of(found[0]).translation_m for m in found]) - np.array(
        [pose.translation_m for pose in truth]
    )
    way = 8.0 * seconds
    # The wheels' speed and turn rate are exact; the gyro's bias is of the stated size, three times it is the utmost.
    most_rad = 3 * GYRO_BIAS * seconds if has_imu else 1e-3
    assert abs(turned) < most_rad
    assert np.abs(apart[:, 0]).max() < 0.002 * way
    assert np.abs(apart[:, 1]).max() < way * most_rad / 2 + 0.02
    # 0.05 m/s2 of the accelerometer's bias is 0.3 degrees of pitch, three times that the utmost
    assert np.abs(apart[:, 2]).max() < (3 * 0.05 / GRAVITY_MPS2 * way if has_imu else 1e-9)


class Comma:
    """A minute on a road in California: CAN speed, the phone's inertial unit, and poses by a visual-inertial-GNSS
    filter that used neither this speed nor this code. Phone axes: ahead, right, down."""

    def __init__(self, folder: Path) -> None:
        load = {file.stem: np.load(file) for file in folder.glob("*.npy")}
        self.speed_s, self.speed_mps = load["CAN_speed_t"], load["CAN_speed_value"].ravel()
        self.imu_s, self.force = load["IMU_accelerometer_t"], load["IMU_accelerometer_value"]
        self.turning = load["IMU_gyro_value"]
        self.t_s = load["global_pose_frame_times"]
        place, velocity = load["global_pose_frame_positions"], load["global_pose_frame_velocities"]
        wxyz = load["global_pose_frame_orientations"]
        ecef_from_phone = np.array([Transform.from_quaternion((0, 0, 0), (x, y, z, w)).rotation for w, x, y, z in wxyz])
        local_from_ecef = self._local(place[0])
        self.place_m = (place - place[0]) @ local_from_ecef.T
        course = velocity @ local_from_ecef.T
        self.yaw_rad = np.unwrap(np.arctan2(course[:, 1], course[:, 0]))
        # The phone is not mounted as the car points: the mean direction of driving in its axes says how.
        ahead = np.einsum("nji,nj->ni", ecef_from_phone, velocity).mean(axis=0)
        ahead /= np.linalg.norm(ahead)
        right = np.cross([0, 0, 1.0], ahead)
        right /= np.linalg.norm(right)
        matrix = np.eye(4)
        matrix[:3, :3] = np.diag([1, -1, -1]) @ np.stack([ahead, right, np.cross(ahead, right)])
        mount = Transform.from_matrix(matrix)
        self.rig = Rig("comma", {}, FrameTree.of({("base_link", "imu"): mount}))

    @staticmethod
    def _local(place: Float) -> Float:
        """Return the rotation (3, 3) from earth-centred axes to east, north, up."""
        up = place / np.array([6378137.0, 6378137.0, 6356752.3142]) ** 2
        up /= np.linalg.norm(up)
        east = np.cross([0, 0, 1.0], up)
        east /= np.linalg.norm(east)
        return np.stack([east, np.cross(up, east), up])

    def driven(self, *, stands_s: float = 0.0) -> tuple[Float, Float, Float]:
        """Return the node's places (T, 3), turned to the true first heading, its yaws and the times of both.

        With `stands_s`, the car first stands so long, while the gyro says what it says too much on the drive.
        """
        node = EgoMotion(EgoMotionConfig(rate_hz=20), self.rig, has_imu=True)
        first = float(self.imu_s[0])
        messages: list[tuple[float, Odometry | Imu]] = [
            *((t, wheels(t, float(v))) for t, v in zip(self.speed_s, self.speed_mps, strict=True)),
            *((t, inertia(t, w, f, "imu")) for t, w, f in zip(self.imu_s, self.turning, self.force, strict=True)),
        ]
        if stands_s:
            level = self.rig.base_link_from("imu").rotation.T @ [0, 0, GRAVITY_MPS2]
            for t in np.arange(first - stands_s - 1, first, 0.01):
                messages += [(t, wheels(t, 0.0)), (t, inertia(t, self._bias(), level, "imu"))]
        found = []
        for t, message in sorted(messages, key=lambda entry: entry[0]):
            said = node.on_imu(message) if isinstance(message, Imu) else node.on_speed(message)
            found += [said] if said is not None and t >= self.t_s[0] else []
        times = np.array([(m.header.t_sensor_ns - START_NS) * 1e-9 for m in found])
        yaw = np.unwrap([pose_of(m).yaw_rad() for m in found])
        start = np.interp(times[0], self.t_s, self.yaw_rad) - yaw[0]
        turn = Transform.from_yaw((0, 0, 0), start)
        places = turn.rotate(np.array([m.translation_m for m in found]) - found[0].translation_m)
        return places, yaw + start, times

    def _bias(self) -> Float:
        """Return by how much the gyro's mean about the car's z is more than the true turning (3,), phone axes."""
        base = self.rig.base_link_from("imu").rotation
        inside = (self.imu_s > self.t_s[0]) & (self.imu_s < self.t_s[-1])
        measured = float((self.turning[inside] @ base.T)[:, 2].mean())
        true = float((self.yaw_rad[-1] - self.yaw_rad[0]) / (self.t_s[-1] - self.t_s[0]))
        return np.asarray(base.T @ np.array([0, 0, measured - true]))


@pytest.fixture(scope="module")
def comma(data_folder: Path) -> Comma:
    return Comma(data_folder / "comma2k19_imu_pose")


def test_a_real_minute_of_driving_drifts_as_its_sensors_do(comma: Comma) -> None:
    places, yaw, times = comma.driven()
    true = np.stack([np.interp(times, comma.t_s, comma.place_m[:, axis]) for axis in range(3)], axis=1)
    true -= true[0]
    way = np.linalg.norm(np.diff(true, axis=0), axis=1).sum()
    ours = np.linalg.norm(np.diff(places, axis=0), axis=1).sum()
    assert way == pytest.approx(1010, abs=5)
    # A wheel's circumference, and with it the speed on the bus, is known to about one per cent: 0.9 % here.
    assert ours == pytest.approx(way, rel=0.0125)
    # The phone's gyro was never calibrated at a standstill: 0.6 mrad/s here, less than a tenth of its data sheet's.
    heading_off = yaw[-1] - np.interp(times[-1], comma.t_s, comma.yaw_rad)
    assert abs(heading_off) < 0.001 * (times[-1] - times[0])
    level = np.linalg.norm((places - true)[-1, :2])
    assert level < 0.0125 * way + 0.5 * abs(heading_off) * way + 5.0
    # 20 mg of the accelerometer, half of its data sheet's zero offset, are 1.1 degrees of pitch.
    assert abs((places - true)[-1, 2]) < 0.02 * way


def test_with_the_bias_of_a_standstill_a_real_minute_keeps_its_heading(comma: Comma) -> None:
    places, yaw, times = comma.driven(stands_s=5.0)
    true_yaw = np.interp(times, comma.t_s, comma.yaw_rad)
    assert np.abs(yaw - true_yaw).max() < 0.02
    true = np.stack([np.interp(times, comma.t_s, comma.place_m[:, axis]) for axis in range(2)], axis=1)
    apart = (places[:, :2] - true + true[0])[-1]
    assert np.linalg.norm(apart) < 0.02 * 1010


LAUNCH = """
name: gathered
rig: simulated_car
ego_motion: {topic}
nodes:
  sensors:
    node: simulator
    settings: {{seed: 3, start_ns: 1000000000000, sensors: [lidar, imu, ego]}}
{ego}
  detector:
    node: lidar_sweeps_detector
    settings: {{weights: "filled:flatformer_waymo_3f"}}
    inputs: {{sweep: {{topics: lidar/points, keep: all}}}}
"""
EGO = {
    "truth": ("truth/ego", ""),
    "speed and turn rate": ("motion/odometry", "  motion: {node: ego_motion, inputs: {speed: ego}}"),
    "inertial unit": ("motion/odometry", "  motion: {node: ego_motion, inputs: {speed: ego, imu: imu/imu}}"),
    "sweeps": ("motion/odometry", "  motion: {node: lidar_odometry, inputs: {sweep: lidar/points}}"),
}


def gathered(tmp_path: Path, how: str) -> NDArray[np.float32]:
    """Return the points of the last three sweeps of 0.8 s, as a network gets them, moved by this ego motion."""
    topic, ego = EGO[how]
    file = tmp_path / "gathered.yaml"
    file.write_text(LAUNCH.format(topic=topic, ego=ego))
    graph = replace(load_launch(file), mode="lockstep")
    network = Seen()
    card = find_card("flatformer_waymo_3f")
    detector = LidarSweepsDetector(
        LidarDetectorConfig(weights=f"filled:{card.name}"), card, network, lambda *_: {},
        ModelId(id="seen", engine="none", trained=True),
    )  # fmt: skip
    detector.rig = RIG
    run_inline(graph, nodes={"detector": detector}, duration_ns=800_000_000)
    return network.points


def test_sweeps_are_deskewed_and_gathered_by_each_of_the_nodes_as_by_the_truth(tmp_path: Path) -> None:
    true = gathered(tmp_path, "truth")
    assert set(np.unique(true[:, 4])) == {0.0, -1.0, -2.0}
    # Over 0.3 s. Speed and turn rate are exact. The gyro's bias of 2 mrad/s moves what is 75 m away by 5 cm; of the
    # sweeps themselves, a hundredth of a degree and a centimetre are left.
    for how, most_m in (("speed and turn rate", 0.005), ("inertial unit", 0.05), ("sweeps", 0.04)):
        points = gathered(tmp_path, how)
        assert points.shape == true.shape
        np.testing.assert_array_equal(points[:, 4], true[:, 4])
        apart = np.linalg.norm(points[:, :3] - true[:, :3], axis=1)
        assert np.percentile(apart, 95) < most_m, how
