"""What objects are said to be, and where they were: columns of many objects against numbers worked by hand."""

from __future__ import annotations

import numpy as np

from perception.geometry.transforms import Transform
from perception.messages import ObjectClass, PastPose
from perception.messages.covariance import pose_covariances
from perception.tracking.class_lists import ClassLists
from perception.tracking.looks import Looks
from perception.tracking.past_places import PastPlaces

MS = 1_000_000


def test_a_class_list_is_by_falling_share_equal_ones_in_order_and_without_what_is_too_small() -> None:
    share = np.array([[0.2, 0.75, 0.05], [0.3, 0.4, 0.3], [0.0, 0.0, 0.0]])
    lists = ClassLists.ranked(("car", "bus", "train"), share, 0.1)
    first, second, third = lists.tuples()
    assert first == (ObjectClass("bus", 0.75), ObjectClass("car", 0.2))
    assert second == (ObjectClass("bus", 0.4), ObjectClass("car", 0.3), ObjectClass("train", 0.3))
    assert third == ()
    np.testing.assert_array_equal(lists.table(), [[0.2, 0.75, 0.0], [0.3, 0.4, 0.3], [0.0, 0.0, 0.0]])


def test_past_places_are_half_a_second_apart_and_seen_from_where_the_vehicle_is_now() -> None:
    places = PastPlaces()
    quarter = Transform.from_yaw([2.0, 0.0, 0.0], np.pi / 2)
    for t_ms in range(0, 1200, 100):
        here = np.array([[t_ms / 1000, 0.0, 0.1], [0.0, 5.0, 0.0]])
        (told, *_) = places.note(np.array([7, 8]), here, t_ms * MS, quarter).tuples()
        assert all(pose.t_ns < t_ms * MS for pose in told)
    assert [pose.t_ns for pose in told] == [500 * MS, 1000 * MS]  # the one at 0 has made room
    assert isinstance(told[1], PastPose)
    np.testing.assert_allclose([told[1].x_m, told[1].y_m], [2.0, 1.0], atol=1e-12)
    np.testing.assert_allclose(told[1].yaw_rad, 0.1 + np.pi / 2)


def test_past_places_of_objects_that_are_gone_are_forgotten() -> None:
    places, still = PastPlaces(), Transform.identity()
    places.note(np.array([7, 8, 9]), np.arange(9.0).reshape(3, 3), 0, still)
    places.keep(np.array([9, 7]))
    assert len(places) == 2
    nine, eight = places.note(np.array([9, 8]), np.zeros((2, 3)), 600 * MS, still).tuples()
    assert nine == (PastPose(0, 6.0, 7.0, 8.0),)
    assert eight == ()


def test_looks_are_kept_by_track_whatever_names_come_and_are_forgotten_when_they_are_old() -> None:
    looks = Looks()
    looks.note(np.array([5, 9]), 100, ("car", "road"), np.array([[0.75, 0.25], [0.0, 1.0]]), np.array([8, 3]))
    looks.note(np.array([7]), 200, ("bus", "road"), np.array([[0.5, 0.5]]), np.array([2]))
    seen, points = looks.of(np.array([7, 5, 1, 9]), oldest_ns=100)
    assert seen.tuples() == [
        (ObjectClass("road", 0.5), ObjectClass("bus", 0.5)),  # equal ones in the order in which names came
        (ObjectClass("car", 0.75), ObjectClass("road", 0.25)),
        (),
        (ObjectClass("road", 1.0),),
    ]
    assert points.tolist() == [2, 8, 0, 3]
    looks.keep(np.array([7, 9]))
    assert len(looks) == 2
    seen, points = looks.of(np.array([5, 7, 9]), oldest_ns=101)
    assert [len(one) for one in seen.tuples()] == [0, 2, 0]
    assert points.tolist() == [0, 2, 0]


def test_a_pose_covariance_is_the_upper_triangle_of_x_y_z_roll_pitch_yaw() -> None:
    (numbers,) = pose_covariances([[1.0], [2.0], [3.0], [4.0], [5.0], [6.0]], [7.0])
    full = np.zeros((6, 6))
    full[np.triu_indices(6)] = numbers
    np.testing.assert_array_equal(full[np.ix_([0, 1, 5], [0, 1, 5])], [[1, 2, 3], [0, 4, 5], [0, 0, 6]])
    assert full[2, 2] == 7
    assert np.count_nonzero(full) == 7
