"""Two hosts of a rig on one machine: two Ray nodes, shared memory kept apart, records over TCP, one of them killed."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import psutil
import pytest

from perception.errors import ChannelError, LaunchFileError, UserError
from perception.messages import GraphState, LinkStatus
from perception.runtime.graph import Graph, Network
from perception.runtime.health import Health
from perception.runtime.launcher import Summary, run_graph
from perception.runtime.rig_gate import ClockOffset, Gate
from perception.runtime.rig_link import introduced, machine_id, ports_of, read_token
from perception.runtime.shared_memory import memory_id, prefix_of
from tests.runtime.graphs import MS, free_port
from tests.runtime.live_nodes import PulseConfig
from tests.runtime.test_ray_runner import Listening, first, graph, left_of, node, run_named, run_of, sweep_edge

TOKEN = "4f" * 32


@pytest.fixture(autouse=True)
def _token(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "rig_token"
    file.write_text(TOKEN)
    file.chmod(0o600)
    monkeypatch.setenv("PERCEPTION_RIG_TOKEN", str(file))


@pytest.fixture
def network() -> Network:
    port = free_port()
    return Network("127.0.0.1", port, {"rear": "127.0.0.2"}, 5 * MS)


class Rear:
    """The second host, as its user starts it."""

    def __init__(self, network: Network) -> None:
        run = "from perception.cli.main import main; main()"
        command = [sys.executable, "-c", run, "host", "rear", "--launch-host", "127.0.0.1"]
        self.process = subprocess.Popen(
            [*command, "--port", str(network.port)], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        self.lines: list[str] = []
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        self.lines += (line.strip() for line in self.process.stdout)

    def kill(self) -> None:
        """End it as a power cut does: everything that runs there, at once."""
        family = [*psutil.Process(self.process.pid).children(recursive=True), psutil.Process(self.process.pid)]
        for process in family:
            process.kill()
        psutil.wait_procs(family, timeout=5)
        self.end()

    def end(self) -> None:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        self.process.wait(timeout=20)
        self._thread.join()
        assert self.process.stdout is not None
        self.process.stdout.close()


@pytest.fixture
def rear(network: Network) -> Iterator[Rear]:
    started = Rear(network)
    yield started
    started.end()


def two_hosts(tmp_path: Path, name: str, network: Network, pulse: PulseConfig) -> Graph:
    """Sensors and `near` on the launch host; `far` on the other, which reads a sweep and gives one back to `last`."""
    nodes = [
        node("near", "Echo", "near", [sweep_edge(keep="all", bound=20)]),
        node("far", "Echo", "far", [sweep_edge(keep="all", bound=50)]),
        node("last", "Echo", "last", [sweep_edge("far/out", keep="all", bound=50)]),
    ]
    built = graph(tmp_path, nodes, ["near/out", "far/out", "last/out"], name, pulse)
    placed = tuple(replace(spec, host="rear") if spec.name == "far" else spec for spec in built.nodes)
    return replace(built, nodes=placed, network=network)


def links(summary: Summary, process: str) -> dict[str, LinkStatus]:
    return {link.topic: link for link in summary.links[process]}


KILLED = """
import sys; sys.path.insert(0, {root!r})
from pathlib import Path
from perception.runtime.graph import Network
from perception.runtime.launcher import run_graph
from tests.runtime.live_nodes import PulseConfig
from tests.runtime.test_hosts import two_hosts
network = Network("127.0.0.1", {port}, {{"rear": "127.0.0.2"}}, 5_000_000)
run_graph(two_hosts(Path({tmp!r}), "two_hosts", network, PulseConfig()), on_line=lambda text: print(text, flush=True))
"""


def test_a_host_outlives_a_killed_launch_and_in_the_next_every_record_crosses_tcp(
    tmp_path: Path, network: Network, rear: Rear
) -> None:
    source = KILLED.format(root=str(Path(__file__).parents[2]), port=network.port, tmp=str(tmp_path))
    with subprocess.Popen([sys.executable, "-c", source], stdout=subprocess.PIPE, text=True) as launcher:
        assert launcher.stdout is not None
        assert any(line.strip() == "running" for line in launcher.stdout)
        killed = run_named("two_hosts")
        os.kill(launcher.pid, signal.SIGKILL)
    until_s = time.monotonic() + 15
    while not any("nothing of it is left here" in line for line in rear.lines):
        assert time.monotonic() < until_s, rear.lines
        time.sleep(0.1)
    assert psutil.Process(rear.process.pid).children(recursive=True) == []
    built = two_hosts(tmp_path, "two_hosts", network, PulseConfig(count=100, points=50_000))
    seen: list[str] = []
    states: list[GraphState] = []

    def on_status(summary: Summary) -> None:
        seen.extend(path.name for path in Path("/dev/shm").glob("pcn_*"))
        assert summary.last_state is not None
        states.append(summary.last_state)

    listening = Listening(built.endpoint, ["last/out"])
    summary = run_graph(built, on_status=on_status)
    received = listening.stop()
    values = first(received, "last/out")
    assert values == sorted(values)
    assert len(values) + sum(r.gap for r in received) == 100
    sensors, far, last = (links(summary, process) for process in ("sensors", "far", "last"))
    assert sensors["lidar/points"].sent == far["lidar/points"].received == 100
    assert far["far/out"].sent == last["far/out"].received == 100
    assert set(sensors) == {"lidar/points"}  # what stays on the host does not cross
    assert summary.statuses["last"].inputs[0].received == 100
    run = states[-1].header.run
    here, there = prefix_of(run), prefix_of(memory_id(run, 1))
    assert {name for name in seen if name.startswith(here)}
    assert {name for name in seen if name.startswith(there)}
    assert not here.startswith(there)
    assert not there.startswith(here)
    assert "ok" in {state.state for state in states}
    assert not [reason for state in states for reason in state.reasons if "host" in reason]
    rear.end()
    assert left_of(killed, run) == []
    assert len([line for line in rear.lines if "nothing of it is left here" in line]) == 2


def test_a_host_that_dies_is_said_and_the_rest_goes_on_and_it_comes_back(tmp_path: Path, network: Network) -> None:
    built = two_hosts(tmp_path, "dying_host", network, PulseConfig())
    dying, stop, lines, reasons = Rear(network), threading.Event(), list[str](), set[str]()
    hosts = [dying]

    def on_line(text: str) -> None:
        lines.append(text)
        if text == "running":
            threading.Timer(1.5, dying.kill).start()
        if "host 'rear' is lost" in text:
            threading.Timer(1.5, lambda: hosts.append(Rear(network))).start()
        if "process 'far' restarted" in text:
            threading.Timer(1.5, stop.set).start()

    def on_status(summary: Summary) -> None:
        assert summary.last_state is not None
        reasons.update(summary.last_state.reasons)

    listening = Listening(built.endpoint, ["near/out", "last/out"])
    summary = run_graph(built, on_line=on_line, on_status=on_status, stop=stop, duration_s=60)
    received = listening.stop()
    for host in hosts:
        host.end()
    assert {"host rear is lost", "node far is lost and being restarted"} <= reasons
    assert summary.lost_processes.count("far") >= 1
    assert set(summary.lost_processes) == {"far"}
    stamps = [r.message.header.t_sensor_ns for r in received if r.topic == "near/out"]
    assert max(np.diff(stamps)) < 1e9
    behind = [r.message.header.t_sensor_ns for r in received if r.topic == "last/out"]
    assert max(np.diff(behind)) > 1e9  # nothing came from the dead host
    assert behind[-1] > stamps[-1] - 1_000_000_000  # and after it came back, its records again
    assert left_of(run_of(summary)) == []


@pytest.fixture
def gate(network: Network) -> Iterator[Gate]:
    opened = Gate(network, TOKEN, "0123abcd", "5a" * 32)
    yield opened
    opened.close()


def asked(network: Network, token: str = TOKEN, **want: object) -> dict[str, object]:
    async def ask() -> dict[str, object]:
        session = await introduced("127.0.0.1", network.port, token, want)
        answer = await session.receive()
        if "ray_token" in answer:
            answer["ray_token"] = session.masked(answer["ray_token"])
        session.writer.close()
        await session.writer.wait_closed()
        return answer

    return asyncio.run(ask())


def test_only_who_holds_the_token_joins(network: Network, gate: Gate) -> None:
    gate.open()
    with pytest.raises(ChannelError, match="does not hold this rig's token"):
        asked(network, "00" * 32, host="rear")
    assert gate.joined() == {}


@pytest.mark.parametrize(
    ("want", "why"),
    [
        ({"host": "front", "version": "0"}, "no such host; its hosts: rear"),
        ({"host": "rear", "version": "0"}, "it runs perception 0, the launch host"),
    ],
)
def test_a_host_that_does_not_fit_is_told_why(network: Network, gate: Gate, want: dict[str, str], why: str) -> None:
    gate.open()
    assert why in str(asked(network, **want)["error"])
    assert why in gate.refused[-1]


def test_before_ray_is_up_a_host_is_asked_to_wait(network: Network, gate: Gate) -> None:
    assert asked(network, host="rear") == {"wait": True}


def test_the_gate_carries_to_rays_own_ports_and_to_no_other(network: Network, gate: Gate) -> None:
    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(await reader.readline())
        writer.close()

    async def through(port: int) -> bytes:
        session = await introduced("127.0.0.1", network.port, TOKEN, {"pipe": port})
        session.writer.write(b"hello\n")
        try:
            return await session.reader.read()
        except ConnectionResetError:  # closed by the gate before it read our line
            return b""
        finally:
            session.writer.close()

    async def both() -> tuple[bytes, bytes]:
        own = await asyncio.start_server(echo, "127.0.0.1", ports_of(network.port, 0).gcs)
        other = await asyncio.start_server(echo, "127.0.0.1", 0)
        try:
            return await through(ports_of(network.port, 0).gcs), await through(other.sockets[0].getsockname()[1])
        finally:
            own.close()
            other.close()

    assert asyncio.run(both()) == (b"hello\n", b"")


def test_an_interface_that_is_not_of_this_host_is_one_clear_line() -> None:
    with pytest.raises(LaunchFileError, match=r"rig_interface 203\.0\.113\.9, port \d+: .*expected an address of this"):
        Gate(Network("203.0.113.9", free_port(), {}, 5 * MS), TOKEN, "0123abcd", "5a" * 32)


def test_a_token_that_others_may_read_or_that_is_missing_is_refused(tmp_path: Path) -> None:
    (tmp_path / "rig_token").chmod(0o644)
    with pytest.raises(UserError, match="can be read by others; expected mode 600"):
        read_token()
    (tmp_path / "rig_token").unlink()
    with pytest.raises(UserError, match="no rig token"):
        read_token()
    made, is_new = read_token(create=True)
    assert is_new
    assert re.fullmatch("[0-9a-f]{64}", made)
    assert read_token(create=True) == (made, False)


def test_two_processes_of_one_machine_know_it() -> None:
    shown = subprocess.run(
        [sys.executable, "-c", "from perception.runtime.rig_link import machine_id; print(machine_id())"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert shown.stdout.strip() == machine_id()


@pytest.mark.parametrize(
    ("offset_ms", "error_ms", "fault"),
    [
        (12.0, 0.5, "clock of host rear is 12.0 ms ahead, 5 ms are allowed"),
        (-7.5, 0.5, "clock of host rear is 7.5 ms behind, 5 ms are allowed"),
        (5.4, 0.5, ""),
        (0.0, 9.0, "clock of host rear cannot be read closer than 9.0 ms"),
    ],
)
def test_a_clock_that_is_too_far_off_degrades_the_graph(
    tmp_path: Path, network: Network, offset_ms: float, error_ms: float, fault: str
) -> None:
    built = two_hosts(tmp_path, "clocks", network, PulseConfig())
    health = Health(replace(built, outputs=(), sensors=()), 0)
    health.host_clocks({"rear": ClockOffset(round(offset_ms * MS), round(error_ms * MS))})
    state = health.state(0, 0, "run")
    assert (state.state, state.reasons) == (("degraded", (fault,)) if fault else ("ok", ()))
