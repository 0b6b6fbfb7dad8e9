"""The state of a running graph: which sensor is late, frozen or lost, which node is gone, and one word for planners.

Times are those of messages: a sensor is judged by the stamps of its own topics against the newest stamp of the graph,
and only a graph in which nothing moves at all is judged by the clock that the caller gives. While a replay is paused
that clock stands still.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Literal

from perception.messages import GraphState, Header, Message, NodeStatus, SensorState
from perception.runtime.graph import Graph, OutputSpec, SensorHealth
from perception.runtime.rig_gate import ClockOffset

OUT_OF_ORDER_NS = 100_000_000
"""Stamps may go back by so much without a clock having jumped: packets and topics overtake each other."""
AHEAD_NS = 2_000_000_000
NODE_SILENT_NS = 5_000_000_000
"""A node that says nothing for so long is late: a call of its process does not return."""
JUMP_TOLD_NS = 10_000_000_000
"""How long a jump degrades the graph."""


@dataclass
class _Sensor:
    health: SensorHealth
    last_seen_ns: int = 0
    frozen: dict[str, bool] = field(default_factory=dict)
    """By topic."""
    stamps: dict[str, tuple[int, int]] = field(default_factory=dict)
    """By topic, the last stamp and when it was seen here."""
    jump_ns: int = 0
    jumped_at_ns: int = 0


class Health:
    """Watches one running graph.

    Args:
        graph: the checked graph.
        now_ns: host time at which it starts.
    """

    def __init__(self, graph: Graph, now_ns: int) -> None:
        self._graph, self._started_ns = graph, now_ns
        self._sensors = {sensor.sensor: _Sensor(sensor, last_seen_ns=now_ns) for sensor in graph.sensors}
        self._by_topic = {topic: self._sensors[sensor.sensor] for sensor in graph.sensors for topic in sensor.topics}
        self._outputs: dict[str, int] = {}
        self._nodes: dict[str, tuple[NodeStatus, int]] = {}
        self._lost: set[str] = set()
        self._restarts: dict[str, int] = {}
        self._missed: Mapping[str, int] = {}
        self._lost_hosts: set[str] = set()
        self._clocks: Mapping[str, ClockOffset] = {}
        self._machine: tuple[str, ...] = ()
        self._paused_at_ns: int | None = None
        self._paused_ns, self._paused_for = 0, ""

    def pause(self, now_ns: int, reason: str = "") -> None:
        """Let time stand still, since the replay does; the graph is degraded by the reason, where there is one."""
        if self._paused_at_ns is None:
            self._paused_at_ns = now_ns
        self._paused_for = reason or self._paused_for

    def resume(self, now_ns: int) -> None:
        """Let time go on."""
        if self._paused_at_ns is not None:
            self._paused_ns += now_ns - self._paused_at_ns
        self._paused_at_ns, self._paused_for = None, ""

    def is_paused(self) -> bool:
        return self._paused_at_ns is not None

    def begin_anew(self, now_ns: int) -> None:
        """Expect sensors and outputs as at the start: stamps may go on anywhere."""
        self._started_ns = self._own(now_ns)
        self._outputs.clear()
        for sensor in self._sensors.values():
            sensor.last_seen_ns = self._started_ns
            sensor.stamps.clear()
            sensor.frozen.clear()

    def _own(self, now_ns: int) -> int:
        """Return host time without the pauses."""
        return (now_ns if self._paused_at_ns is None else self._paused_at_ns) - self._paused_ns

    def sensor_message(self, topic: str, message: Message, now_ns: int) -> None:
        """Take a message of a sensor's topic; whether its payload is frozen was marked where it entered the graph."""
        sensor, now_ns = self._by_topic.get(topic), self._own(now_ns)
        if sensor is None:
            return
        t_ns = message.header.t_sensor_ns
        sensor.frozen[topic] = message.header.sensors.get(sensor.health.sensor) == "frozen"
        before = sensor.stamps.get(topic)
        if before is not None:
            jump_ns = self._jump_ns(t_ns - before[0], now_ns - before[1])
            if jump_ns:
                sensor.jump_ns, sensor.jumped_at_ns = jump_ns, now_ns
        sensor.stamps[topic] = (t_ns, now_ns)
        sensor.last_seen_ns = now_ns

    def _jump_ns(self, stamps_ns: int, passed_ns: int) -> int:
        """Return by how much a clock jumped between two messages; 0 where it did not.

        Back is always a jump; ahead it is one, live, where far more time lies between the stamps than passed here.
        """
        if stamps_ns < -OUT_OF_ORDER_NS:
            return stamps_ns
        ahead_ns = stamps_ns - passed_ns
        return ahead_ns if self._graph.mode == "live" and ahead_ns > AHEAD_NS else 0

    def output_message(self, topic: str, now_ns: int) -> None:
        """Take note that an output was published."""
        self._outputs[topic] = self._own(now_ns)

    def node_status(self, status: NodeStatus, now_ns: int) -> None:
        """Take what a node says of itself, as each does once a second."""
        self._nodes[status.node] = (status, self._own(now_ns))

    def process_lost(self, nodes: Mapping[str, object] | list[str]) -> None:
        """Take note that the process of these nodes is gone."""
        self._lost.update(nodes)
        for node in nodes:
            self._restarts[node] = self._restarts.get(node, 0) + 1

    def process_back(self, nodes: list[str]) -> None:
        """Take note that these nodes run again."""
        self._lost.difference_update(nodes)

    def host_changed(self, host: str, *, lost: bool) -> None:
        """Take note that another host of the rig is gone, or there again."""
        self._lost_hosts.discard(host)
        if lost:
            self._lost_hosts.add(host)

    def machine_faults(self, faults: Sequence[str]) -> None:
        """Take what is wrong with the machines that the graph runs on."""
        self._machine = tuple(faults)

    def host_clocks(self, clocks: Mapping[str, ClockOffset]) -> None:
        """Take how far the clocks of the other hosts are from this one's."""
        self._clocks = clocks

    def _host_faults(self) -> list[str]:
        faults = [f"host {host} is lost" for host in sorted(self._lost_hosts)]
        if self._graph.network is None:
            return faults
        limit_ns = self._graph.network.max_clock_error_ns
        for host, clock in self._clocks.items():
            if abs(clock.offset_ns) - clock.error_ns > limit_ns:
                side = "ahead" if clock.offset_ns > 0 else "behind"
                allowed = f"{limit_ns / 1e6:g} ms are allowed"
                faults.append(f"clock of host {host} is {abs(clock.offset_ns) / 1e6:.1f} ms {side}, {allowed}")
            elif clock.error_ns > limit_ns:
                faults.append(f"clock of host {host} cannot be read closer than {clock.error_ns / 1e6:.1f} ms")
        return faults

    def sensor_state(self, name: str, now_ns: int) -> SensorState:
        """Return how a sensor is doing."""
        sensor = self._sensors[name]
        silent_ns = self._own(now_ns) - sensor.last_seen_ns
        if silent_ns > sensor.health.lost_after_ns:
            return "lost"
        if any(sensor.frozen.values()):
            return "frozen"
        late_ns = sensor.health.late_after_ns
        if late_ns is not None and sensor.stamps and silent_ns > late_ns:
            return "late"
        return "ok"

    def state(self, now_ns: int, seq: int, run: str, missed: Mapping[str, int] = MappingProxyType({})) -> GraphState:
        """Return the graph's state: unsafe where a required sensor or output is gone, degraded for lesser faults.

        Args:
            now_ns: host time.
            seq: of the message.
            run: of the message.
            missed: deadlines that outputs missed since the start; those since the last call degrade.
        """
        sensors = {name: self.sensor_state(name, now_ns) for name in self._sensors}
        unsafe: list[str] = []
        reasons: list[str] = [self._paused_for] if self._paused_for else []
        for name, state in sensors.items():
            if state != "ok":
                serious = self._sensors[name].health.required and state in ("lost", "frozen")
                (unsafe if serious else reasons).append(f"sensor {name} is {state}")
            sensor = self._sensors[name]
            if sensor.jump_ns and self._own(now_ns) - sensor.jumped_at_ns < JUMP_TOLD_NS:
                reasons.append(f"clock of {name} jumped by {sensor.jump_ns / 1e9:+.3f} s")
        reasons += [*self._machine, *self._host_faults()]
        for output in self._graph.outputs:
            fault = self._output_fault(output, self._own(now_ns))
            if fault:
                (unsafe if output.required else reasons).append(fault)
        for output in self._graph.outputs:
            more = missed.get(output.publish_as, 0) - self._missed.get(output.publish_as, 0)
            if more:
                reasons.append(f"output {output.publish_as} missed {more} deadlines ({output.on_late})")
        self._missed = dict(missed)
        nodes, faults = self._node_states(self._own(now_ns))
        reasons += faults
        word: Literal["ok", "degraded", "unsafe"] = "unsafe" if unsafe else "degraded" if reasons else "ok"
        header = Header(
            frame_id="", t_sensor_ns=now_ns, seq=seq, run=run, schema=GraphState.SCHEMA,
            calibration=self._graph.calibration, degraded=(*unsafe, *reasons), sensors=sensors,
        )  # fmt: skip
        return GraphState(
            header=header,
            state=word,
            reasons=(*unsafe, *reasons),
            sensors=sensors,
            nodes=dict(sorted(nodes.items())),
            late=dict(missed),
        )

    def _node_states(self, now_ns: int) -> tuple[dict[str, str], list[str]]:
        """Return the state of each node, and what is wrong with any."""
        states: dict[str, str] = {}
        reasons: list[str] = []
        for name, (status, seen_ns) in self._nodes.items():
            states[name] = status.state
            reasons += [f"{name}: {note}" for note in status.degraded]
            if now_ns - seen_ns > NODE_SILENT_NS and name not in self._lost:
                states[name] = "late"
                reasons.append(f"node {name} has said nothing for {(now_ns - seen_ns) / 1e9:.0f} s")
        for name in sorted(self._lost):
            states[name] = "lost"
            reasons.append(f"node {name} is lost and being restarted")
        return states, reasons

    def _output_fault(self, output: OutputSpec, now_ns: int) -> str:
        last_ns = self._outputs.get(output.topic)
        allowed_ns = max(1_000_000_000, 3 * (output.deadline_ns or 0))
        if last_ns is None:
            return f"output {output.publish_as} has not come yet" if now_ns - self._started_ns > allowed_ns else ""
        silent_ns = now_ns - last_ns
        return f"output {output.publish_as} is {silent_ns / 1e9:.1f} s old" if silent_ns > allowed_ns else ""


__all__ = ["Health"]
