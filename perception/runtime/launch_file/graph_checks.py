"""Checks of the connected graph: circles, pacing, deadlines, rates, clocks, memory."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator, Sequence
from itertools import combinations

from perception.errors import did_you_mean
from perception.messages import EventPacket, Image, Odometry, PointCloud, SegmentationMask
from perception.runtime.graph import Edge, NodeSpec
from perception.runtime.launch_file.models import OutputFile
from perception.runtime.launch_file.network_checks import NetworkChecks
from perception.runtime.launch_file.stage_checks import StageChecks
from perception.runtime.launch_file.wiring import MS, Wiring
from perception.runtime.node import Join
from perception.runtime.shared_memory import SHARED_MEMORY

SHARE_OF_MEMORY = 0.8

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,47}")
RESERVED = ("state", "status")
"""Published by the runtime itself."""


class GraphChecks:
    """All checks of one graph; `run` reports what it finds.

    Args:
        wiring: the launch file and what is known of it.
        nodes: the connected nodes.
        lossless: every message is used, as in lockstep: nothing has to be paced.
    """

    def __init__(self, wiring: Wiring, nodes: Sequence[NodeSpec], *, lossless: bool = False) -> None:
        self.wiring, self.lossless = wiring, lossless
        self.nodes = {node.name: node for node in nodes}
        self._publisher = {topic: node for node in nodes for topic in node.outputs.values()}

    def run(self) -> bool:
        """Report every fault; False where a circle keeps others from looking upstream."""
        self._name()
        NetworkChecks(self.wiring, self.nodes).run()
        self._outputs()
        self._ego_motion()
        self._health()
        if self._circles():
            return False
        self._pacing()
        self._joins()
        StageChecks(self.wiring, self.nodes, self._period_ns, lossless=self.lossless).run()
        self._memory()
        return True

    def _name(self) -> None:
        launch = self.wiring.launch
        names: dict[tuple[str | int, ...], str] = {("name",): launch.name}
        for name, entry in launch.nodes.items():
            names |= {("nodes", name): name}
            names |= {("nodes", name, "process"): entry.process} if entry.process else {}
        for path, name in names.items():
            if not NAME.fullmatch(name):
                self.wiring.add(
                    "bad-name", path, f"'{name}' names locks, topics or files", "1 to 48 letters, digits, - and _"
                )

    def _circles(self) -> bool:
        found = False
        for node in self.nodes.values():
            seen, waiting = set(), [node]
            while waiting:
                for edge in waiting.pop().edges:
                    upstream = self._publisher.get(edge.topic)
                    if upstream is node:
                        self.wiring.add(
                            "node-cycle",
                            ("nodes", node.name),
                            f"'{node.name}' reads what depends on its own output",
                            "a graph without circles",
                        )
                        found = True
                        waiting.clear()
                        break
                    if upstream is not None and upstream.name not in seen:
                        seen.add(upstream.name)
                        waiting.append(upstream)
        return found

    def _outputs(self) -> None:
        for name, output in self.wiring.launch.outputs.items():
            if output.topic not in self.wiring.types and self.wiring.is_knowable(output.topic):
                known = ", ".join(sorted(self.wiring.types))
                self.wiring.add(
                    "output-dangling",
                    ("outputs", name, "topic"),
                    f"no node publishes '{output.topic}'",
                    f"one of {known}",
                    did_you_mean(output.topic, self.wiring.types),
                )
            self._on_late(name, output)
            if name in RESERVED:
                self.wiring.add(
                    "output-twice", ("outputs", name), f"'{name}' is published by the runtime itself", "another name"
                )

    def _on_late(self, name: str, output: OutputFile) -> None:
        word, _, node = output.on_late.partition(" ")
        path = ("outputs", name, "on_late")
        if word != "publish_partial" and output.deadline_ms is None:
            self.wiring.add("output-late", path, f"'{word}' without a deadline", "deadline_ms beside it")
        if word != "fallback" or not self.wiring.is_knowable(output.topic):
            return
        types, node = self.wiring.types, node.strip()
        wanted = types.get(output.topic)
        if node not in self.wiring.outputs:
            known = self.wiring.outputs
            self.wiring.add(
                "output-late",
                path,
                f"there is no node '{node}'",
                f"one of {', '.join(known)}",
                did_you_mean(node, known),
            )
        elif wanted is not None and not any(types.get(topic) is wanted for topic in self.wiring.outputs[node].values()):
            what = f"node '{node}' gives out no {wanted.__name__}, as '{output.topic}' is"
            self.wiring.add("output-late", path, what, "a node with an output of the same type")

    def _ego_motion(self) -> None:
        topic = self.wiring.launch.ego_motion
        hidden = topic not in self.wiring.types and not self.wiring.is_knowable(topic)
        if topic == "none" or self.wiring.types.get(topic) is Odometry or hidden:
            return
        known = [name for name, kind in self.wiring.types.items() if kind is Odometry]
        self.wiring.add(
            "no-ego-motion",
            ("ego_motion",),
            f"'{topic}' is no Odometry topic that a node publishes",
            f"one of {', '.join([*known, 'none'])}",
        )

    def _pacing(self) -> None:
        for node in self.nodes.values():
            unclear = self.wiring.faulty | self.wiring.hidden_nodes()
            if node.paced_by is None or node.paced_by in unclear:
                continue
            pacer = self.nodes.get(node.paced_by)
            if pacer is not None and (self.wiring.hides_sensors() or self.wiring.hidden_sensors):
                continue
            reads = pacer is not None and any(edge.topic in node.outputs.values() for edge in pacer.edges)
            if not (node.is_source and reads):
                self.wiring.add(
                    "paced-by",
                    ("nodes", node.name, "paced_by"),
                    f"'{node.paced_by}' does not read '{node.name}'",
                    "on a source, a node that reads it",
                )

    def _joins(self) -> None:
        for node in self.nodes.values():
            for port, declared in self.wiring.classes[node.name].inputs().items():
                if isinstance(declared, Join):
                    edges = [edge for edge in node.edges if edge.input.partition(".")[0] == port]
                    self._join_times(node, port, declared, edges)
                    self._join_branches(node, port, edges)

    def _join_times(self, node: NodeSpec, port: str, declared: Join, edges: list[Edge]) -> None:
        settings, where = node.joins[port], ("nodes", node.name, "joins", port)
        reference = next(iter(declared.members))
        for edge in edges:
            period_ns = self._period_ns(edge.topic)
            member = edge.input.partition(".")[2]
            if period_ns is None or member == reference:
                continue
            if settings.tolerance_ns >= period_ns:
                self.wiring.add(
                    "tolerance-too-wide",
                    (*where, "tolerance_ms"),
                    f"tolerance {settings.tolerance_ns / MS:g} ms, '{edge.topic}' comes every {period_ns / MS:g} ms",
                    "less than that period",
                )
            needed = not declared.members[member].optional or settings.on_missing == "skip"
            if needed and 2 * settings.tolerance_ns < period_ns:
                self.wiring.add(
                    "tolerance-too-tight",
                    (*where, "tolerance_ms"),
                    f"{settings.tolerance_ns / MS:g} ms skips sets: '{edge.topic}' comes every {period_ns / MS:g} ms",
                    f"at least {period_ns / 2 / MS:g} ms, or on_missing: continue",
                )
            if settings.history_ns < period_ns + settings.deadline_ns:
                self.wiring.add(
                    "join-history",
                    (*where, "history_ms"),
                    f"history {settings.history_ns / MS:g} ms forgets '{edge.topic}'",
                    f"at least {(period_ns + settings.deadline_ns) / MS:g} ms",
                )
        clocks = {clock for edge in edges for clock in self._clocks(edge.topic)}
        if len(clocks) > 1:
            self.wiring.add(
                "clocks",
                where,
                f"stamps of clocks {', '.join(sorted(clocks))} meet",
                "clocks: {one: other}, where one is disciplined to the other",
            )

    def _join_branches(self, node: NodeSpec, port: str, edges: list[Edge]) -> None:
        unpaced = {edge.topic: self._unpaced_sources(edge.topic) for edge in edges}
        for a, b in combinations([edge.topic for edge in edges], 2):
            shared = sorted(unpaced[a] & unpaced[b])
            if shared and not self.lossless and self._publisher[a] is not self._publisher[b]:
                self.wiring.add(
                    "unpaced-branches",
                    ("nodes", node.name),
                    f"'{a}' and '{b}' each take the latest of '{shared[0]}' and meet in '{port}'",
                    f"paced_by: NODE on '{shared[0]}'",
                )

    def _unpaced_sources(self, topic: str) -> frozenset[str]:
        """Return the unpaced sources from which this topic comes by way of a `latest` queue."""
        found: set[str] = set()

        def walk(current: str, behind_latest: bool) -> None:
            publisher = self._publisher.get(current)
            if publisher is None:
                return
            if publisher.is_source and behind_latest and publisher.paced_by is None:
                found.add(publisher.name)
            for edge in publisher.edges:
                port = self.wiring.classes[publisher.name].inputs()[edge.input.partition(".")[0]]
                latest = edge.keep == "latest" and not isinstance(port, Join)
                walk(edge.topic, behind_latest or latest)

        walk(topic, behind_latest=False)
        return frozenset(found)

    def _health(self) -> None:
        from perception.errors import did_you_mean

        rig = self.wiring.rig
        for name, entry in self.wiring.launch.health.items():
            sensor = rig.sensors.get(name) if rig is not None else None
            published = any(topic.startswith(f"{name}/") or topic == name for topic in self.wiring.types)
            if self.wiring.hides_sensors() or name in self.wiring.hidden_sensors or rig is None:
                continue
            if sensor is None or not published:
                known = sorted({topic.partition("/")[0] for topic in self.wiring.types} & set(rig.sensors))
                self.wiring.add(
                    "health-sensor",
                    ("health", name),
                    f"nothing measures with a sensor '{name}'",
                    f"one of {', '.join(known)}",
                    did_you_mean(name, known),
                )
            elif entry.lost_after_ms is not None and entry.lost_after_ms < 1500 / sensor.rate_hz:
                self.wiring.add(
                    "lost-too-soon",
                    ("health", name, "lost_after_ms"),
                    f"'{name}' comes every {1000 / sensor.rate_hz:g} ms",
                    f"at least {1500 / sensor.rate_hz:g} ms",
                )

    def _memory(self) -> None:
        needed = sum(
            (edge.bound + edge.holds + 4) * self._message_bytes(edge.topic)
            for node in self.nodes.values()
            for edge in node.edges
            if (publisher := self._publisher.get(edge.topic)) is not None and publisher.process != node.process
        )
        available = SHARE_OF_MEMORY * shutil.disk_usage(SHARED_MEMORY).total if SHARED_MEMORY.is_dir() else 0
        if needed > available:
            self.wiring.add(
                "memory",
                ("nodes",),
                f"queues between processes may hold {needed >> 20} MiB",
                f"at most {int(available) >> 20} MiB of {SHARED_MEMORY}: smaller bounds, or more shared memory",
            )

    def _message_bytes(self, topic: str) -> int:
        """Estimate the largest message of a topic from the rig."""
        sensor = self.wiring.rig.sensors.get(self._root_sensor(topic)) if self.wiring.rig is not None else None
        kind = self.wiring.types[topic]
        camera, lidar = (sensor.camera, sensor.lidar) if sensor is not None else (None, None)
        pixels = camera.width_px * camera.height_px if camera is not None else 1920 * 1080
        if kind is Image:
            return 3 * pixels
        if kind is SegmentationMask:
            return 2 * pixels
        if kind is PointCloud:
            return (lidar.rings if lidar is not None else 64) * 2048 * 26
        return 1 << 22 if kind is EventPacket else 1 << 18

    def _root_sensor(self, topic: str) -> str:
        return next(iter(self._sensors(topic)), "")

    def _sensors(self, topic: str) -> Iterator[str]:
        """Yield the sensors behind a topic, by way of what triggers each node."""
        publisher = self._publisher.get(topic)
        if publisher is None or publisher.is_source:
            yield topic.partition("/")[0]
            return
        for edge in publisher.edges:
            if self._triggers(publisher, edge):
                yield from self._sensors(edge.topic)

    def _triggers(self, node: NodeSpec, edge: Edge) -> bool:
        from perception.runtime.node import On

        port, _, member = edge.input.partition(".")
        declared = self.wiring.classes[node.name].inputs()[port]
        return isinstance(declared, On) or (isinstance(declared, Join) and member == next(iter(declared.members)))

    def _period_ns(self, topic: str) -> float | None:
        """Return the longest period of the sensors behind a topic."""
        rig = self.wiring.rig
        rates = [rig.sensors[name].rate_hz for name in self._sensors(topic) if rig is not None and name in rig.sensors]
        return 1e9 / min(rates) if rates else None

    def _clocks(self, topic: str) -> Iterator[str]:
        rig, ties = self.wiring.rig, self.wiring.launch.clocks
        for name in self._sensors(topic):
            if rig is not None and name in rig.sensors:
                clock, steps = rig.sensors[name].clock, 0
                while clock in ties and steps < len(ties):
                    clock, steps = ties[clock], steps + 1
                yield clock


__all__ = ["GraphChecks"]
