"""A drive through a scene: what every sensor of a rig says, in the order of stamps, with the truth beside it."""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Mapping

import numpy as np

from perception.errors import UserError
from perception.geometry.boxes import Boxes
from perception.geometry.rig import Rig, Sensor
from perception.messages import Detections3D, Header, Image, Message, Odometry, PointCloud, SegmentationMask
from perception.simulation.scene import CLASSES, OBJECT_CLASSES, Motion, Scene, make_scene
from perception.simulation.sensors import SimulatedCamera, SimulatedLidar

SECOND_NS = 1_000_000_000
CLOCK = "simulated"


class Drive:
    """One drive.

    Args:
        rig: its LiDARs, cameras and odometry are simulated.
        seed: of the scene and all noise; the same seed gives the same messages.
        start_ns: stamp of the beginning.
        motion: how the vehicle drives.

    Raises:
        UserError: the rig has a sensor that this world does not simulate.
    """

    def __init__(self, rig: Rig, seed: int, start_ns: int, motion: Motion | None = None) -> None:
        self.rig, self.seed, self.start_ns = rig, seed, start_ns
        self.scene: Scene = make_scene(seed, motion)
        for sensor in rig.sensors.values():
            if sensor.kind not in ("lidar", "camera", "odometry"):
                raise UserError(f"the simulator has no {sensor.kind} ('{sensor.name}' of rig '{rig.name}')")
        self._lidars = {
            sensor.name: SimulatedLidar(sensor.lidar, rig.base_link_from(sensor.frame), sensor.rate_hz)
            for sensor in rig.sensors.values()
            if sensor.lidar is not None
        }
        self._cameras = {
            sensor.name: SimulatedCamera(sensor.camera, rig.base_link_from(sensor.frame))
            for sensor in rig.sensors.values()
            if sensor.camera is not None
        }

    @staticmethod
    def topics(rig: Rig) -> Mapping[str, type[Message]]:
        """Return what a drive with this rig publishes."""
        found: dict[str, type[Message]] = {}
        for sensor in rig.sensors.values():
            if sensor.kind == "lidar":
                found |= {f"{sensor.name}/points": PointCloud, "truth/objects": Detections3D}
            elif sensor.kind == "camera":
                found |= {f"{sensor.name}/image": Image, f"truth/{sensor.name}/mask": SegmentationMask}
            elif sensor.kind == "odometry":
                found[sensor.name] = Odometry
        return found

    def messages(self, duration_s: float | None = None) -> Iterator[tuple[str, Message]]:
        """Yield (topic, message) in the order of stamps, for so many seconds, or without end."""
        streams = [self._instants(index, sensor) for index, sensor in enumerate(self.rig.sensors.values())]
        for t_ns, _, number, sensor in heapq.merge(*streams):
            if duration_s is not None and t_ns > duration_s * SECOND_NS:
                return
            yield from self._measured(self.rig.sensors[sensor], t_ns, number)

    def _instants(self, index: int, sensor: Sensor) -> Iterator[tuple[int, int, int, str]]:
        """Yield (time, tie, number, sensor); a camera fires when a turn of the LiDAR passes its view."""
        period_ns = round(SECOND_NS / sensor.rate_hz)
        lag_ns = self._camera_lag_ns(sensor) if sensor.kind == "camera" else 0
        number = 0 if sensor.kind == "odometry" else 1
        while True:
            yield number * period_ns - lag_ns, index, number, sensor.name
            number += 1

    def _camera_lag_ns(self, sensor: Sensor) -> int:
        """Return how long before the end of a turn the LiDAR, clockwise from behind, looks where this camera does."""
        lidar = next((s for s in self.rig.sensors.values() if s.kind == "lidar"), None)
        if lidar is None:
            return 0
        forward = self.rig.base_link_from(sensor.frame).rotation[:, 2]
        turned = (np.pi - np.arctan2(forward[1], forward[0])) / (2 * np.pi) % 1.0
        return round((1 - turned) * SECOND_NS / lidar.rate_hz) if turned else 0

    def _measured(self, sensor: Sensor, t_ns: int, number: int) -> Iterator[tuple[str, Message]]:
        random = np.random.default_rng((self.seed, sum(sensor.name.encode()), number))
        header = Header(frame_id=sensor.frame, t_sensor_ns=self.start_ns + t_ns, clock=CLOCK, seq=number)
        t_s = t_ns / SECOND_NS
        if sensor.kind == "odometry":
            yield sensor.name, self._odometry(header, t_s)
        elif sensor.kind == "lidar":
            yield from self._sweep(sensor.name, header, t_s, random)
        else:
            yield from self._picture(sensor.name, header, t_s, random)

    def _odometry(self, header: Header, t_s: float) -> Odometry:
        motion = self.scene.motion
        pose = motion.world_from_base_link(t_s)
        x, y, z = (float(value) for value in pose.translation_m)
        qx, qy, qz, qw = (float(value) for value in pose.rotation_xyzw)
        return Odometry(
            header=Header(frame_id="odom", t_sensor_ns=header.t_sensor_ns, clock=CLOCK),
            translation_m=(x, y, z), rotation_xyzw=(qx, qy, qz, qw), velocity_mps=(motion.speed_mps, 0.0, 0.0),
            angular_velocity_radps=(0.0, 0.0, motion.yaw_rate_radps(t_s)),
        )  # fmt: skip

    def _sweep(
        self, name: str, header: Header, t_s: float, random: np.random.Generator
    ) -> Iterator[tuple[str, Message]]:
        sweep = self._lidars[name].sweep(self.scene, t_s, random)
        yield (
            f"{name}/points",
            PointCloud(
                header=header, xyz_m=sweep.xyz_m, intensity=sweep.intensity, ring=sweep.ring, t_offset_ns=sweep.lag_ns
            ),
        )
        yield "truth/objects", self._truth(header.t_sensor_ns, t_s, sweep.hit)

    def _truth(self, t_ns: int, t_s: float, hit: np.ndarray) -> Detections3D:
        scene, count = self.scene, self.scene.objects
        points = np.bincount(hit[(hit >= 0) & (hit < count)], minlength=count)
        seen = points >= 5
        world = scene.boxes_at(t_s)
        base_from_world = scene.motion.world_from_base_link(t_s).inverse()
        shown = Boxes(world.center_m[:count][seen], world.size_lwh_m[:count][seen], world.yaw_rad[:count][seen])
        boxes = shown.transformed(base_from_world)
        labels = [OBJECT_CLASSES.index(CLASSES[kind]) for kind in scene.semantic[:count][seen]]
        return Detections3D(
            header=Header(frame_id="base_link", t_sensor_ns=t_ns, clock=CLOCK),
            classes=OBJECT_CLASSES,
            center_m=boxes.center_m.astype(np.float32),
            size_lwh_m=boxes.size_lwh_m.astype(np.float32),
            yaw_rad=boxes.yaw_rad.astype(np.float32),
            score=np.ones(int(seen.sum()), np.float32),
            label=np.array(labels, np.uint16),
            velocity_mps=base_from_world.rotate(scene.velocity_mps[:count][seen])[:, :2].astype(np.float32),
        )

    def _picture(
        self, name: str, header: Header, t_s: float, random: np.random.Generator
    ) -> Iterator[tuple[str, Message]]:
        picture = self._cameras[name].picture(self.scene, t_s, random)
        height, width = picture.rgb.shape[:2]
        yield f"{name}/image", Image(header=header, encoding="rgb8", height_px=height, width_px=width, data=picture.rgb)
        yield f"truth/{name}/mask", SegmentationMask(header=header, classes=CLASSES, label=picture.semantic)


__all__ = ["CLOCK", "Drive"]
