"""Sweeps to learn from: what is labelled, and what mirroring, turning and pasting do to points and boxes alike."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from perception.geometry.rig import Rig, load_rig
from perception.training.surround import DrawnPicture, SurroundDrawing, drawing_of, drawn_surround
from perception.training.surround import pasted as pasted_surround
from perception.training.sweeps import (
    CLASSES,
    Augmentation,
    Beams,
    LabelledSweep,
    _moved,
    augmented,
    hit,
    pasted,
    simulated_sweep,
    upright,
)

RIG = Path(__file__).parents[2] / "calibration" / "simulated_car"
BUS = CLASSES.index("bus")


@pytest.fixture(scope="module")
def rig() -> Rig:
    return load_rig(RIG)


@pytest.fixture(scope="module")
def sweeps(rig: Rig) -> list[LabelledSweep]:
    return [simulated_sweep(rig, seed) for seed in (300_000, 300_001)]


def owned(sweep: LabelledSweep) -> float:
    """The share of the points that lie in the box of their owner, enlarged by the noise of ranges."""
    place = sweep.points[sweep.owner >= 0, :3]
    inside = upright(sweep.boxes).contain(place, margin_m=0.1)
    return float(inside[sweep.owner[sweep.owner >= 0], np.arange(len(place))].mean())


def test_every_box_is_hit_and_near_and_holds_its_points(sweeps: list[LabelledSweep]) -> None:
    for sweep in sweeps:
        assert (np.bincount(sweep.owner[sweep.owner >= 0], minlength=len(sweep.boxes)) > 0).all()
        assert (np.hypot(sweep.boxes[:, 0], sweep.boxes[:, 1]) < 50).all()
        assert (np.abs(sweep.boxes[:, 2] - sweep.boxes[:, 5] / 2) < 0.3).all()  # on the road or the pavement
        assert 0 <= sweep.points[:, 3].min() <= sweep.points[:, 3].max() <= 1
        # what moves by itself was elsewhere when it was hit; what stands holds its points, deskewed
        still = np.append(np.abs(sweep.velocity).max(axis=1) < 1e-6, False)[sweep.owner]
        parked = LabelledSweep(sweep.points[still], sweep.owner[still], sweep.boxes, sweep.label, sweep.velocity)
        assert owned(parked) > 0.99


def test_the_same_seed_gives_the_same_sweep(rig: Rig, sweeps: list[LabelledSweep]) -> None:
    again = simulated_sweep(rig, 300_000)
    np.testing.assert_array_equal(again.points, sweeps[0].points)
    np.testing.assert_array_equal(again.boxes, sweeps[0].boxes)


def test_a_quarter_turn_to_the_left_brings_what_is_ahead_to_the_left() -> None:
    sweep = _one_box([10.0, 2.0, 1.0, 4.0, 2.0, 2.0, 0.0], velocity=[3.0, 0.0])
    turned = _moved(sweep, mirrored=False, angle=np.pi / 2, scale=1.0)
    np.testing.assert_allclose(turned.boxes, [[-2, 10, 1, 4, 2, 2, np.pi / 2]], atol=1e-5)
    np.testing.assert_allclose(turned.velocity, [[0, 3]], atol=1e-6)
    np.testing.assert_allclose(turned.points[0], [-2, 10, 1, 0.5], atol=1e-5)


def test_mirroring_swaps_left_and_right_and_the_sense_of_headings() -> None:
    sweep = _one_box([10.0, 2.0, 1.0, 4.0, 2.0, 2.0, 0.3], velocity=[3.0, 1.0])
    mirrored = _moved(sweep, mirrored=True, angle=0.0, scale=1.1)
    np.testing.assert_allclose(mirrored.boxes, [[11, -2.2, 1.1, 4.4, 2.2, 2.2, -0.3]], atol=1e-5)
    np.testing.assert_allclose(mirrored.velocity, [[3.3, -1.1]], atol=1e-6)


def test_a_pasted_bus_throws_a_shadow_and_one_behind_a_wall_is_left_out(rig: Rig) -> None:
    beams = Beams.of_rig(rig)
    sensor = beams.base_link_from_lidar.translation_m
    bus = _one_box([21.0, 0.0, 1.5, 12.0, 2.5, 3.0, 0.0])
    wall = np.array([[40.0, 0.0, sensor[2], 0.2], [40.0, 30.0, sensor[2], 0.2]], np.float32)
    random = np.random.default_rng(0)
    behind = pasted(_scene(wall), _with_points(bus, [[15.0, 0.0, sensor[2], 0.5]]), 6, random, beams)
    assert behind.label.tolist() == [BUS]
    # the return of the wall on the bus's beam is gone, the one beside it is still there
    np.testing.assert_allclose(sorted(behind.points[:, 0].tolist()), [15, 40])
    near = np.array([[5.0, 0.0, sensor[2], 0.2]], np.float32)
    hidden = pasted(_scene(near), _with_points(bus, [[15.0, 0.0, sensor[2], 0.5]]), 6, random, beams)
    assert len(hidden.boxes) == 0
    np.testing.assert_array_equal(hidden.points, near)


def test_nothing_is_pasted_into_what_is_there(rig: Rig) -> None:
    bus, random = _one_box([21.0, 0.0, 1.5, 12.0, 2.5, 3.0, 0.0]), np.random.default_rng(0)
    crossing = _one_box([26.0, 1.0, 0.8, 4.4, 1.8, 1.5, 1.0])
    assert len(pasted(crossing, bus, 6, random, Beams.of_rig(rig)).boxes) == 1
    tree = _scene(np.array([[21.0, 0.0, 1.5, 0.3]], np.float32))
    assert len(pasted(tree, bus, 6, random, Beams.of_rig(rig)).boxes) == 0


def test_augmented_sweeps_hold_more_of_the_rare_and_keep_points_with_their_boxes(
    rig: Rig, sweeps: list[LabelledSweep]
) -> None:
    changed = augmented(sweeps[0], sweeps[1], Augmentation(), np.random.default_rng(1), Beams.of_rig(rig))
    assert len(changed.boxes) > len(sweeps[0].boxes)
    assert owned(changed) > min(map(owned, sweeps)) - 0.05  # what moves leaves its box during the sweep
    assert len(changed.points) == len(changed.owner)


def test_boxes_that_lost_all_points_are_dropped_and_the_others_keep_theirs() -> None:
    boxes = np.arange(21, dtype=np.float32).reshape(3, 7)
    points = np.zeros((3, 4), np.float32)
    sweep = LabelledSweep(
        points, np.array([2, -1, 0], np.int16), boxes, np.array([0, 1, 2]), np.zeros((3, 2), np.float32)
    )
    left = hit(sweep)
    assert left.owner.tolist() == [1, -1, 0]
    assert left.label.tolist() == [0, 2]
    np.testing.assert_array_equal(left.boxes, boxes[[0, 2]])


def _one_box(box: list[float], velocity: tuple[float, ...] | list[float] = (0.0, 0.0)) -> LabelledSweep:
    """A sweep of one bus with one point in its middle."""
    points = np.array([[*box[:3], 0.5]], np.float32)
    return LabelledSweep(
        points, np.zeros(1, np.int16), np.array([box], np.float32), np.array([BUS]), np.array([velocity], np.float32)
    )  # fmt: skip


def _with_points(sweep: LabelledSweep, points: list[list[float]]) -> LabelledSweep:
    owner = np.zeros(len(points), np.int16)
    return LabelledSweep(np.array(points, np.float32), owner, sweep.boxes, sweep.label, sweep.velocity)


def _scene(points: np.ndarray) -> LabelledSweep:
    """A sweep without objects."""
    nothing = np.zeros((0, 7), np.float32)
    return LabelledSweep(
        points, np.full(len(points), -1, np.int16), nothing, np.zeros(0, np.int64), np.zeros((0, 2), np.float32)
    )


def test_a_bus_is_pasted_into_the_pictures_that_show_it_and_stays_behind_what_is_nearer(rig: Rig) -> None:
    beams = Beams.of_rig(rig)
    sensor = beams.base_link_from_lidar.translation_m
    bus = _with_points(_one_box([21.0, 0.0, 1.5, 12.0, 2.5, 3.0, 0.0]), [[15.0, 0.0, sensor[2], 0.5]])
    # three pixels: a wall behind the bus, a lamp before it, and one that does not show it
    street = _picture([10, 20, 30], owner=[-1, -1, -1], distance_m=[40, 5, 40])
    with_bus = _picture([110, 120, 130], owner=[0, 0, -1], distance_m=[14, 14, 14])
    into = SurroundDrawing(_scene(np.array([[40.0, 0.0, sensor[2], 0.2]], np.float32)), {"cam_front": street})
    after = pasted_surround(into, SurroundDrawing(bus, {"cam_front": with_bus}), 6, np.random.default_rng(0), beams)
    assert after.sweep.label.tolist() == [BUS]
    assert after.pictures["cam_front"].rgb[0, :, 0].tolist() == [110, 20, 30]
    assert after.pictures["cam_front"].distance_m[0].tolist() == [14, 5, 40]


def _picture(grey: list[int], owner: list[int], distance_m: list[float]) -> DrawnPicture:
    rgb = np.repeat(np.array(grey, np.uint8)[None, :, None], 3, axis=2)
    return DrawnPicture(rgb, np.array([owner], np.int16), np.array([distance_m], np.float16))


def test_pixels_of_a_drawing_lie_where_their_boxes_are(rig: Rig) -> None:
    (drawing,) = (drawing_of(sample, ["cam_front"]) for sample in drawn_surround(rig, 1_000_001))
    picture, sweep = drawing.pictures["cam_front"], drawing.sweep
    camera_m = rig.base_link_from("cam_front").translation_m
    seen = np.unique(picture.owner[picture.owner >= 0])
    assert len(seen) > 3
    for number in seen:
        nearest = float(picture.distance_m[picture.owner == number].min())
        center, half = sweep.boxes[number, :3] - camera_m, np.linalg.norm(sweep.boxes[number, 3:6]) / 2
        assert abs(nearest - np.linalg.norm(center)) < half + 0.5
