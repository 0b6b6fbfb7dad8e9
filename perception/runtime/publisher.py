"""Publish results to planners: ZeroMQ PUB, two frames a message, `[topic, record]`.

The publisher keeps the last record of every topic and sends it to each new subscriber, so that nobody waits for the
next one of a slow topic. The high-water mark is 2 a topic: a subscriber that is slower than the graph loses messages,
and sees it by the gap in `seq`. Who wants the last records without waiting asks the snapshot socket, a ROUTER beside
it: a request of one frame, a topic or nothing for all, gives `[topic, record, topic, record, ...]`. One of two frames,
`replay` and what is asked of it, waits for the launcher to answer (`replay_control.py`); `files` and nothing gives
`[files, name, bytes, name, bytes, ...]`, what a recording of this graph holds so that it replays alone.

Nothing that a subscriber does can hold the graph up or fill its memory: sends never wait; what peers send is cut off
at a few hundred bytes and read in small portions; a peer that does not answer heartbeats is dropped with what waits for
it; and one that floods the socket with subscriptions makes it begin anew, which the others survive.

Outside this machine it speaks CURVE only, to the clients whose keys it was given.
"""

from __future__ import annotations

import contextlib
import ipaddress
import socket
import time
from collections import Counter, deque
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

import zmq
import zmq.auth.thread

from perception.errors import ChannelError, LaunchFileError
from perception.messages.codec import Bytes
from perception.runtime.curve_keys import PublisherKeys

REPLAY = b"replay"
"""First frame of a request to the graph's replay."""
FILES = b"files"
"""First frame of a request for the files that a recording holds."""
HIGH_WATER_MARK = 2
HEARTBEAT_MS, HEARTBEAT_TIMEOUT_MS, HANDSHAKE_MS = 1000, 3000, 5000
MAX_REQUEST_BYTES = 512
MAX_WISHES_AT_ONCE, MAX_REQUESTS_AT_ONCE = 64, 16
MAX_WISHES = 20_000
"""Subscriptions that the socket remembers before it begins anew."""
COPIED_BYTES = 2 << 20
"""Records up to it are copied for the socket: whoever releases one that is not must wait for this thread."""
REPEAT_S = 0.1
"""The last record of a topic is sent again at most so often, however many subscribe."""
SNAPSHOT_PORTS = 1000


@dataclass(frozen=True)
class Request:
    """What somebody asks of the graph's replay."""

    envelope: tuple[bytes, ...]
    data: bytes


class Publisher:
    """The publishing end of a graph.

    Args:
        endpoint: "ipc:///path" or "tcp://127.0.0.1:port"; an address of another machine's reach needs CURVE keys.
        topics: how many topics there are; so many can come at one instant.
        keys: for CURVE; only clients whose public keys lie in its folder may connect.
        open_endpoint: the endpoint once more, where it shall be reachable from other machines without CURVE.
        files: what a recording of the graph holds beside its messages; given only to who may ask of a replay.

    Raises:
        LaunchFileError: the endpoint is in use, cannot be one, or is open to other machines without keys.
    """

    def __init__(
        self, endpoint: str, topics: int = 8, *, keys: PublisherKeys | None = None, open_endpoint: str = "",
        files: Mapping[str, bytes] = MappingProxyType({}),
    ) -> None:  # fmt: skip
        if keys is None and open_endpoint != endpoint and not is_local(endpoint):
            raise LaunchFileError(
                f"endpoint {endpoint} can be reached from other machines, and has no CURVE keys. Expected "
                "tcp://127.0.0.1:PORT, ipc:///path, network: {curve_keys: FOLDER} (perception keys new makes them), "
                f"or, where the network is your own, network: {{open_endpoint: '{endpoint}'}}"
            )
        self.endpoint, self.snapshot_endpoint = endpoint, snapshot_of(endpoint)
        self.sent: Counter[str] = Counter()
        self.begun_anew = 0
        self._topics, self._keys, self._files = topics, keys, files
        self._last: dict[bytes, bytes] = {}
        self._repeated_s: dict[bytes, float] = {}
        self._wanted: set[bytes] = set()
        self._wishes = 0
        self._requests: deque[Request] = deque(maxlen=MAX_REQUESTS_AT_ONCE)
        self._context = zmq.Context()
        self._authenticator: zmq.auth.thread.ThreadAuthenticator | None = None
        if keys is not None:
            self._authenticator = zmq.auth.thread.ThreadAuthenticator(self._context)
            self._authenticator.start()
            self._authenticator.configure_curve(domain="*", location=str(keys.clients))
        try:
            for one in (endpoint, self.snapshot_endpoint):
                _refuse_served(one)
            self._socket, self._router = self._publishing(), self._answering()
        except LaunchFileError:
            self._give_up()
            raise

    def publish(self, topic: str, record: Bytes) -> None:
        """Send a record to whoever subscribed; never blocks.

        Raises:
            ChannelError: the socket is gone.
        """
        name, data = topic.encode(), bytes(record)
        self._last[name] = data
        try:
            self._socket.send_multipart((name, data), flags=zmq.DONTWAIT, copy=len(data) <= COPIED_BYTES)
        except zmq.Again:  # PUB sockets drop for slow subscribers; this is for none at all
            return
        except zmq.ZMQError as error:
            raise ChannelError(f"endpoint {self.endpoint} is gone: {error.strerror}") from None
        self.sent[topic] += 1
        self._wanted.discard(name)
        self.greet()

    def greet(self) -> None:
        """Send the last record of each topic to those who subscribed since the last call, and answer snapshots."""
        self._read_wishes()
        now_s = time.monotonic()
        for name in list(self._wanted):
            if now_s - self._repeated_s.get(name, -1.0) < REPEAT_S:
                continue
            self._wanted.discard(name)
            self._repeated_s[name] = now_s
            with contextlib.suppress(zmq.Again):
                self._socket.send_multipart((name, self._last[name]), flags=zmq.DONTWAIT)
        self._answer()

    def _read_wishes(self) -> None:
        for _ in range(MAX_WISHES_AT_ONCE):
            if not _has_something(self._socket):  # as a rule; an exception would cost as much as the sending
                return
            try:
                wish = self._socket.recv(flags=zmq.DONTWAIT)
            except zmq.Again:
                return
            self._wishes += 1
            if wish[:1] == b"\x01":
                self._wanted.update(name for name in self._last if name.startswith(wish[1:]))
        if self._wishes > MAX_WISHES:
            self._begin_anew()

    def _begin_anew(self) -> None:
        """Close the socket and bind it again: subscriptions that a peer piled up are gone, honest ones come again."""
        self._socket.close(linger=0)
        for _ in range(50):
            with contextlib.suppress(LaunchFileError):
                self._socket = self._publishing()
                break
            time.sleep(0.01)
        else:
            raise ChannelError(f"endpoint {self.endpoint} could not be opened again after a flood of subscriptions")
        self._wishes = 0
        self.begun_anew += 1

    def _answer(self) -> None:
        for _ in range(MAX_REQUESTS_AT_ONCE):
            if not _has_something(self._router):
                return
            try:
                peer, *request = self._router.recv_multipart(flags=zmq.DONTWAIT)
            except zmq.Again:
                return
            envelope = [peer]
            if len(request) > 1 and not request[0]:  # a REQ socket's
                envelope.append(request.pop(0))
            if len(request) == 2 and request[0] == REPLAY:
                self._requests.append(Request(tuple(envelope), request[1]))
                continue
            records = (
                self._files_told() if request[:1] == [FILES] and len(request) == 2 else self._records_told(request)
            )
            with contextlib.suppress(zmq.Again, zmq.ZMQError):
                self._router.send_multipart([*envelope, *(records or [b""])], flags=zmq.DONTWAIT)

    def _files_told(self) -> list[bytes]:
        files = self._files if self.may_be_asked() else {}
        return [FILES, *(part for name, data in files.items() for part in (name.encode(), data))]

    def _records_told(self, request: list[bytes]) -> list[bytes]:
        wanted = request[-1] if request else b""
        return [part for name, data in self._last.items() if wanted in (b"", name) for part in (name, data)]

    def take_request(self) -> Request | None:
        """Return the oldest request to the replay that nobody has answered, or None."""
        self._answer()
        return self._requests.popleft() if self._requests else None

    def reply(self, request: Request, data: bytes) -> None:
        """Answer a request; who asked may be gone."""
        with contextlib.suppress(zmq.Again, zmq.ZMQError):
            self._router.send_multipart([*request.envelope, REPLAY, data], flags=zmq.DONTWAIT)

    def may_be_asked(self) -> bool:
        """True where only processes of this machine, or clients with a key, can reach it."""
        return self._keys is not None or is_local(self.endpoint)

    def _publishing(self) -> zmq.Socket[bytes]:
        made = self._context.socket(zmq.XPUB)
        made.setsockopt(zmq.XPUB_VERBOSE, 1)
        made.setsockopt(zmq.SNDHWM, HIGH_WATER_MARK * self._topics)
        return self._bound(made, self.endpoint)

    def _answering(self) -> zmq.Socket[bytes]:
        made = self._context.socket(zmq.ROUTER)
        made.setsockopt(zmq.SNDHWM, HIGH_WATER_MARK)
        made.setsockopt(zmq.RCVHWM, MAX_REQUESTS_AT_ONCE)
        return self._bound(made, self.snapshot_endpoint)

    def _bound(self, made: zmq.Socket[bytes], endpoint: str) -> zmq.Socket[bytes]:
        made.setsockopt(zmq.LINGER, 200)
        made.setsockopt(zmq.MAXMSGSIZE, MAX_REQUEST_BYTES)
        made.setsockopt(zmq.HEARTBEAT_IVL, HEARTBEAT_MS)
        made.setsockopt(zmq.HEARTBEAT_TIMEOUT, HEARTBEAT_TIMEOUT_MS)
        made.setsockopt(zmq.HANDSHAKE_IVL, HANDSHAKE_MS)
        made.setsockopt(zmq.IPV6, 1 if "[" in endpoint else 0)
        if self._keys is not None:
            made.curve_server = True
            made.curve_publickey, made.curve_secretkey = self._keys.public, self._keys.secret
        try:
            made.bind(endpoint)
        except zmq.ZMQError as error:
            made.close(linger=0)
            raise LaunchFileError(
                f"endpoint {endpoint} cannot be used: {error.strerror}. Is another graph running? "
                "Give another with --set endpoint=tcp://127.0.0.1:PORT"
            ) from None
        return made

    def close(self) -> None:
        """Close the sockets and remove their files."""
        self._socket.close()
        self._router.close()
        if self._authenticator is not None:
            self._authenticator.stop()
        self._context.term()
        for endpoint in (self.endpoint, self.snapshot_endpoint):
            if endpoint.startswith("ipc://"):
                Path(endpoint.removeprefix("ipc://")).unlink(missing_ok=True)

    def _give_up(self) -> None:
        if self._authenticator is not None:
            self._authenticator.stop()
        self._context.destroy(linger=0)


def _has_something(made: zmq.Socket[bytes]) -> bool:
    """True where a peer has sent something that can be read."""
    return bool(int(made.getsockopt(zmq.EVENTS)) & zmq.POLLIN)  # type: ignore[call-overload,unused-ignore]


def is_local(endpoint: str) -> bool:
    """True where only processes of this machine can reach an endpoint."""
    scheme, _, rest = endpoint.partition("://")
    if scheme != "tcp":
        return scheme in ("ipc", "inproc")
    host = rest.rpartition(":")[0].strip("[]")
    if host in ("localhost", "lo"):
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def snapshot_of(endpoint: str) -> str:
    """Return where the last records can be asked for: the port 1000 above (below, near the end), or PATH.snapshot."""
    scheme, _, rest = endpoint.partition("://")
    host, _, port = rest.rpartition(":")
    if scheme == "tcp" and port.isdigit():
        number = int(port)
        return f"tcp://{host}:{number + (SNAPSHOT_PORTS if number + SNAPSHOT_PORTS < 65536 else -SNAPSHOT_PORTS)}"
    return f"{endpoint}.snapshot" if scheme == "ipc" else endpoint


def _refuse_served(endpoint: str) -> None:
    """Refuse a Unix socket on which a process answers; ZeroMQ would take it over in silence."""
    if not endpoint.startswith("ipc://"):
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(0.2)
        try:
            probe.connect(endpoint.removeprefix("ipc://"))
        except OSError:
            return
    raise LaunchFileError(f"endpoint {endpoint} is in use by another graph; give another with --set endpoint=...")


__all__ = ["FILES", "REPLAY", "Publisher", "Request", "is_local", "snapshot_of"]
