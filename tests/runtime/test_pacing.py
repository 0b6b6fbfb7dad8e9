"""Pacing: one choice of instants for all branches, made by the slowest."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from perception.messages import Message
from perception.runtime.launch_file.load import load_launch
from perception.runtime.pacing import Pacer, instant_topics
from tests.runtime.graphs import MS, cloud, image, odometry

ROOT = Path(__file__).parents[2]


def stamps(items: list[tuple[str, Message]]) -> list[tuple[str, int]]:
    return [(topic, message.header.t_sensor_ns // MS) for topic, message in items]


def pacer() -> Pacer:
    return Pacer({"lidar/points"}, {"cam/image"})


def test_the_newest_instant_waits_until_the_node_is_done_and_takes_its_picture_along() -> None:
    paced = pacer()
    for t_ms in (0, 100, 200):
        assert paced.offer("cam/image", image(t_ms - 10)) == []
        assert paced.offer("lidar/points", cloud(t_ms)) == []
    assert paced.admit(100 * MS) == []
    assert stamps(paced.admit(200 * MS)) == [("cam/image", 190), ("lidar/points", 200)]
    assert paced.admit(1000 * MS) == []
    assert paced.held_back == {"lidar/points": 2, "cam/image": 2}


def test_a_picture_that_comes_after_its_sweep_goes_with_it_and_a_later_one_waits() -> None:
    paced = pacer()
    for t_ms in (0, 100):
        paced.offer("lidar/points", cloud(t_ms))
    paced.admit(100 * MS)
    assert stamps(paced.offer("cam/image", image(130))) == [("cam/image", 130)]
    assert paced.offer("cam/image", image(190)) == []


def test_what_is_not_paced_passes() -> None:
    paced = pacer()
    assert stamps(paced.offer("ego", odometry(5))) == [("ego", 5)]
    assert paced.promised_ns() is None


def test_bounds_say_what_is_held_back() -> None:
    paced = pacer()
    paced.offer("cam/image", image(90))
    paced.offer("lidar/points", cloud(100))
    assert [paced.bound_ns(topic, 120 * MS) // MS for topic in ("lidar/points", "cam/image", "ego")] == [100, 90, 120]


def test_a_source_has_ended_once_its_last_instant_is_out_whatever_is_held_back() -> None:
    paced, all_topics = pacer(), {"lidar/points", "cam/image"}
    paced.offer("lidar/points", cloud(100))
    paced.offer("cam/image", image(300))  # of an instant that never comes
    assert not paced.has_ended(all_topics)
    paced.admit(100 * MS)
    assert paced.has_ended(all_topics)
    assert not paced.has_ended({"cam/image"})


def test_pictures_make_the_instants_while_the_sweeps_are_lost() -> None:
    paced = Pacer({"lidar/points"}, {"cam/image", "rear/image"})
    paced.offer("lidar/points", cloud(0))
    paced.admit(0)
    paced.offer("cam/image", image(900))
    assert paced.admit(2000 * MS) == []  # the sweeps may still come
    paced.offer("cam/image", image(1100))
    paced.offer("rear/image", image(1120))
    assert paced.bound_ns("cam/image", 1150 * MS) == 1100 * MS
    assert stamps(paced.admit(2000 * MS)) == [("cam/image", 1100), ("rear/image", 1120)]
    paced.offer("cam/image", image(1300))
    paced.offer("lidar/points", cloud(1320))  # plugged in again
    assert stamps(paced.admit(2000 * MS)) == [("lidar/points", 1320)]
    paced.offer("cam/image", image(1500))
    assert paced.admit(2000 * MS) == []


@pytest.mark.parametrize(
    ("pacing", "node", "inputs"),
    [
        ("detector", "lidar_sweeps_detector", {"sweep": "lidar/points"}),  # it also looks up `ego`, which is no instant
        (
            "fusion", "fusion_detector",
            {"scene.sweep": "lidar/points", "scene.images": "cam_*/image", "pictures": "cam_*/image"},
        ),
    ],
)  # fmt: skip
def test_an_instant_is_what_the_first_input_of_the_pacing_node_reads_and_no_lookup(
    tmp_path: Path, pacing: str, node: str, inputs: dict[str, str]
) -> None:
    weights = {"lidar_sweeps_detector": "filled:dsvt_compact", "fusion_detector": "filled:deepinteraction_compact"}
    document = {
        "name": "paced", "rig": str(ROOT / "calibration" / "simulated_car"), "ego_motion": "ego",
        "nodes": {
            "street": {"node": "simulator", "settings": {"sensors": ["lidar", "cam_front", "ego"]}, "paced_by": pacing},
            pacing: {"node": node, "settings": {"weights": weights[node]}, "inputs": inputs},
        },
        "outputs": {"found": {"topic": f"{pacing}/detections"}},
    }  # fmt: skip
    (tmp_path / "paced.yaml").write_text(yaml.safe_dump(document))
    graph = load_launch(tmp_path / "paced.yaml")
    assert instant_topics(graph.node("street"), graph) == {"lidar/points"}
