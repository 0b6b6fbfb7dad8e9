"""A sweep that is painted before its boxes come, and again where they move, against all of it painted at once."""

from __future__ import annotations

import numpy as np
import pytest

from perception.benchmarks.outputs import Scene, World, a_fuser
from perception.messages import PaintedPoints, TrackedObjects, host
from perception.nodes._painting import Painting

NOW_NS = 300_000_000
STEP = 3


@pytest.mark.parametrize("count", [0, 40])
def test_what_is_painted_ahead_changes_nothing_in_the_outputs(count: int) -> None:
    """Nor do the sweeps that are painted for boxes that never come."""
    scene, boxes = Scene(6000), World(max(count, 1)).seen(STEP) if count else None
    at_once, ahead = a_fuser(), a_fuser()
    for step in range(20):
        ahead.prepare_scene(scene.sweep(step + STEP), scene.masks(step + STEP))
    ahead.prepare_scene(scene.sweep(STEP), scene.masks(STEP))
    for fuser in (at_once, ahead):
        fuser.prepare_scene(scene.sweep(STEP), scene.masks(STEP)[:3])  # with a mask less, so of no use
    expected = dict(at_once.on_scene(scene.sweep(STEP), scene.masks(STEP), boxes))
    found = dict(ahead.on_scene(scene.sweep(STEP), scene.masks(STEP), boxes))
    assert found.keys() == expected.keys() == ({"objects", "painted"} if count else {"painted"})
    painted, wanted = found["painted"], expected["painted"]
    assert isinstance(painted, PaintedPoints)
    assert isinstance(wanted, PaintedPoints)
    for name in ("xyz_m", "label", "camera"):
        np.testing.assert_array_equal(host(getattr(painted, name)), host(getattr(wanted, name)))
    if count:
        objects, wanted_objects = found["objects"], expected["objects"]
        assert isinstance(objects, TrackedObjects)
        assert isinstance(wanted_objects, TrackedObjects)
        assert objects.objects == wanted_objects.objects
        assert sum(thing.num_points for thing in objects.objects) > 50


def test_points_that_move_get_the_labels_that_they_get_when_all_is_known_before() -> None:
    """The others keep theirs, but for the few beside what has moved off or before them."""
    fuser, scene, random = a_fuser(), Scene(8000), np.random.default_rng(0)
    views = fuser._views(scene.masks(STEP))
    ego = fuser.ego.at(NOW_NS)
    points = fuser._moving(scene.sweep(STEP), ego)
    ahead = Painting(points, NOW_NS, views, 0.02)
    places = np.flatnonzero((np.abs(ahead.tiles.points_m[:, 1]) < 8) & (random.random(8000) < 0.5))
    moved, velocity = ahead.tiles.order[places], np.tile([15.0, 5.0, 0.0], (len(places), 1))
    before = ahead.label.copy()
    ahead.move(places, velocity, views)
    points.velocity_mps[moved] = velocity
    at_once = Painting(points, NOW_NS, views, 0.02)
    np.testing.assert_array_equal(ahead.label[moved], at_once.label[moved])
    np.testing.assert_array_equal(ahead.camera[moved], at_once.camera[moved])
    np.testing.assert_allclose(ahead.xyz_m, at_once.xyz_m, atol=1e-5)
    assert (ahead.label[moved] != before[moved]).sum() > 50
    still = np.setdiff1d(np.arange(8000), moved)
    np.testing.assert_array_equal(ahead.label[still], before[still])
    boxes = (np.array([[10.0, 0, 0], [0, 20, 0]]), np.full((2, 3), 9.0), np.array([0.3, 1.0]))
    counts = ahead.labels_in(boxes, 0.1)
    assert counts[:, :255].sum() > 50
    at_once.label[:] = ahead.label
    np.testing.assert_array_equal(counts, at_once.labels_in(boxes, 0.1))
