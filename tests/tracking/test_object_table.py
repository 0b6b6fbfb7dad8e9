"""Objects as columns: the bytes and the Python objects that they stand for are the same."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from perception.errors import MessageError, ShapeError
from perception.messages import FusedObject, Header, ObjectClass, Skeleton, TrackedObjects
from perception.messages.codec import decode, encode
from perception.tracking import object_packing
from perception.tracking.class_lists import ClassLists
from perception.tracking.object_packing import packed_objects
from perception.tracking.object_table import Motions, ObjectTable, PastPoses
from perception.tracking.seen_objects import seen_objects

NAMES = ("car", "a rather long name of a class that takes more than thirty-one bytes", "Straßenbahn")
SOURCES = ((), ("detector/detections",), ("a", "b"))
INTEGERS = [
    0, 1, 127, 128, 255, 256, 65_535, 65_536, 2**32 - 1, 2**32, 2**62, -1, -32, -33, -128, -129, -32_769, -(2**40),
]  # fmt: skip


def lists(random: np.random.Generator, count: int) -> ClassLists:
    share = np.where(random.random((count, 3)) < 0.5, random.random((count, 3)), 0.0)
    return ClassLists.ranked(NAMES, share, 1e-9)


def table(count: int, seed: int, *, moving: bool, attached: bool, finite: bool = False) -> ObjectTable:
    random = np.random.default_rng(seed)

    def floats(*shape: int) -> NDArray[np.float64]:
        odd = [0.0, -0.0, 1.5, -3e9, 1e-300] + ([] if finite else [np.nan, np.inf])
        return np.where(random.random(shape) < 0.5, random.choice(odd, shape), random.normal(size=shape))

    def whole() -> NDArray[np.int64]:
        return random.choice(np.array(INTEGERS), count)

    ends = np.cumsum(random.integers(0, 20, count)) if count else np.zeros(0, np.int64)
    places = int(ends[-1]) if count else 0
    skeleton = Skeleton(joints_m=((0.1, 0.2, 0.3),), confidence=(0.5,), track_id=4)
    extra: dict[str, Any] = {
        "covariance_pose": floats(count, 7), "covariance_velocity": floats(count, 3),
        "motion": Motions(random.random(count) < 0.5, floats(count), floats(count, 2), floats(count, 15)),
    }  # fmt: skip
    more: dict[str, Any] = {
        "history": PastPoses(random.choice(np.array(INTEGERS), places), floats(3, places), ends),
        "recognitions": [(ObjectClass("wave", 0.5),) * (k % 3) for k in range(count)],
        "skeletons": [skeleton if k % 2 else None for k in range(count)],
    }
    return ObjectTable(
        id=whole(), existence_probability=floats(count), classes=lists(random, count), center_m=floats(count, 3),
        yaw_rad=random.normal(size=count), size_lwh_m=floats(count, 3), orientation=random.integers(0, 3, count),
        velocity_mps=floats(count, 2), has_velocity=np.ones(count, np.bool_) if moving else random.random(count) < 0.5,
        age_ns=whole(), last_seen_ns=whole(), source=random.integers(0, 3, count), sources=SOURCES,
        semantics=lists(random, count), num_points=whole(), **(extra if moving else {}), **(more if attached else {}),
    )  # fmt: skip


@settings(deadline=None)  # the first one compiles
@given(st.integers(0, 40), st.integers(0, 10_000), st.booleans(), st.booleans())
def test_a_table_writes_the_bytes_of_its_objects(count: int, seed: int, moving: bool, attached: bool) -> None:
    columns = table(count, seed, moving=moving, attached=attached)
    objects = columns.objects()
    assert len(objects) == len(columns.as_field()) == count
    assert bytes(packed_objects(columns)) == msgspec.msgpack.encode(objects)


def test_more_objects_than_a_short_head_can_count_are_written_too() -> None:
    columns = table(70_000, 1, moving=True, attached=False)
    read = msgspec.msgpack.decode(packed_objects(columns), type=list[FusedObject])
    assert len(read) == 70_000
    assert read[-1].id == int(columns.id[-1])


def test_a_table_is_read_and_written_as_the_tuple_in_a_message_would_be() -> None:
    columns = table(17, 3, moving=True, attached=True, finite=True)
    header = Header(frame_id="base_link", t_sensor_ns=1)
    message = TrackedObjects(header=header, objects=columns.as_field())
    plain = TrackedObjects(header=header, objects=columns.objects())
    assert encode(message).to_bytes() == encode(plain).to_bytes()
    assert isinstance(decode(encode(message).to_bytes()), TrackedObjects)
    assert message.objects[3] == columns.objects()[3]
    assert message.objects[1:3] == columns.objects()[1:3]
    assert message.objects == plain.objects
    assert table(0, 0, moving=False, attached=False).as_field() == ()


def test_what_is_no_value_of_a_message_is_refused_by_name() -> None:
    with pytest.raises(MessageError, match="objects of type object are none of a message's"):
        encode(TrackedObjects(header=Header(frame_id="a", t_sensor_ns=1), objects=(object(),)))  # type: ignore[arg-type]


def test_a_label_that_is_none_of_the_classes_is_refused_before_anything_is_written() -> None:
    for label in (-1, 3):
        with pytest.raises(ShapeError, match="expected 0 to 2, one of the 3 classes"):
            ClassLists.of_one_each(NAMES, np.array([0, label]), np.ones(2))


def test_what_is_attached_needs_no_other_compiled_loop() -> None:
    for moving in (False, True):
        for attached in (False, True):
            packed_objects(table(5, 2, moving=moving, attached=attached))
    assert len(object_packing._objects.signatures) == 1


def test_the_tracker_reads_of_columns_what_it_reads_of_objects() -> None:
    random = np.random.default_rng(5)
    one_each = ClassLists.of_one_each(NAMES, random.integers(0, 3, 9), random.random(9))
    columns = replace(table(9, 7, moving=False, attached=False), classes=one_each, yaw_rad=random.uniform(-3.1, 3.1, 9))
    read, wanted = seen_objects(columns.as_field()), seen_objects(columns.objects())
    assert [read.names[k] for k in read.label] == [wanted.names[k] for k in wanted.label]
    for name in ("score", "center_m", "size_lwh_m", "velocity_mps", "num_points"):
        np.testing.assert_array_equal(getattr(read, name), getattr(wanted, name), err_msg=name)
    np.testing.assert_allclose(read.yaw_rad, wanted.yaw_rad, atol=1e-12)
    for k, name in enumerate(wanted.looks):
        np.testing.assert_array_equal(read.share[:, read.looks.index(name)], wanted.share[:, k])
