"""A log in the place of sources that lacks what one of them would publish: a sensor was unplugged."""

from __future__ import annotations

from pathlib import Path

import pytest

from perception.errors import LaunchFileError
from perception.logs.mcap_writer import McapWriter
from perception.logs.open_log import open_log
from perception.messages.codec import encode
from perception.runtime.graph import Graph
from perception.runtime.health import Health
from perception.runtime.launch_file.load import Replay, load_launch
from perception.runtime.launch_file.replay import missing_topics
from tests.evaluation.test_graph_evaluation import objects

GRAPH = """
name: unplugged
rig: simulated_car
ego_motion: ego
nodes:
  street: {node: simulator, settings: {sensors: [lidar, cam_front, ego]}}
  ahead: {node: truth_segmenter, inputs: {truth: truth/cam_front/mask}}
  boxes: {node: truth_detector, inputs: {objects: truth/objects}}
outputs:
  boxes: {topic: boxes/detections}
  mask: {topic: ahead/cam_front/mask}
"""
SECOND_NS = 1_000_000_000


def replayed(folder: Path, text: str) -> Graph:
    with McapWriter(folder / "drive.mcap") as writer:
        message = objects(0, (1, 10.0, 0.0))
        writer.write("truth/objects", encode(message).to_bytes(), message.header.t_sensor_ns)
    (folder / "graph.yaml").write_text(text)
    return load_launch(folder / "graph.yaml", replay=replay_of(folder))


def replay_of(folder: Path) -> Replay:
    return Replay(open_log(folder / "drive.mcap"))


def test_a_graph_runs_without_the_sensors_that_the_log_does_not_have(tmp_path: Path) -> None:
    graph = replayed(tmp_path, GRAPH)
    log = next(node for node in graph.nodes if node.is_source)
    assert {"truth/objects", "cam_front/image", "lidar/points"} <= set(log.outputs)
    assert {edge.topic for node in graph.nodes for edge in node.edges} >= {"truth/objects", "truth/cam_front/mask"}


def test_what_the_log_does_not_have_is_told(tmp_path: Path) -> None:
    missing = missing_topics(replayed(tmp_path, GRAPH), replay_of(tmp_path))
    assert {"cam_front/image", "lidar/points"} <= set(missing)
    assert not {"truth/objects", "ego"} & set(missing)


def test_its_state_says_that_they_are_lost(tmp_path: Path) -> None:
    state = Health(replayed(tmp_path, GRAPH), now_ns=0).state(2 * SECOND_NS, 0, "r")
    assert state.state == "degraded"
    assert {"sensor cam_front is lost", "sensor lidar is lost"} <= set(state.reasons)


def test_ego_motion_that_the_log_does_not_have_is_none(tmp_path: Path) -> None:
    graph = replayed(tmp_path, GRAPH)
    assert "ego" not in graph.message_types  # nobody waits for what never comes


def test_a_topic_that_no_source_publishes_is_still_a_fault(tmp_path: Path) -> None:
    with pytest.raises(LaunchFileError, match="dangling-topic: 'ahead' reads 'truth/cam_rear/mask'"):
        replayed(tmp_path, GRAPH.replace("truth: truth/cam_front", "truth: truth/cam_rear"))


def test_sources_of_another_rig_promise_nothing(tmp_path: Path) -> None:
    with pytest.raises(LaunchFileError, match="dangling-topic: 'ahead' reads 'truth/cam_front/mask'"):
        replayed(tmp_path, GRAPH.replace("lidar, cam_front", "lidar, cam_upward"))
