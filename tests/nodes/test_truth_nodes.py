"""A graph on perfect perception: every network has a node that gives the simulator's truth in its place."""

from __future__ import annotations

from collections import defaultdict
from functools import cache
from pathlib import Path

import msgspec
import numpy as np
import pytest

from perception.messages import (
    Detections3D,
    FreeSpace,
    FusedObject,
    Header,
    Message,
    ObjectClass,
    PaintedPoints,
    Pose3D,
    Recognition,
    SegmentationMask,
    TrackedObjects,
    host,
)
from perception.nodes.truth_detector import TruthDetector, TruthDetectorConfig
from perception.nodes.truth_tracker import TruthTracker, TruthTrackerConfig
from perception.runtime.inline_runner import run_inline
from perception.runtime.launch_file.load import load_launch

SECOND_NS = 1_000_000_000
LAUNCH = """
name: perfect
rig: simulated_car
ego_motion: ego
nodes:
  sensors:
    node: simulator
    settings:
      {seed: 5, start_ns: 1000000000000, sensors: [lidar, cam_front, cam_rear, ego, event_cabin, ego_left, ego_right]}
    paced_by: fuser
  detector: {node: truth_detector, inputs: {objects: truth/objects}}
  tracker: {node: truth_tracker, inputs: {objects: truth/objects}}
  segmenter: {node: truth_segmenter, inputs: {truth: "truth/cam_*/mask"}}
  recognizer: {node: truth_recognizer, inputs: {action: truth/action}}
  pose: {node: truth_pose, inputs: {skeletons: truth/skeleton}}
  space: {node: truth_free_space, inputs: {truth: truth/freespace}}
  fuser:
    node: fuser
    inputs: {scene.sweep: lidar/points, scene.masks: "segmenter/*/mask", scene.boxes: detector/detections}
    joins: {scene: {tolerance_ms: 60, deadline_ms: 300}}
"""


@cache
def perfect(folder: Path) -> dict[str, list[Message]]:
    file = folder / "perfect.yaml"
    file.write_text(LAUNCH)
    found: dict[str, list[Message]] = defaultdict(list)
    run_inline(load_launch(file), on_message=lambda topic, message: found[topic].append(message.keep()),
               duration_ns=SECOND_NS)  # fmt: skip
    return found


@pytest.fixture(scope="module")
def messages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[Message]]:
    return perfect(tmp_path_factory.mktemp("perfect"))


def test_a_graph_runs_on_perfect_perception(messages: dict[str, list[Message]]) -> None:
    expected = {
        "detector/detections": Detections3D, "tracker/tracks": TrackedObjects,
        "segmenter/cam_front/mask": SegmentationMask, "segmenter/cam_rear/mask": SegmentationMask,
        "recognizer/recognition": Recognition, "pose/skeleton": Pose3D,
        "space/freespace": FreeSpace, "fuser/objects": TrackedObjects, "fuser/painted": PaintedPoints,
    }  # fmt: skip
    for topic, kind in expected.items():
        assert len(messages[topic]) >= 4, topic
        assert all(isinstance(message, kind) for message in messages[topic])
        assert not any("untrained" in reason for message in messages[topic] for reason in message.header.degraded)
    (mask,) = messages["segmenter/cam_front/mask"][-1:]
    (true,) = messages["truth/cam_front/mask"][-1:]
    assert isinstance(mask, SegmentationMask)
    assert isinstance(true, SegmentationMask)
    np.testing.assert_array_equal(host(mask.label), host(true.label))


def test_recognition_is_about_a_window(messages: dict[str, list[Message]]) -> None:
    for said, true in zip(messages["recognizer/recognition"], messages["truth/action"], strict=False):
        assert isinstance(said, Recognition)
        assert isinstance(true, Recognition)
        assert said.top == true.top
        assert said.t_end_ns - said.t_begin_ns <= SECOND_NS


def thing(number: int, x_m: float, points: int, kind: str = "car") -> FusedObject:
    return FusedObject(
        id=number, existence_probability=1.0, classes=(ObjectClass(kind, 1.0),), center_m=(x_m, 0.0, 0.8),
        rotation_xyzw=(0.0, 0.0, np.sin(0.25), np.cos(0.25)), size_lwh_m=(4.0, 1.8, 1.5), velocity_mps=(3.0, 1.0, 0.0),
        num_points=points, visibility=0.5,
    )  # fmt: skip


def truth(*things: FusedObject, t_ns: int = 0) -> TrackedObjects:
    return TrackedObjects(header=Header(frame_id="base_link", t_sensor_ns=t_ns), objects=things)


def test_a_detector_gives_what_has_enough_points_and_a_class_that_it_knows() -> None:
    node = TruthDetector(TruthDetectorConfig(classes=("car", "person"), min_points=5))
    found = node.on_objects(truth(thing(1, 10.0, 20), thing(2, 20.0, 4), thing(3, 30.0, 50, "bus")))
    assert host(found.center_m).tolist() == pytest.approx(np.array([[10.0, 0.0, 0.8]]))
    assert host(found.yaw_rad) == pytest.approx([0.5])
    assert found.velocity_mps is not None
    assert host(found.velocity_mps) == pytest.approx(np.array([[3.0, 1.0]]))
    assert host(TruthDetector().on_objects(truth()).center_m).shape == (0, 3)
    assert (
        len(host(TruthDetector(TruthDetectorConfig(min_visibility=0.6)).on_objects(truth(thing(1, 5, 9))).score)) == 0
    )


def test_a_detector_can_be_wrong_by_a_known_amount_and_is_so_again() -> None:
    config = TruthDetectorConfig(position_noise_m=0.3, missed_share=0.25, seed=3)
    things = [thing(number, 10.0, 9) for number in range(1, 4001)]
    first, again = (host(TruthDetector(config).on_objects(truth(*things, t_ns=7)).center_m) for _ in range(2))
    np.testing.assert_array_equal(first, again)
    assert len(first) == pytest.approx(3000, rel=0.05)
    assert first[:, 0].std() == pytest.approx(0.3, rel=0.05)
    assert len(host(TruthDetector(config).on_objects(truth(*things, t_ns=8)).center_m)) != len(first)


def test_a_tracker_remembers_what_was_seen_once_and_forgets_what_left() -> None:
    node = TruthTracker(TruthTrackerConfig(min_points=3))
    assert node.on_objects(truth(thing(1, 5.0, 2))).objects == ()
    assert [track.id for track in node.on_objects(truth(thing(1, 5.0, 3), t_ns=SECOND_NS)).objects] == [1]
    (hidden,) = node.on_objects(truth(thing(1, 5.0, 0), t_ns=3 * SECOND_NS)).objects
    assert (hidden.age_ns, hidden.last_seen_ns) == (2 * SECOND_NS, SECOND_NS)
    assert node.on_objects(truth(t_ns=4 * SECOND_NS)).objects == ()
    assert node.on_objects(truth(thing(1, 5.0, 0), t_ns=5 * SECOND_NS)).objects == ()
    assert hidden == msgspec.structs.replace(thing(1, 5.0, 0), age_ns=2 * SECOND_NS, last_seen_ns=SECOND_NS)
