"""One running node: takes messages and bounds, runs what may run, and counts.

No clock, no threads, no sockets. A runner drives it:

    executor.offer(topic, message)      a message arrived on an input
    executor.bound(topic, t_ns)         nothing with a stamp below t_ns comes on it any more
    outputs = executor.run_next()       one call of the node's method; None when nothing may run
    executor.output_bound()             the promise to give on for the node's outputs
    executor.finish()                   after the last message; in lockstep `run_next` does it

What may run, and when, is decided by `NodeInputs` (`inputs.py`).
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping

from perception.errors import GraphError, PerceptionError
from perception.messages import Message, NodeStatus, SensorState, Span
from perception.messages.outputs import InputStatus
from perception.runtime.batches import Batch
from perception.runtime.counters import LatencyHistogram
from perception.runtime.graph import NodeSpec
from perception.runtime.histories import AFTER_ALL, BEFORE_ALL
from perception.runtime.inputs import Call, NodeInputs
from perception.runtime.joins import JoinedSet
from perception.runtime.node import Drop, Node
from perception.runtime.output_stamper import OutputStamper, RunContext
from perception.runtime.sensor_states import SensorsBehind

LOG = logging.getLogger(__name__)
MAX_CRASHES_IN_A_ROW = 10
MAX_REASON = 200
QUICK_NS = 300_000
"""A call is expected to be as quick as the last one: below this, who reads its outputs may be woken when it begins."""


class NodeExecutor:
    """See the module's text.

    Args:
        spec: the node of the checked graph.
        node: the node itself.
        ranks: rank by topic, the order of topics in the graph; lockstep breaks ties by it.
        context: what all nodes share.
        behind: the sensors behind each topic, to say in headers what a join had to go on without.
        announce: called with the topics on which a call that begins is expected to give out something in a moment.
    """

    def __init__(
        self,
        spec: NodeSpec,
        node: Node,
        ranks: Mapping[str, int],
        context: RunContext,
        behind: SensorsBehind | None = None,
        announce: Callable[[Iterable[str]], None] | None = None,
    ) -> None:
        self.spec, self.node, self.context, self._behind = spec, node, context, behind
        self.inputs = NodeInputs(spec, node, ranks, context)
        self.counters = self.inputs.counters
        self.offer, self.bound = self.inputs.offer, self.inputs.bound
        self.is_idle = self.inputs.is_idle
        self.reset, self.forget = self.inputs.reset, self.inputs.forget
        self.latency = LatencyHistogram()
        self.stamper = OutputStamper(spec, context)
        self.last_error = ""
        self._methods: dict[str, Callable[..., object]] = {}
        self.has_finished = False
        self._crashes = 0
        self._announce, self._topics = announce, tuple(spec.outputs.values())
        self.is_light = self.is_quick = False
        """Whether the last call was, and for `is_quick` gave out something, too, where the node gives out anything."""
        self._durations_ns: list[int] = []
        """Of the calls since `latency` was last brought up to date."""

    def run_next(self) -> list[tuple[str, Message]] | None:
        """Run the next call that may run.

        Returns:
            (topic, message) for each output, with headers complete; None when nothing may run.

        Raises:
            GraphError: the node failed too often in a row, or a lockstep join holds more than it may.
        """
        call = self.inputs.next_call()
        if call is not None:
            return self._prepare(call) if call.prepares else self._run(call)
        if self.context.lockstep and not self.has_finished and self.inputs.has_ended():
            return self.finish()
        return None

    def _prepare(self, call: Call) -> list[tuple[str, Message]]:
        assert isinstance(call.argument, JoinedSet)
        try:
            getattr(self.node, f"prepare_{call.port}")(**call.argument.arguments)
        except Exception as error:  # the call for the set meets the same fault, and counts it
            LOG.debug("node '%s' could not prepare '%s'", self.spec.name, call.port, exc_info=error)
        return []

    def _run(self, call: Call) -> list[tuple[str, Message]]:
        if self.is_quick and self._announce is not None:
            self._announce(self._topics)
        started_ns = self.context.clock_ns()
        argument = call.argument
        drops: list[Drop] = []
        try:
            produced = self.stamper.collect(self._called(call), drops)
        except PerceptionError as error:
            self._drop(self.inputs.topics_of(call), str(error))
            return []
        except Exception as error:  # noqa: BLE001 - a live graph survives one bad frame, whatever it broke
            self._crash(self.inputs.topics_of(call), error)
            return []
        for drop in drops:
            one_topic = (argument.topics[drop.sensor],) if isinstance(argument, Batch) else None
            self._drop(one_topic or self.inputs.topics_of(call), drop.reason)
        self._crashes = 0
        duration_ns = self.context.clock_ns() - started_ns
        if produced or not self._topics:  # pictures that only wait for their sweep would hide what the sweep takes
            self._durations_ns.append(duration_ns)
        self.is_light = duration_ns < QUICK_NS
        self.is_quick = self.is_light and (bool(produced) or not self._topics)
        span = Span(self.spec.name, started_ns, duration_ns)
        residuals: Mapping[str, int] = {}
        missing: Mapping[str, SensorState] = {}
        if isinstance(argument, JoinedSet):
            residuals = argument.residuals_ns
            missing = self._behind.missing(argument.silent_ns) if self._behind else {}
        outputs: list[tuple[str, Message]] = []
        for name, message in produced:
            outputs.append(self.stamper.complete(name, message, _sources(argument, name), span, residuals, missing))
        return outputs

    def settle(self) -> None:
        """Count what the last calls took, once their outputs are on their way."""
        for duration_ns in self._durations_ns:
            self.latency.add(duration_ns)
        self._durations_ns.clear()

    def _called(self, call: Call) -> object:
        method, argument = self._methods.get(call.port), call.argument
        if method is None:
            method = self._methods[call.port] = getattr(self.node, f"on_{call.port.partition(' ')[0]}")
        if isinstance(argument, Message):
            return method(argument)
        if isinstance(argument, JoinedSet):
            return method(**argument.arguments)
        return method(call.t_ns if argument is None else argument.messages)

    def _drop(self, topics: tuple[str, ...], reason: str) -> None:
        self.last_error = reason
        for topic in topics:
            self.counters[topic].drop(reason[:MAX_REASON])

    def _crash(self, topics: tuple[str, ...], error: Exception) -> None:
        self._drop(topics, f"{type(error).__name__}: {error}")
        self._crashes += 1
        LOG.error("node '%s' failed on one message, which is dropped", self.spec.name, exc_info=error)
        if self._crashes >= MAX_CRASHES_IN_A_ROW:
            raise GraphError(
                f"node '{self.spec.name}' failed {self._crashes} times in a row, last by {self.last_error}"
            ) from error

    def output_bound(self) -> int:
        """Return the instant below which no output comes any more, in the clock of the outputs.

        In lockstep the end comes once `finish` has run, which may give out more.
        """
        bound = self.inputs.output_bound()
        if bound == AFTER_ALL and self.context.lockstep and not self.has_finished:
            return BEFORE_ALL
        return bound if bound in (BEFORE_ALL, AFTER_ALL) else bound + self.node.bound_shift_ns

    def last_bound(self) -> int:
        """Return the last instant of which its inputs spoke, in the clock of the outputs: the bound before the end."""
        newest_ns = self.inputs.newest_ns
        return newest_ns if newest_ns == BEFORE_ALL else newest_ns + self.node.bound_shift_ns

    def finish(self) -> list[tuple[str, Message]]:
        """Run `finish` of the node after the last message, once."""
        if self.has_finished:
            return []
        self.has_finished = True
        started_ns = self.context.clock_ns()
        try:
            produced = self.stamper.collect(self.node.finish())
        except PerceptionError as error:
            self._drop((), str(error))
            return []
        span = Span(self.spec.name, started_ns, self.context.clock_ns() - started_ns)
        return [self.stamper.complete(port, message, (), span) for port, message in produced]

    def status(self, memory_mb: float = 0.0) -> NodeStatus:
        """Return how the node is doing."""
        self.settle()
        inputs = tuple(
            InputStatus(topic=topic, received=c.received, rate_hz=c.rate_hz(), dropped=dict(c.dropped))
            for topic, c in self.counters.items()
        )
        return NodeStatus(
            node=self.spec.name, state="degraded" if self._crashes else "ok", epoch=self.context.epoch, inputs=inputs,
            published=dict(self.stamper.published), latency_p50_ms=self.latency.percentile_ms(50),
            latency_p99_ms=self.latency.percentile_ms(99),
            age_ms=None if self.stamper.age_ns is None else self.stamper.age_ns / 1e6, memory_mb=memory_mb,
            last_error=self.last_error, degraded=self.node.degraded, notes=(*self.node.notes, *self.stamper.notes()),
        )  # fmt: skip


def _sources(argument: Message | JoinedSet | Batch | None, port: str) -> tuple[Message, ...]:
    """Return the messages that an output was made with, the reference first."""
    if isinstance(argument, Message):
        return (argument,)
    if argument is None:
        return ()
    if isinstance(argument, Batch):
        return argument.sources(port)
    return tuple(argument.messages())


__all__ = ["NodeExecutor"]
