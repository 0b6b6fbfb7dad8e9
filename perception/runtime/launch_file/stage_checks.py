"""Is there time enough? Stages against the rates of sensors, the waits of joins and the deadlines of outputs."""

from __future__ import annotations

from collections.abc import Callable

from perception.runtime.graph import NodeSpec
from perception.runtime.launch_file.wiring import MS, Wiring
from perception.runtime.node import Join, On


class StageChecks:
    """Checks with `stage_ms`; nodes that do not say it count as instant.

    Args:
        wiring: the launch file and what is known of it.
        nodes: the connected nodes, without circles.
        period_ns: gives the longest period of the sensors behind a topic.
        lossless: the source waits for every node, as in lockstep: none is too slow for it.
    """

    def __init__(
        self, wiring: Wiring, nodes: dict[str, NodeSpec], period_ns: Callable[[str], float | None], *,
        lossless: bool = False,
    ) -> None:  # fmt: skip
        self.wiring, self.nodes, self._period_ns, self.lossless = wiring, nodes, period_ns, lossless
        self._publisher = {topic: node for node in nodes.values() for topic in node.outputs.values()}
        self._waits_ms: dict[str, float] = {}

    def run(self) -> None:
        """Report every fault."""
        for node in self.nodes.values():
            for port, declared in self.wiring.classes[node.name].inputs().items():
                if isinstance(declared, Join):
                    self._join(node, port, declared)
                elif isinstance(declared, On) and not self.lossless:
                    self._rate(node, port)
        for name, output in self.wiring.launch.outputs.items():
            needed = self._wait_ms(output.topic)
            if output.deadline_ms is not None and output.deadline_ms < needed:
                self.wiring.add(
                    "deadline-too-short", ("outputs", name, "deadline_ms"),
                    f"deadline {output.deadline_ms:g} ms, joins and stages on the way take up to {needed:g} ms",
                    f"at least {needed:g} ms, or shorter joins",
                )  # fmt: skip

    def _stage_ms(self, node: NodeSpec) -> float:
        entry = self.wiring.launch.nodes.get(node.name)  # the log of a replay has none
        return (entry.stage_ms or 0.0) if entry is not None else 0.0

    def _wait_ms(self, topic: str) -> float:
        """Return the longest time from a sensor's data to this topic."""
        publisher = self._publisher.get(topic)
        if publisher is None or publisher.is_source:
            return 0.0
        if topic not in self._waits_ms:
            joins = max((settings.deadline_ns / MS for settings in publisher.joins.values()), default=0.0)
            before = max((self._wait_ms(edge.topic) for edge in publisher.edges), default=0.0)
            self._waits_ms[topic] = self._stage_ms(publisher) + joins + before
        return self._waits_ms[topic]

    def _shortest_ms(self, topic: str) -> float:
        """Return the shortest time from a sensor's data to this topic: stages alone, no join waits."""
        publisher = self._publisher.get(topic)
        if publisher is None or publisher.is_source:
            return 0.0
        before = max((self._shortest_ms(edge.topic) for edge in publisher.edges), default=0.0)
        return self._stage_ms(publisher) + before

    def _join(self, node: NodeSpec, port: str, declared: Join) -> None:
        deadline_ms = node.joins[port].deadline_ns / MS
        edges = [edge for edge in node.edges if edge.input.partition(".")[0] == port]
        first = next(iter(declared.members))
        reference_ms = max(
            (self._shortest_ms(edge.topic) for edge in edges if edge.input == f"{port}.{first}"), default=0
        )
        for edge in edges:
            behind_ms = self._shortest_ms(edge.topic) - reference_ms
            if behind_ms > deadline_ms:
                self.wiring.add(
                    "join-deadline", ("nodes", node.name, "joins", port, "deadline_ms"),
                    f"'{port}' waits {deadline_ms:g} ms, '{edge.topic}' comes {behind_ms:g} ms after '{first}'",
                    f"more than {behind_ms:g} ms",
                )  # fmt: skip

    def _rate(self, node: NodeSpec, port: str) -> None:
        stage_ms, busy_ms = self._stage_ms(node), 0.0
        for edge in node.edges:
            period_ns = self._period_ns(edge.topic) if edge.input == port and edge.keep == "all" else None
            if period_ns is not None and not self._is_paced(edge.topic):
                busy_ms += stage_ms * 1e9 / period_ns
        if busy_ms > 1000:
            self.wiring.add(
                "stage-too-slow", ("nodes", node.name, "stage_ms"),
                f"'{port}' keeps all, and its messages of one second take {busy_ms:g} ms",
                "a faster stage, fewer messages or keep: latest",
            )  # fmt: skip

    def _is_paced(self, topic: str) -> bool:
        publisher = self._publisher.get(topic)
        if publisher is None or publisher.is_source:
            return publisher is None or publisher.paced_by is not None
        return any(self._is_paced(edge.topic) for edge in publisher.edges)


__all__ = ["StageChecks"]
