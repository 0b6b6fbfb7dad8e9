"""What one types beside a running graph: top, hz, echo; and what a launch says of code that is not ours."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from perception.cli.launch import _introduction
from perception.cli.main import main
from perception.logs.open_log import open_log
from perception.messages import GraphState, Header, LinkStatus, NodeStatus, Status
from perception.messages.codec import encode
from perception.messages.outputs import InputStatus
from perception.runtime.curve_keys import PublisherKeys, new_keys, publisher_keys
from perception.runtime.launch_file.load import load_launch
from perception.runtime.publisher import Publisher
from tests.runtime.graphs import free_port

ROOT = Path(__file__).parents[2]


def status(seq: int) -> bytes:
    node = NodeStatus(
        node="detector", state="degraded", epoch=1, published={"detector/detections": 10 * seq}, latency_p50_ms=40.0,
        latency_p99_ms=55.5, age_ms=123.0, memory_mb=512.0, last_error="ShapeError: no points", degraded=("untrained",),
        inputs=(InputStatus(topic="lidar/points", received=20, rate_hz=10.0, dropped={"newer message": 7}),),
    )  # fmt: skip
    header = Header(frame_id="", t_sensor_ns=time.time_ns(), seq=seq, run="car")
    links = (LinkStatus(topic="lidar/points", sent=3),)
    return encode(Status(header=header, process="p", host="h", pid=1, nodes=(node,), links=links)).to_bytes()


def state(seq: int) -> bytes:
    header = Header(frame_id="", t_sensor_ns=time.time_ns(), seq=seq, run="car")
    reasons = ("sensor lidar is lost",)
    nodes = {"detector": "lost"}
    return encode(GraphState(header=header, state="unsafe", reasons=reasons, sensors={}, nodes=nodes)).to_bytes()


@pytest.fixture
def endpoint(tmp_path: Path) -> Iterator[str]:
    with a_graph(f"ipc://{tmp_path}/car.ipc") as address:
        yield address


FILES = {"launch.yaml": b"name: car\n", "calibration/rig.yaml": b"name: my_car\n"}


@contextmanager
def a_graph(address: str, keys: PublisherKeys | None = None, open_endpoint: str = "") -> Iterator[str]:
    """A graph that publishes its status and state fifty times a second."""
    end = threading.Event()

    def publish() -> None:
        publisher, seq = Publisher(address, keys=keys, open_endpoint=open_endpoint, files=FILES), 0
        while not end.wait(0.02):
            publisher.publish("status", status(seq))
            publisher.publish("state", state(seq))
            seq += 1
        publisher.close()

    thread = threading.Thread(target=publish)
    thread.start()
    yield address
    end.set()
    thread.join()


def run(*arguments: str) -> int:
    with pytest.raises(SystemExit) as ended:
        main(list(arguments))
    assert isinstance(ended.value.code, int)
    return ended.value.code


def test_top_shows_rate_latency_drops_age_and_state(endpoint: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("top", "--once", "--endpoint", endpoint) == 0
    shown = capsys.readouterr().out
    for wanted in ("unsafe: sensor lidar is lost", "detector", "lost", "Hz", "40.0", "55.5", "123", " 7 ", "512"):
        assert wanted in shown
    assert "ShapeError: no points" in shown


def test_a_recording_off_the_wire_holds_the_files_of_the_graph(
    endpoint: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("record", str(tmp_path / "out.mcap"), "--endpoint", endpoint, "--duration", "0.3") == 0
    recording = open_log(tmp_path / "out.mcap")
    assert dict(recording.attachments()) == FILES
    assert recording.counts()["state"] > 1
    assert run("log", "files", str(tmp_path / "out.mcap"), "--out", str(tmp_path / "files")) == 0
    assert "10 launch.yaml" in capsys.readouterr().out
    assert (tmp_path / "files" / "calibration" / "rig.yaml").read_bytes() == FILES["calibration/rig.yaml"]
    assert run("log", "files", str(tmp_path / "out.mcap"), "--out", str(tmp_path / "files")) == 2  # is there already


def test_a_graph_that_anybody_can_reach_gives_its_files_to_nobody_and_is_recorded_without(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    port = free_port()
    address = f"tcp://0.0.0.0:{port}"
    with a_graph(address, open_endpoint=address):
        near = f"tcp://127.0.0.1:{port}"
        assert run("record", str(tmp_path / "out.mcap"), "--endpoint", near, "--duration", "0.2") == 0
    assert "recorded without launch file, calibration, cards and hashes: the graph gives" in capsys.readouterr().err
    assert open_log(tmp_path / "out.mcap").attachments() == {}


def test_top_gives_a_script_the_same(endpoint: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("top", "--json", "--endpoint", endpoint) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["state"]["state"] == "unsafe"
    node = found["nodes"]["detector"]
    assert (node["age_ms"], node["inputs"][0]["dropped"]) == (123.0, {"newer message": 7})
    assert node["rate_hz"] > 100  # ten messages more, fifty times a second


def test_hz_measures_rate_age_and_loss(endpoint: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("hz", "state", "--duration", "1", "--json", "--endpoint", endpoint) == 0
    said = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert (said["topic"], said["lost"]) == ("state", 0)
    assert 5 < said["rate_hz"] < 60
    assert 0 <= said["age_ms"] < 1000


def test_echo_prints_what_is_published(endpoint: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("echo", "state", "--count", "2", "--json", "--endpoint", endpoint) == 0
    messages = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [message["state"] for message in messages] == ["unsafe", "unsafe"]


def test_a_topic_that_nobody_publishes_is_said_with_those_that_are(
    endpoint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("echo", "stat", "--timeout", "0.3", "--endpoint", endpoint) == 2
    assert "Topics of" in (said := capsys.readouterr().err)
    assert "Did you mean 'state'?" in said or "Did you mean 'status'?" in said


OWN = """
from perception.messages import Image
from perception.runtime.node import Node, On, Out

class Passing(Node):
    image = On[Image]()
    out = Out[Image]()

    def on_image(self, image):
        return image
"""


def test_code_that_is_not_ours_is_named_before_it_runs(tmp_path: Path) -> None:
    (tmp_path / "passing.py").write_text(OWN)
    text = (ROOT / "launch/edge_box.yaml").read_text()
    own = "  passing: {node: './passing.py:Passing', inputs: {image: cam_rear/image}}\n"
    file = tmp_path / "own.yaml"
    file.write_text(text.replace("  segmenter:\n", own + "\n  segmenter:\n"))
    lines = list(_introduction(file, load_launch(file), None))
    assert f"  own code: node 'passing' is {tmp_path / 'passing.py'}:Passing" in lines
    assert not [line for line in lines if "'segmenter' is" in line]


def test_a_graph_with_keys_is_read_with_the_keys_of_a_client_and_not_without(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    mine = new_keys(tmp_path / "keys", "desk")
    with a_graph(f"ipc://{tmp_path}/locked.ipc", publisher_keys(tmp_path / "keys")) as address:
        where = ["--endpoint", address, "--timeout", "5"]
        assert run("echo", "state", *where, "--keys", str(mine), "--count", "1") == 0
        assert "sensor lidar is lost" in capsys.readouterr().out
        assert run("hz", "state", *where, "--keys", str(mine), "--duration", "0.3") == 0
        assert " Hz over " in capsys.readouterr().out
        assert run("top", "--once", *where, "--keys", str(mine)) == 0
        assert "detector" in capsys.readouterr().out
        assert run("echo", "state", "--endpoint", address, "--timeout", "0.5", "--count", "1") == 1
        assert "answers only with --keys" in capsys.readouterr().err
        assert run("echo", "state", *where, "--keys", str(tmp_path)) == 2
        assert "holds 0 secret keys of a client" in capsys.readouterr().err
