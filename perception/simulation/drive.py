"""A drive through a world: what every sensor of a rig says, in the order of stamps, with the truth beside it."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

from perception.errors import UserError, did_you_mean
from perception.geometry.rig import Rig, Sensor
from perception.messages import (
    EventPacket,
    FreeSpace,
    Gnss,
    Header,
    Image,
    Imu,
    Message,
    Odometry,
    PaintedPoints,
    PointCloud,
    Pose3D,
    Recognition,
    SegmentationMask,
    TrackedObjects,
)
from perception.simulation import truth
from perception.simulation.event_camera import Events
from perception.simulation.motion import Motion
from perception.simulation.weather import WeatherName
from perception.simulation.world import World, is_in_cabin, is_worn

SECOND_NS = 1_000_000_000
CLOCK = "simulated"
Item: TypeAlias = tuple[str, Message]


@dataclass(frozen=True, order=True)
class Instant:
    """A sensor measures: time since the start, its index among the sensors, and how many times it did before."""

    t_ns: int
    index: int
    number: int


class Drive:
    """One drive; its messages are equal for equal arguments.

    Args:
        rig: its LiDARs, cameras, event cameras, IMUs, GNSS receivers and odometers are simulated.
        seed: of the world and all noise.
        start_ns: stamp of the beginning.
        motion: how the vehicle drives.
        weather: day, dusk or rain.
        sensors: only these; by default all of the rig.
        with_truth: also give the truth, on `truth/...`.

    Raises:
        UserError: there is no such weather, or the rig has no such sensor.
    """

    def __init__(
        self, rig: Rig, seed: int, start_ns: int, motion: Motion | None = None, *,
        weather: WeatherName | str = "day", sensors: Collection[str] | None = None, with_truth: bool = True,
    ) -> None:  # fmt: skip
        self.rig, self.seed, self.start_ns = rig, seed, start_ns
        self.with_truth = with_truth
        self.world = World(seed, weather, motion)
        self.sensors = _chosen(rig, sensors)
        self._first = _Firsts.of(rig, self.sensors)
        self._odometer = self.world.odometer()
        self._streams: dict[str, Callable[[int], Events]] = {}
        self._says: Mapping[str, Callable[[Instant], list[Item]]] = {
            "lidar": self._sweep, "camera": self._picture, "event_camera": self._events, "odometry": self._odometry,
            "imu": self._imu, "gnss": self._gnss,
        }  # fmt: skip

    @staticmethod
    def topics(
        rig: Rig, sensors: Collection[str] | None = None, *, with_truth: bool = True
    ) -> Mapping[str, type[Message]]:
        """Return what a drive with this rig publishes."""
        chosen = _chosen(rig, sensors)
        first, found, known = _Firsts.of(rig, chosen), dict[str, type[Message]](), dict[str, type[Message]]()
        for sensor in chosen:
            name = sensor.name
            if sensor.kind == "lidar":
                found[f"{name}/points"] = PointCloud
                known[f"truth/{name}/painted"] = PaintedPoints
            elif sensor.kind == "camera":
                found[f"{name}/image"] = Image
                known |= {f"truth/{name}/mask": SegmentationMask, f"truth/{name}/depth": Image,
                          f"truth/{name}/instance": Image}  # fmt: skip
            else:
                topic, kind = _SIMPLE[sensor.kind]
                found[topic.format(name=name)] = kind
        known |= {"truth/objects": TrackedObjects, "truth/freespace": FreeSpace} if first.lidar else {}
        known |= {"truth/ego": Odometry} if first.odometry else {}
        known |= {"truth/skeleton": Pose3D, "truth/pelvis": Pose3D} if first.worn else {}
        known |= {"truth/action": Recognition} if first.acting else {}
        return found | (known if with_truth else {})

    def messages(self, duration_s: float | None = None) -> Iterator[Item]:
        """Yield (topic, message) in the order of stamps, for so many seconds, or without end."""
        for at in self.instants(duration_s):
            yield from self.measured(at)

    def instants(self, duration_s: float | None = None) -> Iterator[Instant]:
        """Yield the instants at which sensors measure, in their order; event cameras begin anew."""
        self._streams.clear()
        for at in heapq.merge(*(self._instants(index, sensor) for index, sensor in enumerate(self.sensors))):
            if duration_s is not None and at.t_ns > duration_s * SECOND_NS:
                return
            yield at

    def measured(self, at: Instant) -> list[Item]:
        """Return what the sensor of an instant says, and the truth that belongs to it.

        The instants of an event camera must come in their order: its pixels go on from one to the next.
        """
        return self._says[self.sensors[at.index].kind](at)

    def _instants(self, index: int, sensor: Sensor) -> Iterator[Instant]:
        """Yield the instants of one sensor; a camera fires when a turn of the LiDAR passes its view."""
        period_ns = round(SECOND_NS / sensor.rate_hz)
        lag_ns = self._camera_lag_ns(sensor) if sensor.kind == "camera" and not is_in_cabin(self.rig, sensor) else 0
        number = 0 if sensor.kind in ("odometry", "imu", "gnss") else 1
        while True:
            yield Instant(number * period_ns - lag_ns, index, number)
            number += 1

    def _camera_lag_ns(self, sensor: Sensor) -> int:
        """Return how long before the end of a turn the LiDAR, clockwise from behind, looks where this camera does."""
        lidar = next((one for one in self.rig.sensors.values() if one.kind == "lidar"), None)
        if lidar is None:
            return 0
        forward = self.rig.base_link_from(sensor.frame).rotation[:, 2]
        turned = (np.pi - np.arctan2(forward[1], forward[0])) / (2 * np.pi) % 1.0
        return round((1 - turned) * SECOND_NS / lidar.rate_hz) if turned else 0

    def _header(self, at: Instant, frame_id: str) -> Header:
        return Header(frame_id=frame_id, t_sensor_ns=self.start_ns + at.t_ns, clock=CLOCK, seq=at.number)

    def _odometry(self, at: Instant) -> list[Item]:
        motion, t_s, sensor = self.world.motion, at.t_ns / SECOND_NS, self.sensors[at.index]
        header = self._header(at, "odom")
        pose = self._odometer.pose_at(t_s)
        said = truth.odometry(pose, motion.speed_at(t_s), motion.yaw_rate_radps(t_s), header)
        items: list[Item] = [(sensor.name, said)]
        if self.with_truth and sensor is self._first.odometry:
            items.append(("truth/ego", truth.ego(motion, t_s, header)))
        return items

    def _sweep(self, at: Instant) -> list[Item]:
        sensor = self.sensors[at.index]
        assert sensor.lidar is not None
        header, base = self._header(at, sensor.frame), self._header(at, "base_link")
        sweep = self.world.lidar(self.rig, sensor.name, at.t_ns)
        has = sensor.lidar
        points = PointCloud(
            header=header, xyz_m=sweep.xyz_m, intensity=sweep.intensity if has.has_intensity else None,
            ring=sweep.ring if has.has_ring else None, t_offset_ns=sweep.lag_ns if has.point_times else None,
            elongation=np.zeros(len(sweep.xyz_m), np.float32) if has.has_elongation else None,
            intensity_scale=float(has.intensity_scale),
        )  # fmt: skip
        items: list[Item] = [(f"{sensor.name}/points", points)]
        if self.with_truth:
            items.append((f"truth/{sensor.name}/painted", truth.painted(sweep, header)))
            if sensor is self._first.lidar:
                items.append(("truth/objects", truth.objects(self.world, sweep, base, f"{sensor.name}/points")))
                items.append(("truth/freespace", truth.free_space(self.world, at.t_ns, base)))
        return items

    def _picture(self, at: Instant) -> list[Item]:
        sensor = self.sensors[at.index]
        name, header = sensor.name, self._header(at, sensor.frame)
        picture = self.world.camera(self.rig, name, at.t_ns)
        height, width = picture.rgb.shape[:2]
        image = Image(
            header=header, encoding="rgb8", height_px=height, width_px=width, data=picture.rgb,
            exposure_ns=picture.exposure_ns,
        )  # fmt: skip
        items: list[Item] = [(f"{name}/image", image)]
        if self.with_truth:
            items += [
                (f"truth/{name}/mask", truth.mask(picture, header)),
                (f"truth/{name}/depth", truth.depth(picture, header)),
                (f"truth/{name}/instance", truth.instance(picture, header)),
            ]
            if sensor is self._first.worn:
                items.append(("truth/skeleton", truth.skeleton(self.world, self.rig, name, at.t_ns, header)))
                items.append(("truth/pelvis", truth.pelvis(self.world, self.rig, name, at.t_ns, header)))
        return items + self._action(at)

    def _events(self, at: Instant) -> list[Item]:
        sensor = self.sensors[at.index]
        assert sensor.camera is not None
        if sensor.name not in self._streams:
            self._streams[sensor.name] = self.world.event_stream(self.rig, sensor.name, 0)
        events = self._streams[sensor.name](at.t_ns)
        packet = EventPacket(
            header=self._header(at, sensor.frame), height_px=sensor.camera.height_px, width_px=sensor.camera.width_px,
            t_ns=events.t_ns + self.start_ns, x=events.x, y=events.y, polarity=events.polarity,
        )  # fmt: skip
        return [(f"{sensor.name}/events", packet), *self._action(at)]

    def _action(self, at: Instant) -> list[Item]:
        sensor = self.sensors[at.index]
        if not self.with_truth or sensor is not self._first.acting:
            return []
        return [("truth/action", truth.action(self.world, at.t_ns, self.start_ns, self._header(at, sensor.frame)))]

    def _imu(self, at: Instant) -> list[Item]:
        sensor = self.sensors[at.index]
        turning, force = self.world.imu(self.rig, sensor.name, at.t_ns)
        said = Imu(
            header=self._header(at, sensor.frame),
            angular_velocity_radps=tuple(turning.tolist()), acceleration_mps2=tuple(force.tolist()),
        )  # fmt: skip
        return [(f"{sensor.name}/imu", said)]

    def _gnss(self, at: Instant) -> list[Item]:
        sensor = self.sensors[at.index]
        latitude, longitude, altitude = self.world.gnss(self.rig, sensor.name, at.t_ns).tolist()
        said = Gnss(
            header=self._header(at, sensor.frame), latitude_deg=latitude, longitude_deg=longitude,
            altitude_m=altitude, position_std_m=(1.2, 1.2, 2.5),
        )  # fmt: skip
        return [(f"{sensor.name}/gnss", said)]


@dataclass(frozen=True)
class _Firsts:
    """The sensors whose stamps the truth has."""

    lidar: Sensor | None
    odometry: Sensor | None
    worn: Sensor | None
    acting: Sensor | None
    """An event camera of the cabin, or else a worn camera."""

    @classmethod
    def of(cls, rig: Rig, sensors: Collection[Sensor]) -> _Firsts:
        worn = next((sensor for sensor in sensors if sensor.kind == "camera" and is_worn(rig, sensor)), None)
        events = (sensor for sensor in sensors if sensor.kind == "event_camera" and is_in_cabin(rig, sensor))
        return cls(
            lidar=next((sensor for sensor in sensors if sensor.kind == "lidar"), None),
            odometry=next((sensor for sensor in sensors if sensor.kind == "odometry"), None),
            worn=worn, acting=next(events, worn),
        )  # fmt: skip


_SIMPLE: Mapping[str, tuple[str, type[Message]]] = {
    "event_camera": ("{name}/events", EventPacket), "imu": ("{name}/imu", Imu), "gnss": ("{name}/gnss", Gnss),
    "odometry": ("{name}", Odometry),
}  # fmt: skip


def _chosen(rig: Rig, sensors: Collection[str] | None) -> tuple[Sensor, ...]:
    for name in sensors or ():
        if name not in rig.sensors:
            raise UserError(f"rig '{rig.name}' has no sensor '{name}'.{did_you_mean(name, rig.sensors)}")
    return tuple(sensor for sensor in rig.sensors.values() if sensors is None or sensor.name in sensors)


__all__ = ["CLOCK", "Drive"]
