"""Real processes: messages through shared memory, counted drops, deaths that are survived, nothing left behind."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import psutil
import pytest

import perception
from perception.errors import GraphError, LaunchFileError
from perception.messages import Image, Message, PointCloud
from perception.runtime.diagnosis import is_loopback
from perception.runtime.graph import Edge, Graph, NodeSpec, OutputSpec, SensorHealth
from perception.runtime.launcher import Summary, run_graph
from perception.runtime.node import NodeConfig
from perception.runtime.placing import PLACED_FROM
from perception.runtime.ray_runner import RayRunner
from perception.runtime.run_lock import clean_dead_runs, runs_folder
from perception.runtime.subscriber import Received
from perception.runtime.topology import topology_of
from tests.runtime.graphs import join_settings
from tests.runtime.live_nodes import MortalConfig, Pair, PulseConfig, Together

JOINS = {"Together": Together.scene, "Pair": Pair.scene}
HERE = "tests.runtime.live_nodes:"


def node(name: str, kind: str, process: str, edges: Sequence[Edge], config: NodeConfig | None = None) -> NodeSpec:
    return NodeSpec(
        name=name, target=HERE + kind, config=config or NodeConfig(), process=process, edges=tuple(edges),
        outputs={"out": f"{name}/out"}, joins={"scene": join_settings(JOINS[kind])} if kind in JOINS else {},
    )  # fmt: skip


def sweep_edge(topic: str = "lidar/points", **more: object) -> Edge:
    return Edge(topic, "sweep", PointCloud, **more)  # type: ignore[arg-type]


def graph(tmp_path: Path, nodes: Sequence[NodeSpec], outputs: Sequence[str], name: str, pulse: PulseConfig) -> Graph:
    source = NodeSpec(
        name="pulse", target=HERE + "Pulse", config=pulse, process="sensors", is_source=True,
        outputs={"lidar/points": "lidar/points", "cam/image": "cam/image"},
    )  # fmt: skip
    types: dict[str, type[Message]] = {
        "lidar/points": PointCloud,
        "cam/image": Image,
        **{f"{spec.name}/out": PointCloud for spec in nodes},
    }
    return Graph(
        name=name, nodes=(source, *nodes), outputs=tuple(OutputSpec(t, t, required=True) for t in outputs),
        sensors=(SensorHealth("lidar", ("lidar/points",), True, 50_000_000, 500_000_000),), message_types=types,
        endpoint=f"ipc://{tmp_path}/{name}.ipc",
    )  # fmt: skip


class Listening:
    """A planner beside the graph."""

    def __init__(self, endpoint: str, topics: Sequence[str]) -> None:
        self.received: list[Received] = []
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._listen, args=(endpoint, topics), daemon=True)
        self._thread.start()

    def _listen(self, endpoint: str, topics: Sequence[str]) -> None:
        with perception.subscribe(endpoint, topics, keep="all") as subscription:
            while not self._end.is_set():
                received = subscription.receive(0.1)
                if received is not None:
                    self.received.append(received)

    def stop(self) -> list[Received]:
        self._end.set()
        self._thread.join()
        return self.received


def left_of(*runs: str) -> list[str]:
    """Return what is left of runs in shared memory and of their sockets; other graphs on this machine may live."""
    folders = (Path("/dev/shm"), Path("/tmp"))
    return [str(path) for run in runs for folder in folders for path in folder.glob(f"pcn_{run}*")]


def run_of(summary: Summary) -> str:
    assert summary.last_state is not None
    return summary.last_state.header.run


def run_named(name: str) -> str:
    """Return the run of the graph of this name that lives, or was killed."""
    return str(json.loads((runs_folder() / f"{name}.json").read_text())["run"])


def first(received: list[Received], topic: str) -> list[float]:
    return [
        float(np.asarray(r.message.xyz_m)[0, 0])
        for r in received
        if r.topic == topic and isinstance(r.message, PointCloud)
    ]


def test_a_graph_of_processes_runs_drops_by_its_rules_keeps_data_whole_and_cleans_up(tmp_path: Path) -> None:
    nodes = [
        node("echo", "Echo", "work", [sweep_edge(keep="all", bound=20)]),
        node("slow", "Slow", "slow", [sweep_edge(keep="latest")]),
        node("hoarder", "Hoarder", "hoard", [sweep_edge(keep="all", bound=10)]),
        node("placer", "Placer", "place", [sweep_edge(keep="all", bound=10)]),
        node("keeper", "Keeper", "keep", [sweep_edge(keep="all", bound=10, holds=10)]),
        node("beside", "Keeper", "sensors", [sweep_edge(keep="all", bound=10, holds=10)]),
        node(
            "together",
            "Together",
            "work",
            [Edge("echo/out", "scene.sweep", PointCloud), Edge("cam/image", "scene.picture", Image)],
        ),
    ]
    outputs = ["slow/out", "hoarder/out", "keeper/out", "together/out", "placer/out", "beside/out"]
    built = graph(tmp_path, nodes, outputs, "whole", PulseConfig(count=150, points=PLACED_FROM // 12 + 1))
    listening = Listening(built.endpoint, [*outputs, "state", "status"])
    lines: list[str] = []
    summary = run_graph(built, on_line=lines.append)
    received = listening.stop()
    assert summary.exit_code() == 0
    assert summary.lost_processes == []
    together = [r for r in received if r.topic == "together/out"]
    sets = [np.asarray(r.message.xyz_m)[0] for r in together if isinstance(r.message, PointCloud)]
    assert all(index == picture for index, picture, _ in sets)
    dropped = {entry.topic: entry.dropped for entry in summary.statuses["together"].inputs}["echo/out"]
    before = together[0].message.header.seq  # what came before the planner's first
    assert before + len(sets) + sum(dropped.values()) + sum(r.gap for r in together) == 150
    assert len(sets) > 120
    for name in ("hoarder", "keeper", "beside"):
        assert set(first(received, f"{name}/out")) == {0.0}  # views that changed
    assert summary.statuses["keeper"].notes == ()
    assert summary.statuses["pulse"].notes == ("gave out views of memory that may change: 150 arrays copied",)
    slow = [r for r in received if r.topic == "slow/out"]
    counters = {entry.topic: entry for entry in summary.statuses["slow"].inputs}["lidar/points"]
    assert counters.received + counters.dropped.get("channel full", 0) == 150
    before = slow[0].message.header.seq
    assert before + len(slow) + sum(r.gap for r in slow) + sum(counters.dropped.values()) == 150
    assert set(counters.dropped) <= {"newer message", "channel full"}
    assert any("copied" in note and "hoarder" in note for note in summary.statuses["hoarder"].notes)
    placed = [
        np.asarray(r.message.xyz_m) for r in received if isinstance(r.message, PointCloud) and r.topic == "placer/out"
    ]
    assert placed
    assert all((xyz[:, 1] == 0).all() and (xyz[:, ::2] == xyz[0, 0]).all() for xyz in placed)
    assert any("kept what it made" in note for note in summary.statuses["placer"].notes)
    header = slow[-1].message.header
    assert (header.schema, header.epoch, header.run != "") == ("perception.point_cloud/1", 0, True)
    assert [span.stage for span in slow[-1].message.timing.spans] == ["slow waits", "slow"]
    assert slow[-1].message.timing.t_received_ns > 0
    assert {r.topic for r in received} >= {"state", "status"}
    assert left_of(run_of(summary)) == []
    assert not psutil.Process().children(recursive=True)


def test_a_killed_process_comes_back_while_the_rest_goes_on(tmp_path: Path) -> None:
    flag = tmp_path / "die"
    nodes = [
        node("mortal", "Mortal", "mortal", [sweep_edge(keep="latest")], MortalConfig(flag=flag)),
        node("companion", "Echo", "mortal", [sweep_edge(keep="latest")]),
        node("echo", "Echo", "work", [sweep_edge(keep="latest")]),
    ]
    built = graph(tmp_path, nodes, ["mortal/out", "companion/out", "echo/out"], "mortal", PulseConfig())
    listening = Listening(built.endpoint, ["mortal/out", "companion/out", "echo/out"])
    stop = threading.Event()
    lines: list[str] = []

    def line(text: str) -> None:
        lines.append(text)
        if text == "running":
            threading.Timer(1.0, flag.touch).start()
        if "restarted" in text:
            threading.Timer(1.0, stop.set).start()

    summary = run_graph(built, on_line=line, stop=stop, duration_s=30)
    received = listening.stop()
    assert summary.lost_processes == ["mortal"]
    assert summary.restarts == 1
    mortal = [r for r in received if r.topic == "mortal/out"]
    assert {r.message.header.epoch for r in mortal} == {0, 1}
    assert sum(r.restarted for r in mortal) == 1
    companion = {r.message.header.epoch for r in received if r.topic == "companion/out"}
    assert companion == {0, 1}  # a process is started anew as one
    assert all(r.gap == 0 for r in mortal if r.restarted)
    stamps = [r.message.header.t_sensor_ns for r in received if r.topic == "echo/out"]
    assert max(np.diff(stamps)) < 1e9  # the other process did not wait for the restart
    assert left_of(run_of(summary)) == []


RUN = """
import sys, threading, signal
sys.path.insert(0, {root!r})
from pathlib import Path
from tests.runtime.test_ray_runner import graph, node, sweep_edge
from tests.runtime.live_nodes import PulseConfig
from perception.runtime.launcher import run_graph
stop = threading.Event()
signal.signal(signal.SIGTERM, lambda *_: stop.set())
signal.signal(signal.SIGINT, lambda *_: stop.set())
built = graph(Path({tmp!r}), [node("echo", "Echo", "work", [sweep_edge()])], ["echo/out"], {name!r}, PulseConfig())
print(run_graph(built, stop=stop, on_line=lambda line: print(line, flush=True)).exit_code(), flush=True)
"""


def starting(tmp_path: Path, name: str) -> subprocess.Popen[str]:
    source = RUN.format(root=str(Path(__file__).parents[2]), tmp=str(tmp_path), name=name)
    return subprocess.Popen([sys.executable, "-c", source], stdout=subprocess.PIPE, text=True)


def started(tmp_path: Path, name: str) -> subprocess.Popen[str]:
    process = starting(tmp_path, name)
    assert process.stdout is not None
    for line in process.stdout:
        if line.strip() == "running":
            return process
    raise AssertionError("the graph did not start")


@pytest.mark.parametrize("way", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_a_graph_within_four_seconds_with_nothing_left(tmp_path: Path, way: signal.Signals) -> None:
    with started(tmp_path, f"ended{way}") as process:
        time.sleep(0.5)
        run = run_named(f"ended{way}")
        assert left_of(run) != []
        children = psutil.Process(process.pid).children(recursive=True)
        assert {child.nice() for child in children} == {os.nice(0)}
        ports = [
            port.laddr.ip for child in children for port in child.net_connections("tcp") if port.status == "LISTEN"
        ]
        assert ports
        assert all(is_loopback(address) for address in ports)
        begun = time.monotonic()
        process.send_signal(way)
        assert process.wait(timeout=20) == 0
        took_s = time.monotonic() - begun
    assert took_s < 4
    assert not [child for child in children if child.is_running() and child.status() != psutil.STATUS_ZOMBIE]
    assert left_of(run) == []


@pytest.mark.parametrize("way", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_while_ray_starts_ends_the_launcher_within_four_seconds(tmp_path: Path, way: signal.Signals) -> None:
    with starting(tmp_path, f"begun{way}") as process:
        launcher = psutil.Process(process.pid)
        while not (children := launcher.children(recursive=True)):  # the first of Ray's own
            assert process.poll() is None
            time.sleep(0.01)
        run = run_named(f"begun{way}")
        begun = time.monotonic()
        process.send_signal(way)
        assert process.wait(timeout=20) == 0
        took_s = time.monotonic() - begun
        assert process.stdout is not None
        assert "stopped before it ran" in process.stdout.read()
    assert took_s < 4
    assert not [child for child in children if child.is_running() and child.status() != psutil.STATUS_ZOMBIE]
    assert left_of(run) == []


def test_after_kill_9_the_next_launch_cleans_up_and_a_second_graph_runs_on(tmp_path: Path) -> None:
    with started(tmp_path, "other") as other:
        with started(tmp_path, "killed") as killed:
            children = psutil.Process(killed.pid).children(recursive=True)
            runs = [run_named("killed"), run_named("other")]
            os.kill(killed.pid, signal.SIGKILL)
        with pytest.raises(LaunchFileError, match="a graph named 'other' is running already"):
            run_graph(graph(tmp_path, [], [], "other", PulseConfig(count=1)))
        assert clean_dead_runs() == ["killed"]
        assert left_of(runs[0]) == []
        alive = [child for child in children if child.is_running() and child.status() != psutil.STATUS_ZOMBIE]
        assert alive == []
        with perception.subscribe(f"ipc://{tmp_path}/other.ipc", ["echo/out"]) as subscription:
            assert subscription.receive(5) is not None
        other.send_signal(signal.SIGTERM)
        assert other.wait(timeout=20) == 0
    assert left_of(*runs) == []


def test_a_paced_source_gives_every_branch_exactly_the_instants_that_the_slowest_takes(tmp_path: Path) -> None:
    nodes = [
        node("slow", "Slow", "slow", [sweep_edge(keep="latest")]),
        node("echo", "Echo", "work", [sweep_edge(keep="latest")]),
        node("pair", "Pair", "work", [
            Edge("slow/out", "scene.sweep", PointCloud), Edge("echo/out", "scene.picture", PointCloud)
        ]),
    ]  # fmt: skip
    built = graph(tmp_path, nodes, ["pair/out"], "paced", PulseConfig(count=150))
    paced = tuple(replace(spec, paced_by="slow") if spec.is_source else spec for spec in built.nodes)
    listening = Listening(built.endpoint, ["pair/out"])
    summary = run_graph(replace(built, nodes=paced))
    received = listening.stop()
    pairs = [tuple(np.asarray(r.message.xyz_m)[0]) for r in received if isinstance(r.message, PointCloud)]
    assert len(pairs) > 15
    assert all(count == 2 and first == second for first, second, count in pairs)
    for name in ("slow", "echo"):
        assert not any(entry.dropped for entry in summary.statuses[name].inputs)
    published = {name: sum(summary.statuses[name].published.values()) for name in ("slow", "echo", "pair")}
    assert len(set(published.values())) == 1
    note = next(note for note in summary.statuses["pulse"].notes if "lidar/points" in note)
    assert note == f"paced by slow: {150 - published['slow']} of lidar/points held back"


def test_what_the_launcher_was_too_slow_for_is_counted(tmp_path: Path) -> None:
    built = graph(tmp_path, [], [], "busy", PulseConfig(count=300, period_ms=5, points=10))
    slept: list[float] = []

    def on_status(summary: Summary) -> None:
        if not slept and summary.statuses:
            slept.append(time.monotonic())
            time.sleep(0.5)  # sixteen records may wait for it, a hundred come

    summary = run_graph(built, on_status=on_status)
    assert summary.missed["lidar/points"] > 30
    assert set(summary.missed) == {"lidar/points"}


def runner(tmp_path: Path, restart_limit: int) -> RayRunner:
    built = replace(graph(tmp_path, [], [], "pure", PulseConfig()), restart_limit=restart_limit)
    return RayRunner(built, topology_of(built), "0123abcd")


def test_restarts_wait_twice_as_long_each_time_and_end_after_the_limit(tmp_path: Path) -> None:
    running = runner(tmp_path, restart_limit=3)
    process = running._processes["sensors"]
    waits = []
    for _ in range(3):
        now_s = time.monotonic()
        process.starts_s.append(now_s)
        running._lost(process, "it fell")
        assert process.start_again_s is not None
        waits.append(round(process.start_again_s - now_s, 1))
    assert waits == [0.1, 0.2, 0.4]
    process.starts_s.append(time.monotonic())
    with pytest.raises(
        GraphError, match=r"process 'sensors' was started 4 times within 60 s and is given up; last: it"
    ):
        running._lost(process, "it fell")


def test_restarts_of_long_ago_do_not_count(tmp_path: Path) -> None:
    running = runner(tmp_path, restart_limit=1)
    process = running._processes["sensors"]
    process.starts_s.extend([time.monotonic() - 3600, time.monotonic() - 1800, time.monotonic()])
    running._lost(process, "it fell")
    assert len(process.starts_s) == 1


def test_a_summary_without_a_required_output_fails() -> None:
    assert Summary(missing_outputs=["objects"]).exit_code() == 1
