"""Datagrams of one port, each with the time at which the kernel took it from the network."""

from __future__ import annotations

import socket
import struct
import sys
import time
from collections.abc import Iterator
from typing import Annotated

from pydantic import Field

from perception.nodes._live_source import WAIT_S
from perception.runtime.node import NodeConfig

RECEIVE_BYTES = 1 << 16
BUFFER_BYTES = 8 << 20
"""Of the kernel: a tenth of a second of the fastest sensors, while the scheduler rests."""
SO_TIMESTAMPNS = 35
"""Linux; Python does not name it."""
_TIME = struct.Struct("@ll")


class UdpConfig(NodeConfig):
    """Where the packets come in."""

    address: str = "0.0.0.0"
    """Address of this host that the sensor sends to."""
    port: Annotated[int, Field(ge=1, le=65535)]
    """UDP port."""
    from_address: str = ""
    """Take packets of this sender alone; empty takes all."""


def datagrams(config: UdpConfig, wait_s: float = WAIT_S) -> Iterator[tuple[bytes, int] | None]:
    """Yield (payload, host time of arrival), and None after each `wait_s` of silence; the first item says it is bound.

    Raises:
        OSError: the port cannot be bound, or its interface is gone.
    """
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as receiver:
        receiver.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, BUFFER_BYTES)
        if sys.platform == "linux":
            receiver.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMPNS, 1)
        receiver.bind((config.address, config.port))
        receiver.settimeout(wait_s)
        yield None
        while True:
            try:
                payload, ancillary, _, sender = receiver.recvmsg(RECEIVE_BYTES, socket.CMSG_SPACE(_TIME.size))
            except TimeoutError:
                yield None
                continue
            if not config.from_address or sender[0] == config.from_address:
                yield payload, _arrival_ns(ancillary)


def _arrival_ns(ancillary: list[tuple[int, int, bytes]]) -> int:
    for level, kind, data in ancillary:
        if (level, kind) == (socket.SOL_SOCKET, SO_TIMESTAMPNS) and len(data) == _TIME.size:
            seconds, nanoseconds = _TIME.unpack(data)
            return int(seconds) * 1_000_000_000 + int(nanoseconds)
    return time.time_ns()


__all__ = ["UdpConfig", "datagrams"]
