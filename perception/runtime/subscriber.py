"""Subscribe to a running graph: `perception.subscribe("ipc:///tmp/perception-car.ipc", topics=["objects"])`.

    with perception.subscribe(endpoint, topics=["objects", "state"]) as subscription:
        for received in subscription:
            print(received.topic, received.message, received.gap, received.restarted, received.age_ms)

The newest message per topic wins: what arrived while the planner was busy is replaced, and counted in `gap` together
with what the network lost, since a planner acts on the newest there is. `keep="all"` gives every message that arrives.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Literal, Self

import zmq

from perception.errors import ChannelError, MessageError, UserError
from perception.messages import Message
from perception.messages.codec import decode


@dataclass(frozen=True)
class Received:
    """One message as a planner gets it."""

    topic: str
    message: Message
    gap: int
    """Messages of this topic that never reached this subscriber since the one before."""
    restarted: bool
    """The publisher of this topic, or the whole graph, was started anew since the one before: its state is new."""
    t_received_ns: int
    """Host time at which it was taken off the socket."""
    size: int
    """Bytes of the record."""

    @property
    def age_ms(self) -> float:
        """Age of the sensor data when it was received, where stamps are host time; else since publication."""
        header, timing = self.message.header, self.message.timing
        since = header.t_sensor_ns if header.clock == "host" else timing.t_published_ns
        return (self.t_received_ns - since) / 1e6


class Subscription:
    """Messages of a running graph; see the module's text.

    Args:
        endpoint: the graph's endpoint; `perception launch` prints it.
        topics: whole topic names; none means all.
        keep: "latest" per topic, or "all".
        timeout_s: how long iteration waits for a message before it raises; None waits for ever.

    Raises:
        UserError: the endpoint cannot be one.
    """

    def __init__(
        self,
        endpoint: str,
        topics: Sequence[str] = (),
        *,
        keep: Literal["latest", "all"] = "latest",
        timeout_s: float | None = None,
    ) -> None:
        self.endpoint, self._topics, self._keep, self._timeout_s = endpoint, frozenset(topics), keep, timeout_s
        self.unreadable = 0
        self._waiting: deque[Received] = deque()
        self._last: dict[str, tuple[str, int, int]] = {}
        self._skipped: dict[str, int] = {}
        self._restarted: set[str] = set()
        self._context = zmq.Context()
        self._socket = self._context.socket(zmq.SUB)
        self._socket.setsockopt(zmq.LINGER, 0)
        try:
            self._socket.connect(endpoint)
        except zmq.ZMQError as error:
            self.close()
            raise UserError(
                f"'{endpoint}' is no endpoint ({error.strerror}); expected ipc:///path or tcp://host:port"
            ) from None
        for topic in self._topics or {""}:
            self._socket.subscribe(topic)

    def receive(self, timeout_s: float | None = None) -> Received | None:
        """Return the next message, or None after `timeout_s` without one."""
        deadline_s = None if timeout_s is None else time.monotonic() + timeout_s
        while not self._waiting:
            left_ms = None if deadline_s is None else max(0, round((deadline_s - time.monotonic()) * 1000))
            if not self._socket.poll(left_ms):
                if deadline_s is not None and time.monotonic() >= deadline_s:
                    return None
                continue
            self._take_all()
        return self._waiting.popleft()

    def __iter__(self) -> Iterator[Received]:
        while True:
            received = self.receive(self._timeout_s)
            if received is None:
                raise ChannelError(
                    f"nothing came from {self.endpoint} within {self._timeout_s:g} s; is the graph running?"
                )
            yield received

    def _take_all(self) -> None:
        while True:
            try:
                frames = self._socket.recv_multipart(flags=zmq.DONTWAIT)
            except zmq.Again:
                return
            received = self._read(frames)
            if received is None:
                continue
            if self._keep == "latest":
                self._take_back(received.topic)
            self._waiting.append(self._judged(received))

    def _read(self, frames: list[bytes]) -> Received | None:
        try:
            name, data = frames
            topic = name.decode()
            if self._topics and topic not in self._topics:
                return None  # ZeroMQ subscribes by prefix
            return Received(topic, decode(data), 0, restarted=False, t_received_ns=time.time_ns(), size=len(data))
        except (MessageError, ValueError):
            self.unreadable += 1
            return None

    def _take_back(self, topic: str) -> None:
        """Take back what waits of this topic, as if it had never come."""
        for waiting in [item for item in self._waiting if item.topic == topic]:
            self._waiting.remove(waiting)
            self._skipped[topic] = self._skipped.get(topic, 0) + 1 + waiting.gap
            if waiting.restarted:
                self._restarted.add(topic)

    def _judged(self, received: Received) -> Received:
        header = received.message.header
        run, epoch, seq = self._last.get(received.topic, (header.run, header.epoch, header.seq - 1))
        restarted = (run, epoch) != (header.run, header.epoch) or received.topic in self._restarted
        gap = 0 if (run, epoch) != (header.run, header.epoch) else max(0, header.seq - seq - 1)
        repeated = (run, epoch, seq) == (header.run, header.epoch, header.seq)
        self._restarted.discard(received.topic)
        self._last[received.topic] = (header.run, header.epoch, header.seq)
        gap += 0 if repeated else self._skipped.pop(received.topic, 0)
        return Received(
            received.topic, received.message, gap, restarted=restarted, t_received_ns=received.t_received_ns,
            size=received.size,
        )  # fmt: skip

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()
        self._context.term()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def subscribe(
    endpoint: str,
    topics: Sequence[str] = (),
    *,
    keep: Literal["latest", "all"] = "latest",
    timeout_s: float | None = None,
) -> Subscription:
    """Subscribe to a running graph; arguments and errors as `Subscription`."""
    return Subscription(endpoint, topics, keep=keep, timeout_s=timeout_s)


__all__ = ["Received", "Subscription", "subscribe"]
