"""What every system under test does with a message, so that only the transport differs.

A payload is 16 bytes (sequence number and time of sending, int64 each) and a body of one value. Each relay reads the
whole body and writes a fresh one; the sink reads it all and checks that nothing is torn.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Bytes = NDArray[np.uint8]
HEAD = 16
END = -1


@dataclass(frozen=True)
class Plan:
    """Which messages the source sends."""

    sizes: tuple[int, ...]
    rate_hz: float = 100.0
    seconds: float = 2.0
    warm_up: int = 30
    """Messages of each size that are not counted."""
    slow_ms: float = 0.0
    """Time that the second relay needs for each message."""

    def write(self, folder: Path) -> None:
        (folder / "plan.json").write_text(json.dumps(asdict(self)))

    @classmethod
    def read(cls, folder: Path) -> Plan:
        values: dict[str, Any] = json.loads((folder / "plan.json").read_text())
        return cls(**values | {"sizes": tuple(values["sizes"])})

    @property
    def counted(self) -> int:
        """Messages of each size that count."""
        return round(self.rate_hz * self.seconds)


def due(plan: Plan) -> Iterator[tuple[int, int]]:
    """Yield size and number of each payload when it is due, at the last those that say that it was the last."""
    number = 0
    for size in plan.sizes:
        due_s = time.perf_counter()
        for _ in range(plan.warm_up + plan.counted):
            due_s += 1 / plan.rate_hz
            time.sleep(max(0.0, due_s - time.perf_counter()))
            yield size, number
            number += 1
    time.sleep(0.3)
    yield HEAD, END


def messages(plan: Plan) -> Iterator[Bytes]:
    """Yield the payloads when they are due."""
    for size, number in due(plan):
        yield filled(np.empty(size, np.uint8), number)


def filled(made: Bytes, number: int) -> Bytes:
    """Write a payload into memory of its size; its time is taken once it is complete."""
    made[:] = number % 251
    made[:HEAD].view(np.int64)[:] = (number, time.time_ns())
    return made


def number_of(data: Bytes) -> int:
    return int(data[:8].view(np.int64)[0])


def relayed(data: Bytes) -> Bytes:
    """Read all of a payload and return a fresh one; two relays restore the body."""
    out = np.empty_like(data)
    relay(data, out)
    return out


def relay(data: Bytes, out: Bytes) -> None:
    """Do the same into memory that is there."""
    np.bitwise_xor(data, 1, out=out)
    out[:HEAD] = data[:HEAD]


class Collector:
    """What the sink saw: rows of size, number, age in nanoseconds and whether it was whole."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._rows: list[tuple[int, int, int, int]] = []

    def take(self, data: Bytes) -> bool:
        """Take a payload; False after the last."""
        now_ns = time.time_ns()
        number, sent_ns = (int(value) for value in data[:HEAD].view(np.int64))
        if number == END:
            np.save(self._folder / "rows.npy", np.array(self._rows, np.int64).reshape(-1, 4))
            return False
        whole = bool((data[HEAD:] == number % 251).all())
        self._rows.append((len(data), number, now_ns - sent_ns, whole))
        return True


__all__ = ["END", "HEAD", "Collector", "Plan", "due", "filled", "messages", "number_of", "relay", "relayed"]
