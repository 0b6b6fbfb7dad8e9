"""Recordings of event cameras from the command line: what is told of them, and the shipped graph on one of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from perception.cli.main import main
from perception.logs.open_log import open_log
from perception.messages import EventPacket, Recognition, host
from perception.nodes.log_replay import LogReplay, LogReplayConfig
from perception.runtime.node import NodeSetup

COUNT = 20_000


@pytest.fixture
def recording(tmp_path: Path) -> Path:
    return made(tmp_path / "made.raw", 500_000)


def made(file: Path, length_us: int) -> Path:
    """Write EVT2 with an edge in the middle, its last word cut off."""
    random = np.random.default_rng(1)
    t = np.sort(random.integers(0, length_us, COUNT))
    x, y, p = random.integers(0, 64, COUNT), random.integers(0, 48, COUNT), random.integers(0, 2, COUNT)
    words = p << 28 | (t & 63) << 22 | x << 11 | y
    highs = np.arange(0, (length_us >> 6) + 1)
    stream = np.insert(words, np.searchsorted(t >> 6, highs), 0x8 << 28 | highs)
    stream = np.insert(stream, len(stream) // 2, 0xA << 28 | 1)
    head = b"% evt 2.0\n% geometry 64x48\n% end\n"
    file.write_bytes(head + stream.astype("<u4").tobytes() + b"\x01\x02")
    return file


def run(*arguments: str | Path) -> int:
    with pytest.raises(SystemExit) as ended:
        main([*map(str, arguments)])
    assert isinstance(ended.value.code, int)
    return ended.value.code


def test_info_tells_events_and_what_was_skipped(recording: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("log", "info", recording, "--json") == 0
    told = json.loads(capsys.readouterr().out)
    assert told["events"] == told["topics"]["event_camera/events"]["events"] == COUNT
    assert told["topics"]["event_camera/triggers"]["messages"] == 1
    assert told["skipped"] == {"byte of a word that is cut off": 2}
    assert run("log", "info", recording) == 0
    assert "warning: skipped 2: byte of a word that is cut off" in capsys.readouterr().out
    assert run("log", "check", recording) == 1


@pytest.mark.parametrize(("content", "said"), [(b"", "empty"), (b"% evt 9\n", "expected EVT2"), (b"\0" * 99, "not a")])
def test_what_is_no_recording_is_one_clear_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], content: bytes, said: str
) -> None:
    (tmp_path / "bad.raw").write_bytes(content)
    assert run("log", "info", tmp_path / "bad.raw") == 2
    assert said in capsys.readouterr().err


def test_the_shipped_graph_recognises_and_slices_a_recording_the_same_way_twice(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recording, runs = made(tmp_path / "second.raw", 1_000_000), list[list[Any]]()
    for name in ("one", "two"):
        sets = ("nodes.recognizer.settings.engine=torch", f"endpoint=ipc://{tmp_path}/{name}.ipc", f"name=ev_{name}")
        out = tmp_path / f"{name}.mcap"
        options = [item for value in sets for item in ("--set", value)]
        assert run("launch", "events.yaml", "--replay", recording, "--mode", "lockstep", "--record", out, *options) == 0
        messages = list(open_log(out).messages())
        runs.append([(m.t_end_ns, m.top) for _, m in messages if isinstance(m, Recognition)])
        slices = [m for topic, m in messages if topic == "slicer/slices" and isinstance(m, EventPacket)]
        assert sum(len(host(m.t_ns)) + m.dropped for m in slices) == COUNT
    assert runs[0] == runs[1]
    assert [end for end, _ in runs[0]] == [800_000_000, 900_000_000]  # a clip is 8 images of 100 ms
    assert f"events: {COUNT} in = " in capsys.readouterr().out


def test_a_graph_on_host_time_accounts_for_every_event(recording: Path, tmp_path: Path) -> None:
    """A pulse at 250 ms of the camera's time; the host's clock, a pulse per second, is 40 ms off what is given."""
    launch = tmp_path / "clocked.yaml"
    launch.write_text(f"""name: clocked
rig: from_log
endpoint: ipc://{tmp_path}/clocked.ipc
nodes:
  log: {{node: log_replay}}
  clock:
    node: event_clock
    settings: {{offset_ns: 1000000000000000000, pulse_ms: 1000}}
    inputs: {{events: event_camera/events, triggers: event_camera/triggers}}
  slicer:
    node: event_slicer
    settings: {{slice: {{period_ms: 30}}}}
    inputs: {{events: clock/stamped_events}}
outputs:
  slices: {{topic: slicer/slices}}
""")
    out = tmp_path / "clocked.mcap"
    assert run("launch", launch, "--replay", recording, "--mode", "lockstep", "--record", out) == 0
    slices = [m for topic, m in open_log(out).messages() if topic == "slicer/slices" and isinstance(m, EventPacket)]
    assert {m.header.clock for m in slices} == {"host"}
    assert [m.header.t_sensor_ns for m in slices[:2]] == [10**18 + 20_000_000, 10**18 + 50_000_000]
    assert sum(len(host(m.t_ns)) + m.dropped for m in slices) == COUNT


def test_a_replay_gives_host_time_by_the_clock_it_is_told(recording: Path) -> None:
    clocks = {"event_camera": {"offset_ns": 10**18, "drift_ppm": 100.0}}
    config = LogReplayConfig.model_validate({"path": recording, "clocks": clocks, "loop": True})
    replay = LogReplay.create(config, NodeSetup(name="log", rig=None, inputs={}, search_folders=()))
    assert "clock event_camera: offset 1000000000000000000 ns, drift +100.000 ppm, as given" in replay.notes
    plain = [m for _, m in open_log(recording).messages() if isinstance(m, EventPacket)]
    moved = [m for _, m in replay.messages() if isinstance(m, EventPacket)]
    assert replay.wraps()
    moved += [m for _, m in replay.messages() if isinstance(m, EventPacket)]
    assert len(moved) == 2 * len(plain)
    expected = host(plain[3].t_ns) + 10**18 + np.rint(host(plain[3].t_ns) * 1e-4).astype(np.int64)
    assert np.abs(host(moved[3].t_ns) - expected).max() <= 1
    assert moved[3].header.clock == "host"
    again = moved[len(plain)]  # the first packet of the second time around: its events have moved on with its stamp
    assert host(again.t_ns)[-1] == again.header.t_sensor_ns > moved[len(plain) - 1].header.t_sensor_ns
