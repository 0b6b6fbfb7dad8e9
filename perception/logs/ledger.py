"""A hash of every message, and where two recordings first differ.

Equal means header, body and buffers; `timing` is left out, since it differs from run to run. Topics `status` and
`state` speak of the machine, not of the data, and are left out, too.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from perception.errors import LogError, MessageError
from perception.logs.mcap_log import McapLog
from perception.logs.merged_log import OF_THE_MACHINE
from perception.logs.open_log import open_log
from perception.messages.codec import content, decode_header


@dataclass(frozen=True)
class LedgerEntry:
    """One message: which it is, and sixteen hexadecimal digits of what it says."""

    topic: str
    seq: int
    t_sensor_ns: int
    digest: str


@dataclass(frozen=True)
class Difference:
    """Where two recordings first part on a topic.

    Attributes:
        topic: the topic.
        place: how many messages of it were equal.
        a, b: the messages there; None where a recording has no more.
    """

    topic: str
    place: int
    a: LedgerEntry | None
    b: LedgerEntry | None


def ledger(path: Path) -> Iterator[LedgerEntry]:
    """Yield an entry per message of a recording, in the order of the file.

    Raises:
        LogError: it is no recording of ours.
    """
    log = open_log(path)
    if not isinstance(log, McapLog):
        raise LogError(f"{path}: is {log.FORMAT}; a ledger needs a recording of ours (.mcap)")
    for topic, record, _ in log.records():
        if topic in OF_THE_MACHINE:
            continue
        try:
            header = decode_header(record)
            digest = hashlib.blake2b(content(record), digest_size=8).hexdigest()
        except MessageError as error:
            digest = f"damaged: {error}"
            yield LedgerEntry(topic, -1, 0, digest)
            continue
        yield LedgerEntry(topic, header.seq, header.t_sensor_ns, digest)


def differences(a: Path, b: Path) -> list[Difference]:
    """Return where two recordings first differ on each topic, the earliest instant first; empty if they are equal."""
    entries = [_by_topic(path) for path in (a, b)]
    found = []
    for topic in sorted(set(entries[0]) | set(entries[1])):
        left, right = entries[0].get(topic, []), entries[1].get(topic, [])
        place = next(
            (k for k, (x, y) in enumerate(zip(left, right, strict=False)) if x != y), min(len(left), len(right))
        )
        if place < max(len(left), len(right)):
            found.append(
                Difference(
                    topic,
                    place,
                    left[place] if place < len(left) else None,
                    right[place] if place < len(right) else None,
                )
            )
    return sorted(found, key=lambda d: min(entry.t_sensor_ns for entry in (d.a, d.b) if entry is not None))


def _by_topic(path: Path) -> dict[str, list[LedgerEntry]]:
    topics: dict[str, list[LedgerEntry]] = defaultdict(list)
    for entry in ledger(path):
        topics[entry.topic].append(entry)
    return topics


__all__ = ["Difference", "LedgerEntry", "differences", "ledger"]
