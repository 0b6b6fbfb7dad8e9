"""Subscribe to a running graph: `perception.subscribe("ipc:///tmp/perception-car.ipc", topics=["objects"])`.

    with perception.subscribe(endpoint, topics=["objects", "state"]) as subscription:
        for received in subscription:
            print(received.topic, received.message, received.gap, received.restarted, received.age_ms)

    subscription = perception.subscribe("objects")       # a topic of the graph at PERCEPTION_ENDPOINT, or the default
    objects = subscription.at(time.time_ns() + 50_000_000)  # moved to that instant, with growing covariance
    if subscription.safety().state == "unsafe": ...         # also when the graph has gone silent

The newest message per topic wins: what arrived while the planner was busy is replaced, and counted in `gap` together
with what the network lost, since a planner acts on the newest there is. `keep="all"` gives every message that arrives.
"""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Literal, Self

import zmq

from perception.errors import ChannelError, MessageError, UserError
from perception.messages import GraphState, Message, Status, TrackedObjects
from perception.messages.codec import decode
from perception.runtime.curve_keys import client_keys
from perception.runtime.prediction import objects_at
from perception.runtime.snapshot_socket import asked

DEFAULT_ENDPOINT = "tcp://127.0.0.1:5560"
STATE = "state"
PLANNER_TOPICS = ("objects", "freespace", "state", "status")
SILENT_PERIODS = 2
HEARTBEAT_MS, HEARTBEAT_TIMEOUT_MS = 1000, 3000
MAX_RECORD_BYTES = 1 << 30


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
        """Age of the sensor data when it came here: from its stamp, or from its arrival where that is no host time."""
        header, timing = self.message.header, self.message.timing
        since = header.t_sensor_ns if header.clock == "host" else timing.t_received_ns or timing.t_published_ns
        return (self.t_received_ns - since) / 1e6


@dataclass(frozen=True)
class Safety:
    """Whether a planner may rely on the graph right now."""

    state: Literal["ok", "degraded", "unsafe"]
    reasons: tuple[str, ...]


class Subscription:
    """Messages of a running graph; see the module's text.

    Args:
        endpoint: the graph's endpoint; `perception launch` prints it.
        topics: whole topic names, or one by itself; none means all.
        keep: "latest" per topic, or "all".
        timeout_s: how long iteration waits for a message before it raises; None waits for ever.
        keys: folder with this client's CURVE keys, for a publisher that asks for them.

    Raises:
        UserError: the endpoint cannot be one, or the keys cannot be read.
    """

    def __init__(
        self,
        endpoint: str,
        topics: str | Sequence[str] = (),
        *,
        keep: Literal["latest", "all"] = "latest",
        timeout_s: float | None = None,
        keys: str | Path | None = None,
    ) -> None:
        self.endpoint, self._topics, self._keep, self._timeout_s = endpoint, frozenset(_named(topics)), keep, timeout_s
        self.unreadable = 0
        self._waiting: deque[Received] = deque()
        self._last: dict[str, tuple[str, int, int]] = {}
        self._published_ns: dict[str, int] = {}
        self._skipped: dict[str, int] = {}
        self._restarted: set[str] = set()
        self._objects: dict[str, TrackedObjects] = {}
        self._state: tuple[GraphState, float] | None = None
        self._keys = None if keys is None else client_keys(Path(keys))
        self._context = zmq.Context()
        self._socket = self._context.socket(zmq.SUB)
        self._socket.setsockopt(zmq.LINGER, 0)
        self._socket.setsockopt(zmq.HEARTBEAT_IVL, HEARTBEAT_MS)
        self._socket.setsockopt(zmq.HEARTBEAT_TIMEOUT, HEARTBEAT_TIMEOUT_MS)
        self._socket.setsockopt(zmq.MAXMSGSIZE, MAX_RECORD_BYTES)
        if self._keys is not None:
            self._socket.curve_serverkey = self._keys.publisher
            self._socket.curve_publickey, self._socket.curve_secretkey = self._keys.public, self._keys.secret
        try:
            self._socket.connect(endpoint)
        except zmq.ZMQError as error:
            self.close()
            raise UserError(
                f"'{endpoint}' is no endpoint ({error.strerror}); expected ipc:///path or tcp://host:port"
            ) from None
        for topic in self._topics | {STATE} if self._topics else {""}:
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
            if received is None or not self._noted(received):
                continue
            if self._keep == "latest":
                self._take_back(_stream(received))
            self._waiting.append(self._judged(received))

    def _read(self, frames: list[bytes]) -> Received | None:
        try:
            name, data = frames
            topic = name.decode()
            if self._topics and topic not in self._topics and topic != STATE:
                return None  # ZeroMQ subscribes by prefix
            return Received(topic, decode(data), 0, restarted=False, t_received_ns=time.time_ns(), size=len(data))
        except (MessageError, ValueError):
            self.unreadable += 1
            return None

    def _noted(self, received: Received) -> bool:
        """Keep what `at` and `safety` answer from; False where the message is not to be given out."""
        message, topic = received.message, received.topic
        if topic == STATE and isinstance(message, GraphState):
            self._state = message, time.monotonic()
        elif isinstance(message, TrackedObjects):
            self._objects[topic] = message
        header = message.header
        stream = _stream(received)
        same = self._last.get(stream) == (header.run, header.epoch, header.seq)
        published_ns, self._published_ns[stream] = self._published_ns.get(stream), message.timing.t_published_ns
        repeated = same and published_ns == message.timing.t_published_ns  # sent again for another, who joined late
        return not repeated and (not self._topics or topic in self._topics)

    def at(self, t_ns: int, topic: str = "objects") -> TrackedObjects:
        """Return the newest objects, moved to an instant, with covariances grown by what may have happened until then.

        Numbers stay in `base_link` as it stood at the stamp of the message, which `odom_from_base_link` gives; the
        header's stamp is `t_ns`.

        Raises:
            ChannelError: no objects have come yet.
            MessageError: the instant lies before the message, or beyond the horizon up to which it is valid.
        """
        self._take_all()
        newest = self._objects.get(topic)
        if newest is None:
            raise ChannelError(f"no objects have come from {self.endpoint} on '{topic}' yet; is the graph running?")
        return objects_at(newest, t_ns)

    def safety(self) -> Safety:
        """Return the graph's state; silence for two of its periods means unsafe, as does that none has come yet."""
        self._take_all()
        if self._state is None:
            return Safety("unsafe", (f"no state has come from {self.endpoint} yet",))
        state, heard_s = self._state
        silent_s = time.monotonic() - heard_s
        if silent_s > SILENT_PERIODS * state.period_ns * 1e-9:
            return Safety("unsafe", (f"the graph has been silent for {silent_s:.1f} s", *state.reasons))
        return Safety(state.state, state.reasons)

    def snapshot(self, topic: str = "", timeout_s: float = 2.0) -> list[Received]:
        """Ask for the last record of a topic, or of all, and return them, without waiting for the next.

        Raises:
            ChannelError: no answer within the time.
        """
        frames = asked(self._context, self.endpoint, [topic.encode()], self._keys, timeout_s)
        now_ns = time.time_ns()
        return [
            Received(name.decode(), decode(data), 0, restarted=False, t_received_ns=now_ns, size=len(data))
            for name, data in zip(frames[::2], frames[1::2], strict=False)
        ]

    def _take_back(self, stream: str) -> None:
        """Take back what waits of this stream, as if it had never come."""
        for waiting in [item for item in self._waiting if _stream(item) == stream]:
            self._waiting.remove(waiting)
            self._skipped[stream] = self._skipped.get(stream, 0) + 1 + waiting.gap
            if waiting.restarted:
                self._restarted.add(stream)

    def _judged(self, received: Received) -> Received:
        header, stream = received.message.header, _stream(received)
        run, epoch, seq = self._last.get(stream, (header.run, header.epoch, header.seq - 1))
        restarted = (run, epoch) != (header.run, header.epoch) or stream in self._restarted
        gap = 0 if (run, epoch) != (header.run, header.epoch) else max(0, header.seq - seq - 1)
        repeated = (run, epoch, seq) == (header.run, header.epoch, header.seq)
        self._restarted.discard(stream)
        self._last[stream] = (header.run, header.epoch, header.seq)
        gap += 0 if repeated else self._skipped.pop(stream, 0)
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


def _stream(received: Received) -> str:
    """Return what numbers its messages by itself: a topic; of `status`, each process."""
    message = received.message
    return f"{received.topic} {message.process}" if isinstance(message, Status) else received.topic


def subscribe(
    endpoint: str,
    topics: str | Sequence[str] = (),
    *,
    keep: Literal["latest", "all"] = "latest",
    timeout_s: float | None = None,
    keys: str | Path | None = None,
) -> Subscription:
    """Subscribe to a running graph; arguments and errors as `Subscription`.

    In place of an endpoint the first argument may be one of PLANNER_TOPICS, of the graph at the endpoint in
    PERCEPTION_ENDPOINT, or at the default one.
    """
    if endpoint in PLANNER_TOPICS:
        endpoint, topics = os.environ.get("PERCEPTION_ENDPOINT", DEFAULT_ENDPOINT), (endpoint, *_named(topics))
    return Subscription(endpoint, topics, keep=keep, timeout_s=timeout_s, keys=keys)


def _named(topics: str | Sequence[str]) -> Sequence[str]:
    """Return names of topics; one by itself is no row of letters."""
    return (topics,) if isinstance(topics, str) else topics


__all__ = ["Received", "Safety", "Subscription", "subscribe"]
