"""The main job as a user runs it, and every kind of wrong input: one clear line and the right exit code."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

import perception
from perception.cli.main import main
from perception.messages import (
    Detections3D,
    FreeSpace,
    Message,
    PaintedPoints,
    Pose3D,
    Recognition,
    SegmentationMask,
    TrackedObjects,
    host,
)
from perception.runtime.subscriber import Received

ROOT = Path(__file__).parents[2]
BOX = ["--set", "network.rig_interface=192.168.7.1", "--set", "network.hosts.box=8.8.8.8"]
COMMAND = [sys.executable, "-m", "perception"]


def run(*arguments: str | Path) -> int:
    with pytest.raises(SystemExit) as ended:
        main([*map(str, arguments)])
    assert isinstance(ended.value.code, int)
    return ended.value.code


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["launch", "cat.yaml"], "Did you mean 'car.yaml'?"),
        (["launch"], "no launch file is given"),
        (["launch", "EMPTY"], "holds no keys and values"),
        (["launch", "BINARY"], "not YAML"),
        (["launch", "car.yaml", "--set", "nodes"], "KEY=VALUE"),
        (["launch", "car.yaml", "--set", "nodes.detector.settings.score_min=2"], "score_min"),
        (["launch", "car.yaml", "--mode", "lockstep"], "give --replay LOG"),
        (["launch", "car.yaml", "--mode", "fast"], "expected realtime or lockstep"),
        (["launch", "car.yaml", "--runner", "ray"], "--runner is of --mode lockstep"),
        (["launch", "car.yaml", "--mode", "lockstep", "--runner", "fast"], "expected inline or ray"),
        (["launch", "car.yaml", "--remap", "a=b"], "give --replay LOG"),
        (["launch", "replay.yaml"], "none is given"),
        (["launch", "replay.yaml", "--replay", "nowhere"], "there is no such log"),
        (["launch", "replay.yaml", "--replay", "EMPTY"], "the file is empty"),
        (["launch", "replay.yaml", "--replay", "BINARY"], "not a known log"),
        (["launch", "car.yaml", "--record", "/nowhere/out.mcap"], "cannot be written"),
        (["launch", "car.yaml", "--set", "endpoint=tcp://127.0.0.1:99999"], "is no endpoint"),
        (["launch", "car.yaml", "--set", "nodes.fuser.host=box", *BOX], "no address of the rig's own network"),
        (
            ["launch", "car.yaml", "--set", "endpoint=tcp://0.0.0.0:5560", "--set", "network.curve_keys=keys"],
            "cannot be read as a CURVE key",
        ),
        (["launch", "car.yaml", "--duration", "soon"], "Invalid value"),
        (["check", "nowhere.yaml"], "no such launch file"),
        (["graph", "car.yaml", "--out", "car.png"], "expected a name that ends in"),
        (["topics", "nowhere.yaml"], "no such launch file"),
        (["schema", "perception.tracked_object/1"], "Did you mean 'perception.tracked_objects/1'?"),
        (["log", "info", "nowhere"], "there is no such log"),
        (["echo", "objects", "--endpoint", "here"], "is no endpoint"),
        (["lunch", "car.yaml"], "Did you mean 'launch'?"),
    ],
)
def test_wrong_input_is_one_clear_text_and_exit_code_2(
    tmp_path: Path, arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "empty.yaml").write_bytes(b"")
    (tmp_path / "binary.yaml").write_bytes(bytes(range(256)) * 10)
    files = {"EMPTY": tmp_path / "empty.yaml", "BINARY": tmp_path / "binary.yaml"}
    assert run(*(files.get(argument, argument) for argument in arguments)) == 2
    printed = capsys.readouterr()
    assert said in printed.err
    assert "Traceback" not in printed.err


@pytest.mark.parametrize("command", [["echo", "objects"], ["hz", "objects"], ["top", "--once"], ["record", "OUT"]])
def test_where_no_graph_runs_a_command_says_so_and_ends_1(
    tmp_path: Path, command: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = [argument.replace("OUT", str(tmp_path / "out.mcap")) for argument in command]
    assert run(*arguments, "--endpoint", f"ipc://{tmp_path}/none.ipc", "--timeout", "0.3") == 1
    assert "is the graph running?" in capsys.readouterr().err


@pytest.mark.parametrize("more", [[], ["--last", "5s"], ["--split-seconds", "5"]])
def test_a_port_in_use_is_said_before_anything_starts_and_leaves_no_recording(
    tmp_path: Path, more: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        endpoint = f"tcp://127.0.0.1:{taken.getsockname()[1]}"
        sets = ["--set", f"endpoint={endpoint}", "--set", "name=port_test"]
        assert run("launch", "edge_box.yaml", *sets, "--record", str(tmp_path / "run.mcap"), *more) == 2
    assert list(tmp_path.iterdir()) == []
    assert "Is another graph running?" in capsys.readouterr().err


def test_help_and_the_commands_that_only_look_import_no_torch() -> None:
    for arguments in (["--help"], ["check", "car.yaml"], ["topics", "car.yaml"], ["graph", "car.yaml"]):
        script = f"""
import sys
from perception.cli.main import main
try:
    main({arguments!r})
except SystemExit as ended:
    assert ended.code == 0, ended.code
heavy = {{"torch", "ray", "onnxruntime", "scipy.optimize"}} & set(sys.modules)
assert not heavy, heavy
"""
        subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, cwd=ROOT)


def test_dry_run_prints_the_resolved_file_and_starts_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("launch", "car.yaml", "--set", "nodes.detector.settings.score_min=0.3", "--dry-run") == 0
    assert "score_min: 0.3" in capsys.readouterr().out


SEVEN = (
    "ddrnet_compact", "p2at_compact", "dsvt_compact", "flatformer_compact", "deepinteraction_compact", "estf_cabin",
    "egoposeformer_cabin",
)  # fmt: skip


@pytest.fixture(scope="module")
def drive(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, object], list[Received], Path]:
    """The shipped car for a few seconds, a planner beside it, and a recording."""
    folder = tmp_path_factory.mktemp("drive")
    endpoint, recording = f"ipc://{folder}/car.ipc", folder / "drive.mcap"
    sets = ["--set", f"endpoint={endpoint}", "--set", "name=launch_test"]
    started = subprocess.Popen(
        [*COMMAND, "launch", "car.yaml", "--duration", "12", "--json", "--record", str(recording), *sets],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT,
    )  # fmt: skip
    received: list[Received] = []
    with perception.subscribe(endpoint, keep="all") as subscription:
        while started.poll() is None:
            message = subscription.receive(0.2)
            received += [message] if message is not None else []
    out, err = started.communicate()
    assert started.returncode == 0, err
    return json.loads(out), received, recording


def test_a_planner_beside_the_main_job_gets_objects_masks_and_detections_in_full(
    drive: tuple[dict[str, object], list[Received], Path],
) -> None:
    summary, received, _ = drive
    assert summary["lost_processes"] == []
    assert summary["missing_outputs"] == []
    by_topic = {item.topic: item.message for item in received}
    kinds: dict[str, type[Message]] = {
        "objects": TrackedObjects, "lidar/detections": Detections3D, "lidar/detections_2": Detections3D,
        "surround/detections": Detections3D, "cam_front/mask": SegmentationMask, "cam_rear/mask": SegmentationMask,
        "cam_left/mask": SegmentationMask, "cam_right/mask": SegmentationMask, "painted": PaintedPoints,
        "freespace": FreeSpace, "recognition": Recognition, "skeleton": Pose3D,
    }  # fmt: skip
    for topic, kind in kinds.items():
        message = by_topic[topic]
        assert isinstance(message, Message)
        assert type(message) is kind
        header, timing = message.header, message.timing
        assert header.schema == kind.SCHEMA
        assert header.run
        assert header.calibration
        assert header.models
        assert all(model.trained for model in header.models)
        assert not any("untrained" in reason for reason in header.degraded)
        assert abs(time.time_ns() - header.t_sensor_ns) < 120e9
        assert timing.t_received_ns <= timing.t_published_ns
        assert timing.spans
    mask, objects = by_topic["cam_front/mask"], by_topic["objects"]
    assert isinstance(mask, SegmentationMask)
    assert host(mask.label).shape == (192, 320)
    assert isinstance(objects, TrackedObjects)
    assert objects.odom_from_base_link is not None
    stages = [span.stage for span in objects.timing.spans]
    assert set(stages) & {"detector", "second", "surround"}
    messages = [item.message for item in received if isinstance(item.message, Message)]
    assert {model.card for message in messages for model in message.header.models} == set(SEVEN)


def test_the_recording_of_a_run_replays_alone_and_gives_the_same_twice(
    drive: tuple[dict[str, object], list[Received], Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from perception.logs.open_log import open_log
    from perception.messages.codec import content, encode

    recording = drive[2]
    assert {"launch.yaml", "calibration/rig.yaml"} <= set(open_log(recording).attachments())
    contents = []
    for number in range(2):
        out = tmp_path / f"{number}.mcap"
        options = ["--mode", "lockstep", "--until", "1.0", "--record", str(out), "--set", "name=replay_test"]
        endpoint = f"endpoint=ipc://{tmp_path}/replay.ipc"
        assert run("launch", "--replay", recording, *options, "--set", endpoint, "--plain") == 0
        replayed = [(topic, bytes(content(encode(m).to_bytes()))) for topic, m in open_log(out).messages()]
        contents.append([item for item in replayed if item[0] not in ("state", "status")])
    assert contents[0] == contents[1]
    assert {"fuser/objects", "detector/detections"} <= {topic for topic, _ in contents[0]}
    capsys.readouterr()


def test_the_example_reads_the_wire_with_pyzmq_and_msgpack_alone(tmp_path: Path) -> None:
    from perception.messages import Header, ModelId
    from perception.messages.codec import encode
    from perception.runtime.publisher import Publisher

    publisher = Publisher(f"ipc://{tmp_path}/wire.ipc")
    header = Header(
        frame_id="base_link", t_sensor_ns=time.time_ns(), seq=0, models=(ModelId(id="m", engine="e", trained=False),)
    )
    objects = TrackedObjects(header=header, objects=(), odom_from_base_link=None, valid_until_ns=0)
    publisher.publish("objects", encode(objects).to_bytes())
    example = subprocess.Popen(
        [sys.executable, "-u", "-W", "error", str(ROOT / "examples" / "wire.py"), publisher.endpoint],
        stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        assert example.stdout is not None
        deadline_s = time.monotonic() + 20
        while time.monotonic() < deadline_s and not _has_output(example):
            publisher.greet()
            time.sleep(0.02)
        assert "UNTRAINED" in example.stdout.readline()
    finally:
        example.kill()
        example.communicate()
        publisher.close()
    source = (ROOT / "examples" / "wire.py").read_text().splitlines()
    assert {line.split()[1] for line in source if line.startswith(("import", "from"))} == {"sys", "msgpack", "zmq"}
    code = [line for line in source if line.strip() and not line.startswith(('"""', "#"))]
    assert len(code) <= 30


def _has_output(process: subprocess.Popen[str]) -> bool:
    import select

    assert process.stdout is not None
    return bool(select.select([process.stdout], [], [], 0)[0])


def test_arrays_that_planners_get_are_finite(drive: tuple[dict[str, object], list[Received], Path]) -> None:
    for item in drive[1]:
        if isinstance(item.message, Detections3D):
            assert np.isfinite(host(item.message.center_m)).all()
            assert np.isfinite(host(item.message.size_lwh_m)).all()


def test_a_log_of_one_instant_gives_what_follows_from_it_in_real_time_too(data_folder: Path, tmp_path: Path) -> None:
    given = ["--set", f"endpoint=ipc://{tmp_path}/out.ipc", "--set", "nodes.fusion.settings.engine=torch"]
    log = data_folder / "nuscenes_keyframe"
    done = subprocess.run(
        [*COMMAND, "launch", "surround_replay.yaml", "--replay", log, *given],
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert "detections                         1 messages" in done.stdout
