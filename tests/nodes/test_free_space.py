"""Free space: numbers worked by hand, and a simulated drive in which no true object may stand in the polygon."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from perception.messages import FreeSpace, Header, Message, PaintedPoints, TrackedObjects, host
from perception.nodes.free_space_finder import NO_ROAD, FreeSpaceFinder, FreeSpaceFinderConfig
from perception.ops.free_space import BLOCKED, DRIVABLE, NEITHER, free_ranges, polygon
from perception.runtime.inline_runner import run_inline
from perception.runtime.launch_file.load import load_launch

CLASSES = ("road", "sidewalk", "car", "sky")
ROAD, SIDEWALK, CAR, UNKNOWN = 0, 1, 2, 255


def ranges_of(points: list[tuple[float, float]], kinds: list[int], **settings: float) -> NDArray[np.float64]:
    limits = {"sectors": 36, "margin_m": 0.3, "blind_m": 8.0, "max_gap_m": 5.0, "max_range_m": 60.0, **settings}
    return free_ranges(np.array(points, float), np.array(kinds, np.uint8), **limits)  # type: ignore[arg-type]


def ahead(*distances: float) -> list[tuple[float, float]]:
    """Points in the middle of the first sector, 5 degrees to the left of straight ahead."""
    angle = np.radians(5)
    return [(distance * np.cos(angle), distance * np.sin(angle)) for distance in distances]


def test_a_direction_is_free_to_the_last_road_point_that_follows_the_others() -> None:
    ranges = ranges_of(ahead(6, 10, 14, 30), [DRIVABLE] * 4)
    assert ranges[0] == pytest.approx(14)
    assert (ranges[1:] == 0).all()


def test_road_that_begins_beyond_the_blind_ground_is_not_reached() -> None:
    assert ranges_of(ahead(9), [DRIVABLE])[0] == 0


def test_a_blocked_point_ends_it_a_margin_before() -> None:
    assert ranges_of(ahead(6, 9.5, 9.8, 10), [DRIVABLE, DRIVABLE, DRIVABLE, BLOCKED])[0] == pytest.approx(9.5)


def test_a_blocked_point_takes_the_directions_beside_it_as_far_as_its_margin_reaches() -> None:
    angle = np.radians(11)  # 1 degree into the second sector; 0.3 m at 6 m are 2.9 degrees
    blocked = (6 * np.cos(angle), 6 * np.sin(angle))
    assert ranges_of([*ahead(5, 7), blocked], [DRIVABLE, DRIVABLE, BLOCKED])[0] == pytest.approx(5)


def test_points_that_say_nothing_change_nothing() -> None:
    assert ranges_of(ahead(6, 3, 7), [DRIVABLE, NEITHER, NEITHER])[0] == pytest.approx(6)


@given(st.lists(st.floats(0, 50), min_size=8, max_size=8))
@settings(max_examples=30)
def test_a_polygon_runs_counter_clockwise_and_has_the_area_of_its_triangles(ranges: list[float]) -> None:
    outline = polygon(np.array(ranges))
    x, y = outline[:, 0], outline[:, 1]
    area = float((x * np.roll(y, -1) - y * np.roll(x, -1)).sum() / 2)
    assert area == pytest.approx(sum(r * r for r in ranges) * np.sin(np.radians(45)) / 2, abs=1e-6)


def painted(points: list[tuple[float, float, float]], labels: list[int], **more: object) -> PaintedPoints:
    header = Header(frame_id="base_link", t_sensor_ns=7)
    return PaintedPoints(
        header=header, classes=CLASSES, xyz_m=np.array(points, np.float32).reshape(-1, 3),
        label=np.array(labels, np.uint8), **more,  # type: ignore[arg-type]
    )  # fmt: skip


def extent(message: FreeSpace) -> float:
    """Return how far ahead the polygon goes."""
    outline = host(message.polygon_m)
    return float(outline[:, 0].max()) if len(outline) else 0.0


ROAD_AHEAD = [(x, 0.05, 0.0) for x in (5.0, 9.0, 13.0)]


@pytest.mark.parametrize(
    ("point", "label", "free_m"),
    [
        pytest.param((11.0, 0.05, 0.0), SIDEWALK, 9.0, id="ground of another class ends it"),
        pytest.param((11.0, 0.05, 0.8), CAR, 9.0, id="a car ends it"),
        pytest.param((11.0, 0.05, 0.8), ROAD, 9.0, id="what stands up ends it whatever its class"),
        pytest.param((11.0, 0.05, 0.8), UNKNOWN, 9.0, id="what no camera sees ends it where it stands up"),
        pytest.param((11.0, 0.05, 0.0), UNKNOWN, 13.0, id="ground that no camera sees says nothing"),
        pytest.param((11.0, 0.05, 4.0), SIDEWALK, 13.0, id="a bridge is passed under"),
    ],
)
def test_what_ends_the_free_space(point: tuple[float, float, float], label: int, free_m: float) -> None:
    message = FreeSpaceFinder().on_painted(painted([*ROAD_AHEAD, point], [ROAD] * 3 + [label]))
    assert extent(message) == pytest.approx(free_m, abs=0.02)
    assert (message.header.frame_id, message.header.t_sensor_ns) == ("base_link", 7)


def test_identities_decide_where_classes_have_other_names() -> None:
    named = painted(ROAD_AHEAD, [1, 1, 1], identities=("sky", "road", "car", "sky"))
    assert extent(FreeSpaceFinder().on_painted(named)) == pytest.approx(13, abs=0.02)


def test_uncertain_ground_says_nothing() -> None:
    config = FreeSpaceFinderConfig(confidence_min=0.5)
    unsure = painted(ROAD_AHEAD, [ROAD] * 3, confidence=np.array([255, 255, 100], np.uint8))
    assert extent(FreeSpaceFinder(config).on_painted(unsure)) == pytest.approx(9, abs=0.02)


@pytest.mark.parametrize("points", [[], [(5.0, 0.0, 1.0)]])
def test_without_road_there_is_no_polygon_and_the_output_says_so(points: list[tuple[float, float, float]]) -> None:
    message = FreeSpaceFinder().on_painted(painted(points, [CAR] * len(points)))
    assert host(message.polygon_m).shape == (0, 2)
    assert NO_ROAD in message.header.degraded


LAUNCH = """
name: free_space
rig: simulated_car
ego_motion: ego
nodes:
  sensors:
    node: simulator
    paced_by: fuser
    settings: {seed: 5, start_ns: 1000000000000, sensors: [lidar, cam_front, cam_rear, ego]}
  fuser:
    node: fuser
    inputs: {scene.sweep: lidar/points, scene.masks: [truth/cam_front/mask, truth/cam_rear/mask]}
    joins: {scene: {tolerance_ms: 60, deadline_ms: 300}}
  ground: {node: free_space_finder, inputs: {painted: fuser/painted}}
outputs: {freespace: {topic: ground/freespace}}
"""


def test_in_a_drive_the_road_ahead_is_free_and_no_object_stands_in_the_polygon(tmp_path: Path) -> None:
    file = tmp_path / "free.yaml"
    file.write_text(LAUNCH)
    graph = replace(load_launch(file), mode="lockstep")
    polygons: dict[int, NDArray[np.float64]] = {}
    truth: dict[int, NDArray[np.float64]] = {}
    centers: dict[int, NDArray[np.float64]] = {}

    def take(topic: str, message: Message) -> None:
        t_ns = message.header.t_sensor_ns
        if isinstance(message, FreeSpace):
            found = polygons if topic == "ground/freespace" else truth
            found[t_ns] = np.array(host(message.polygon_m), float)
        elif topic == "truth/objects" and isinstance(message, TrackedObjects):
            centers[t_ns] = np.array([o.center_m[:2] for o in message.objects], float).reshape(-1, 2)

    run_inline(graph, on_message=take, duration_ns=1_000_000_000)
    seen = {t_ns: outline for t_ns, outline in polygons.items() if len(outline) and t_ns in centers}
    assert len(seen) > 5
    assert np.median([outline[:, 0].max() for outline in seen.values()]) > 10
    assert sum(int(_inside(outline, centers[t_ns]).sum()) for t_ns, outline in seen.items()) == 0
    places = np.stack(np.meshgrid(np.arange(-30, 60, 0.5), np.arange(-20, 20, 0.5)), axis=-1).reshape(-1, 2)
    ours = {t_ns: _inside(outline, places) for t_ns, outline in seen.items()}
    theirs = {t_ns: _inside(truth[t_ns], places) for t_ns in seen}
    shares = [(ours[t_ns] & theirs[t_ns]).sum() / ours[t_ns].sum() for t_ns in seen]
    assert min(shares) > 0.98


def _inside(outline: NDArray[np.float64], points: NDArray[np.floating]) -> NDArray[np.bool_]:
    """Return which points lie in a polygon, by the edges that a ray to +x crosses."""
    x, y = points[:, 0, None], points[:, 1, None]
    (x1, y1), (x2, y2) = outline.T, np.roll(outline, -1, axis=0).T
    with np.errstate(divide="ignore", invalid="ignore"):
        crosses = ((y1 > y) != (y2 > y)) & (x < (x2 - x1) * (y - y1) / (y2 - y1) + x1)
    return np.asarray(crosses.sum(1) % 2 == 1)
