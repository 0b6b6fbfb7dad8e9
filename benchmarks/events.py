"""`perception bench events`: decoding of event recordings beside other decoders, on the same files, in one run.

Each decoder reads a file from the disk cache into arrays of time, column, row and polarity, all of it, in one process
and thread of its own; rounds are interleaved and the best of each counts, since everything else only slows one down.
Ours streams; the others return one array. expelliarmus is GPL and no dependency: give its interpreter, or it is "not
measured".
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

SECONDS = 0.5
"""Of each decoder in each round."""
_PEER = """
import json, sys, time
from expelliarmus import Wizard
encoding, path, seconds = sys.argv[1], sys.argv[2], float(sys.argv[3])
wizard = Wizard(encoding=encoding)
count, best, end_s = len(wizard.read(path)), 1e9, time.perf_counter() + seconds
while time.perf_counter() < end_s:
    start_s = time.perf_counter()
    wizard.read(path)
    best = min(best, time.perf_counter() - start_s)
print(json.dumps({"events": count, "seconds": best}))
"""
ENCODINGS = {"prophesee_evt3": "evt3", "prophesee_evt2": "evt2", "prophesee_dat": "dat"}


@dataclass
class Row:
    """One file."""

    file: str
    format: str
    events: int
    megabytes: float
    rates: dict[str, float] = field(default_factory=dict)
    """Million events a second, by decoder."""

    def line(self) -> str:
        ours = self.rates["perception"]
        text = f"{self.file:<28} {self.format:<16} {self.events / 1e6:7.2f} M events  perception {ours:7.1f} M/s"
        peer = self.rates.get("expelliarmus")
        return f"{text}  expelliarmus " + ("not measured" if peer is None else f"{peer:7.1f} M/s  {ours / peer:5.2f}x")


def measure(files: list[Path], rounds: int, peer: Path | None) -> list[Row]:
    """Measure all files; `peer` is the Python interpreter of an environment with expelliarmus."""
    rows = []
    for file in files:
        best: dict[str, float] = {}
        kind, count = "", 0
        for _ in range(rounds):
            ours = _run([sys.executable, "-m", "perception.benchmarks.events", str(file), str(SECONDS)])
            kind, count = str(ours["format"]), int(str(ours["events"]))
            best["perception"] = min(best.get("perception", 1e9), float(str(ours["seconds"])))
            theirs = _peer(peer, kind, file)
            if theirs is not None:
                best["expelliarmus"] = min(best.get("expelliarmus", 1e9), float(str(theirs["seconds"])))
        rates = {name: count / seconds / 1e6 for name, seconds in best.items()}
        rows.append(Row(file.name, kind, count, file.stat().st_size / 1e6, rates))
    return rows


def _peer(python: Path | None, kind: str, file: Path) -> Mapping[str, object] | None:
    if python is None or kind not in ENCODINGS:
        return None
    return _run([str(python), "-c", _PEER, ENCODINGS[kind], str(file), str(SECONDS)])


def _run(command: list[str]) -> Mapping[str, object]:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{command[0]} failed: {done.stderr.strip().splitlines()[-1:]}")
    found: Mapping[str, object] = json.loads(done.stdout)
    return found


def synthetic(folder: Path, events: int = 5_000_000) -> list[Path]:
    """Write a dense EVT3 recording (vectors), an EVT2 and a DAT recording of so many events; the same every time."""
    random = np.random.default_rng(0)
    t = np.sort(random.integers(0, 1_000_000, events)).astype(np.int64)
    x, y, p = (random.integers(0, high, events) for high in (1280, 720, 2))
    files = [folder / "dense_evt3.raw", folder / "dense_evt2.raw", folder / "dense.dat"]
    files[0].write_bytes(b"% evt 3.0\n% geometry 1280x720\n% end\n" + _dense_evt3(random, events))
    files[1].write_bytes(b"% evt 2.0\n% geometry 1280x720\n% end\n" + _evt2(t, x, y, p))
    head = b"% Data file containing Event2D events.\n% Version 2\n% Height 720\n% Width 1280\n\x00\x08"
    files[2].write_bytes(head + np.column_stack((t, p << 28 | y << 14 | x)).astype("<u4").tobytes())
    return files


def _evt2(t: np.ndarray, x: np.ndarray, y: np.ndarray, p: np.ndarray) -> bytes:
    words = (p << 28 | (t & 63) << 22 | x << 11 | y).astype("<u4")
    highs = np.arange(t[0] >> 6, (t[-1] >> 6) + 1)
    return np.insert(words, np.searchsorted(t >> 6, highs), (0x8 << 28 | highs).astype("<u4")).tobytes()


def _dense_evt3(random: np.random.Generator, events: int) -> bytes:
    """Return rows of 32 pixels of which about half fired: row, base, 12 + 12 + 8 pixels, every 3 us."""
    rows = events // 16
    t = np.arange(rows) * 3
    words = np.empty((rows, 7), np.int64)
    words[:, 0] = 0x8000 | t >> 12 & 0xFFF
    words[:, 1] = 0x6000 | t & 0xFFF
    words[:, 2] = random.integers(0, 720, rows)
    words[:, 3] = 0x3000 | random.integers(0, 2, rows) << 11 | random.integers(0, 39, rows) * 32
    words[:, 4:6] = 0x4000 | random.integers(0, 1 << 12, (rows, 2))
    words[:, 6] = 0x5000 | random.integers(0, 1 << 8, rows)
    return words.astype("<u2").tobytes()


def decode(file: Path, seconds: float) -> dict[str, object]:
    """Decode a file again and again; return format, events, and seconds of the fastest reading."""
    from perception.logs.events.open_events import open_event_file
    from perception.runtime.allocator import keep_freed_memory

    keep_freed_memory()  # as every process of a graph does
    log = open_event_file(file)
    assert log is not None
    (reader,) = log.cameras.values()
    count, best, end_s = sum(len(piece.events) for piece in reader.pieces()), 1e9, time.perf_counter() + seconds
    while time.perf_counter() < end_s:
        start_s = time.perf_counter()
        sum(len(piece.events) for piece in reader.pieces())
        best = min(best, time.perf_counter() - start_s)
    return {"format": reader.name, "events": count, "seconds": best}


if __name__ == "__main__":
    print(json.dumps(decode(Path(sys.argv[1]), float(sys.argv[2]))))
