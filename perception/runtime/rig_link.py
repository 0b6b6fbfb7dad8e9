"""The rig's own link between hosts: who may join, and Ray's ports carried from one host's loopback to another's.

Ray listens either on loopback or on every interface of a machine; nothing lets it listen on one. So it stays on
loopback on every host of a rig, each host with a block of ports of its own, and every host mirrors the blocks of the
others: a connection to a mirrored port travels to its host's gate, the only port of this link on the rig's interface,
and from there to the real port. Both ends prove that they hold the rig's token before a byte of Ray passes.

    client -> {"nonce", "want": {...}}    server -> {"nonce", "proof"}    client -> {"proof"}
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import hmac
import json
import os
import secrets
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from perception.errors import ChannelError, UserError

LOOPBACK = "127.0.0.1"
HANDSHAKE_S = 5.0
CHUNK = 1 << 16
WORKER_PORTS = 40


@dataclass(frozen=True)
class RayPorts:
    """The ports of Ray on one host of a rig; `first` is the rig's gate port plus 10, then 50 for each host."""

    first: int

    @property
    def gcs(self) -> int:
        """Port of the cluster's directory, on the launch host only."""
        return self.first

    @property
    def agents(self) -> range:
        """Node manager, object manager and four agents."""
        return range(self.first + 1, self.first + 7)

    @property
    def workers(self) -> range:
        return range(self.first + 8, self.first + 8 + WORKER_PORTS)

    def all(self) -> Iterable[int]:
        yield self.gcs
        yield from self.agents
        yield from self.workers


def ports_of(gate_port: int, index: int) -> RayPorts:
    """Return the ports of the host at this place in `network: hosts`; the launch host is at 0."""
    return RayPorts(gate_port + 10 + 50 * index)


def machine_id() -> str:
    """Return what two processes have in common exactly when they share their loopback."""
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    return f"{boot} {os.readlink('/proc/self/ns/net')}"  # noqa: PTH115 - the target is no path


@dataclass(frozen=True)
class Session:
    """A connection whose other end has proved that it holds the token."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    want: dict[str, Any]
    key: bytes
    """Known to both ends alone, and to this connection alone."""

    async def send(self, **document: Any) -> None:
        self.writer.write(json.dumps(document).encode() + b"\n")
        await self.writer.drain()

    async def receive(self, timeout_s: float = HANDSHAKE_S) -> dict[str, Any]:
        """Return the next document.

        Raises:
            ChannelError: the other end is gone, silent, or says what is none.
        """
        return await _receive(self.reader, timeout_s)

    def masked(self, secret: str) -> str:
        """Return 32 bytes in hexadecimal hidden from who listens, or shown again."""
        mask = hmac.digest(self.key, b"mask", hashlib.sha256)
        return bytes(a ^ b for a, b in zip(bytes.fromhex(secret), mask, strict=True)).hex()


async def _receive(reader: asyncio.StreamReader, timeout_s: float) -> dict[str, Any]:
    try:
        line = await asyncio.wait_for(reader.readline(), timeout_s)
        document = json.loads(line) if line.endswith(b"\n") else None
    except (TimeoutError, OSError, ValueError) as error:
        raise ChannelError(f"the other end of the rig's link is silent or unclear ({error or 'time-out'})") from None
    if not isinstance(document, dict):
        raise ChannelError("the other end of the rig's link has closed it")
    return document


def _proof(token: str, role: str, first: str, second: str) -> str:
    return hmac.new(token.encode(), f"{role} {first} {second}".encode(), hashlib.sha256).hexdigest()


async def accepted(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, token: str) -> Session:
    """Do the server's part of the handshake.

    Raises:
        ChannelError: the client does not hold the token, or says what is none.
    """
    hello = await _receive(reader, HANDSHAKE_S)
    theirs, mine, want = str(hello.get("nonce")), secrets.token_hex(16), hello.get("want")
    writer.write(json.dumps({"nonce": mine, "proof": _proof(token, "server", theirs, mine)}).encode() + b"\n")
    await writer.drain()
    answer = await _receive(reader, HANDSHAKE_S)
    proof = _proof(token, "client", theirs, mine)
    if not hmac.compare_digest(str(answer.get("proof")), proof) or not isinstance(want, dict):
        raise ChannelError("a host without the rig's token asked to join")
    return Session(reader, writer, want, _key(token, theirs, mine))


async def introduced(address: str, port: int, token: str, want: dict[str, Any]) -> Session:
    """Connect, and do the client's part of the handshake.

    Raises:
        OSError: nobody answers there.
        ChannelError: who answers does not hold the token.
    """
    reader, writer = await asyncio.wait_for(asyncio.open_connection(address, port), HANDSHAKE_S)
    mine = secrets.token_hex(16)
    writer.write(json.dumps({"nonce": mine, "want": want}).encode() + b"\n")
    await writer.drain()
    try:
        answer = await _receive(reader, HANDSHAKE_S)
        theirs = str(answer.get("nonce"))
        if not hmac.compare_digest(str(answer.get("proof")), _proof(token, "server", mine, theirs)):
            raise ChannelError(f"{address}:{port} does not hold this rig's token")
    except ChannelError:
        writer.close()
        raise
    writer.write(json.dumps({"proof": _proof(token, "client", mine, theirs)}).encode() + b"\n")
    await writer.drain()
    return Session(reader, writer, want, _key(token, mine, theirs))


def _key(token: str, first: str, second: str) -> bytes:
    return hmac.digest(token.encode(), f"key {first} {second}".encode(), hashlib.sha256)


async def forward(session: Session, ports: Iterable[int]) -> None:
    """Carry a session to one of our own ports on loopback; refuses any other."""
    port = session.want.get("pipe")
    if port in set(ports):
        with contextlib.suppress(OSError):
            reader, writer = await asyncio.open_connection(LOOPBACK, port)
            await _carry(session.reader, session.writer, reader, writer)
    session.writer.close()


async def mirror(address: str, gate_port: int, token: str, ports: Iterable[int]) -> list[asyncio.Server]:
    """Listen on loopback where another host's Ray listens on its own, and carry what connects over there.

    Raises:
        ChannelError: a port is in use.
    """

    async def carry(port: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            session = await introduced(address, gate_port, token, {"pipe": port})
        except (OSError, TimeoutError, ChannelError, asyncio.CancelledError):
            writer.close()
            return
        await _carry(reader, writer, session.reader, session.writer)

    servers = []
    for port in ports:
        try:
            servers.append(
                await asyncio.start_server(lambda r, w, port=port: carry(port, r, w), LOOPBACK, port)  # type: ignore[misc]
            )
        except OSError as error:
            for server in servers:
                server.close()
            raise ChannelError(f"port {port} on {LOOPBACK} is needed for Ray, but {error.strerror}") from None
    return servers


async def _carry(
    near: asyncio.StreamReader, near_out: asyncio.StreamWriter, far: asyncio.StreamReader, far_out: asyncio.StreamWriter
) -> None:
    """Carry bytes both ways until both ends have closed, or the link itself ends."""
    try:
        await asyncio.gather(_pump(near, far_out), _pump(far, near_out))
    except asyncio.CancelledError:
        near_out.close()
        far_out.close()


async def _pump(source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while data := await source.read(CHUNK):
            target.write(data)
            await target.drain()
    with contextlib.suppress(OSError):
        target.close()


def token_file() -> Path:
    """Return where the rig's token lies: the same secret on every host of a rig."""
    given = os.environ.get("PERCEPTION_RIG_TOKEN")
    return Path(given) if given else Path.home() / ".config" / "perception" / "rig_token"


def read_token(*, create: bool = False) -> tuple[str, bool]:
    """Return the token, and whether it was made just now.

    Raises:
        UserError: there is none, others may read it, or it is too short.
    """
    file = token_file()
    made = False
    try:
        if create and not file.exists():
            file.parent.mkdir(parents=True, exist_ok=True)
            with os.fdopen(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as out:
                out.write(secrets.token_hex(32) + "\n")
            made = True
        if file.stat().st_mode & 0o077:
            raise UserError(f"{file} can be read by others; expected mode 600: chmod 600 {file}")
        token = file.read_text().strip()
    except OSError as error:
        raise UserError(
            f"no rig token in {file} ({error.strerror}). The first launch over several hosts makes it on the launch "
            f"host; copy it here, mode 600"
        ) from None
    if len(token) < 32:
        raise UserError(f"{file} holds {len(token)} characters; expected 32 or more, as the launch host's file")
    return token, made


__all__ = [
    "LOOPBACK", "RayPorts", "Session", "accepted", "forward", "introduced", "machine_id", "mirror", "ports_of",
    "read_token", "token_file",
]  # fmt: skip
