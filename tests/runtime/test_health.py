"""Sensors that are late, lost or frozen, clocks that jump, and the word for planners: seen, said, and survived."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import msgspec
import numpy as np
import pytest

from perception.messages import CameraInfo, EventPacket, Header, Image, Message, NodeStatus, PointCloud, SensorState
from perception.runtime.graph import Edge, Graph, OutputSpec, SensorHealth
from perception.runtime.health import Health
from perception.runtime.inline_runner import run_inline
from perception.runtime.node import Bound, Join, Maybe, Node, On, Out
from perception.runtime.sensor_states import SensorMarks, fingerprint
from tests.runtime.graphs import MS, Script, cloud, graph, image, join_settings, spec

S = 1000 * MS
LIDAR = SensorHealth("lidar", ("lidar/points",), required=True, late_after_ns=250 * MS, lost_after_ns=500 * MS)
CAM = SensorHealth("cam", ("cam/image", "cam/camera_info"), required=False, late_after_ns=None, lost_after_ns=500 * MS)


def watched(*sensors: SensorHealth, outputs: Sequence[OutputSpec] = (), mode: str = "live") -> Health:
    built = replace(graph([], {}), sensors=sensors, outputs=tuple(outputs), mode=mode)  # type: ignore[arg-type]
    return Health(built, 0)


def told(health: Health, now_ns: int) -> tuple[str, tuple[str, ...]]:
    state = health.state(now_ns, 0, "run")
    return state.state, state.reasons


@pytest.mark.parametrize(
    ("silent_ms", "state"), [(100, "ok"), (300, "late"), (499, "late"), (501, "lost")]
)  # fmt: skip
def test_a_silent_sensor_is_late_and_then_lost(silent_ms: int, state: SensorState) -> None:
    health = watched(LIDAR)
    health.sensor_message("lidar/points", cloud(0), 10 * S)
    assert health.sensor_state("lidar", 10 * S + silent_ms * MS) == state


def test_a_lost_sensor_makes_the_graph_unsafe_where_it_is_required_else_degraded() -> None:
    health = watched(LIDAR, CAM)
    health.sensor_message("lidar/points", cloud(0), 10 * S)
    health.sensor_message("cam/image", image(0), 10 * S)
    assert told(health, 10 * S) == ("ok", ())
    health.sensor_message("lidar/points", cloud(1000), 11 * S)
    assert told(health, 11 * S) == ("degraded", ("sensor cam is lost",))
    assert told(health, 12 * S) == ("unsafe", ("sensor lidar is lost", "sensor cam is lost"))


def test_equal_payloads_in_a_row_are_a_frozen_sensor_until_one_differs() -> None:
    marks = SensorMarks(replace(graph([], {}), sensors=(LIDAR,)))
    health = watched(LIDAR)
    states = []
    for number, value in enumerate([1.0] * 8 + [2.0]):
        marked = marks.marked("lidar/points", cloud(number * 100, value, points=5000))
        states.append(marked.header.sensors["lidar"])
        health.sensor_message("lidar/points", marked, number * 100 * MS)
    assert states == ["ok"] * 5 + ["frozen"] * 3 + ["ok"]
    assert told(health, 800 * MS) == ("ok", ())
    health.sensor_message("lidar/points", msgspec.structs.replace(marked, header=frozen(marked.header)), 900 * MS)
    assert told(health, 900 * MS) == ("unsafe", ("sensor lidar is frozen",))


def frozen(header: Header) -> Header:
    return msgspec.structs.replace(header, sensors={"lidar": "frozen"})


def test_a_frozen_picture_shows_although_the_cameras_calibration_never_changes_in_health() -> None:
    marks = SensorMarks(replace(graph([], {}), sensors=(CAM,)))
    info = CameraInfo(
        header=Header(frame_id="cam", t_sensor_ns=0), height_px=2, width_px=2, model="plumb_bob",
        focal_px=(1.0, 1.0), center_px=(1.0, 1.0), coefficients=(0.0,) * 5,
    )  # fmt: skip
    assert {marks.marked("cam/camera_info", info).header.sensors["cam"] for _ in range(9)} == {"ok"}
    pictures = [marks.marked("cam/image", image(number * 100, 7)).header.sensors["cam"] for number in range(7)]
    assert pictures == ["ok"] * 5 + ["frozen"] * 2


def test_a_packet_without_events_is_no_sign_of_a_frozen_camera() -> None:
    empty = np.zeros(0, np.uint16)
    packet = EventPacket(
        header=Header(frame_id="cam", t_sensor_ns=0), x=empty, y=empty, t_ns=np.zeros(0, np.int64),
        polarity=np.zeros(0, np.uint8), width_px=640, height_px=480,
    )  # fmt: skip
    assert fingerprint(packet) == b""


@pytest.mark.parametrize(
    ("stamp_ms", "arrives_ms", "mode", "reason"),
    [
        (1100, 1100, "live", ""),
        (950, 1100, "live", ""),  # topics overtake each other
        (-7000, 1100, "live", "clock of lidar jumped by -8.000 s"),
        (61_000, 1100, "live", "clock of lidar jumped by +59.900 s"),
        (61_000, 61_000, "live", ""),  # it was silent for so long
        (61_000, 1100, "realtime", ""),  # a gap of the log
        (-7000, 1100, "realtime", "clock of lidar jumped by -8.000 s"),
    ],
)
def test_a_clock_that_jumps_degrades_the_graph_for_ten_seconds(
    stamp_ms: int, arrives_ms: int, mode: str, reason: str
) -> None:
    health = watched(replace(LIDAR, lost_after_ns=3600 * S, late_after_ns=None), mode=mode)
    health.sensor_message("lidar/points", cloud(1000), S)
    now_ns = arrives_ms * MS
    health.sensor_message("lidar/points", cloud(stamp_ms), now_ns)
    assert told(health, now_ns + S) == (("degraded", (reason,)) if reason else ("ok", ()))
    assert told(health, now_ns + 11 * S) == ("ok", ())


def test_a_required_output_that_stops_is_unsafe() -> None:
    health = watched(outputs=[OutputSpec("fuser/objects", "objects", required=True, deadline_ns=100 * MS)])
    assert told(health, S // 2) == ("ok", ())
    assert told(health, 2 * S) == ("unsafe", ("output objects has not come yet",))
    health.output_message("fuser/objects", 2 * S)
    assert told(health, 3 * S) == ("ok", ())
    assert told(health, 4 * S) == ("unsafe", ("output objects is 2.0 s old",))


def test_nodes_of_a_lost_process_are_lost_until_it_is_back() -> None:
    health = watched()
    health.process_lost(["detector"])
    assert health.state(0, 0, "run").nodes == {"detector": "lost"}
    assert told(health, 0) == ("degraded", ("node detector is lost and being restarted",))
    health.process_back(["detector"])
    assert told(health, 0) == ("ok", ())


def node_status(**more: object) -> NodeStatus:
    known: dict[str, object] = {
        "node": "detector", "state": "ok", "epoch": 0, "inputs": (), "published": {}, "latency_p50_ms": 1.0,
        "latency_p99_ms": 2.0, "memory_mb": 1.0,
    }  # fmt: skip
    return NodeStatus(**{**known, **more})  # type: ignore[arg-type]


def test_what_makes_an_output_worth_less_degrades_the_graph() -> None:
    health = watched()
    health.node_status(node_status(degraded=("untrained weights",)), 0)
    assert told(health, 0) == ("degraded", ("detector: untrained weights",))


def test_a_node_that_says_nothing_any_more_is_late() -> None:
    health = watched()
    health.node_status(node_status(), 0)
    assert health.state(2 * S, 0, "run").nodes == {"detector": "ok"}
    state = health.state(6 * S, 0, "run")
    assert (state.state, state.reasons, state.nodes) == (
        "degraded", ("node detector has said nothing for 6 s",), {"detector": "late"},
    )  # fmt: skip


class Together(Node):
    """A sweep, and a picture where there is one."""

    scene = Join(sweep=PointCloud, picture=Maybe[Image], tolerance_ms=20, deadline_ms=50)
    out = Out[PointCloud]()

    def __init__(self) -> None:
        super().__init__()
        self.resets: list[str] = []

    def on_scene(self, sweep: PointCloud, picture: Image | None) -> PointCloud:
        return PointCloud(header=sweep.header, xyz_m=np.zeros((0 if picture is None else 1, 3), np.float32))

    def reset(self, reason: str) -> None:
        self.resets.append(reason)


class Passing(Node):
    sweep = On[PointCloud](keep="all", bound=100)
    out = Out[PointCloud]()

    def on_sweep(self, sweep: PointCloud) -> PointCloud:
        return PointCloud(header=sweep.header, xyz_m=sweep.xyz_m)


def scene(mode: str, node: Together, script: Sequence[tuple[str, Message | Bound]]) -> list[PointCloud]:
    """Run sweeps that pass through a node, and pictures, into a join; return what it gave."""
    edges = [Edge("passing/out", "scene.sweep", PointCloud, bound=100), Edge("cam/image", "scene.picture", Image)]
    nodes = [
        spec("source", outputs={"lidar/points": "lidar/points", "cam/image": "cam/image"}, source=True),
        spec("passing", [Edge("lidar/points", "sweep", PointCloud, keep="all", bound=100)], {"out": "passing/out"}),
        spec("together", edges, {"out": "scene/out"}, joins={"scene": join_settings(Together.scene)}),
    ]
    types: dict[str, type[Message]] = {
        "lidar/points": PointCloud, "cam/image": Image, "passing/out": PointCloud, "scene/out": PointCloud,
    }  # fmt: skip
    built: Graph = replace(graph(nodes, types, mode=mode), sensors=(LIDAR, CAM))
    made = {"source": Script(script), "passing": Passing(), "together": node}
    seen: list[PointCloud] = []

    def watch(topic: str, message: Message) -> None:
        if topic == "scene/out" and isinstance(message, PointCloud):
            seen.append(message)

    run_inline(built, nodes=made, on_message=watch)
    return seen


@pytest.mark.parametrize("mode", ["live", "lockstep"])
def test_outputs_say_which_sensors_took_part_and_which_are_late_and_lost(mode: str) -> None:
    script: list[tuple[str, Message | Bound]] = []
    for number in range(12):  # the camera ends after its third picture
        script += [("cam/image", image(number * 100, number))] if number < 3 else []
        script += [("lidar/points", cloud(number * 100, number))]
    seen = scene(mode, Together(), script)
    states = {m.header.t_sensor_ns // (100 * MS): m.header.sensors for m in seen}
    assert states[1] == {"lidar": "ok"}
    assert states[4] == {"lidar": "ok", "cam": "late"}
    assert states[9] == {"lidar": "ok", "cam": "lost"}
    degraded = {m.header.t_sensor_ns // (100 * MS): m.header.degraded for m in seen}
    assert (degraded[1], degraded[4], degraded[9]) == ((), ("sensor cam is late",), ("sensor cam is lost",))


def test_a_clock_that_is_set_back_costs_what_waited_and_the_graph_goes_on() -> None:
    node = Together()
    script: list[tuple[str, Message | Bound]] = []
    for number in range(20):
        t_ms = 3_600_000 + number * 100 if number < 10 else number * 100  # one hour back
        script += [("cam/image", image(t_ms + 5, number)), ("lidar/points", cloud(t_ms, number))]
    seen = scene("live", node, script)
    after = [m.header.t_sensor_ns // (100 * MS) for m in seen if m.header.t_sensor_ns < 3_600_000 * MS]
    assert set(node.resets) == {"clock jump"}
    assert after[0] <= 12
    assert after == list(range(after[0], 20))
