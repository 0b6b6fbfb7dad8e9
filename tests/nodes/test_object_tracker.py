"""The node: many detectors become one list in `base_link`, over ground, with what cameras say of it."""

from __future__ import annotations

from pathlib import Path
from typing import cast

import msgspec
import numpy as np
import pytest
from pydantic import ValidationError

from perception.errors import SensorError
from perception.geometry.rig import load_rig
from perception.geometry.transforms import Transform
from perception.messages import (
    Detections2D,
    Detections3D,
    FusedObject,
    Header,
    ModelId,
    ObjectClass,
    Odometry,
    Pose3D,
    Recognition,
    Skeleton,
    TrackedObjects,
)
from perception.messages.codec import decode, encode
from perception.nodes.object_tracker import NO_EGO_MOTION, ObjectTracker, ObjectTrackerConfig
from perception.runtime.node import Lookup

RIG = load_rig(Path(__file__).parents[2] / "calibration" / "simulated_car")
START_NS, STEP_NS = 1_000_000_000_000, 100_000_000
EGO_MPS, TURN_RADPS = 8.0, 0.3


class KnownMotion:
    """Ego motion on a circle, known at every instant after its start."""

    def at(self, t_ns: int) -> Odometry | None:
        if t_ns < START_NS:
            return None
        pose = ego(t_ns)
        x, y, z = pose.translation_m.tolist()
        qx, qy, qz, qw = pose.rotation_xyzw.tolist()
        return Odometry(
            header=Header(frame_id="odom", t_sensor_ns=t_ns), translation_m=(x, y, z), rotation_xyzw=(qx, qy, qz, qw),
            velocity_mps=(EGO_MPS, 0.0, 0.0), angular_velocity_radps=(0.0, 0.0, TURN_RADPS),
        )  # fmt: skip


def ego(t_ns: int) -> Transform:
    turned = TURN_RADPS * (t_ns - START_NS) * 1e-9
    radius = EGO_MPS / TURN_RADPS
    return Transform.from_yaw([radius * np.sin(turned), radius * (1 - np.cos(turned)), 0.0], turned)


def tracker(**settings: object) -> ObjectTracker:
    node = ObjectTracker(ObjectTrackerConfig.model_validate(settings))
    node.rig = RIG
    node.ego = cast("Lookup[Odometry]", KnownMotion())
    return node


def detections(
    t_ns: int, odom_xy: object, *, classes: tuple[str, ...] = ("car",), model: str = "dsvt@1", score: float = 0.9,
    size: tuple[float, float, float] = (4.0, 1.8, 1.5), frame: str = "base_link", yaw: float = 0.0,
) -> Detections3D:  # fmt: skip
    """What a detector in a frame of the rig sees of things on the ground of `odom`, at their own heading there."""
    places = np.atleast_2d(np.asarray(odom_xy, np.float64))
    frame_from_odom = (ego(t_ns) @ RIG.base_link_from(frame)).inverse()
    center = frame_from_odom.apply(np.column_stack((places, np.full(len(places), size[2] / 2))))
    count = len(places)
    return Detections3D(
        header=Header(frame_id=frame, t_sensor_ns=t_ns, run="r", models=(ModelId(model, "torch"),)), classes=classes,
        center_m=center.astype(np.float32), size_lwh_m=np.tile(np.array(size, np.float32), (count, 1)),
        yaw_rad=np.full(count, yaw + frame_from_odom.yaw_rad(), np.float32), score=np.full(count, score, np.float32),
        label=np.zeros(count, np.uint16),
    )  # fmt: skip


def test_what_stands_still_stands_still_while_the_vehicle_drives_a_bend() -> None:
    node = tracker()
    for step in range(20):
        said = node.on_detections(detections(START_NS + step * STEP_NS, [20.0, 5.0]))
    (thing,) = said.objects
    expected = ego(said.header.t_sensor_ns).inverse().apply(np.array([20.0, 5.0, 0.75]))
    np.testing.assert_allclose(thing.center_m, expected, atol=0.05)
    assert thing.velocity_mps == pytest.approx((0.0, 0.0, 0.0), abs=0.2)
    assert thing.orientation_availability == "available"
    assert thing.age_ns == 19 * STEP_NS
    assert said.header.frame_id == "base_link"
    assert len(thing.history) == 2
    past = thing.history[0]
    np.testing.assert_allclose((past.x_m, past.y_m), expected[:2], atol=0.1)  # where it was is where it is


def test_detectors_in_other_frames_and_late_ones_speak_of_the_same_objects() -> None:
    node = tracker()
    for step in range(10):
        t_ns = START_NS + step * STEP_NS
        node.on_detections(detections(t_ns, [20.0, 5.0], model="dsvt@1"))
        if step > 2:
            said = node.on_detections(detections(t_ns - 150_000_000, [20.0, 5.0], model="flatformer@2", frame="lidar"))
    (thing,) = said.objects
    assert set(thing.sources) == {"dsvt", "flatformer"}
    assert said.header.t_sensor_ns == START_NS + 9 * STEP_NS  # a late word does not turn the time back
    assert {model.id for model in said.header.models} == {"dsvt@1", "flatformer@2"}


def test_two_classes_that_a_detector_says_of_one_place_are_one_object() -> None:
    node = tracker()
    for step in range(4):
        t_ns = START_NS + step * STEP_NS
        both = detections(t_ns, [[20.0, 5.0], [20.2, 5.0]], classes=("car", "truck"))
        both = msgspec.structs.replace(both, label=np.array([0, 1], np.uint16), score=np.array([0.6, 0.8], np.float32))
        said = node.on_detections(both)
    (thing,) = said.objects
    assert thing.classes[0].label == "truck"


def test_of_two_objects_in_one_place_the_surer_one_is_given_out() -> None:
    node, shown = tracker(), []
    for step in range(7):
        t_ns, ahead = START_NS + step * STEP_NS, 22.7 - 0.15 * step  # the car's end is at 22
        node.on_detections(detections(t_ns, [20.0, 5.0], model="a@1", score=0.95))
        person = detections(t_ns, [ahead, 5.0], model="b@1", score=0.6, classes=("person",), size=(0.6, 0.6, 1.7))
        shown.append([thing.classes[0].label for thing in node.on_detections(person).objects])
    assert shown[:3] == [["car", "person"]] * 3
    assert shown[-1] == ["car"]


def test_a_confusion_of_unknown_classes_is_refused() -> None:
    with pytest.raises(ValidationError, match=r"'tuck' is no class of the tracker; it knows car, .* mean 'truck'\?"):
        tracker(reliability={"dsvt": {"confusion": {"tuck": {"car": 0.2}}}})
    with pytest.raises(ValidationError, match="'buss' is no class of the tracker"):
        tracker(reliability={"dsvt": {"confusion": {"truck": {"buss": 0.2}}}})


def test_ids_are_64_bits_of_start_and_counter() -> None:
    first, second = tracker(), tracker()
    one = first.on_detections(detections(START_NS, [20.0, 5.0])).objects[0].id
    other = second.on_detections(detections(START_NS + 7, [20.0, 5.0])).objects[0].id
    assert one & 0xFFFF_FFFF == other & 0xFFFF_FFFF == 1
    assert one >> 32 != other >> 32
    assert 0 < one < 2**63


def test_the_list_survives_the_wire_with_all_that_is_attached() -> None:
    node = tracker()
    fused = TrackedObjects(
        header=Header(frame_id="base_link", t_sensor_ns=START_NS, run="r"),
        objects=(
            FusedObject(
                id=0,
                existence_probability=0.8,
                classes=(ObjectClass("person", 0.8),),
                center_m=(10.0, 0.0, 0.9),
                rotation_xyzw=(0.0, 0.0, 0.0, 1.0),
                size_lwh_m=(0.6, 0.6, 1.8),
                num_points=40,
                semantics=(ObjectClass("person", 0.9), ObjectClass("road", 0.1)),
            ),
        ),
    )
    node.on_fused(fused)
    node.on_skeletons(
        Pose3D(
            header=Header(frame_id="base_link", t_sensor_ns=START_NS),
            joint_names=("head", "foot"),
            limbs=((0, 1),),
            skeletons=(Skeleton(joints_m=((10.1, 0.0, 1.7), (10.0, 0.1, 0.0)), confidence=(1.0, 1.0)),),
        )
    )
    said = decode(encode(node.on_fused(fused)).to_bytes())
    assert isinstance(said, TrackedObjects)
    (thing,) = said.objects
    assert thing.num_points == 40
    assert thing.semantics[0].label == "person"
    assert thing.skeleton is not None
    np.testing.assert_allclose(thing.skeleton.joints_m, [[10.1, 0.0, 1.7], [10.0, 0.1, 0.0]], atol=0.02)
    assert thing.covariance_pose is not None
    assert len(thing.covariance_pose) == 21


def region_of(node: ObjectTracker, said: TrackedObjects) -> np.ndarray:
    """Return where the front camera sees the first object."""
    from perception.tracking.in_image import outlines

    thing = said.objects[0]
    yaw = 2 * np.arctan2(thing.rotation_xyzw[2], thing.rotation_xyzw[3])
    box = np.array([[*thing.center_m, *thing.size_lwh_m, yaw]])
    optical = RIG.sensors["cam_front"].frame
    outline, visible = outlines(box, RIG.camera("cam_front"), RIG.base_link_from(optical).inverse())
    assert visible[0]
    return outline


def test_a_camera_supports_what_it_sees_and_a_recognition_goes_to_its_object() -> None:
    node = tracker()
    said = node.on_detections(detections(START_NS, [[20.0, 0.0], [60.0, 25.0]], score=0.4))
    before = {thing.id: thing.existence_probability for thing in said.objects}
    region = region_of(node, said)
    optical = RIG.sensors["cam_front"].frame
    header = Header(frame_id=optical, t_sensor_ns=START_NS, models=(ModelId("ddrnet@1", "torch"),))
    node.on_regions(
        Detections2D(
            header=header,
            classes=("car",),
            box_px=region.astype(np.float32),
            score=np.ones(1, np.float32),
            label=np.zeros(1, np.uint16),
        )
    )
    left, top, right, bottom = np.rint(region[0]).astype(int).tolist()
    node.on_recognitions(
        Recognition(
            header=header,
            t_begin_ns=0,
            t_end_ns=1,
            top=(ObjectClass("parking", 0.7),),
            region_px=(left, top, right, bottom),
        )
    )
    after = {thing.id: thing for thing in node.on_detections(detections(START_NS, [[20.0, 0.0]], score=0.4)).objects}
    seen = said.objects[0].id
    assert after[seen].existence_probability > before[seen] + 0.2
    assert after[seen].recognitions == (ObjectClass("parking", 0.7),)
    assert "ddrnet" in after[seen].sources
    assert all(not thing.recognitions for identity, thing in after.items() if identity != seen)


def test_a_recognition_is_forgotten_after_a_second_however_often_its_object_is_painted() -> None:
    node, optical = tracker(), RIG.sensors["cam_front"].frame
    said = node.on_fused(painted_car(START_NS))
    left, top, right, bottom = np.rint(region_of(node, said)[0]).astype(int).tolist()
    node.on_recognitions(
        Recognition(
            header=Header(frame_id=optical, t_sensor_ns=START_NS), t_begin_ns=0, t_end_ns=1,
            top=(ObjectClass("parking", 0.7),), region_px=(left, top, right, bottom),
        )
    )  # fmt: skip
    told = {}
    for step in range(1, 13):
        (thing,) = node.on_fused(painted_car(START_NS + step * STEP_NS)).objects
        told[step] = bool(thing.recognitions)
        assert thing.semantics == (ObjectClass("car", 1.0),)
    assert [step for step, known in told.items() if known] == list(range(1, 11))


def test_a_box_of_nonsense_takes_nothing_from_the_boxes_after_it() -> None:
    fused = painted_car(START_NS)
    (car,) = fused.objects
    broken = msgspec.structs.replace(car, center_m=(float("nan"), 0.0, 0.0), num_points=7, semantics=())
    (thing,) = tracker().on_fused(msgspec.structs.replace(fused, objects=(broken, car))).objects
    assert (thing.num_points, thing.semantics) == (40, car.semantics)


def painted_car(t_ns: int) -> TrackedObjects:
    """A car that stands 20 m ahead of where the vehicle started, in `base_link` at an instant."""
    place = ego(t_ns).inverse()
    x, y, z = place.apply(np.array([20.0, 0.0, 0.75])).tolist()
    half = place.yaw_rad() / 2
    car = FusedObject(
        id=0, existence_probability=0.9, classes=(ObjectClass("car", 0.9),), center_m=(x, y, z),
        rotation_xyzw=(0.0, 0.0, float(np.sin(half)), float(np.cos(half))), size_lwh_m=(4.0, 1.8, 1.5),
        num_points=40, semantics=(ObjectClass("car", 1.0),),
    )  # fmt: skip
    return TrackedObjects(header=Header(frame_id="base_link", t_sensor_ns=t_ns, run="r"), objects=(car,))


def test_without_ego_motion_nothing_is_said_of_velocity_over_ground() -> None:
    node = ObjectTracker(has_ego=False)
    node.rig = RIG
    for step in range(5):
        said = node.on_detections(detections(START_NS + step * STEP_NS, [20.0, 5.0]))
    (thing,) = said.objects
    assert (thing.has_velocity, thing.velocity_mps, thing.motion) == (False, None, None)
    assert NO_EGO_MOTION in said.header.degraded
    assert said.odom_from_base_link is None


def test_before_there_is_any_odometry_objects_are_not_placed() -> None:
    with pytest.raises(SensorError, match="no ego motion in the 500 ms before"):
        tracker().on_detections(detections(START_NS - 10 * STEP_NS, [20.0, 5.0]))


def test_a_detector_that_boasts_is_taken_at_its_settings_word() -> None:
    node = tracker(reliability={"boaster": {"slope": 0.5, "offset": -1.0}})
    said = node.on_detections(detections(START_NS, [20.0, 5.0], model="boaster@3", score=0.9))
    assert said.objects[0].existence_probability == pytest.approx(1 / (1 + np.exp(-(0.5 * np.log(9) - 1))), abs=1e-6)


def test_a_modest_detector_has_a_least_score_of_its_own() -> None:
    modest = {"slope": 1.0, "offset": 4.0, "score_min": 0.1}
    node = tracker(score_min=0.3, reliability={"deepinteraction": modest})
    for k in range(5):
        said = node.on_detections(detections(START_NS + k * STEP_NS, [20.0, 1.0], score=0.2, model="dsvt@1"))
    assert not said.objects
    for k in range(5, 10):
        said = node.on_detections(detections(START_NS + k * STEP_NS, [20.0, 1.0], score=0.2, model="deepinteraction@1"))
    assert len(said.objects) == 1
    low = detections(START_NS + 10 * STEP_NS, [[20.0, 1.0], [40.0, 1.0]], score=0.05, model="deepinteraction@1")
    assert len(node.on_detections(low).objects) == 1


def test_a_class_that_planners_do_not_know_is_unknown() -> None:
    said = tracker().on_detections(detections(START_NS, [20.0, 5.0], classes=("zeppelin",)))
    assert said.objects[0].classes[0].label == "unknown"
