"""The state of a running graph: which sensor is late, frozen or lost, which node is gone, and one word for planners.

Times are those of messages: a sensor is judged by the stamps of its own topics against the newest stamp of the graph,
and only a graph in which nothing moves at all is judged by the clock that the caller gives.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

from perception.messages import GraphState, Header, Message, NodeStatus, SensorState
from perception.runtime.graph import Graph, OutputSpec, SensorHealth
from perception.runtime.histories import BEFORE_ALL


@dataclass
class _Sensor:
    health: SensorHealth
    last_ns: int = BEFORE_ALL
    last_seen_ns: int = 0
    same: int = 0
    digest: bytes = b""
    jumps: int = 0


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
        self._nodes: dict[str, NodeStatus] = {}
        self._lost: set[str] = set()
        self._restarts: dict[str, int] = {}
        self._missed: Mapping[str, int] = {}

    def sensor_message(self, topic: str, message: Message, now_ns: int, content: bytes | memoryview) -> None:
        """Take a message of a sensor's topic and its bytes without header, by which a frozen sensor is noticed."""
        sensor = self._by_topic.get(topic)
        if sensor is None:
            return
        t_ns = message.header.t_sensor_ns
        if sensor.last_ns != BEFORE_ALL and t_ns < sensor.last_ns:
            sensor.jumps += 1
        digest = hashlib.blake2b(content, digest_size=8).digest()
        sensor.same = sensor.same + 1 if digest == sensor.digest else 0
        sensor.digest, sensor.last_ns, sensor.last_seen_ns = digest, t_ns, now_ns

    def output_message(self, topic: str, now_ns: int) -> None:
        """Take note that an output was published."""
        self._outputs[topic] = now_ns

    def node_status(self, status: NodeStatus) -> None:
        """Take what a node says of itself."""
        self._nodes[status.node] = status

    def process_lost(self, nodes: Mapping[str, object] | list[str]) -> None:
        """Take note that the process of these nodes is gone."""
        self._lost.update(nodes)
        for node in nodes:
            self._restarts[node] = self._restarts.get(node, 0) + 1

    def process_back(self, nodes: list[str]) -> None:
        """Take note that these nodes run again."""
        self._lost.difference_update(nodes)

    def sensor_state(self, name: str, now_ns: int) -> SensorState:
        """Return how a sensor is doing."""
        sensor = self._sensors[name]
        silent_ns = now_ns - sensor.last_seen_ns
        if silent_ns > sensor.health.lost_after_ns:
            return "lost"
        if sensor.same >= sensor.health.frozen_after:
            return "frozen"
        late_ns = sensor.health.late_after_ns
        if late_ns is not None and sensor.last_ns != BEFORE_ALL and silent_ns > late_ns:
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
        reasons: list[str] = []
        for name, state in sensors.items():
            if state != "ok":
                serious = self._sensors[name].health.required and state in ("lost", "frozen")
                (unsafe if serious else reasons).append(f"sensor {name} is {state}")
            if self._sensors[name].jumps:
                reasons.append(f"clock of {name} jumped back {self._sensors[name].jumps} times")
        for output in self._graph.outputs:
            fault = self._output_fault(output, now_ns)
            if fault:
                (unsafe if output.required else reasons).append(fault)
        for output in self._graph.outputs:
            more = missed.get(output.publish_as, 0) - self._missed.get(output.publish_as, 0)
            if more:
                reasons.append(f"output {output.publish_as} missed {more} deadlines ({output.on_late})")
        self._missed = dict(missed)
        nodes = {name: status.state for name, status in self._nodes.items()}
        for name in self._lost:
            nodes[name] = "lost"
            reasons.append(f"node {name} is lost and being restarted")
        for name, status in self._nodes.items():
            reasons += [f"{name}: {note}" for note in status.degraded]
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

    def _output_fault(self, output: OutputSpec, now_ns: int) -> str:
        last_ns = self._outputs.get(output.topic)
        allowed_ns = max(1_000_000_000, 3 * (output.deadline_ns or 0))
        if last_ns is None:
            return f"output {output.publish_as} has not come yet" if now_ns - self._started_ns > allowed_ns else ""
        silent_ns = now_ns - last_ns
        return f"output {output.publish_as} is {silent_ns / 1e9:.1f} s old" if silent_ns > allowed_ns else ""


__all__ = ["Health"]
