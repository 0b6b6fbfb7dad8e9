"""The synthetic world: any sensor of a rig, at any instant, with its exact truth, without a graph.

    world = World(seed=7, weather="dusk")
    sweep = world.lidar(rig, "lidar", t_ns=2_000_000_000)       # points, and class and object of each
    picture = world.camera(rig, "cam_front", t_ns)              # colour, classes, instances, distances
    objects = world.objects(t_ns)                               # boxes in base_link
    events = world.events(rig, "event_cabin", 0, 500_000_000)   # microsecond stamps
    wearer = world.wearer(t_ns)                                 # joints, head, action

Time starts at zero. Every answer is a function of the seed, the weather, the motion and the instant alone: in any
order, on any thread, equal bits. To draw training data, take many seeds and instants; a world is cheap to make, the
rays of a camera or LiDAR are made once per calibration.
"""

from __future__ import annotations

import threading
import zlib
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from perception.errors import GeometryError
from perception.geometry.boxes import Boxes
from perception.geometry.cameras import Camera
from perception.geometry.rig import Rig, Sensor
from perception.geometry.rig_file import LidarFile
from perception.geometry.transforms import Transform
from perception.simulation import lidar as spinning
from perception.simulation.cabin import LIGHT, Cabin, Wearer, snapshot_of
from perception.simulation.camera import Movement, Picture, coloured, look, picture
from perception.simulation.event_camera import NO_EVENTS, Events, EventSensor, EventSettings, Light, Lights, log_of
from perception.simulation.inertial import Odometer, gnss_at, imu_at
from perception.simulation.lidar import Sweep
from perception.simulation.motion import Motion
from perception.simulation.raycast import GROUND, cast
from perception.simulation.rays import Tiles, camera_tiles, tiles_of
from perception.simulation.scene import Snapshot, street_at
from perception.simulation.street import layout_of
from perception.simulation.weather import WEATHERS, Weather, WeatherName, weather_of

Float: TypeAlias = NDArray[np.float64]

SECOND_NS = 1_000_000_000
CABIN, HEAD = "cabin", "head"
CABIN_STEP_NS, STREET_STEP_NS = 12_500_000, 10_000_000
"""Between two renderings for an event camera."""
FREE_REACH_M, FREE_RAYS = 50.0, 180
FREE_HEIGHTS_M = (0.3, 0.8, 1.4)
"""Heights above the road at which something stands in the way."""
KEPT = 6


@dataclass(frozen=True, eq=False)
class Objects:
    """The objects around the vehicle at an instant, in `base_link`.

    Attributes:
        ids: (N,) stay the same while an object is around.
        kind: (N,) class of `classes.CLASSES`; a cyclist with bicycle is a bicycle.
        boxes: upright.
        velocity_mps: (N, 3) over ground, axes of base_link.
    """

    ids: NDArray[np.int64]
    kind: NDArray[np.int64]
    boxes: Boxes
    velocity_mps: Float


class World:
    """One street, one drive through it, one cabin.

    Args:
        seed: of everything.
        weather: day, dusk or rain.
        motion: how the vehicle drives; by default at 8 m/s.
        action: the person in the cabin does only this (a key of `skeleton.ACTIONS`).

    Raises:
        UserError: there is no such weather.
    """

    def __init__(
        self, seed: int = 1, weather: WeatherName | str = "day", motion: Motion | None = None, action: str | None = None
    ) -> None:
        self.seed, self.weather = seed, weather_of(weather)
        self.motion = motion or Motion()
        start_m = 500.0 * float(np.random.default_rng((seed, 8)).random())
        self.motion = replace(self.motion, start_m=(self.motion.start_m[0] + start_m, self.motion.start_m[1]))
        self.cabin = Cabin(seed, action)
        self._snapshots: OrderedDict[int, Snapshot] = OrderedDict()
        self._lock = threading.Lock()

    def street(self, t_ns: int) -> Snapshot:
        """Return everything in the street at an instant, in the world frame."""
        with self._lock:
            known = self._snapshots.get(t_ns)
        if known is None:
            known = street_at(self.seed, self.motion, t_ns / SECOND_NS)
            with self._lock:
                self._snapshots[t_ns] = known
                while len(self._snapshots) > KEPT:
                    self._snapshots.popitem(last=False)
        return known

    def world_from_base_link(self, t_ns: int) -> Transform:
        """Return where the vehicle is."""
        return self.motion.world_from_base_link(t_ns / SECOND_NS)

    def lidar(self, rig: Rig, name: str, t_ns: int) -> Sweep:
        """Measure the sweep that ends at `t_ns`. Raises GeometryError where the rig has no such LiDAR."""
        sensor = rig.sensor(name)
        if sensor.lidar is None:
            raise GeometryError(f"sensor '{name}' of rig '{rig.name}' is no LiDAR")
        return self.sweep(sensor.lidar, rig.base_link_from(sensor.frame), t_ns, sensor.rate_hz, name)

    def sweep(
        self, lidar: LidarFile, base_link_from_lidar: Transform, t_ns: int, rate_hz: float = 10.0, name: str = "lidar"
    ) -> Sweep:
        """Measure a sweep of a LiDAR that is on no rig."""
        return spinning.measure(
            lidar, base_link_from_lidar, 1 / rate_hz, self.motion, self.street(t_ns), t_ns / SECOND_NS, self.weather,
            self._noise_key(name, t_ns),
        )  # fmt: skip

    def camera(self, rig: Rig, name: str, t_ns: int) -> Picture:
        """Take a picture at mid exposure `t_ns`, of the street or of the cabin. Raises GeometryError as `lidar`."""
        sensor, camera = rig.sensor(name), rig.camera(name)
        exposure_ns, seed = round(sensor.exposure_ms * 1e6), self._noise_key(name, t_ns)
        if is_in_cabin(rig, sensor):
            scene = self.cabin.at(t_ns / SECOND_NS, with_head=not is_worn(rig, sensor))
            return picture(camera, self.cabin_from(rig, sensor, t_ns), scene, LIGHT, exposure_ns=0, seed=seed)
        return self.photo(camera, rig.base_link_from(sensor.frame), t_ns, exposure_ns, seed)

    def photo(
        self, camera: Camera, base_link_from_optical: Transform, t_ns: int, exposure_ns: int = 0, seed: int = 0
    ) -> Picture:
        """Take a picture of the street with a camera that is on no rig."""
        pose = self.world_from_base_link(t_ns) @ base_link_from_optical
        return picture(
            camera, pose, self.street(t_ns), self.weather, movement=self._movement(base_link_from_optical, t_ns),
            exposure_ns=exposure_ns, seed=seed,
        )  # fmt: skip

    def _movement(self, base_link_from_sensor: Transform, t_ns: int) -> Movement:
        t_s = t_ns / SECOND_NS
        rate, (x, y, _) = self.motion.yaw_rate_radps(t_s), base_link_from_sensor.translation_m
        local = np.array([self.motion.speed_at(t_s) - rate * y, rate * x, 0.0])
        return Movement(self.motion.world_from_base_link(t_s).rotate(local), np.array([0.0, 0.0, rate]))

    def objects(self, t_ns: int) -> Objects:
        """Return all objects of the populated street, seen or not."""
        things, back = self.street(t_ns).things, self.world_from_base_link(t_ns).inverse()
        return Objects(things.ids, things.kind, things.boxes.transformed(back), back.rotate(things.velocity_mps))

    def free_space(self, t_ns: int) -> Float:
        """Return a polygon (180, 2) around the vehicle in `base_link`, counter-clockwise, in which nothing stands.

        Along each ray from base_link it ends at the first thing that is 0.3, 0.8 or 1.4 m above the road, or at 50 m.
        """
        scene, pose = self.street(t_ns), self.world_from_base_link(t_ns)
        level = _level_rays()
        origins = np.tile(pose.translation_m[:, None], 3 * FREE_RAYS)
        origins[2] += np.array(FREE_HEIGHTS_M)[level.places % 3]
        between_m = max(FREE_HEIGHTS_M) - min(FREE_HEIGHTS_M)
        distance, _ = cast(scene, level.turned(pose.rotation), origins, reach_m=FREE_REACH_M, slack_m=between_m)
        nearest = np.minimum(distance[level.in_order].reshape(FREE_RAYS, 3).min(axis=1), FREE_REACH_M)
        polygon: Float = level.directions[:2, level.in_order[::3]].T * nearest[:, None]
        return polygon

    def wearer(self, t_ns: int) -> Wearer:
        """Return the person in the cabin, in the frame `cabin`."""
        return self.cabin.wearer_at(t_ns / SECOND_NS)

    def skeleton(self, rig: Rig, name: str, t_ns: int) -> tuple[Float, Float]:
        """Return joints (16, 3) and pelvis (3,) of the person in the optical frame of a camera of the cabin."""
        wearer, back = self.wearer(t_ns), self.cabin_from(rig, rig.sensor(name), t_ns).inverse()
        return back.apply(wearer.joints_m), back.apply(wearer.pelvis_m)

    def cabin_from(self, rig: Rig, sensor: Sensor, t_ns: int) -> Transform:
        """Return the pose of a sensor of the cabin; what is worn moves with the head."""
        if is_worn(rig, sensor):
            return self.wearer(t_ns).cabin_from_head @ rig.transform(HEAD, sensor.frame)
        return rig.transform(CABIN, sensor.frame)

    def events(self, rig: Rig, name: str, begin_ns: int, end_ns: int, settings: EventSettings | None = None) -> Events:
        """Return the events of a span of time, from pixels that settled at its beginning."""
        stream = self.event_stream(rig, name, begin_ns, settings)
        return stream(end_ns)

    def event_stream(
        self, rig: Rig, name: str, begin_ns: int, settings: EventSettings | None = None
    ) -> Callable[[int], Events]:
        """Return a function that gives the events since its last call up to an instant."""
        sensor, camera, settings = rig.sensor(name), rig.camera(name), settings or EventSettings()
        fixed = is_in_cabin(rig, sensor) and not is_worn(rig, sensor)
        lights = (self._lights_of_room if fixed else self._lights)(rig, sensor, camera, settings)
        step_ns = CABIN_STEP_NS if is_in_cabin(rig, sensor) else STREET_STEP_NS
        pixels = EventSensor(camera.width_px, camera.height_px, settings, self._noise_seed(name, begin_ns))
        for light, changed in lights([begin_ns]):
            pixels.feed(light, begin_ns, changed)
        at_ns = begin_ns

        def until(end_ns: int) -> Events:
            nonlocal at_ns
            instants = [*range((at_ns // step_ns + 1) * step_ns, end_ns, step_ns), end_ns] if at_ns < end_ns else []
            found = [NO_EVENTS]
            for t_ns, (light, changed) in zip(instants, lights(instants), strict=True):
                found.append(pixels.feed(light, t_ns, changed))
            at_ns = max(at_ns, end_ns)
            return Events(
                np.concatenate([events.t_ns for events in found]), np.concatenate([events.x for events in found]),
                np.concatenate([events.y for events in found]), np.concatenate([events.polarity for events in found]),
            )  # fmt: skip

        return until

    def _lights(self, rig: Rig, sensor: Sensor, camera: Camera, settings: EventSettings) -> Lights:
        """Return the light over time on a camera that moves: all is rendered."""
        in_cabin, with_head = is_in_cabin(rig, sensor), not is_worn(rig, sensor)
        weather = LIGHT if in_cabin else self.weather

        def lights(instants_ns: Sequence[int]) -> Iterator[Light]:
            for t_ns in instants_ns:
                if in_cabin:
                    scene = self.cabin.at(t_ns / SECOND_NS, with_head=with_head)
                    pose = self.cabin_from(rig, sensor, t_ns)
                else:
                    scene = street_at(self.seed, self.motion, t_ns / SECOND_NS)
                    pose = self.world_from_base_link(t_ns) @ rig.base_link_from(sensor.frame)
                view = look(camera, pose, scene)
                yield log_of(coloured(view, scene, weather)[0], settings), camera_tiles(camera).places

        return lights

    def _lights_of_room(self, rig: Rig, sensor: Sensor, camera: Camera, settings: EventSettings) -> Lights:
        """Return the same for a camera that stands in the cabin: the room is rendered once, then only the person."""
        pose = rig.transform(CABIN, sensor.frame)
        room, rays = snapshot_of(self.cabin.room), camera_tiles(camera).turned(pose.rotation)
        view = look(camera, pose, room)
        empty = log_of(coloured(view, room, LIGHT)[0], settings)
        shown = np.arange(len(empty))

        def lights(instants_ns: Sequence[int]) -> Iterator[Light]:
            nonlocal shown
            for scene in self.cabin.people_at(np.array(instants_ns) / SECOND_NS):
                distance, hit = cast(scene, rays, view.origin[:, None], reach_m=20.0, behind=view.distance)
                person, left = np.flatnonzero(hit > GROUND), shown[hit[shown] <= GROUND]
                shown = person
                radiance, _ = coloured(replace(view, distance=distance, hit=hit).only(person), scene, LIGHT)
                light = np.concatenate((log_of(radiance, settings), empty[left]))
                yield light, rays.places[np.concatenate((person, left))]

        return lights

    def imu(self, rig: Rig, name: str, t_ns: int) -> tuple[Float, Float]:
        """Return angular rate (3,) rad/s and specific force (3,) m/s2 in the sensor's frame."""
        seed = (self.seed, _word(name))
        return imu_at(self.motion, rig.base_link_from(rig.sensor(name).frame), t_ns / SECOND_NS, seed, t_ns)

    def gnss(self, rig: Rig, name: str, t_ns: int) -> Float:
        """Return latitude and longitude in degrees, altitude in metres."""
        random = np.random.default_rng(self._noise_seed(name, t_ns))
        return gnss_at(self.motion, rig.base_link_from(rig.sensor(name).frame), t_ns / SECOND_NS, random)

    def odometer(self) -> Odometer:
        """Return an odometer at the start: its poses are smooth and slowly wrong."""
        return Odometer(self.motion, self.seed)

    @property
    def half_width_m(self) -> float:
        """From the middle of the road to the kerb."""
        return layout_of(self.seed).half_width_m

    def _noise_key(self, name: str, t_ns: int) -> int:
        """Return 32 bits for the noise of kernels."""
        return zlib.crc32(f"{self.seed} {name} {t_ns}".encode())

    def _noise_seed(self, name: str, t_ns: int) -> tuple[int, int]:
        return (_word(name) ^ self.seed, t_ns & 0x7FFFFFFFFFFFFFFF)


@cache
def _level_rays() -> Tiles:
    """Return level rays around, counter-clockwise, three of each direction."""
    number = np.repeat(np.arange(FREE_RAYS), 3)
    angle = 2 * np.pi * number / FREE_RAYS
    directions = np.stack((np.cos(angle), np.sin(angle), np.zeros(len(angle))), axis=1)
    return tiles_of(directions, number // 60, number // 20, np.ones(len(angle), np.bool_))


def is_in_cabin(rig: Rig, sensor: Sensor) -> bool:
    """True for a sensor whose frame hangs on `cabin`."""
    return sensor.kind != "odometry" and CABIN in rig.frames.path(sensor.frame)


def is_worn(rig: Rig, sensor: Sensor) -> bool:
    """True for a sensor that the person in the cabin wears on the head."""
    return is_in_cabin(rig, sensor) and HEAD in rig.frames.path(sensor.frame)


def _word(name: str) -> int:
    return zlib.crc32(name.encode())


__all__ = ["WEATHERS", "Objects", "Weather", "World", "is_in_cabin", "is_worn"]
