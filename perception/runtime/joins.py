"""Joins on sensor time: which messages belong to one instant, and when that is decided.

The reference member's messages open the sets, in the order of their stamps. For each other topic the message nearest to
the reference is taken, within the tolerance. A set is decided when no topic can bring a nearer one any more, by its
bound, or, live, when sensor time has passed the reference by the deadline. In lockstep only bounds decide: what has
arrived by the deadline depends on how messages travelled. Nothing here reads a clock.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from perception.messages import Message
from perception.runtime.counters import InputCounters
from perception.runtime.graph import Edge, JoinSettings
from perception.runtime.histories import AFTER_ALL, BEFORE_ALL, History
from perception.runtime.node import Join


@dataclass(frozen=True)
class JoinedSet:
    """One decided set, ready for the node's method."""

    reference: Message
    t_ns: int
    arguments: Mapping[str, Message | tuple[Message, ...] | None]
    residuals_ns: Mapping[str, int]
    silent_ns: Mapping[str, int | None]
    """By topic that is missing, how long before the set's instant its last message was; None where none ever came."""

    def messages(self) -> Iterable[Message]:
        """All messages of the set, the reference first."""
        for argument in self.arguments.values():
            if isinstance(argument, tuple):
                yield from argument
            elif argument is not None:
                yield argument


class JoinState:
    """One join port of one running node."""

    def __init__(
        self,
        port: str,
        join: Join,
        settings: JoinSettings,
        edges: list[Edge],
        counters: Mapping[str, InputCounters],
        *,
        lockstep: bool,
    ) -> None:
        self.settings, self.join, self._counters, self._lockstep = settings, join, counters, lockstep
        members = {edge.topic: edge.input.partition(".")[2] for edge in edges}
        self._reference_member = next(iter(join.members))
        references = [topic for topic, member in members.items() if member == self._reference_member]
        if len(references) != 1:
            raise ValueError(f"join '{port}' needs exactly one topic for its reference '{self._reference_member}'")
        self.reference_topic = references[0]
        self._topics = {name: [topic for topic, member in members.items() if member == name] for name in join.members}
        self._offset = {edge.topic: edge.offset_ns for edge in edges}
        self.reference_offset_ns = self._offset[self.reference_topic]
        self._limit = max(1, next(edge.bound for edge in edges if edge.topic == self.reference_topic))
        self._open: deque[tuple[int, Message]] = deque()
        self._history = {topic: History() for topic in members if topic != self.reference_topic}
        self._last_ns = dict.fromkeys(self._history, BEFORE_ALL)
        self._used: dict[str, set[int]] = {topic: set() for topic in self._history}
        self.reference_bound_ns = self._newest_reference_ns = BEFORE_ALL
        self._now_ns = BEFORE_ALL
        self._prepared_ns = BEFORE_ALL

    def offer(self, topic: str, message: Message) -> None:
        """Take a message; live, beyond the input's bound of open sets the oldest set is dropped: newest wins."""
        t_ns = message.header.t_sensor_ns + self._offset[topic]
        self._now_ns = max(self._now_ns, t_ns)
        if topic != self.reference_topic:
            self._history[topic].add(t_ns, message)
            self._history[topic].bound_ns = max(self._history[topic].bound_ns, t_ns)
            return
        if self._open or self._lockstep:
            last_ns = self._newest_reference_ns if self._lockstep else self._open[-1][0]
            if t_ns < last_ns:
                self._counters[topic].drop("stamp before the last one")
                return
        self._newest_reference_ns = t_ns
        self._open.append((t_ns, message))
        self.reference_bound_ns = max(self.reference_bound_ns, t_ns)
        while len(self._open) > self._limit and not self._lockstep:
            self._open.popleft()
            self._counters[topic].drop("newer set")

    def bound(self, topic: str, t_ns: int) -> None:
        """Take the promise that nothing below `t_ns` comes on the topic any more."""
        t_ns = min(t_ns + self._offset[topic], AFTER_ALL) if t_ns < AFTER_ALL else AFTER_ALL
        if t_ns < AFTER_ALL:
            self._now_ns = max(self._now_ns, t_ns)
        if topic == self.reference_topic:
            self.reference_bound_ns = max(self.reference_bound_ns, t_ns)
            if self._lockstep and not self._open:
                self._forget(self.reference_bound_ns)
        else:
            self._history[topic].bound_ns = max(self._history[topic].bound_ns, t_ns)

    def oldest_open_ns(self) -> int:
        """Stamp of the oldest set that is not decided yet, else the reference's bound."""
        return self._open[0][0] if self._open else self.reference_bound_ns

    def open_sets(self) -> int:
        return len(self._open)

    def held_bytes(self, size_of: Callable[[Message], int]) -> int:
        """Bytes of all messages that the join holds."""
        waiting = sum(size_of(message) for _, message in self._open)
        return waiting + sum(history.total_bytes(size_of) for history in self._history.values())

    def waiting_for(self) -> list[str]:
        """Topics that the oldest open set waits for."""
        if not self._open:
            return []
        return [topic for topic in self._history if not self._is_decided(topic, self._open[0][0])]

    def take(self) -> JoinedSet | None:
        """Return the next decided set, or None.

        Live, of several decided sets it is the newest, and the others are dropped whole; in lockstep the oldest. None
        may also mean that the oldest was dropped for what it lacks: there are fewer open sets then.
        """
        found: JoinedSet | None = None
        while self._open and self._set_is_decided(self._open[0][0]):
            if found is not None:
                self._counters[self.reference_topic].drop("newer set")
            t_ns, reference = self._open.popleft()
            candidate = self._assemble(t_ns, reference)
            found = candidate or found
            if self._lockstep:
                self._forget(t_ns if self._open else self.reference_bound_ns)
                break  # one at a time: other inputs of the node may come before the next
        return found

    def take_early(self, may_run: Callable[[int], bool]) -> JoinedSet | None:
        """Return the join's early members of an open set, once they are there: once for each set, or never.

        What is taken is not what the set will have for certain: a nearer message may follow.
        """
        for t_ns, reference in self._open if self.join.early else ():
            if t_ns > self._prepared_ns and all(self._is_here(name, t_ns) for name in self.join.early):
                if not may_run(t_ns):
                    return None
                self._prepared_ns = t_ns
                members: dict[str, Message | tuple[Message, ...] | None] = {
                    name: reference if name == self._reference_member else self._nearest(name, t_ns)[0]
                    for name in self.join.early
                }
                return JoinedSet(reference, t_ns, members, {}, {})
        return None

    def _is_here(self, name: str, t_ns: int) -> bool:
        if name == self._reference_member:
            return True
        return all(self._within(topic, t_ns) or self._is_decided(topic, t_ns) for topic in self._topics[name])

    def _within(self, topic: str, t_ns: int) -> tuple[int, Message] | None:
        """Return stamp and message of what a set takes of a topic as far as is known."""
        nearest = self._history[topic].nearest(t_ns)
        return nearest if nearest is not None and abs(nearest[0] - t_ns) <= self.settings.tolerance_ns else None

    def _is_decided(self, topic: str, t_ns: int) -> bool:
        history = self._history[topic]
        nearest = history.nearest(t_ns)
        reach = self.settings.tolerance_ns
        if nearest is not None and abs(nearest[0] - t_ns) <= reach:
            reach = abs(nearest[0] - t_ns) - 1
        return history.bound_ns > t_ns + reach

    def _set_is_decided(self, t_ns: int) -> bool:
        if not self._lockstep and self._now_ns >= t_ns + self.settings.deadline_ns:
            return True
        return all(self._is_decided(topic, t_ns) for topic in self._history)

    def _assemble(self, t_ns: int, reference: Message) -> JoinedSet | None:
        arguments: dict[str, Message | tuple[Message, ...] | None] = {}
        residuals: dict[str, int] = {}
        silent_ns: dict[str, int | None] = {}
        lacks_plain = False
        for name, member in self.join.members.items():
            if name == self._reference_member:
                arguments[name] = reference
                continue
            arguments[name], found = self._nearest(name, t_ns)
            for topic in self._topics[name]:
                self._last_ns[topic] = max(self._last_ns[topic], self._history[topic].last_before(t_ns))
                if topic in found:
                    residuals[topic] = found[topic] - t_ns
                    self._used[topic].add(found[topic])
                else:
                    silent_ns[topic] = None if self._last_ns[topic] == BEFORE_ALL else t_ns - self._last_ns[topic]
            lacks_plain |= not member.optional and not found
        self._forget(t_ns)
        if lacks_plain or (silent_ns and self.settings.on_missing == "skip"):
            self._counters[self.reference_topic].drop(f"set without {', '.join(silent_ns)}")
            return None
        return JoinedSet(reference, t_ns, arguments, residuals, silent_ns)

    def _nearest(self, name: str, t_ns: int) -> tuple[Message | tuple[Message, ...] | None, dict[str, int]]:
        """Return what a member is at an instant, and by topic that has something the stamp of it."""
        found = {topic: one for topic in self._topics[name] if (one := self._within(topic, t_ns)) is not None}
        messages = tuple(message for _, message in found.values())
        argument = messages if self.join.members[name].many else (messages[0] if messages else None)
        return argument, {topic: stamp for topic, (stamp, _) in found.items()}

    def _forget(self, t_ns: int) -> None:
        """Drop what no later set can use: later references have stamps of at least this one's."""
        for topic in self._history:
            self._forget_before(topic, t_ns - self.settings.tolerance_ns)

    def limit_history(self) -> None:
        """Live: keep at most `history_ns` per member, so that a reference that is gone does not fill the memory."""
        for topic, history in self._history.items():
            newest = history.newest_ns()
            if newest > BEFORE_ALL:
                self._forget_before(topic, newest - self.settings.history_ns)

    def _forget_before(self, topic: str, t_ns: int) -> None:
        gone = self._history[topic].forget_before(t_ns)
        if self._lockstep and gone:
            self._last_ns[topic] = max(self._last_ns[topic], gone[-1])
        self._counters[topic].drop("no set took it", sum(stamp not in self._used[topic] for stamp in gone))
        self._used[topic].difference_update(gone)

    def clear(self) -> None:
        """Forget everything, bounds too."""
        self._open.clear()
        self.reference_bound_ns = self._newest_reference_ns = self._now_ns = self._prepared_ns = BEFORE_ALL
        for topic, history in self._history.items():
            history.clear()
            self._last_ns[topic] = BEFORE_ALL
            self._used[topic].clear()
            history.bound_ns = BEFORE_ALL


__all__ = ["JoinState", "JoinedSet"]
