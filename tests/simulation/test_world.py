"""The world without a graph: pictures, sweeps, events and people against geometry worked out by other means."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from pydantic import ValidationError

from perception.errors import GeometryError
from perception.geometry.boxes import Boxes
from perception.geometry.cameras import Camera
from perception.geometry.rig import load_rig
from perception.geometry.rig_file import LidarFile
from perception.geometry.transforms import Transform
from perception.simulation.classes import CAR, CLASSES, PERSON, ROAD, SKY
from perception.simulation.event_camera import EventSensor, EventSettings
from perception.simulation.motion import Motion
from perception.simulation.scene import street_at
from perception.simulation.skeleton import ACTIONS, body_of
from perception.simulation.weather import WEATHERS
from perception.simulation.world import World

RIG = load_rig(Path(__file__).parents[2] / "calibration" / "simulated_car")
MOUNT = RIG.base_link_from("cam_front_optical")
SECOND_NS = 1_000_000_000
OCAM = RIG.camera("ego_left").coefficients
SIZE: Any = {"width_px": 192, "height_px": 160}
CAMERAS = {
    "pinhole": Camera("plumb_bob", **SIZE, focal_px=(120, 120), center_px=(95.5, 70.0)),
    "plumb_bob": Camera("plumb_bob", **SIZE, focal_px=(120, 118), center_px=(95, 70),
                        coefficients=(-0.2, 0.05, 1e-3, -1e-3, 0.0)),
    "rational_polynomial": Camera("rational_polynomial", **SIZE, focal_px=(120, 120), center_px=(95, 70),
                                  coefficients=(0.1, -0.02, 1e-3, 0.0, 0.0, 0.2, 0.0, 0.0)),
    "kannala_brandt": Camera("kannala_brandt", **SIZE, focal_px=(60, 60), center_px=(95, 80),
                             coefficients=(-0.01, 0.002, 0.0, 0.0)),
    "double_sphere": Camera("double_sphere", **SIZE, focal_px=(45, 45), center_px=(95, 80), coefficients=(-0.2, 0.58)),
    "ocam": Camera("ocam", 192, 192, (1, 1), (95.5, 95.5), OCAM, max_angle_rad=1.7),
}  # fmt: skip


@pytest.mark.parametrize("name", CAMERAS)
def test_every_camera_model_sees_the_road_at_height_zero_and_objects_in_their_boxes(name: str) -> None:
    world, camera, t_ns = World(4), CAMERAS[name], 3 * SECOND_NS
    picture = world.photo(camera, MOUNT, t_ns)
    v, u = np.mgrid[: camera.height_px, : camera.width_px]
    rays, valid = camera.unproject(np.stack((u.reshape(-1), v.reshape(-1)), axis=1))
    distance, seen = picture.distance_m.reshape(-1).astype(float), picture.semantic.reshape(-1)
    assert (seen[~valid] == 255).all()
    pose = world.world_from_base_link(t_ns) @ MOUNT
    there = np.isfinite(distance) & (distance > 0)
    points = pose.apply(rays * np.where(there, distance, 0.0)[:, None])
    assert (seen == ROAD).sum() > 1000
    np.testing.assert_allclose(points[seen == ROAD][:, 2], 0.0, atol=0.13)  # kerbs are road, too
    assert np.median(np.abs(points[seen == ROAD][:, 2])) < 1e-4
    assert np.isinf(distance[seen == SKY]).all()
    things, ids = world.street(t_ns).things, picture.instance.reshape(-1)
    shown = np.unique(ids[ids > 0])
    assert len(shown) >= 5
    for number in shown:
        (index,) = np.flatnonzero(things.ids == number)
        box = Boxes(things.center_m[[index]], things.size_lwh_m[[index]], things.yaw_rad[[index]])
        assert box.contain(points[ids == number], 0.05).mean() > 0.98


def test_a_camera_and_a_lidar_agree_on_what_stands_where() -> None:
    world, t_ns = World(6, motion=Motion(speed_mps=0.0)), SECOND_NS
    sweep, picture = world.lidar(RIG, "lidar", t_ns), world.camera(RIG, "cam_front", t_ns)
    still = sweep.snapshot.things.velocity_mps[sweep.thing, 0] == 0
    still = (sweep.thing < 0) | still
    optical = RIG.transform("cam_front_optical", "lidar").apply(sweep.xyz_m[still].astype(float))
    pixels, inside = RIG.camera("cam_front").project(optical)
    u, v = np.rint(pixels[inside]).astype(int).clip(0).T
    u, v = np.minimum(u, 319), np.minimum(v, 191)
    range_m = np.linalg.norm(optical[inside], axis=1)
    unhidden = np.abs(picture.distance_m[v, u] - range_m) < 0.1 + 0.02 * range_m
    assert unhidden.mean() > 0.7  # the LiDAR is higher, and looks over things that hide others from the camera
    same = picture.semantic[v, u][unhidden] == sweep.semantic[still][inside][unhidden]
    assert same.mean() > 0.97


def test_visibility_is_zero_without_returns_and_never_more_than_one() -> None:
    sweep = World(2).lidar(RIG, "lidar", 2 * SECOND_NS)
    assert ((sweep.visibility >= 0) & (sweep.visibility <= 1)).all()
    assert (sweep.visibility[sweep.points > 0] > 0).all()
    ego = World(2).world_from_base_link(2 * SECOND_NS).translation_m
    near = np.linalg.norm((sweep.snapshot.things.center_m - ego)[:, :2], axis=1) < 30
    assert (sweep.visibility[near] == 0).any()
    assert (sweep.visibility[near] > 0.95).any()


def test_nothing_that_the_lidar_measures_stands_in_free_space() -> None:
    world, t_ns = World(3, motion=Motion(speed_mps=0.0)), SECOND_NS
    polygon, sweep = world.free_space(t_ns), world.lidar(RIG, "lidar", t_ns)
    points = RIG.base_link_from("lidar").apply(sweep.xyz_m.astype(float))
    still = (sweep.thing < 0) | (np.abs(sweep.snapshot.things.velocity_mps[sweep.thing]).sum(axis=1) == 0)
    points = points[still & (np.abs(points[:, 2] - 0.8) < 0.03)]  # at the height of one of its rays
    angle = np.arctan2(points[:, 1], points[:, 0]) % (2 * np.pi)
    reach = np.linalg.norm(polygon, axis=1)
    ray = np.rint(angle / (2 * np.pi) * len(polygon)).astype(int) % len(polygon)
    on_ray = np.abs((angle - 2 * np.pi * ray / len(polygon) + np.pi) % (2 * np.pi) - np.pi) < 0.002
    assert on_ray.sum() > 5
    assert (np.linalg.norm(points[on_ray, :2], axis=1) > reach[ray[on_ray]] - 0.15).all()


def test_a_beam_table_says_where_rings_look() -> None:
    beams = (-20.0, -4.0, -2.0, 3.5)
    lidar = LidarFile(rings=4, range_m=(1, 60), vertical_fov_deg=(-20, 5), beams_deg=beams, columns=300)
    sweep = World(1).sweep(lidar, RIG.base_link_from("lidar"), SECOND_NS)
    flat = np.hypot(sweep.xyz_m[:, 0], sweep.xyz_m[:, 1])
    np.testing.assert_allclose(np.degrees(np.arctan2(sweep.xyz_m[:, 2], flat)), np.array(beams)[sweep.ring], atol=0.01)
    assert set(sweep.ring) == {0, 1, 2, 3}
    with pytest.raises(ValidationError, match="3 elevations for 4 rings"):
        LidarFile(rings=4, range_m=(1, 60), vertical_fov_deg=(-20, 5), beams_deg=beams[:3])


def test_rain_takes_points_away_and_adds_false_ones_and_bad_light_exposes_longer() -> None:
    day, rain = (World(5, weather).lidar(RIG, "lidar", SECOND_NS) for weather in ("day", "rain"))
    assert len(rain.xyz_m) < 0.99 * len(day.xyz_m)
    assert not (day.semantic == 255).any()
    assert (rain.semantic == 255).sum() > 50
    pictures = {name: World(5, name).camera(RIG, "cam_front", SECOND_NS) for name in WEATHERS}
    assert pictures["day"].exposure_ns == 2_000_000
    assert pictures["dusk"].exposure_ns == 12_000_000
    assert (pictures["day"].semantic == pictures["rain"].semantic).all()


def test_motion_blurs_along_the_way_of_the_pixels() -> None:
    camera, t_ns = RIG.camera("cam_left"), SECOND_NS
    mount = RIG.base_link_from("cam_left_optical")
    world = World(5, motion=Motion(speed_mps=15.0))
    sharp, blurred = (
        world.photo(camera, mount, t_ns, exposure_ns).rgb.astype(float) for exposure_ns in (0, 20_000_000)
    )
    across = [np.abs(np.diff(picture[90:], axis=1)).mean() for picture in (sharp, blurred)]
    assert across[1] < 0.85 * across[0]  # the left camera sees the street go by from right to left


def test_nobody_drives_into_anybody() -> None:
    for seed in range(6):
        motion = World(seed).motion
        for t_s in np.arange(0.0, 40.0, 4.0):
            things = street_at(seed, motion, float(t_s)).things
            ego = motion.world_from_base_link(float(t_s))
            vehicles = np.flatnonzero(things.kind != PERSON)
            center = np.vstack((things.center_m[vehicles], ego.apply(np.array([1.4, 0.0, 0.75]))))
            size = np.vstack((things.size_lwh_m[vehicles], (4.4, 1.8, 1.5)))
            yaw = np.append(things.yaw_rad[vehicles], ego.yaw_rad())
            shrunk = Boxes(center, size * 0.95, yaw)
            corners = shrunk.corners()[:, :4].reshape(-1, 3) + np.array([0, 0, 0.5])
            owner = np.repeat(np.arange(len(center)), 4)
            hit = shrunk.contain(corners)
            hit[owner, np.arange(len(corners))] = False
            assert not hit.any()


def test_a_pixel_fires_at_each_threshold_and_is_blind_after_it() -> None:
    settings = EventSettings(threshold=0.25, mismatch=0.0, noise_hz=0.0, refractory_ns=0)
    pixel = EventSensor(1, 1, settings, (1,))
    pixel.feed(np.array([0.0]), 0)
    up = pixel.feed(np.array([1.1]), 110_000)  # 1.1 in 110 us: a threshold every 25 us
    assert up.t_ns.tolist() == [25_000, 50_000, 75_000, 100_000]
    assert up.polarity.tolist() == [1, 1, 1, 1]
    down = pixel.feed(np.array([0.4]), 180_000)  # from 1.1; the last level was 1.0
    assert down.t_ns.tolist() == [145_000, 170_000]
    assert down.polarity.tolist() == [0, 0]
    slow = EventSensor(1, 1, replace(settings, refractory_ns=40_000), (1,))
    slow.feed(np.array([0.0]), 0)
    assert slow.feed(np.array([1.1]), 110_000).t_ns.tolist() == [25_000, 75_000]


def test_noise_fires_at_its_rate_and_thresholds_differ() -> None:
    sensor = EventSensor(100, 100, EventSettings(noise_hz=2.0), (1,))
    dark = np.zeros(10_000)
    sensor.feed(dark, 0)
    events = sensor.feed(dark, SECOND_NS)
    assert len(events.t_ns) == pytest.approx(20_000, rel=0.03)
    assert (np.diff(events.t_ns) >= 0).all()
    assert (events.t_ns % 1000 == 0).all()
    rising = sensor.feed(dark + 0.22, SECOND_NS + 1_000_000)  # half of the pixels have a higher threshold
    assert len(rising.t_ns) == pytest.approx(5_000, rel=0.1)


def test_who_moves_more_makes_more_events() -> None:
    counts = {
        action: len(World(3, action=action).events(RIG, "event_cabin", 0, 600_000_000).t_ns)
        for action in ("stand", "wave", "jump")
    }
    assert counts["stand"] < counts["wave"] < counts["jump"]


def test_events_do_not_depend_on_how_the_time_is_cut_into_packets() -> None:
    world = World(2)
    stream = world.event_stream(RIG, "event_cabin", 0)
    parts = [stream(end_ns) for end_ns in (50_000_000, 100_000_000)]
    whole = world.events(RIG, "event_cabin", 0, 100_000_000)
    np.testing.assert_array_equal(np.concatenate([part.t_ns for part in parts]), whole.t_ns)
    np.testing.assert_array_equal(np.concatenate([part.x for part in parts]), whole.x)


def test_an_event_camera_of_the_street_sees_it_go_by() -> None:
    sensor = replace(RIG.sensors["cam_left"], name="event_left", kind="event_camera")
    rig = replace(RIG, sensors={**RIG.sensors, "event_left": sensor})
    standing, moving = (
        len(World(3, motion=Motion(speed_mps=speed)).events(rig, "event_left", 0, 50_000_000).t_ns)
        for speed in (0.0, 8.0)
    )
    assert moving > 2 * standing  # others move while it stands


@pytest.mark.parametrize("action", ACTIONS)
def test_bodies_stand_on_the_floor_and_keep_their_bones(action: str) -> None:
    phase = np.linspace(0.0, 2.0, 401)
    joints = body_of(ACTIONS[action](phase), np.ones(401)).joints_m
    lowest = joints[:, 12:, 2].min(axis=1)
    assert (lowest > 0.0).all()
    assert lowest.min() == pytest.approx(0.03, abs=1e-3)
    for a, b, length in ((2, 4, 0.29), (5, 7, 0.26), (8, 10, 0.42), (11, 13, 0.42)):
        np.testing.assert_allclose(np.linalg.norm(joints[:, a] - joints[:, b], axis=1), length, atol=1e-9)
    assert np.abs(np.diff(joints, axis=0)).max() < 0.06  # no joint jumps


def test_actions_differ() -> None:
    phase = np.linspace(0.0, 1.0, 24, endpoint=False)
    ways = {name: body_of(make(phase), np.ones(24)).joints_m.reshape(24, -1) for name, make in ACTIONS.items()}
    assert len(ways) >= 8
    names = sorted(ways)
    for index, first in enumerate(names):
        for second in names[index + 1 :]:
            apart = min(np.abs(ways[first] - np.roll(ways[second], shift, axis=0)).max() for shift in range(24))
            assert apart > 0.15, (first, second)


def test_a_worn_camera_sees_the_body_where_the_joints_are() -> None:
    world = World(8, action="stand")
    for t_ns in (0, SECOND_NS):
        picture = world.camera(RIG, "event_cabin", t_ns)
        joints, _ = world.skeleton(RIG, "event_cabin", t_ns)
        pixels, valid = RIG.camera("event_cabin").project(joints)
        assert valid.all()
        u, v = np.rint(pixels).astype(int).T
        assert (picture.instance[v, u] == 1).all()  # every joint is inside the body, as it is seen from before
        assert (picture.distance_m[v, u] < np.linalg.norm(joints, axis=1)).all()
        assert (picture.semantic[picture.instance == 1] == PERSON).all()
        left, right = (world.skeleton(RIG, name, t_ns)[0] for name in ("ego_left", "ego_right"))
        between = RIG.transform("ego_left_optical", "ego_right_optical")
        np.testing.assert_allclose(between.apply(right), left, atol=1e-9)
        np.testing.assert_allclose(np.linalg.norm(between.translation_m), 0.12)
        assert (left[8:, 2] > 0.3).all()  # legs are before cameras that look down


def test_the_wearer_does_every_action_and_does_not_jump_between_them() -> None:
    world = World(4)
    seconds = np.arange(0, 40, 0.02)
    wearers = [world.wearer(round(t_s * SECOND_NS)) for t_s in seconds]
    assert {wearer.action for wearer in wearers} == set(ACTIONS)
    joints = np.array([wearer.joints_m for wearer in wearers])
    assert np.linalg.norm(np.diff(joints, axis=0), axis=2).max() < 0.25  # 12 m/s in 20 ms, a fast kick
    assert {World(4, action="kick").wearer(t).action for t in (0, 9 * SECOND_NS)} == {"kick"}


def test_motion_is_smooth_and_its_rates_are_its_derivatives() -> None:
    motion, step = Motion(), 1e-4
    for t_s in (0.0, 1.3, 7.7, 20.0):
        places, yaws = motion.poses(np.array([t_s - step, t_s, t_s + step]))
        velocity = (places[2] - places[0]) / (2 * step)
        assert np.linalg.norm(velocity) == pytest.approx(motion.speed_at(t_s), rel=1e-5)
        assert np.arctan2(velocity[1], velocity[0]) == pytest.approx(yaws[1], abs=1e-5)
        assert (yaws[2] - yaws[0]) / (2 * step) == pytest.approx(motion.yaw_rate_radps(t_s), abs=1e-6)
        gained = (places[2] - 2 * places[1] + places[0]) / step**2
        local = Transform.from_yaw((0, 0, 0), yaws[1]).inverse().rotate(gained)
        np.testing.assert_allclose(local[:2], motion.acceleration_mps2(t_s), atol=2e-3)


def test_random_scenes_differ_in_what_is_seen() -> None:
    shares = np.array([class_shares(World(seed).photo(CAMERAS["pinhole"], MOUNT, 0).semantic) for seed in range(8)])
    assert (shares.std(axis=0) > 0).sum() >= 8
    assert (shares[:, CAR] > 0).all()


def class_shares(semantic: NDArray[np.uint8]) -> NDArray[np.float64]:
    return np.bincount(semantic.reshape(-1), minlength=256)[: len(CLASSES)] / semantic.size


def test_what_is_not_there_is_refused() -> None:
    with pytest.raises(GeometryError, match="is no LiDAR"):
        World(1).lidar(RIG, "cam_front", 0)
    with pytest.raises(GeometryError, match="no sensor 'lidra'"):
        World(1).lidar(RIG, "lidra", 0)
