"""The fuser with the simulator's true masks and boxes in place of the networks: what it paints is checked against the
world itself, and a wrong extrinsic or a wrong clock must show.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import msgspec
import numpy as np
import pytest
from numpy.typing import NDArray

from perception.geometry.frames import FrameTree
from perception.geometry.rig import Rig, load_rig
from perception.geometry.transforms import Transform
from perception.messages import Message, PaintedPoints, PointCloud, TrackedObjects, host
from perception.nodes.simulator import Simulator, SimulatorConfig
from perception.ops.painting import UNKNOWN
from perception.runtime.inline_runner import run_inline
from perception.runtime.launch_file.load import load_launch
from perception.runtime.node import Bound
from perception.simulation.classes import CAR, CLASSES
from perception.simulation.drive import Drive

SECOND_NS = 1_000_000_000
START_NS = 1_000 * SECOND_NS
LEAST = 0.99
"""Of the points on a visible car, painted car; a wrong clock of 50 ms or extrinsic of 1 degree gives less."""
RIG = Path(__file__).parents[2] / "calibration" / "simulated_car"

LAUNCH = """
name: painted_truth
rig: simulated_car
ego_motion: ego
nodes:
  sensors:
    node: simulator
    settings: {seed: 3, start_ns: 1000000000000, sensors: [lidar, cam_front, cam_rear, ego]}
    paced_by: fuser
  detector: {node: truth_detector, inputs: {objects: truth/objects}}
  segmenter: {node: truth_segmenter, inputs: {truth: [truth/cam_front/mask, truth/cam_rear/mask]}}
  fuser:
    node: fuser
    inputs:
      scene.sweep: lidar/points
      scene.masks: [segmenter/cam_front/mask, segmenter/cam_rear/mask]
      scene.boxes: detector/detections
    joins: {scene: {tolerance_ms: 60, deadline_ms: 300}}
"""


class ShiftedClock(Simulator):
    """The simulator with one camera's stamps wrong."""

    shift_ns = 0

    def messages(self) -> Iterator[tuple[str, Message | Bound]]:
        for topic, message in super().messages():
            if topic == "truth/cam_front/mask" and not isinstance(message, Bound):
                header = message.header
                moved = msgspec.structs.replace(header, t_sensor_ns=header.t_sensor_ns + self.shift_ns)
                yield topic, msgspec.structs.replace(message, header=moved)
            else:
                yield topic, message


@dataclass
class Painting:
    """Counts over a drive."""

    car_points: Counter[str] = field(default_factory=Counter)
    painted_car: Counter[str] = field(default_factory=Counter)
    behind: int = 0
    behind_painted: int = 0
    objects: int = 0

    @property
    def share(self) -> float:
        """Of the points on cars that a camera sees, those painted car; of the worse camera."""
        return min(self.painted_car[camera] / count for camera, count in self.car_points.items() if count > 100)


def turned(rig: Rig, frame: str, degrees: float) -> Rig:
    """Return a rig in which one sensor is believed to look elsewhere: turned about the vertical."""
    transforms = dict(rig.frames.transforms)
    wrong = Transform.from_yaw((0, 0, 0), np.radians(degrees))
    transforms[frame] = transforms[frame] @ wrong
    edges = {(rig.frames.parents[child], child): transform for child, transform in transforms.items()}
    return replace(rig, frames=FrameTree.of(edges))


def painting(tmp_path: Path, *, believed: Rig | None = None, shift_ms: float = 0.0, seconds: float = 2.0) -> Painting:
    """Drive, paint, and compare with the world; `believed` is the rig that the fuser works with."""
    rig = load_rig(RIG)
    file = tmp_path / "truth.yaml"
    file.write_text(LAUNCH)
    graph = replace(load_launch(file), mode="lockstep", rig=believed or rig)
    drive = Drive(rig, 3, START_NS, sensors=("lidar", "cam_front", "cam_rear", "ego"))
    source = ShiftedClock(SimulatorConfig(seed=3, start_ns=START_NS), drive)
    source.shift_ns = round(shift_ms * 1e6)
    result = Painting()
    sweeps: dict[int, PointCloud] = {}

    def take(topic: str, message: Message) -> None:
        if isinstance(message, PointCloud):
            sweeps[message.header.t_sensor_ns] = message.keep()
        elif isinstance(message, TrackedObjects):
            result.objects += len(message.objects)
        elif isinstance(message, PaintedPoints) and "cam_front" in message.cameras:
            _judge(result, drive, rig, sweeps[message.header.t_sensor_ns], message, source.shift_ns)

    run_inline(graph, nodes={"sensors": source}, on_message=take, duration_ns=round(seconds * SECOND_NS))
    return result


def _judge(result: Painting, drive: Drive, rig: Rig, sweep: PointCloud, painted: PaintedPoints, shift_ns: int) -> None:
    label, world, t_s = host(painted.label), *_in_world(drive, rig, sweep)
    things = drive.world.street(sweep.header.t_sensor_ns - START_NS).things
    owner = _owner(drive, sweep, world, t_s)
    is_car = owner >= 0
    behind = np.ones(len(label), bool)
    for camera in ("cam_front", "cam_rear"):
        residual = painted.header.sync_residual_ns.get(f"segmenter/{camera}/mask")
        if residual is None:
            continue
        exposed_ns = painted.header.t_sensor_ns + residual - (shift_ns if camera == "cam_front" else 0) - START_NS
        since_s = exposed_ns / SECOND_NS - t_s
        then = world + np.where(is_car, since_s, 0.0)[:, None] * things.velocity_mps[np.maximum(owner, 0)]
        seen, in_front = _sees(drive, rig, camera, exposed_ns, then)
        visible = seen & is_car
        result.car_points[camera] += int(visible.sum())
        result.painted_car[camera] += int((label[visible] == CLASSES.index("car")).sum())
        behind &= ~in_front
    result.behind += int(behind.sum())
    result.behind_painted += int((label[behind] != UNKNOWN).sum())


def _in_world(drive: Drive, rig: Rig, sweep: PointCloud) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    assert sweep.t_offset_ns is not None
    t_s = (sweep.header.t_sensor_ns - START_NS + host(sweep.t_offset_ns).astype(np.int64)) / SECOND_NS
    base_link = rig.base_link_from("lidar").apply(host(sweep.xyz_m).astype(np.float64))
    place, yaw = drive.world.motion.poses(t_s)
    c, s = np.cos(yaw), np.sin(yaw)
    x, y, z = base_link.T
    world = place + np.stack((c * x - s * y, s * x + c * y, z), axis=1)
    return world, t_s


def _owner(drive: Drive, sweep: PointCloud, world: NDArray[np.float64], t_s: NDArray[np.float64]) -> NDArray[np.int64]:
    """Return the car that each point lies on, -1 for none."""
    t_ns = sweep.header.t_sensor_ns - START_NS
    things = drive.world.street(t_ns).things
    owner = np.full(len(world), -1)
    above_road = world[:, 2] > 0.1  # lower ones may be the road beside the wheels: range noise is 2 cm
    order = np.argsort(world[:, 0])
    along = world[order, 0]
    for index in np.flatnonzero(things.kind == CAR):
        reach = np.linalg.norm(things.size_lwh_m[index]) + abs(things.velocity_mps[index, 0]) * 0.1
        first, last = np.searchsorted(along, things.center_m[index, 0] + np.array([-reach, reach]))
        near = order[first:last]
        center = things.center_m[index] + things.velocity_mps[index] * (t_s[near, None] - t_ns / SECOND_NS)
        c, s = np.cos(things.yaw_rad[index]), np.sin(things.yaw_rad[index])
        local = (world[near] - center) @ np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]])
        inside = (np.abs(local) <= things.size_lwh_m[index] / 2 + 0.1).all(axis=1)
        owner[near[above_road[near] & inside]] = index
    return owner


def _sees(
    drive: Drive, rig: Rig, camera: str, t_ns: int, world: NDArray[np.float64]
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Return which points a camera sees, by the distances of its picture, and which lie before it."""
    model, mount = rig.camera(camera), rig.base_link_from(f"{camera}_optical")
    picture = drive.world.camera(rig, camera, t_ns)
    optical = (drive.world.world_from_base_link(t_ns) @ mount).inverse().apply(world)
    pixels, valid = model.project(optical)
    distance = np.linalg.norm(optical, axis=1)
    seen = np.zeros(len(world), bool)
    column, row = np.rint(pixels[valid]).astype(int).T
    column, row = np.clip(column, 0, model.width_px - 1), np.clip(row, 0, model.height_px - 1)
    seen[valid] = np.abs(picture.distance_m[row, column] - distance[valid]) < 0.3
    return seen, optical[:, 2] > 0


def test_points_on_visible_cars_are_painted_car_and_none_behind_a_camera(tmp_path: Path) -> None:
    result = painting(tmp_path, seconds=3.5)
    assert min(result.car_points[camera] for camera in ("cam_front", "cam_rear")) > 500
    assert result.share >= LEAST
    assert result.behind > 1000
    assert result.behind_painted == 0
    assert result.objects > 100


def test_an_extrinsic_that_is_off_by_one_degree_shows(tmp_path: Path) -> None:
    wrong = turned(load_rig(RIG), "cam_front", 1.0)
    assert painting(tmp_path, believed=wrong).share < LEAST


@pytest.mark.parametrize("shift_ms", [-50.0, 50.0])
def test_a_clock_that_is_off_by_fifty_milliseconds_shows(tmp_path: Path, shift_ms: float) -> None:
    assert painting(tmp_path, shift_ms=shift_ms).share < LEAST
