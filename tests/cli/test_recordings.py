"""What a launch records: in several files, or the last seconds, and with all that a replay needs."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Mapping
from pathlib import Path

import pytest
import yaml

from perception.cli.main import main
from perception.cli.recording import end_of, files_written, writer_of
from perception.errors import LogError, UserError
from perception.logs.log import Log
from perception.logs.mcap_writer import McapWriter
from perception.logs.open_log import open_log
from perception.messages import Header, Imu
from perception.messages.codec import encode
from perception.networks.address import BUNDLED, file_sha256
from perception.runtime.graph import Graph
from perception.runtime.launch_file.load import Replay, load_launch
from perception.runtime.recorded_files import attachments_of, other_weights
from perception.runtime.replayed_files import RecordedLaunch, recorded_launch
from tests.evaluation.test_graph_evaluation import objects

SECOND_NS = 1_000_000_000
PLAIN = """
name: recordings
rig: simulated_car
endpoint: ipc://FOLDER/out.ipc
nodes:
  log: {node: log_replay}
  detector: {node: truth_detector, inputs: {objects: truth/objects}}
outputs:
  detections: {topic: detector/detections}
"""
WITH_WEIGHTS = """
name: recordings
rig: simulated_car
nodes:
  log: {node: log_replay}
  copied: {node: event_recognizer, inputs: {events: event_cabin/events}, settings: {weights: my.safetensors}}
  filled: {node: event_recognizer, inputs: {events: event_cabin/events}, settings: {weights: "filled:estf_compact"}}
outputs:
  copied: {topic: copied/recognition}
  filled: {topic: filled/recognition}
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    with McapWriter(tmp_path / "drive.mcap") as writer:
        for k in range(10):
            message = objects(k, (1, 10.0, 0.0))
            writer.write("truth/objects", encode(message).to_bytes(), message.header.t_sensor_ns)
    (tmp_path / "graph.yaml").write_text(PLAIN.replace("FOLDER", str(tmp_path)))
    return tmp_path


def launch(*arguments: str | Path) -> int:
    with pytest.raises(SystemExit) as ended:
        main(["launch", *map(str, arguments), "--mode", "lockstep", "--plain"])
    return int(ended.value.code or 0)


def test_a_launch_records_into_files_of_a_size_and_each_replays_alone(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = folder / "run.mcap"
    arguments = (folder / "graph.yaml", "--replay", folder / "drive.mcap", "--record", out)
    assert launch(*arguments, "--split-bytes", "4000") == 0  # the attachments alone are more: a file for each record
    assert "in 20 files, the last run_0019.mcap" in capsys.readouterr().out
    assert sum(sum(open_log(file).counts().values()) for file in folder.glob("run*.mcap")) == 20
    sweeps = next(f for f in sorted(folder.glob("run_*.mcap")) if "truth/objects" in open_log(f).topics())
    assert launch("--replay", sweeps, "--record", folder / "again.mcap") == 0
    assert open_log(folder / "again.mcap").counts() == {"detector/detections": 1, "truth/objects": 1}


def test_a_size_ends_a_launchs_recording_and_not_the_launch(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = (folder / "graph.yaml", "--replay", folder / "drive.mcap", "--record", folder / "run.mcap")
    assert launch(*arguments, "--max-bytes", "100") == 0
    said = capsys.readouterr().out
    assert "the recording ended early" in said
    assert "has reached 100 bytes" in said
    assert "10 messages" in said  # the outputs went on
    assert launch(folder / "graph.yaml", "--replay", folder / "drive.mcap", "--max-bytes", "100") == 2
    assert "give --record OUT" in capsys.readouterr().err


@pytest.mark.parametrize("last", ["3", "3s"])
def test_a_signal_writes_the_last_seconds(tmp_path: Path, last: str) -> None:
    before = signal.getsignal(signal.SIGUSR1)
    try:
        writer = writer_of(tmp_path / "event.mcap", {"launch.yaml": b"x"}, split_bytes=None, split_s=None, last=last)
        for k in range(10):
            header = Header(frame_id="imu", t_sensor_ns=SECOND_NS * k, seq=k)
            imu = Imu(header=header, angular_velocity_radps=(0, 0, 0), acceleration_mps2=(0, 0, 9.8))
            writer.write("imu/imu", encode(imu).to_bytes(), k * SECOND_NS)
            if k == 6:
                os.kill(os.getpid(), signal.SIGUSR1)
        end_of(writer)
        writer.close()
    finally:
        signal.signal(signal.SIGUSR1, before)
    seqs = [[m.header.seq for _, m in open_log(file).messages()] for file in writer.files]
    assert seqs == [[4, 5, 6, 7], [6, 7, 8, 9]]
    assert files_written(writer) == " in 2 files, the last event_0001.mcap"
    assert open_log(writer.files[1]).attachments()["launch.yaml"] == b"x"


@pytest.mark.parametrize("last", ["soon", "0", "nan", "-3s"])
def test_what_is_no_time_is_refused(tmp_path: Path, last: str) -> None:
    with pytest.raises(UserError, match="expected seconds"):
        writer_of(tmp_path / "event.mcap", {}, split_bytes=None, split_s=None, last=last)


def test_a_recording_holds_cards_and_hashes_and_a_replay_notices_other_weights(folder: Path) -> None:
    bundled = BUNDLED / "estf_cabin.safetensors"
    (folder / "my.safetensors").write_bytes(bundled.read_bytes())
    (folder / "graph.yaml").write_text(WITH_WEIGHTS)
    with McapWriter(folder / "events.mcap") as writer:
        writer.write("event_cabin/events", events(), SECOND_NS)
    graph = load_launch(folder / "graph.yaml", replay=Replay(open_log(folder / "events.mcap")))
    files = attachments_of(graph)
    weights = json.loads(files["weights.json"])
    mine = f"{folder}/my.safetensors"  # it is read from another folder
    assert weights[mine] == {**weights[mine], "sha256": file_sha256(bundled), "bytes": bundled.stat().st_size}
    assert weights["filled:estf_compact"] == {"card": "cards/estf_compact.json", "sha256": ""}
    assert json.loads(files[weights[mine]["card"]])["network"] == "estf"
    assert "calibration/rig.yaml" in files
    assert f"weights: {mine}" in files["launch.yaml"].decode()
    assert list(other_weights(graph, files)) == []
    changed: Mapping[str, bytes] = {"weights.json": json.dumps({mine: {"sha256": "0" * 64}}).encode()}
    (said,) = other_weights(graph, changed)
    assert said.startswith(f"weights '{mine}' are not those of the recording")
    assert list(other_weights(graph, {"weights.json": b"["})) != []


@pytest.fixture
def with_own_weights(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Graph:
    """A graph whose weights lie beside its launch file, and a cache that holds none."""
    monkeypatch.setenv("PERCEPTION_CACHE", str(folder / "cache"))
    monkeypatch.delenv("PERCEPTION_WEIGHTS", raising=False)
    data = bytearray((BUNDLED / "estf_cabin.safetensors").read_bytes())
    data[-1] ^= 1  # trained once more, as it were: no weights that came with the package
    (folder / "my.safetensors").write_bytes(data)
    (folder / "graph.yaml").write_text(WITH_WEIGHTS)
    with McapWriter(folder / "events.mcap") as writer:
        writer.write("event_cabin/events", events(), SECOND_NS)
    return load_launch(folder / "graph.yaml", replay=Replay(open_log(folder / "events.mcap")))


def recording(folder: Path, name: str, files: Mapping[str, bytes]) -> Log:
    (folder / name).mkdir()
    with McapWriter(folder / name / "drive.mcap", files) as writer:
        writer.write("event_cabin/events", events(), SECOND_NS)
    return open_log(folder / name / "drive.mcap")


def weights_named(launch: RecordedLaunch | None) -> Path:
    assert launch is not None
    return Path(yaml.safe_load(launch.file.read_text())["nodes"]["copied"]["settings"]["weights"])


def test_a_replay_finds_weights_by_their_hash_or_says_what_is_missing(with_own_weights: Graph, folder: Path) -> None:
    log = recording(folder, "elsewhere", attachments_of(with_own_weights))
    mine = folder / "my.safetensors"
    digest = file_sha256(mine)
    assert weights_named(recorded_launch(log, folder)) == mine  # where they were
    mine.rename(folder / "elsewhere" / "renamed.safetensors")
    found = recorded_launch(log, folder)
    assert weights_named(found) == folder / "elsewhere" / "renamed.safetensors"
    assert found is not None
    assert found.notes == [f"weights '{mine}' of the recording are those of {folder}/elsewhere/renamed.safetensors"]
    (folder / "elsewhere" / "renamed.safetensors").unlink()
    size = (BUNDLED / "estf_cabin.safetensors").stat().st_size / 1e6
    with pytest.raises(UserError, match=f"no file of {size:.1f} MB with the SHA-256 {digest} is in"):
        recorded_launch(log, folder)


def test_weights_inside_a_log_come_out_of_it_whole_or_not_at_all(with_own_weights: Graph, folder: Path) -> None:
    files = attachments_of(with_own_weights, with_weights=True)
    mine = (folder / "my.safetensors").read_bytes()
    digest = file_sha256(folder / "my.safetensors")
    assert files[f"weights/{digest}.safetensors"] == mine
    (folder / "my.safetensors").unlink()
    log = recording(folder, "whole", files)
    assert weights_named(recorded_launch(log, folder)).read_bytes() == mine
    (folder / "cache" / "weights" / f"{digest}.safetensors").unlink()
    damaged = recording(folder, "damaged", files | {f"weights/{digest}.safetensors": mine[:-1] + b"?"})
    with pytest.raises(LogError, match="damaged: their hash is another"):
        recorded_launch(damaged, folder)


OWN_NODE = """
from perception.messages import TrackedObjects
from perception.runtime.node import Node, On, Out

class Echo(Node):
    objects = On[TrackedObjects]()
    out = Out[TrackedObjects]()

    def on_objects(self, objects):
        return objects
"""


def test_own_code_is_in_the_recording_and_runs_only_where_it_lies(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out = folder / "mine.py", folder / "run.mcap"
    code.write_text(OWN_NODE)
    own = (
        PLAIN.replace("FOLDER", str(folder))
        .replace("truth_detector", "./mine.py:Echo")
        .replace("/detections}", "/out}")
    )
    (folder / "graph.yaml").write_text(own)
    assert launch(folder / "graph.yaml", "--replay", folder / "drive.mcap", "--record", out) == 0
    held = open_log(out).attachments()
    (name,) = json.loads(held["code.json"]).values()
    assert held[name].decode() == OWN_NODE
    assert launch("--replay", out, "--record", folder / "again.mcap") == 0
    code.write_text(OWN_NODE + "# changed\n")
    capsys.readouterr()
    assert launch("--replay", out, "--record", folder / "changed.mcap") == 0
    assert "is not what ran in the recording" in capsys.readouterr().out
    code.unlink()
    assert launch("--replay", out) == 2
    said = capsys.readouterr().err
    assert f"code '{code}' is not on this machine; the log holds what ran as {name}" in said


def test_several_logs_are_replayed_on_one_timeline(folder: Path) -> None:
    with McapWriter(folder / "events.mcap") as writer:  # of another recorder, beside the drive
        writer.write("event_cabin/events", events(), SECOND_NS)
    logs = ("--replay", folder / "drive.mcap", "--replay", folder / "events.mcap")
    assert launch(folder / "graph.yaml", *logs, "--record", folder / "both.mcap") == 0
    counts = open_log(folder / "both.mcap").counts()
    assert counts == {"detector/detections": 10, "event_cabin/events": 1, "truth/objects": 10}


def events() -> bytes:
    import numpy as np

    from perception.messages import EventPacket

    header = Header(frame_id="event_cabin", t_sensor_ns=SECOND_NS, clock="host")
    one = np.ones(1, np.uint16)
    return encode(
        EventPacket(
            header=header, width_px=346, height_px=260, x=one, y=one, t_ns=np.array([SECOND_NS]),
            polarity=np.ones(1, np.uint8),
        )
    ).to_bytes()  # fmt: skip
