"""How each sensor was doing at the instant of a message, as its header says it: a function of the messages alone.

A sensor's own messages are marked where they enter the graph: `frozen` after so many equal payloads, else `ok`. What a
join goes on without is marked in its outputs: `late`, or `lost` when its sensor has been silent for so long. Headers
made with `derived` carry the marks on.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass

import msgspec
import numpy as np

from perception.messages import CameraInfo, Header, Message, SensorState, host
from perception.messages.layout import layout_of
from perception.runtime.graph import Graph, NodeSpec, SensorHealth

SAMPLES = 1024


@dataclass
class _Payload:
    digest: bytes = b""
    same: int = 0


class SensorMarks:
    """Marks the messages of sensors where they enter the graph.

    Frozen can only be what has arrays, and is never the same twice: numbers at a standstill, calibrations and empty
    packets repeat in health.

    Args:
        graph: its sensors and their topics.
    """

    def __init__(self, graph: Graph) -> None:
        self._sensors = {topic: sensor for sensor in graph.sensors for topic in sensor.topics}
        self._payloads: dict[str, _Payload] = {}

    def marked(self, topic: str, message: Message) -> Message:
        """Return a sensor's message with its state in the header; others pass as they are."""
        sensor = self._sensors.get(topic)
        if sensor is None:
            return message
        payload, digest = self._payloads.setdefault(topic, _Payload()), fingerprint(message)
        payload.same = payload.same + 1 if digest == payload.digest and digest else 0
        payload.digest = digest
        state: SensorState = "frozen" if payload.same >= sensor.frozen_after else "ok"
        return msgspec.structs.replace(message, header=with_states(message.header, {sensor.sensor: state}))


class SensorsBehind:
    """The sensors whose data stands behind each topic, and how they do when nothing came on it.

    Args:
        graph: the checked graph.
    """

    def __init__(self, graph: Graph) -> None:
        self._by_name = {sensor.sensor: sensor for sensor in graph.sensors}
        self._publisher = {topic: node for node in graph.nodes for topic in node.outputs.values()}
        self._found: dict[str, tuple[SensorHealth, ...]] = {}

    def of(self, topic: str) -> tuple[SensorHealth, ...]:
        """Return the sensors of a topic: those that its name holds, else all upstream of its publisher."""
        if topic not in self._found:
            named = [self._by_name[part] for part in topic.split("/") if part in self._by_name]
            self._found[topic] = tuple(named) if named else self._upstream(topic)
        return self._found[topic]

    def _upstream(self, topic: str) -> tuple[SensorHealth, ...]:
        found: dict[str, SensorHealth] = {}
        seen: set[str] = set()
        waiting: list[NodeSpec] = [self._publisher[topic]] if topic in self._publisher else []
        while waiting:
            for edge in waiting.pop().edges:
                for part in edge.topic.split("/"):
                    if part in self._by_name:
                        found[part] = self._by_name[part]
                node = self._publisher.get(edge.topic)
                if node is not None and node.name not in seen:
                    seen.add(node.name)
                    waiting.append(node)
        return tuple(found.values())

    def missing(self, silent_ns: Mapping[str, int | None]) -> dict[str, SensorState]:
        """Return the states of the sensors behind the topics that a set lacks.

        Args:
            silent_ns: by topic, how long before the set's instant its last message was; None where it never came.
        """
        states: dict[str, SensorState] = {}
        for topic, silent in silent_ns.items():
            for sensor in self.of(topic):
                states[sensor.sensor] = "lost" if silent is None or silent > sensor.lost_after_ns else "late"
        return states


def with_states(header: Header, states: Mapping[str, SensorState]) -> Header:
    """Return the header with these states of sensors, and with a reason for each that is not `ok`."""
    if not states:
        return header
    reasons = (f"sensor {name} is {state}" for name, state in states.items() if state != "ok")
    degraded = tuple(dict.fromkeys((*header.degraded, *reasons)))
    return msgspec.structs.replace(header, sensors={**header.sensors, **states}, degraded=degraded)


def fingerprint(message: Message) -> bytes:
    """Return bytes that differ when the arrays of a message do, by a sample of them; empty where it has none."""
    if isinstance(message, CameraInfo):
        return b""
    arrays = [host(value) for name in layout_of(type(message)).arrays if (value := getattr(message, name)) is not None]
    if not any(array.size for array in arrays):
        return b""
    digest = hashlib.blake2b(digest_size=8)
    for array in arrays:
        flat = array.reshape(-1)
        digest.update(np.ascontiguousarray(flat[:: max(1, flat.size // SAMPLES)]).tobytes())
    return digest.digest()


__all__ = ["SensorMarks", "SensorsBehind", "fingerprint", "with_states"]
