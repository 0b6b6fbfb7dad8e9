"""A running replay that is told to pause, step, seek and begin again, by real processes and over the socket."""

from __future__ import annotations

import os
import pty
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import zmq

from perception.cli.main import main
from perception.cli.replay_keys import replay_keys, requests_of
from perception.errors import UserError
from perception.logs.mcap_writer import McapWriter
from perception.messages import GraphState, PointCloud
from perception.messages.codec import encode
from perception.nodes.log_replay import LogReplayConfig
from perception.runtime.graph import Edge, Graph, NodeSpec, OutputSpec
from perception.runtime.inline_runner import run_inline
from perception.runtime.launcher import Summary, run_graph
from perception.runtime.playback import Playback
from perception.runtime.publisher import Publisher
from perception.runtime.replay_request import Action, ReplayAnswer, ReplayRequest
from perception.runtime.snapshot_socket import ask_replay
from perception.runtime.subscriber import Received
from tests.runtime.graphs import MS, cloud, join_settings
from tests.runtime.live_nodes import Pair
from tests.runtime.test_ray_runner import HERE, Listening

PERIOD_MS, SWEEPS = 50, 400


def written(path: Path, sweeps: int) -> Path:
    """Write sweeps whose every number is their index."""
    writer = McapWriter(path, {})
    for index in range(sweeps):
        record = encode(cloud(index * PERIOD_MS, index)).to_bytes()
        writer.write("lidar/points", record, index * PERIOD_MS * MS)
    writer.close()
    return path


def replay_of(log: Path, folder: Path, *, loop: bool = False) -> Graph:
    """Return a graph of three processes: the log, a node with a memory, and a join of both."""
    source = NodeSpec(
        name="log", target="perception.nodes.log_replay:LogReplay", config=LogReplayConfig(path=log, loop=loop),
        process="log", is_source=True, outputs={"lidar/points": "lidar/points"},
    )  # fmt: skip
    memory = NodeSpec(
        name="memory", target=HERE + "Memory", config=source.config, process="memory",
        edges=(Edge("lidar/points", "sweep", PointCloud, keep="all", bound=100),), outputs={"out": "memory/out"},
    )  # fmt: skip
    pair = NodeSpec(
        name="pair", target=HERE + "Pair", config=source.config, process="pair",
        edges=(
            Edge("lidar/points", "scene.sweep", PointCloud, keep="all", bound=100),
            Edge("memory/out", "scene.picture", PointCloud, keep="all", bound=100),
        ),
        outputs={"out": "pair/out"}, joins={"scene": join_settings(Pair.scene)},
    )  # fmt: skip
    topics = ("lidar/points", "memory/out", "pair/out")
    return Graph(
        name=folder.name, nodes=(source, memory, pair), outputs=tuple(OutputSpec(t, t) for t in topics), sensors=(),
        message_types=dict.fromkeys(topics, PointCloud), endpoint=f"ipc://{folder}/replay.ipc", mode="realtime",
    )  # fmt: skip


@contextmanager
def running(graph: Graph) -> Iterator[Listening]:
    stop, summaries, is_running = threading.Event(), list[Summary](), threading.Event()
    listening = Listening(graph.endpoint, ["memory/out", "pair/out", "state"])

    def line(text: str) -> None:
        if text == "running":
            is_running.set()

    thread = threading.Thread(target=lambda: summaries.append(run_graph(graph, on_line=line, stop=stop)))
    thread.start()
    try:
        assert is_running.wait(300)
        yield listening
    finally:
        stop.set()
        thread.join()
        listening.stop()
    assert summaries[0].lost_processes == []


def asked(graph: Graph, action: Action, value: float = 1.0) -> ReplayAnswer:
    return ask_replay(graph.endpoint, ReplayRequest(action, value))


def values(received: list[Received], topic: str) -> list[tuple[int, float, float, float]]:
    """Return epoch and the three numbers of each sweep."""
    clouds = [r.message for r in received if r.topic == topic]
    rows = [(c.header.epoch, np.asarray(c.xyz_m)[0].tolist()) for c in clouds if isinstance(c, PointCloud)]
    return [(epoch, a, b, c) for epoch, (a, b, c) in rows]


def reasons(received: list[Received]) -> list[tuple[str, ...]]:
    """Return why the graph was degraded, by state message."""
    return [r.message.reasons for r in received if isinstance(r.message, GraphState)]


def until(condition: Callable[[], object], seconds: float = 60.0) -> None:
    end_s = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end_s
        time.sleep(0.02)


def test_pause_step_seek_and_begin_again_and_nothing_older_meets_what_is_newer(tmp_path: Path) -> None:
    graph = replay_of(written(tmp_path / "log.mcap", SWEEPS), tmp_path, loop=True)
    ask = partial(asked, graph)
    with running(graph) as listening:
        until(lambda: len(values(listening.received, "memory/out")) > 5)
        answer = ask("pause")
        assert (answer.paused, answer.end_s) == (True, (SWEEPS - 1) * PERIOD_MS / 1000)
        time.sleep(0.5)
        following = round((ask("status").position_s or 0) * 1000 / PERIOD_MS)
        assert ask("step", 3).paused
        until(lambda: values(listening.received, "memory/out")[-1][1] == following + 2)
        time.sleep(0.6)
        assert values(listening.received, "memory/out")[-1][1] == following + 2  # and no more
        assert reasons(listening.received)[-1] == ("the replay is paused",)
        with pytest.raises(UserError, match=r"21 s is not in the log; expected 0 to 19.950"):
            ask("seek", 21)
        sought = ask("seek", 10)
        assert (sought.paused, sought.position_s) == (True, 10.0)  # stays paused there
        ask("rate", 2.0)
        assert not ask("resume").paused
        until(lambda: len(values(listening.received, "pair/out")) > 0 and values(listening.received, "pair/out")[-1][0])
        time.sleep(0.3)
        assert ask("skip", -60).position_s == 0  # back to the beginning, and no further
        until(lambda: values(listening.received, "pair/out")[-1][0] == 2)
        assert ask("rate", 1.0).rate == 1.0
        ask("seek", 19.5)
        until(lambda: values(listening.received, "pair/out")[-1][0] == 4)  # the log has begun again
        assert (ask("status").position_s or 0) < 10
    memory = values(listening.received, "memory/out")
    assert [epoch for epoch, *_ in memory] == sorted(epoch for epoch, *_ in memory)
    for epoch, first in ((0, 0.0), (1, 200.0), (2, 0.0), (3, 390.0), (4, 0.0)):
        own = [row for row in memory if row[0] == epoch]
        assert {row[2] for row in own} == {first}  # the memory begins with what was sought
        assert (np.diff([row[1] for row in own]) > 0).all()
        assert {row[3] for row in own} == {epoch}  # reset once by each
    assert [row[1] for row in memory if row[0] == 3][-1] == SWEEPS - 1  # what was under way at the end has come
    stamps = [r.message.header.t_sensor_ns for r in listening.received if r.topic == "memory/out"]
    of_wrap = [stamp for stamp, row in zip(stamps, memory, strict=True) if row[0] >= 3]
    assert of_wrap == sorted(of_wrap)  # when a log begins again its time goes on
    joined = [row for row in values(listening.received, "pair/out") if row[3] == 2]
    assert {row[0] for row in joined} == {0, 1, 2, 3, 4}
    assert all(value == other for _, value, other, _ in joined)
    assert sum(r.restarted for r in listening.received if r.topic == "memory/out") == 4
    said = {reason for reasons_of_one in reasons(listening.received) for reason in reasons_of_one}
    assert not any("jumped" in reason for reason in said)  # neither a seek nor a new beginning is a fault


def test_a_lockstep_log_that_begins_again_meets_fresh_nodes_and_loses_nothing(tmp_path: Path) -> None:
    graph = replace(replay_of(written(tmp_path / "log.mcap", 5), tmp_path, loop=True), mode="lockstep")
    seen: list[tuple[str, int, int, float, float]] = []
    stop = threading.Event()

    def take(topic: str, message: object) -> None:
        assert isinstance(message, PointCloud)
        value, first, _ = map(float, np.asarray(message.xyz_m)[0])
        seen.append((topic, message.header.epoch, message.header.seq, value, first))
        if message.header.epoch == 2:
            stop.set()

    run_inline(graph, on_message=take, stop=stop)
    for epoch in (0, 1):
        assert [row[2:] for row in seen if row[:2] == ("memory/out", epoch)] == [(i, i, 0.0) for i in range(5)]
        assert [row[2:4] for row in seen if row[:2] == ("pair/out", epoch)] == [(i, i) for i in range(5)]


def test_a_lockstep_replay_says_why_it_cannot_be_paused(tmp_path: Path) -> None:
    graph = replace(replay_of(written(tmp_path / "log.mcap", 50), tmp_path, loop=True), mode="lockstep")
    stop = threading.Event()
    thread = threading.Thread(target=run_graph, args=(graph,), kwargs={"stop": stop})
    thread.start()
    try:
        with pytest.raises(UserError, match="--mode realtime can be paused"):
            ask_replay(graph.endpoint, ReplayRequest("pause"))
    finally:
        stop.set()
        thread.join()


def test_what_is_no_request_is_answered_and_never_done(tmp_path: Path) -> None:
    graph = replay_of(written(tmp_path / "log.mcap", 50), tmp_path, loop=True)
    stop, lines = threading.Event(), list[str]()
    graph = replace(graph, mode="lockstep")
    thread = threading.Thread(target=run_graph, args=(graph,), kwargs={"stop": stop, "on_line": lines.append})
    thread.start()
    context = zmq.Context()
    try:
        for hostile in (
            b"",
            b"{",
            b"[]",
            b'{"action": "reboot"}',
            b'{"action": "seek", "value": "x"}',
            os.urandom(100),
        ):
            asking = context.socket(zmq.REQ)
            asking.setsockopt(zmq.LINGER, 0)
            asking.connect(f"{graph.endpoint}.snapshot")
            asking.send_multipart([b"replay", hostile])
            assert asking.poll(20_000)
            assert b"not a request to a replay" in asking.recv_multipart()[-1]
            asking.close()
    finally:
        stop.set()
        thread.join()
        context.term()
    assert not [line for line in lines if line.startswith("replay")]


def test_an_endpoint_that_anybody_can_reach_is_not_controlled() -> None:
    publisher = Publisher("tcp://0.0.0.0:*", open_endpoint="tcp://0.0.0.0:*")
    assert not publisher.may_be_asked()
    publisher.close()
    local = Publisher("tcp://127.0.0.1:*")
    assert local.may_be_asked()
    local.close()


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["seek", "soon"], 2, "expected seconds, such as 12.5, +5 or -5"),
        (["pause", "--graph", "nobody"], 2, "no graph named 'nobody' runs on this machine"),
        (["rate", "fast"], 2, "Invalid value"),
        (["pause", "--endpoint", "here"], 2, "is no endpoint"),
        (["jump"], 2, "No such command"),
    ],
)
def test_wrong_input_is_one_clear_text(
    arguments: list[str], code: int, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["replay", *arguments])
    assert ended.value.code == code
    assert said in capsys.readouterr().err


def test_keys_of_a_terminal_become_requests(monkeypatch: pytest.MonkeyPatch) -> None:
    assert [(r.action, r.value) for r in requests_of(b" s\x1b[C\x1b[Dx\x1b[A")] == [
        ("toggle", 1.0), ("step", 1.0), ("skip", 5.0), ("skip", -5.0),
    ]  # fmt: skip
    keyboard, terminal = pty.openpty()
    commands: deque[ReplayRequest] = deque()
    with os.fdopen(terminal, "r") as stdin:
        monkeypatch.setattr("sys.stdin", stdin)
        with replay_keys(commands) as are_read:
            assert are_read
            os.write(keyboard, b"s")  # no Enter
            until(lambda: len(commands) == 1)
    os.close(keyboard)
    assert commands[0].action == "step"
    with Path(os.devnull).open() as nowhere:
        monkeypatch.setattr("sys.stdin", nowhere)
        with replay_keys(commands) as are_read:
            assert not are_read


def test_what_waits_for_its_turn_has_none_after_everything_begins_anew() -> None:
    playback = Playback(rate=1.0)
    assert playback.turn("a", 0) == 0
    turns: list[int | None] = []
    thread = threading.Thread(target=lambda: turns.append(playback.turn("a", 3600 * 10**9)))  # in an hour
    thread.start()
    playback.begin_anew()
    thread.join(10)
    assert turns == [None]
    playback.go()
    assert playback.wait_for_go()
    assert playback.turn("a", 7200 * 10**9) == 1  # at once: it begins there
    playback.stop()
    assert not playback.wait_for_go()
