"""Nodes of a graph are replaced, one by one, by what a log holds of them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from perception.cli.main import main
from perception.logs.mcap_writer import McapWriter
from perception.logs.open_log import open_log
from perception.messages import Detections3D, host
from perception.messages.codec import encode
from tests.evaluation.test_graph_evaluation import objects

GRAPH = """
name: recorded_topics
rig: simulated_car
endpoint: ipc://FOLDER/out.ipc
nodes:
  log: {node: log_replay}
  detector:
    node: truth_detector
    inputs: {objects: truth/objects}
    outputs: {detections: found/boxes}
    settings: {position_noise_m: 0.5, seed: 1, classes: [car]}
outputs:
  detections: {topic: found/boxes}
"""


@pytest.fixture
def graph(tmp_path: Path) -> Path:
    with McapWriter(tmp_path / "drive.mcap") as writer:
        for k in range(12):
            message = objects(k, (1, 10.0, 0.0), (2, 30.0 - k / 10, 3.0))
            writer.write("truth/objects", encode(message).to_bytes(), message.header.t_sensor_ns)
    (tmp_path / "graph.yaml").write_text(GRAPH.replace("FOLDER", str(tmp_path)))
    return tmp_path / "graph.yaml"


def launch(*arguments: str | Path) -> int:
    with pytest.raises(SystemExit) as ended:
        main(["launch", *map(str, arguments), "--mode", "lockstep", "--json"])
    return int(ended.value.code or 0)


def run(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> Mapping[str, Any]:
    assert launch(*arguments) == 0
    return dict(json.loads(capsys.readouterr().out))


def centers(log: Path, topic: str = "found/boxes") -> list[Any]:
    found = [m for _, m in open_log(log).messages(topics=[topic])]
    return [host(m.center_m).tolist() for m in found if isinstance(m, Detections3D)]


def test_a_recorded_topic_stands_in_for_its_node_which_does_not_run(
    graph: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = graph.parent
    run(capsys, graph, "--replay", folder / "drive.mcap", "--record", folder / "first.mcap")
    other = ["--set", "nodes.detector.settings.seed=2"]
    again = run(capsys, "--replay", folder / "first.mcap", "--record", folder / "again.mcap", *other)
    assert "detector" in again["nodes"]
    assert centers(folder / "again.mcap") != centers(folder / "first.mcap")  # made anew, by another seed
    used = run(
        capsys, "--replay", folder / "first.mcap", "--record", folder / "used.mcap", *other,
        "--use-recorded", "found/boxes",
    )  # fmt: skip
    assert "detector" not in used["nodes"]
    assert used["outputs"] == {"detections": 12}
    assert centers(folder / "used.mcap") == centers(folder / "first.mcap")


def test_an_output_may_be_named_as_planners_name_it_and_come_from_a_recording_off_the_wire(
    graph: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = graph.parent
    run(capsys, graph, "--replay", folder / "drive.mcap", "--record", folder / "first.mcap")
    with McapWriter(folder / "wire.mcap") as writer:  # as `perception record` names it, beside the sensors
        for topic, message in open_log(folder / "first.mcap").messages(topics=["truth/objects", "found/boxes"]):
            name = {"found/boxes": "detections"}.get(topic, topic)
            writer.write(name, encode(message).to_bytes(), message.header.t_sensor_ns)
    for log in ("first", "wire"):
        out = folder / f"{log}_used.mcap"
        used = run(
            capsys, graph, "--replay", folder / f"{log}.mcap", "--use-recorded", "detections", "--record", out,
            "--set", "nodes.detector.settings.seed=2",
        )  # fmt: skip
        assert "detector" not in used["nodes"], log
        assert centers(out) == centers(folder / "first.mcap"), log


def test_what_the_log_does_not_hold_is_one_clear_line(graph: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert launch(graph, "--replay", graph.parent / "drive.mcap", "--use-recorded", "truth/object") == 2
    assert "Did you mean 'truth/objects'?" in capsys.readouterr().err
