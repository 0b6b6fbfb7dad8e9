"""Publish results to planners: ZeroMQ PUB, two frames a message, `[topic, record]`.

The publisher keeps the last record of every topic and sends it to each new subscriber, so that nobody waits for the
next one of a slow topic. The high-water mark is 2 a topic: a subscriber that is slower than the graph loses messages,
and sees it by the gap in `seq`.
"""

from __future__ import annotations

import contextlib
from collections import Counter
from pathlib import Path

import zmq

from perception.errors import ChannelError, LaunchFileError
from perception.messages.codec import Bytes

HIGH_WATER_MARK = 2


class Publisher:
    """The publishing end of a graph.

    Args:
        endpoint: "ipc:///path" or "tcp://127.0.0.1:port"; an address of another machine's reach needs CURVE keys.
        topics: how many topics there are; so many can come at one instant.

    Raises:
        LaunchFileError: the endpoint is in use or cannot be one.
    """

    def __init__(self, endpoint: str, topics: int = 8) -> None:
        self.endpoint = endpoint
        self.sent: Counter[str] = Counter()
        self._last: dict[bytes, bytes] = {}
        self._context = zmq.Context()
        self._socket = self._context.socket(zmq.XPUB)
        self._socket.setsockopt(zmq.XPUB_VERBOSE, 1)
        self._socket.setsockopt(zmq.SNDHWM, HIGH_WATER_MARK * topics)
        self._socket.setsockopt(zmq.LINGER, 200)
        if endpoint.startswith("ipc://") and _is_served(endpoint):
            self.close()
            raise LaunchFileError(
                f"endpoint {endpoint} is in use by another graph; give another with --set endpoint=..."
            )
        try:
            self._socket.bind(endpoint)
        except zmq.ZMQError as error:
            self.close()
            raise LaunchFileError(
                f"endpoint {endpoint} cannot be used: {error.strerror}. Is another graph running? "
                "Give another with --set endpoint=tcp://127.0.0.1:PORT"
            ) from None

    def publish(self, topic: str, record: Bytes) -> None:
        """Send a record to whoever subscribed; never blocks.

        Raises:
            ChannelError: the socket is gone.
        """
        name, data = topic.encode(), bytes(record)
        self.greet()
        self._last[name] = data
        try:
            self._socket.send_multipart((name, data), flags=zmq.DONTWAIT)
        except zmq.Again:  # PUB sockets drop for slow subscribers; this is for none at all
            return
        except zmq.ZMQError as error:
            raise ChannelError(f"endpoint {self.endpoint} is gone: {error.strerror}") from None
        self.sent[topic] += 1

    def greet(self) -> None:
        """Send the last record of each topic to those who subscribed since the last call."""
        while True:
            try:
                wish = self._socket.recv(flags=zmq.DONTWAIT)
            except zmq.Again:
                return
            if wish[:1] == b"\x01":
                for name, data in self._last.items():
                    if name.startswith(wish[1:]):
                        with contextlib.suppress(zmq.Again):
                            self._socket.send_multipart((name, data), flags=zmq.DONTWAIT)

    def close(self) -> None:
        """Close the socket and remove its file."""
        self._socket.close()
        self._context.term()
        if self.endpoint.startswith("ipc://"):
            Path(self.endpoint.removeprefix("ipc://")).unlink(missing_ok=True)


def _is_served(endpoint: str) -> bool:
    """True where a process answers on a Unix socket; ZeroMQ would take it over in silence."""
    import socket

    path = endpoint.removeprefix("ipc://")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(0.2)
        try:
            probe.connect(path)
        except OSError:
            return False
        return True


__all__ = ["Publisher"]
