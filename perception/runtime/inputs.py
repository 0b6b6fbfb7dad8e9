"""The inputs of one running node: what has arrived, what may run, and in which order.

What may run, by input: an `On` runs its messages; a `Join` its decided sets; an `Every` the multiples of its period
that sensor time has passed; a `Lookup` only holds others back until it can answer. Live, what came first runs first. In
lockstep, candidates run in the order (t_sensor_ns, topic rank, seq), and none runs before every other input is decided
up to it, so that the order does not depend on how messages travelled. An `On` input with `batch` runs one message of
each of its topics in a call: live those that wait, in lockstep those of one stamp.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import msgspec

from perception.errors import GraphError
from perception.messages import Message, Odometry, array_bytes
from perception.runtime.batches import Batch, sensor_of
from perception.runtime.counters import InputCounters
from perception.runtime.graph import Edge, NodeSpec
from perception.runtime.histories import AFTER_ALL, BEFORE_ALL, History, LookupHandle
from perception.runtime.joins import JoinedSet, JoinState
from perception.runtime.node import Every, Join, Lookup, Node, On
from perception.runtime.output_stamper import RunContext

CLOCK_JUMP_NS = 500_000_000
"""Live, an input that goes back by more has a clock that was set back; less is waited out."""
KEPT_NS = 10_000_000_000
"""Live, a lookup keeps messages for calls as late as this."""
MANY = 1024
"""Messages of a lookup, after which those are forgotten that no call can see any more."""


@dataclass
class _Queue:
    """An `On` input."""

    edge: Edge
    messages: deque[Message]
    bound_ns: int = BEFORE_ALL


class _Lookup:
    """A `Lookup` input. Of ego motion, the message after a stamp is waited for until the deadline, to interpolate."""

    def __init__(self, declared: Lookup[Message], edges: list[Edge]) -> None:
        self.is_connected = bool(edges)
        self.history = History()
        self.history_ns, self.deadline_ns = round(declared.history_ms * 1e6), round(declared.deadline_ms * 1e6)
        interpolates = any(issubclass(edge.message_type, Odometry) for edge in edges)
        self.handle = LookupHandle(self.history, self.history_ns, self.deadline_ns if interpolates else 0)


@dataclass(frozen=True)
class _TopicReaders:
    """What of one node reads a topic."""

    queues: list[_Queue]
    joins: list[JoinState]
    lookups: list[_Lookup]


class Call(msgspec.Struct):
    """One call of a method: what it is of, and which message it is charged to."""

    port: str
    t_ns: int
    rank: int
    seq: int
    argument: Message | JoinedSet | Batch | None
    prepares: bool = False
    """It is of `prepare_<port>`, with the early members of a set."""


class NodeInputs:
    """See the module's text.

    Args:
        spec: the node of the checked graph.
        node: the node itself; its lookups are bound here.
        ranks: rank by topic, the order of topics in the graph; lockstep breaks ties by it.
        context: what all nodes share.
    """

    def __init__(self, spec: NodeSpec, node: Node, ranks: Mapping[str, int], context: RunContext) -> None:
        self.spec, self.node, self.context, self._ranks = spec, node, context, ranks
        self.counters: dict[str, InputCounters] = {edge.topic: InputCounters() for edge in spec.edges}
        self._queues: dict[str, _Queue] = {}
        self._joins: dict[str, JoinState] = {}
        self._lookups: dict[str, _Lookup] = {}
        self._ticks: dict[str, int | None] = {}
        self._batched = {name for name, port in node.inputs().items() if isinstance(port, On) and port.batch}
        self._first_ns: int | None = None
        self.newest_ns = BEFORE_ALL
        """The last instant that any input spoke of, by a message or a bound."""
        self._bounds = {edge.topic: BEFORE_ALL for edge in spec.edges}
        """What is known not to come any more, by messages and promises."""
        self._promised = dict(self._bounds)
        self._bind_ports()
        self._readers = {topic: self._readers_of(topic) for topic in self.counters}
        waits = self._joins or self._lookups or self._ticks or self._batched or context.lockstep
        self._only = next(iter(self._queues.items())) if len(self._queues) == 1 and not waits else None
        """The one queue of a node that waits for nothing else, as most nodes are."""

    def _bind_ports(self) -> None:
        for port, declared in self.node.inputs().items():
            edges = [edge for edge in self.spec.edges if edge.input.partition(".")[0] == port]
            if isinstance(declared, Every):
                self._ticks[port] = None
            elif isinstance(declared, Join):
                settings, lockstep = self.spec.joins[port], self.context.lockstep
                self._joins[port] = JoinState(port, declared, settings, edges, self.counters, lockstep=lockstep)
            elif isinstance(declared, Lookup):
                self._lookups[port] = lookup = _Lookup(declared, edges)
                setattr(self.node, port, lookup.handle)
            else:
                assert isinstance(declared, On)
                for edge in edges:
                    self._queues[f"{port} {edge.topic}"] = _Queue(edge, deque())

    def _readers_of(self, topic: str) -> _TopicReaders:
        queues = [queue for queue in self._queues.values() if queue.edge.topic == topic]
        ports = {edge.input.partition(".")[0] for edge in self.spec.edges if edge.topic == topic}
        lookups = [lookup for port, lookup in self._lookups.items() if port in ports]
        return _TopicReaders(queues, [join for port, join in self._joins.items() if port in ports], lookups)

    def offer(self, topic: str, message: Message) -> None:
        """Take a message that arrived on an input topic."""
        counters = self.counters[topic]
        counters.received += 1
        t_ns = message.header.t_sensor_ns
        if t_ns < self._bounds[topic] - CLOCK_JUMP_NS and not self.context.lockstep:
            self.forget("clock set back", "clock jump")
        counters.stamps.append(t_ns)
        self._bounds[topic] = max(self._bounds[topic], t_ns)
        self.newest_ns = max(self.newest_ns, t_ns)
        if self._first_ns is None or t_ns < self._first_ns:
            self._first_ns = t_ns
        readers = self._readers[topic]
        for queue in readers.queues:
            self._enqueue(queue, message, counters)
        if self._only is not None:
            return
        for join in readers.joins:
            join.offer(topic, message)
            if not self.context.lockstep:
                join.limit_history()
        for lookup in readers.lookups:
            lookup.history.add(t_ns, message)
            lookup.history.bound_ns = max(lookup.history.bound_ns, t_ns)
            if not self.context.lockstep:
                lookup.history.forget_before(self._oldest_called_ns(t_ns) - lookup.history_ns)
            elif len(lookup.history) % MANY == 0:  # nothing has called for long
                lookup.history.forget_older(min(self.output_bound(), t_ns) - lookup.history_ns)

    def _oldest_called_ns(self, newest_ns: int) -> int:
        """Return the stamp before which, live, no call is to come: what waits, and what slow topics may still bring."""
        return max(min(self.output_bound(), newest_ns), newest_ns - KEPT_NS)

    def _enqueue(self, queue: _Queue, message: Message, counters: InputCounters) -> None:
        queue.bound_ns = max(queue.bound_ns, message.header.t_sensor_ns)
        if queue.messages and not self.context.lockstep:
            if queue.edge.keep == "latest":
                counters.drop("newer message", len(queue.messages))
                queue.messages.clear()
            elif len(queue.messages) >= queue.edge.bound:
                queue.messages.popleft()
                counters.drop("queue full")
        queue.messages.append(message)

    def bound(self, topic: str, t_ns: int) -> None:
        """Take the promise that nothing below `t_ns` comes on the topic any more."""
        if BEFORE_ALL < t_ns < self._promised[topic] - CLOCK_JUMP_NS and not self.context.lockstep:
            self.forget("clock set back", "clock jump")
        self._promised[topic] = (
            t_ns  # a promise may lag behind the messages, and is repeated with those of other topics
        )
        self._bounds[topic] = max(self._bounds[topic], t_ns)
        if t_ns < AFTER_ALL:
            self.newest_ns = max(self.newest_ns, t_ns)
        readers = self._readers[topic]
        for queue in readers.queues:
            queue.bound_ns = max(queue.bound_ns, t_ns)
        for join in readers.joins:
            join.bound(topic, t_ns)
        for lookup in readers.lookups:
            lookup.history.bound_ns = max(lookup.history.bound_ns, t_ns)

    def forget(self, counted_as: str, reason: str) -> None:
        """Count what waits as dropped and begin anew; stamps may go on anywhere."""
        for queue in self._queues.values():
            self.counters[queue.edge.topic].drop(counted_as, len(queue.messages))
        for join in self._joins.values():
            self.counters[join.reference_topic].drop(counted_as, join.open_sets())
        self.reset(reason)

    def next_call(self) -> Call | None:
        """Return the next call that may run, taken off its input; None where none may.

        Raises:
            GraphError: a lockstep join holds more than it may.
        """
        if self._only is not None:
            name, queue = self._only
            if not queue.messages:
                return None
            message = queue.messages.popleft()
            return Call(name, message.header.t_sensor_ns, 0, message.header.seq, message)
        candidates = [*self._queued(), *self._due_ticks()] if self._ticks else list(self._queued())
        best = candidates[0] if len(candidates) == 1 else min(candidates, key=_order, default=None)
        if self.context.lockstep:
            call = self._lockstep_call(best)
            if call is not None:
                for lookup in self._lookups.values():
                    lookup.handle.call_at(_stamp(call))
            return call
        for port, join in self._joins.items():
            if self._lookups_answer(join.oldest_open_ns()) and (joined := join.take()) is not None:
                return Call(port, joined.t_ns, 0, 0, joined)
        if best is not None and self._lookups_answer(best.t_ns):
            return self._taken(best)
        for port, join in self._joins.items():
            if (early := join.take_early(self._lookups_answer)) is not None:
                return Call(port, early.t_ns, 0, 0, early, prepares=True)
        return None

    def _lockstep_call(self, best: Call | None) -> Call | None:
        """Return the first call in lockstep's order, if no input can bring an earlier one."""
        while True:
            port, join = min(self._joins.items(), key=lambda item: item[1].oldest_open_ns(), default=("", None))
            if join is None or (best is not None and best.t_ns < join.oldest_open_ns()):
                break
            t_ns, sets = join.oldest_open_ns(), join.open_sets()
            self._check_join_size(port, join)
            stamp_ns = t_ns - join.reference_offset_ns
            if not (self._others_decided(t_ns, None) and self._ticked(t_ns) and self._lookups_answer(stamp_ns)):
                return None
            if (joined := join.take()) is not None:
                return Call(port, t_ns, 0, 0, joined)
            if join.open_sets() == sets:
                return None  # not decided yet; else it was dropped, and the next one may be decided
        if best is None or not (self._others_decided(best.t_ns, best) and self._lookups_answer(best.t_ns)):
            return None
        return self._taken(best) if best.argument is None or self._ticked(best.t_ns + 1) else None

    def _ticked(self, t_ns: int) -> bool:
        """True where no `Every` has a tick below `t_ns` any more that has not run."""
        if not self._ticks or self.has_ended():
            return True  # those that are due at the end are candidates themselves
        return all(last is not None and last + self._every(port) >= t_ns for port, last in self._ticks.items())

    def _others_decided(self, t_ns: int, call: Call | None) -> bool:
        for queue in self._queues.values():
            if queue.messages:
                continue  # its first message is a candidate itself and was not earlier
            rank = self._ranks.get(queue.edge.topic, 0)
            may_tie = call is not None and rank > call.rank and not self._is_of_the_batch(queue, call)
            earliest_allowed = t_ns if may_tie else t_ns + 1
            if queue.bound_ns < earliest_allowed:
                return False
        return all(join.oldest_open_ns() >= t_ns for join in self._joins.values())

    def _queued(self) -> Iterator[Call]:
        for name, queue in self._queues.items():
            if queue.messages:
                header = queue.messages[0].header
                rank = self._ranks.get(queue.edge.topic, 0)
                yield Call(name, header.t_sensor_ns, rank, header.seq, queue.messages[0])

    def _due_ticks(self) -> Iterator[Call]:
        """Yield the next tick of each `Every` that all inputs have passed (lockstep), or sensor time has (live).

        The first one is the first multiple of the period after the first message; the last one is not after the last
        instant that any input spoke of.
        """
        passed = first = self.newest_ns
        if self.context.lockstep:
            passed = min([*self._bounds.values(), passed if self.has_ended() else AFTER_ALL])
            first = BEFORE_ALL if self._first_ns is None else self._first_ns
        if first == BEFORE_ALL or passed < first:
            return
        for port, last in self._ticks.items():
            period = self._every(port)
            if last is None:
                last = self._ticks[port] = (first // period) * period  # noqa: PLW2901 - it begins here
            if last + period <= passed:
                yield Call(port, last + period, -1, 0, None)

    def _every(self, port: str) -> int:
        declared = self.node.inputs()[port]
        assert isinstance(declared, Every)
        return declared.period_ns

    def _is_of_the_batch(self, queue: _Queue, call: Call) -> bool:
        return queue.edge.input in self._batched and call.port.partition(" ")[0] == queue.edge.input

    def _taken(self, call: Call) -> Call:
        if call.argument is None:
            self._ticks[call.port] = call.t_ns
            return call
        if call.port.partition(" ")[0] in self._batched:
            return self._taken_together(call)
        self._queues[call.port].messages.popleft()
        return call

    def _taken_together(self, call: Call) -> Call:
        """Take the first message of every queue of the input: in lockstep those of the same stamp."""
        messages: dict[str, Message] = {}
        topics: dict[str, str] = {}
        for queue in self._queues.values():
            if not (queue.messages and self._is_of_the_batch(queue, call)):
                continue
            t_ns = queue.messages[0].header.t_sensor_ns
            if t_ns == call.t_ns or (not self.context.lockstep and self._lookups_answer(t_ns)):
                sensor = sensor_of(queue.edge.topic)
                messages[sensor], topics[sensor] = queue.messages.popleft(), queue.edge.topic
        return msgspec.structs.replace(call, argument=Batch(messages, topics))

    def _lookups_answer(self, t_ns: int) -> bool:
        if t_ns in (BEFORE_ALL, AFTER_ALL):
            return True
        for lookup in self._lookups.values():
            late = not self.context.lockstep and self.newest_ns >= t_ns + lookup.deadline_ns
            if lookup.is_connected and not (late or lookup.handle.answers(t_ns)):
                return False
        return True

    def _check_join_size(self, port: str, join: JoinState) -> None:
        held = join.held_bytes(array_bytes)
        if held > self.context.max_join_bytes:
            raise GraphError(
                f"node '{self.spec.name}': its join '{port}' holds {held >> 20} MiB and waits for "
                f"{', '.join(join.waiting_for()) or 'nothing'}; is that topic in the log?"
            )

    def topics_of(self, call: Call) -> tuple[str, ...]:
        """Return the topics that a failure of the call is charged to."""
        if isinstance(call.argument, JoinedSet):
            return (self._joins[call.port].reference_topic,)
        if isinstance(call.argument, Batch):
            return tuple(call.argument.topics.values())
        return () if call.argument is None else (self._queues[call.port].edge.topic,)

    def output_bound(self) -> int:
        """Return the instant below which no output comes any more: what waits, and what may still come."""
        ahead = [
            queue.messages[0].header.t_sensor_ns if queue.messages else queue.bound_ns
            for queue in self._queues.values()
        ]
        ahead += [_moved(join.oldest_open_ns(), -join.reference_offset_ns) for join in self._joins.values()]
        if not self.has_ended():
            passed = min(self._bounds.values(), default=AFTER_ALL)
            ahead += [passed if last is None else last + self._every(port) for port, last in self._ticks.items()]
        return min(ahead, default=AFTER_ALL)

    def has_ended(self) -> bool:
        """True where no input brings anything any more; what has come may still wait to be run."""
        return all(bound == AFTER_ALL for bound in self._bounds.values())

    def reset(self, reason: str) -> None:
        """Forget what belongs to the past: after a seek, a loop, a clock jump or a restart."""
        for queue in self._queues.values():
            queue.messages.clear()
            queue.bound_ns = BEFORE_ALL
        for join in self._joins.values():
            join.clear()
        for lookup in self._lookups.values():
            lookup.history.clear()
            lookup.history.bound_ns = BEFORE_ALL
        self._bounds = dict.fromkeys(self._bounds, BEFORE_ALL)
        self._promised = dict.fromkeys(self._bounds, BEFORE_ALL)
        self._ticks = dict.fromkeys(self._ticks)
        self.newest_ns, self._first_ns = BEFORE_ALL, None
        self.node.reset(reason)

    def is_idle(self) -> bool:
        """True where no message waits to be run (joins may hold what is not decided yet)."""
        return not any(queue.messages for queue in self._queues.values())


def _order(call: Call) -> tuple[int, int, int]:
    return call.t_ns, call.rank, call.seq


def _stamp(call: Call) -> int:
    """Return the stamp that the node sees: of a set, the reference's, without the offset by which it was joined."""
    return call.argument.reference.header.t_sensor_ns if isinstance(call.argument, JoinedSet) else call.t_ns


def _moved(bound_ns: int, by_ns: int) -> int:
    return bound_ns if bound_ns in (BEFORE_ALL, AFTER_ALL) else bound_ns + by_ns


__all__ = ["CLOCK_JUMP_NS", "Call", "NodeInputs"]
