"""Make what a node gives out complete: owned arrays, header of the run, timing and spans."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING

import msgspec

from perception.messages import Header, Message, SensorState, Span, Timing
from perception.runtime.graph import NodeSpec
from perception.runtime.node import Drop
from perception.runtime.ownership import settled
from perception.runtime.sensor_states import with_states

if TYPE_CHECKING:
    from perception.runtime.places import Places

NOTHING: Mapping[str, int] = MappingProxyType({})
NO_STATES: Mapping[str, SensorState] = MappingProxyType({})


@dataclass
class RunContext:
    """What the outputs of all nodes of one run have in common."""

    run: str = ""
    epoch: int = 0
    """How often this process began: it was started, or everything began anew after a seek or a loop."""
    calibration: str = ""
    lockstep: bool = False
    clock_ns: Callable[[], int] = lambda: 0
    """Host time, for spans and `t_published_ns` only."""
    max_join_bytes: int = 2 << 30


class OutputStamper:
    """The output side of one running node."""

    def __init__(self, spec: NodeSpec, context: RunContext) -> None:
        self.spec, self.context = spec, context
        self.published: dict[str, int] = dict.fromkeys(spec.outputs.values(), 0)
        self._only_port = next(iter(spec.outputs)) if len(spec.outputs) == 1 else ""
        self._before: dict[str, int] = {}
        self.copied = 0
        self.places: Places | None = None
        """Where the node's arrays are made, where the runner has memory for them."""
        self.age_ns: int | None = None
        """Of the sensor data in the last output: from its stamp, where that is host time, else from its arrival."""

    def begin_anew(self) -> None:
        """Number messages from 0 again: the run's epoch is another one."""
        self._before = dict(self.published)

    def collect(self, result: object, drops: list[Drop] | None = None) -> list[tuple[str, Message]]:
        """Return (port, message) for what a method returned or yielded; a `Drop` among it goes into `drops`.

        Raises:
            TypeError: the node gives out what it did not declare.
        """
        if result is None:
            return []
        if isinstance(result, Message):
            if not self._only_port:
                ports = list(self.spec.outputs)
                raise TypeError(f"a node with the outputs {ports} must yield (port, message), not return a message")
            return [(self._only_port, result)]
        produced: list[tuple[str, Message]] = []
        for item in result:  # type: ignore[attr-defined]
            if isinstance(item, Drop) and drops is not None:
                drops.append(item)
                continue
            port, message = item
            if port not in self.spec.outputs:
                raise TypeError(f"the node has no output '{port}', only {list(self.spec.outputs)}")
            produced.append((port, message))
        return produced

    def complete(
        self,
        port: str,
        message: Message,
        sources: Sequence[Message],
        span: Span,
        residuals: Mapping[str, int] = NOTHING,
        missing: Mapping[str, SensorState] = NO_STATES,
    ) -> tuple[str, Message]:
        """Return (topic, message) as it is published.

        The time of reception is the reference's, the first source's; the spans are those of all sources, then how long
        the last of them waited for the node, then the node's own.
        """
        message = self.settled(message)
        given = message.timing
        received_ns = given.t_received_ns or (sources[0].timing.t_received_ns if sources else 0)
        spans = (*(given.spans or _way(sources, span)), span)
        timing = Timing(t_received_ns=received_ns, t_published_ns=self.context.clock_ns(), spans=spans)
        since_ns = message.header.t_sensor_ns if message.header.clock == "host" else received_ns
        self.age_ns = timing.t_published_ns - since_ns
        topic = self.spec.outputs[port]
        header = self._header(topic, message, residuals)
        if missing:  # of a sensor that took part in another way, the header knows better
            header = with_states(header, {name: state for name, state in missing.items() if name not in header.sensors})
        return topic, msgspec.structs.replace(message, header=header, timing=timing)

    def settled(self, message: Message) -> Message:
        """Return a message with arrays that cannot change any more; before who gave it out goes on."""
        message, copied = settled(message, self.places)
        self.copied += copied
        return message

    def stamp(self, topic: str, message: Message) -> Message:
        """Return the message of a source with schema, run, epoch, seq and calibration in its header."""
        return msgspec.structs.replace(message, header=self._header(topic, message, NOTHING))

    def notes(self) -> tuple[str, ...]:
        """Return what was copied, for the status."""
        kept = 0 if self.places is None else self.places.copied
        counts = (
            ("kept what it made for an output in shared memory", kept),
            ("gave out views of memory that may change", self.copied),
        )
        return tuple(f"{what}: {count} arrays copied" for what, count in counts if count)

    def _header(self, topic: str, message: Message, residuals: Mapping[str, int]) -> Header:
        published = self.published.get(topic, 0)
        self.published[topic] = published + 1
        seq = published - self._before.get(topic, 0)
        given, context = message.header, self.context
        return msgspec.structs.replace(
            given, schema=type(message).SCHEMA, run=context.run, epoch=context.epoch, seq=seq,
            calibration=given.calibration or context.calibration,
            sync_residual_ns={**given.sync_residual_ns, **residuals} if residuals else given.sync_residual_ns,
        )  # fmt: skip


def received(message: Message) -> Message:
    """Return a source's message with the time at which it was received, unless its driver gave that."""
    if message.timing.t_received_ns:
        return message
    return msgspec.structs.replace(message, timing=Timing(t_received_ns=time.time_ns()))


def _way(sources: Sequence[Message], span: Span) -> tuple[Span, ...]:
    if len(sources) == 1:
        source = sources[0].timing
        ready_ns = source.t_published_ns or source.t_received_ns
        waited = (Span(f"{span.stage} waits", ready_ns, span.start_ns - ready_ns),)
        return source.spans + waited if 0 < ready_ns < span.start_ns else source.spans
    spans = dict.fromkeys(earlier for source in sources for earlier in source.timing.spans)
    ready_ns = max((source.timing.t_published_ns or source.timing.t_received_ns for source in sources), default=0)
    if 0 < ready_ns < span.start_ns:
        spans[Span(f"{span.stage} waits", ready_ns, span.start_ns - ready_ns)] = None
    return tuple(sorted(spans, key=lambda earlier: earlier.start_ns))


__all__ = ["OutputStamper", "RunContext", "received"]
