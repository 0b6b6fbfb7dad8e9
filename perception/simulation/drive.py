"""A drive through a world: what every sensor of a rig says, in the order of stamps, with the truth beside it."""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Callable, Collection, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import TypeAlias

import numpy as np

from perception.geometry.rig import Rig, Sensor
from perception.geometry.transforms import Transform
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
AHEAD = 12
"""Instants that are worked on ahead of the one that is given out, where there are several threads."""
Item: TypeAlias = tuple[str, Message]


@dataclass(frozen=True)
class Instant:
    """A sensor measures: time since the start, and how many times it did before."""

    t_ns: int
    sensor: Sensor
    number: int


class Drive:
    """One drive; its messages are equal for equal arguments, whatever the number of threads.

    Args:
        rig: its LiDARs, cameras, event cameras, IMUs, GNSS receivers and odometers are simulated.
        seed: of the world and all noise.
        start_ns: stamp of the beginning.
        motion: how the vehicle drives.
        weather: day, dusk or rain.
        sensors: only these; by default all of the rig.
        with_truth: also give the truth, on `truth/...`.
        threads: that work on instants at the same time.

    Raises:
        UserError: there is no such weather.
        GeometryError: the rig has no such sensor.
    """

    def __init__(
        self, rig: Rig, seed: int, start_ns: int, motion: Motion | None = None, *,
        weather: WeatherName | str = "day", sensors: Collection[str] | None = None, with_truth: bool = True,
        threads: int = 1,
    ) -> None:  # fmt: skip
        self.rig, self.seed, self.start_ns, self.threads = rig, seed, start_ns, threads
        self.with_truth = with_truth
        self.world = World(seed, weather, motion)
        self.sensors = _chosen(rig, sensors)
        self._first = _Firsts.of(rig, self.sensors)

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
        work = self._work(duration_s)
        if self.threads <= 1:
            for job in work:
                yield from job()
            return
        with ThreadPoolExecutor(self.threads) as pool:
            waiting: deque[Future[list[Item]]] = deque()
            for job in work:
                waiting.append(pool.submit(job))
                if len(waiting) >= AHEAD:
                    yield from waiting.popleft().result()
            while waiting:
                yield from waiting.popleft().result()

    def _work(self, duration_s: float | None) -> Iterator[Callable[[], list[Item]]]:
        """Yield one job for every instant at which a sensor measures, in the order of stamps."""
        odometer = self.world.odometer()
        streams = {
            sensor.name: _InOrder(self.world.event_stream(self.rig, sensor.name, 0))
            for sensor in self.sensors
            if sensor.kind == "event_camera"
        }
        instants = heapq.merge(*(self._instants(index, sensor) for index, sensor in enumerate(self.sensors)))
        for t_ns, index, number in instants:
            if duration_s is not None and t_ns > duration_s * SECOND_NS:
                return
            at = Instant(t_ns, self.sensors[index], number)
            kind = at.sensor.kind
            if kind == "odometry":  # its state goes on from pose to pose, so it is not left to a thread
                yield partial(list, self._odometry(at, odometer.pose_at(t_ns / SECOND_NS)))
            elif kind == "event_camera":
                yield partial(self._events, at, streams[at.sensor.name].next(t_ns))
            else:
                yield partial(self._measured, at)

    def _instants(self, index: int, sensor: Sensor) -> Iterator[tuple[int, int, int]]:
        """Yield (time, sensor, number); a camera fires when a turn of the LiDAR passes its view."""
        period_ns = round(SECOND_NS / sensor.rate_hz)
        lag_ns = self._camera_lag_ns(sensor) if sensor.kind == "camera" and not is_in_cabin(self.rig, sensor) else 0
        number = 0 if sensor.kind in ("odometry", "imu", "gnss") else 1
        while True:
            yield number * period_ns - lag_ns, index, number
            number += 1

    def _camera_lag_ns(self, sensor: Sensor) -> int:
        """Return how long before the end of a turn the LiDAR, clockwise from behind, looks where this camera does."""
        lidar = self._first.lidar
        if lidar is None:
            return 0
        forward = self.rig.base_link_from(sensor.frame).rotation[:, 2]
        turned = (np.pi - np.arctan2(forward[1], forward[0])) / (2 * np.pi) % 1.0
        return round((1 - turned) * SECOND_NS / lidar.rate_hz) if turned else 0

    def _header(self, at: Instant, frame_id: str) -> Header:
        return Header(frame_id=frame_id, t_sensor_ns=self.start_ns + at.t_ns, clock=CLOCK, seq=at.number)

    def _measured(self, at: Instant) -> list[Item]:
        measure = {"lidar": self._sweep, "camera": self._picture, "imu": self._imu, "gnss": self._gnss}
        return measure[at.sensor.kind](at)

    def _odometry(self, at: Instant, pose: Transform) -> list[Item]:
        motion, t_s = self.world.motion, at.t_ns / SECOND_NS
        header = self._header(at, "odom")
        said = truth.odometry(pose, motion.speed_at(t_s), motion.yaw_rate_radps(t_s), header)
        items: list[Item] = [(at.sensor.name, said)]
        if self.with_truth and at.sensor is self._first.odometry:
            items.append(("truth/ego", truth.ego(motion, t_s, header)))
        return items

    def _sweep(self, at: Instant) -> list[Item]:
        name, header, base = at.sensor.name, self._header(at, at.sensor.frame), self._header(at, "base_link")
        sweep = self.world.lidar(self.rig, name, at.t_ns)
        assert at.sensor.lidar is not None
        points = PointCloud(
            header=header, xyz_m=sweep.xyz_m, intensity=sweep.intensity, ring=sweep.ring, t_offset_ns=sweep.lag_ns,
            intensity_scale=float(at.sensor.lidar.intensity_scale),
        )  # fmt: skip
        items: list[Item] = [(f"{name}/points", points)]
        if self.with_truth:
            items.append((f"truth/{name}/painted", truth.painted(sweep, header)))
            if at.sensor is self._first.lidar:
                items.append(("truth/objects", truth.objects(self.world, sweep, base, f"{name}/points")))
                items.append(("truth/freespace", truth.free_space(self.world, at.t_ns, base)))
        return items

    def _picture(self, at: Instant) -> list[Item]:
        name, header = at.sensor.name, self._header(at, at.sensor.frame)
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
            if at.sensor is self._first.worn:
                items.append(("truth/skeleton", truth.skeleton(self.world, self.rig, name, at.t_ns, header)))
                items.append(("truth/pelvis", truth.pelvis(self.world, self.rig, name, at.t_ns, header)))
            items += self._action(at)
        return items

    def _events(self, at: Instant, part: Callable[[], Events]) -> list[Item]:
        events = part()
        assert at.sensor.camera is not None
        header = self._header(at, at.sensor.frame)
        packet = EventPacket(
            header=header, height_px=at.sensor.camera.height_px, width_px=at.sensor.camera.width_px,
            t_ns=events.t_ns + self.start_ns, x=events.x, y=events.y, polarity=events.polarity,
        )  # fmt: skip
        return [(f"{at.sensor.name}/events", packet), *(self._action(at) if self.with_truth else [])]

    def _action(self, at: Instant) -> list[Item]:
        if at.sensor is not self._first.acting:
            return []
        header = self._header(at, at.sensor.frame)
        return [("truth/action", truth.action(self.world, at.t_ns, self.start_ns, header))]

    def _imu(self, at: Instant) -> list[Item]:
        turning, force = self.world.imu(self.rig, at.sensor.name, at.t_ns)
        said = Imu(
            header=self._header(at, at.sensor.frame),
            angular_velocity_radps=tuple(turning.tolist()), acceleration_mps2=tuple(force.tolist()),
        )  # fmt: skip
        return [(f"{at.sensor.name}/imu", said)]

    def _gnss(self, at: Instant) -> list[Item]:
        latitude, longitude, altitude = self.world.gnss(self.rig, at.sensor.name, at.t_ns).tolist()
        said = Gnss(
            header=self._header(at, at.sensor.frame), latitude_deg=latitude, longitude_deg=longitude,
            altitude_m=altitude, position_std_m=(1.2, 1.2, 2.5),
        )  # fmt: skip
        return [(f"{at.sensor.name}/gnss", said)]


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


class _InOrder:
    """Parts of an event stream as jobs: each waits for the one before, whichever thread has it."""

    def __init__(self, stream: Callable[[int], Events]) -> None:
        self._stream = stream
        self._before: Future[None] | None = None

    def next(self, t_ns: int) -> Callable[[], Events]:
        """Return a job that gives the events up to `t_ns`; jobs are started in the order in which they are made."""
        before, done = self._before, Future[None]()
        self._before = done

        def part() -> Events:
            if before is not None:
                before.result()
            try:
                return self._stream(t_ns)
            finally:
                done.set_result(None)

        return part


_SIMPLE: Mapping[str, tuple[str, type[Message]]] = {
    "event_camera": ("{name}/events", EventPacket), "imu": ("{name}/imu", Imu), "gnss": ("{name}/gnss", Gnss),
    "odometry": ("{name}", Odometry),
}  # fmt: skip


def _chosen(rig: Rig, sensors: Collection[str] | None) -> tuple[Sensor, ...]:
    for name in sensors or ():
        rig.sensor(name)
    return tuple(sensor for sensor in rig.sensors.values() if sensors is None or sensor.name in sensors)


__all__ = ["CLOCK", "Drive"]
