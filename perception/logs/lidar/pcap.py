"""Stream UDP payloads out of a packet capture: pcap and pcapng, with IPv4 fragments put together again.

Nothing is read as a whole: memory is bounded by one packet and the fragments that wait for the rest of theirs.
Sources: IETF draft-ietf-opsawg-pcap and -pcapng; RFC 791 (fragments).
"""

from __future__ import annotations

import struct
from collections import Counter, OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from perception.errors import LogError

PCAP_MAGICS = {
    b"\xd4\xc3\xb2\xa1": ("<", 1000), b"\xa1\xb2\xc3\xd4": (">", 1000),
    b"\x4d\x3c\xb2\xa1": ("<", 1), b"\xa1\xb2\x3c\x4d": (">", 1),
}  # fmt: skip
"""Magic -> byte order, and nanoseconds per unit of the fraction."""
PCAPNG_MAGIC = b"\x0a\x0d\x0d\x0a"
MAX_PACKET_BYTES = 1 << 18
MAX_WAITING = 256
"""Datagrams whose fragments may be incomplete at a time; the oldest is given up."""
_LINK_HEADER = {0: 4, 1: 14, 12: 0, 101: 0, 108: 4, 113: 16, 228: 0, 276: 20}
"""Link type -> bytes before the IP header."""
CUT_OFF, NO_UDP, LOST_FRAGMENT = "capture cut off", "packet that is no UDP over IPv4", "datagram with a lost fragment"


@dataclass(frozen=True)
class Datagram:
    """One UDP payload: when it was captured (host time), where it went, and the bytes."""

    t_ns: int
    port: int
    data: bytes


def is_capture(head: bytes) -> bool:
    """Return whether a file begins like a packet capture."""
    return head[:4] in PCAP_MAGICS or head[:4] == PCAPNG_MAGIC


def datagrams(path: Path, skipped: Counter[str]) -> Iterator[Datagram]:
    """Yield the UDP payloads of a capture in its order; what cannot be read is counted in `skipped`.

    Raises:
        LogError: the file cannot be read or is no capture.
    """
    waiting: OrderedDict[tuple[bytes, bytes], dict[int, bytes]] = OrderedDict()
    with _opened(path) as file:
        magic = file.read(4)
        if magic == PCAPNG_MAGIC:
            frames = _pcapng_frames(file, skipped)
        elif magic in PCAP_MAGICS:
            frames = _pcap_frames(file, *PCAP_MAGICS[magic], skipped)
        else:
            raise LogError(f"{path}: no packet capture (it begins with {magic.hex(' ')}); expected pcap or pcapng")
        for t_ns, link, frame in frames:
            packet = _ip_packet(link, frame)
            if packet is None:
                skipped[NO_UDP] += 1
                continue
            whole = _whole(packet, waiting, skipped)
            if whole is not None and len(whole) >= 8:
                port = struct.unpack_from(">H", whole, 2)[0]
                yield Datagram(t_ns, port, whole[8:])
    skipped[LOST_FRAGMENT] += len(waiting)
    skipped += Counter()  # zero counts go


def _opened(path: Path) -> IO[bytes]:
    try:
        return path.open("rb")
    except OSError as error:
        raise LogError(f"{path}: cannot be read: {error.strerror}") from None


def _pcap_frames(file: IO[bytes], order: str, unit_ns: int, skipped: Counter[str]) -> Iterator[tuple[int, int, bytes]]:
    header = file.read(20)
    if len(header) < 20:
        skipped[CUT_OFF] += 1
        return
    link = struct.unpack_from(f"{order}I", header, 16)[0] & 0xFFFF
    while head := file.read(16):
        if len(head) < 16:
            skipped[CUT_OFF] += 1
            return
        seconds, fraction, size, _ = struct.unpack(f"{order}IIII", head)
        frame = file.read(size) if size <= MAX_PACKET_BYTES else b""
        if len(frame) < size:
            skipped[CUT_OFF] += 1
            return
        yield seconds * 1_000_000_000 + fraction * unit_ns, link, frame


def _pcapng_frames(file: IO[bytes], skipped: Counter[str]) -> Iterator[tuple[int, int, bytes]]:
    file.seek(0)
    order = "<"
    links: list[tuple[int, int]] = []  # by interface: link type, ticks per second
    while head := file.read(8):
        if len(head) == 8 and head[:4] == PCAPNG_MAGIC:
            mark = file.read(4)
            order = "<" if mark == b"\x4d\x3c\x2b\x1a" else ">"
            links.clear()
            file.seek(-4, 1)
        kind, size = struct.unpack(f"{order}II", head) if len(head) == 8 else (0, 0)
        if not 12 <= size <= MAX_PACKET_BYTES + 64 or len(body := file.read(size - 8)) < size - 8:
            skipped[CUT_OFF] += 1
            return
        if kind == 1:
            links.append((struct.unpack_from(f"{order}H", body)[0], _ticks(body[8:-4], order)))
        elif kind == 6 and len(body) >= 20:
            interface, high, low, captured = struct.unpack_from(f"{order}IIII", body)
            if interface < len(links) and captured <= len(body) - 24:
                link, ticks = links[interface]
                yield ((high << 32) | low) * 1_000_000_000 // ticks, link, body[20 : 20 + captured]


def _ticks(options: bytes, order: str) -> int:
    """Return the ticks a second that an interface's stamps count: option 9, microseconds where it is missing."""
    place = 0
    while place + 4 <= len(options):
        code, size = struct.unpack_from(f"{order}HH", options, place)
        if code == 9 and size >= 1:
            value = options[place + 4]
            return int(2 ** (value & 0x7F)) if value & 0x80 else int(10 ** min(value, 18))
        if code == 0:
            break
        place += 4 + (size + 3) // 4 * 4
    return 1_000_000


def _ip_packet(link: int, frame: bytes) -> bytes | None:
    """Return the IPv4 packet with UDP inside, None where it is something else."""
    start = _LINK_HEADER.get(link)
    if start is None:
        return None
    if link == 1:
        while frame[start - 2 : start] in (b"\x81\x00", b"\x88\xa8"):  # VLAN tags
            start += 4
    packet = frame[start:]
    if len(packet) < 20 or packet[0] >> 4 != 4 or packet[9] != 17:
        return None
    return packet


def _whole(
    packet: bytes, waiting: OrderedDict[tuple[bytes, bytes], dict[int, bytes]], skipped: Counter[str]
) -> bytes | None:
    """Return the UDP datagram, once all of its fragments are there."""
    header, total = (packet[0] & 15) * 4, struct.unpack_from(">H", packet, 2)[0]
    payload = packet[header : total if header < total <= len(packet) else len(packet)]
    flags = struct.unpack_from(">H", packet, 6)[0]
    more, offset = bool(flags & 0x2000), (flags & 0x1FFF) * 8
    if not more and offset == 0:
        return payload
    key = (packet[12:20], packet[4:6])
    parts = waiting.setdefault(key, {})
    parts[offset] = payload
    if not more:
        parts[-1] = struct.pack(">I", offset + len(payload))
    if len(waiting) > MAX_WAITING:
        waiting.popitem(last=False)
        skipped[LOST_FRAGMENT] += 1
    if -1 not in parts:
        return None
    size = struct.unpack(">I", parts[-1])[0]
    joined, place = bytearray(), 0
    while place < size and place in parts:
        joined += parts[place]
        place = len(joined)
    if place < size:
        return None
    del waiting[key]
    return bytes(joined)


__all__ = ["Datagram", "datagrams", "is_capture"]
