"""Records between the processes of two hosts: ZeroMQ over TCP, the same bytes that shared memory holds.

Each process that is read from another host has one socket on its host's address of the rig's network; each process that
reads from other hosts has one socket for each process that it reads, and a thread that takes what comes and wakes the
scheduler. A reader that is slow loses its oldest records, as in shared memory, and sees it by the gap in `seq`; a host
that is gone holds nobody up. Bounds travel on the same connection, behind the messages that they speak of.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable, Mapping

import numpy as np
import zmq
from numpy.typing import NDArray

from perception.errors import ChannelError
from perception.messages.codec import Record

POLL_MS = 100
ALIGNED = 8
LINGER_MS = 200
"""How long what was sent last may take when a process ends."""


def _name(topic: str) -> bytes:
    return topic.encode() + b"\0"  # ZeroMQ subscribes by prefix


def _bounds_name(process: str) -> bytes:
    return b"\0bounds " + process.encode()


class TcpWriter:
    """The writing end of a process for all readers on other hosts.

    Args:
        address: of this host on the rig's network.
        topics: readers on other hosts, by topic.
        queue: records that may wait for one reader.

    Raises:
        ChannelError: the address is none of this host.
    """

    def __init__(self, address: str, topics: Mapping[str, int], queue: int) -> None:
        self.sent = dict.fromkeys(topics, 0)
        self._context = zmq.Context()
        self._socket = self._context.socket(zmq.XPUB)
        self._socket.setsockopt(zmq.XPUB_VERBOSE, 1)
        self._socket.setsockopt(zmq.SNDHWM, queue)
        self._socket.setsockopt(zmq.LINGER, LINGER_MS)
        try:
            port = self._socket.bind_to_random_port(f"tcp://{address}")
        except zmq.ZMQError as error:
            self.close()
            raise ChannelError(f"this host cannot listen on {address}: {error.strerror}") from None
        self.endpoint = f"tcp://{address}:{port}"
        self._subscriptions = 0

    def write(self, topic: str, record: Record) -> None:
        """Send a record to the readers of a topic; never waits."""
        data = bytearray(record.size)
        record.write_into(data)
        self._socket.send_multipart((_name(topic), data), flags=zmq.DONTWAIT, copy=False)
        self.sent[topic] += 1

    def write_bounds(self, process: str, bounds: Iterable[int]) -> None:
        """Send the newest bounds of all topics."""
        self._socket.send_multipart((_bounds_name(process), np.array(bounds, np.int64).tobytes()), flags=zmq.DONTWAIT)

    def subscriptions(self) -> int:
        """Count the subscriptions that have arrived so far; each reader makes one per topic, and one for bounds."""
        while self._socket.poll(0):
            self._subscriptions += self._socket.recv(flags=zmq.DONTWAIT)[:1] == b"\x01"
        return self._subscriptions

    def close(self) -> None:
        self._socket.close()
        self._context.term()


class TcpReader:
    """The reading ends of a process on other hosts.

    Args:
        topics: by process that is read, its topics with the number of records that may wait.
        bounds_of: the processes whose bounds are wanted.
        wake: called when something has come.
    """

    def __init__(
        self, topics: Mapping[str, Mapping[str, int]], bounds_of: Iterable[str], wake: Callable[[], None]
    ) -> None:
        self._topics, self._wake = topics, wake
        self._waiting = {topic: deque[zmq.Frame](maxlen=n) for of in topics.values() for topic, n in of.items()}
        self.received = dict.fromkeys(self._waiting, 0)
        self._bounds: dict[str, bytes | None] = dict.fromkeys(bounds_of)
        self._wanted: deque[tuple[str, str]] = deque()
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._read, name="network", daemon=True)
        self._thread.start()

    def connect(self, process: str, endpoint: str) -> None:
        """Read a process at this endpoint from now on, and at no other any more."""
        self._wanted.append((process, endpoint))

    def topic(self, topic: str) -> TcpTopic:
        """Return the reading end of one topic."""
        return TcpTopic(topic, self._waiting[topic])

    def bounds(self, process: str) -> TcpBounds:
        """Return the reading end of a process' bounds."""
        return TcpBounds(self._bounds, process)

    def close(self) -> None:
        self._end.set()
        self._thread.join()

    def _read(self) -> None:
        context, sockets = zmq.Context(), dict[str, zmq.Socket[bytes]]()
        poller = zmq.Poller()
        try:
            while not self._end.is_set():
                while self._wanted:
                    process, endpoint = self._wanted.popleft()
                    before = sockets.pop(process, None)
                    if before is not None:
                        poller.unregister(before)
                        before.close()
                    sockets[process] = self._connected(context, process, endpoint)
                    poller.register(sockets[process], zmq.POLLIN)
                if not sockets:
                    self._end.wait(POLL_MS / 1000)
                for socket, _ in poller.poll(POLL_MS) if sockets else ():
                    self._take(socket)
        finally:
            for socket in sockets.values():
                socket.close()
            context.term()

    def _connected(self, context: zmq.Context[zmq.Socket[bytes]], process: str, endpoint: str) -> zmq.Socket[bytes]:
        socket = context.socket(zmq.SUB)
        socket.setsockopt(zmq.RCVHWM, 2 + 2 * sum(self._topics.get(process, {}).values()))
        socket.setsockopt(zmq.LINGER, 0)
        for topic in self._topics.get(process, ()):
            socket.subscribe(_name(topic))
        if process in self._bounds:
            socket.subscribe(_bounds_name(process))
        socket.connect(endpoint)
        return socket

    def _take(self, socket: zmq.Socket[bytes]) -> None:
        while socket.poll(0):
            frames = socket.recv_multipart(flags=zmq.DONTWAIT, copy=False)
            if len(frames) != 2:
                continue
            name, data = frames[0].bytes, frames[1]
            if name.startswith(b"\0bounds "):
                self._bounds[name.removeprefix(b"\0bounds ").decode()] = data.bytes
            elif (waiting := self._waiting.get(name[:-1].decode(errors="replace"))) is not None:
                self.received[name[:-1].decode()] += 1
                waiting.append(data)
        self._wake()


class TcpTopic:
    """A reading end of a topic that another host publishes; `take` as of shared memory."""

    copied = 0
    cuts = None

    def __init__(self, topic: str, waiting: deque[zmq.Frame]) -> None:
        self.topic, self._waiting = topic, waiting

    def take(self) -> memoryview | None:
        """Return the oldest waiting record, or None; a read-only view that keeps the received bytes alive."""
        try:
            frame = self._waiting.popleft()
        except IndexError:
            return None
        view = memoryview(frame.buffer).cast("B")
        if np.frombuffer(view, np.uint8).ctypes.data % ALIGNED if len(view) else 0:
            view = memoryview(bytes(view))  # small ones lie anywhere in what was received at once
        return view.toreadonly()

    def give_back(self) -> bool:
        """Nothing is borrowed here."""
        return False


class TcpBounds:
    """A reading end of the bounds of a process on another host."""

    def __init__(self, newest: dict[str, bytes | None], process: str) -> None:
        self._newest, self._process = newest, process

    def take(self) -> NDArray[np.int64] | None:
        """Return the newest bounds by topic, or None where nothing is new."""
        data, self._newest[self._process] = self._newest[self._process], None
        return None if data is None else np.frombuffer(data, np.int64)


__all__ = ["TcpBounds", "TcpReader", "TcpTopic", "TcpWriter"]
