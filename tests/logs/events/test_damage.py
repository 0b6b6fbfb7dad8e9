"""Cut, flipped, stuffed: every format gives sound events or one clear error, and never runs on without end."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from perception.errors import LogError
from perception.logs.events.event_file import EventFileLog
from perception.logs.open_log import open_log
from perception.messages import EventPacket, host
from tests.logs.events.test_foreign_files import write_aedat4, write_dsec

COUNT, HEIGHT, WIDTH = 400, 120, 160
RANDOM = np.random.default_rng(5)
EVENTS = {
    "t": np.sort(RANDOM.integers(0, 60_000, COUNT)), "x": RANDOM.integers(0, WIDTH, COUNT),
    "y": RANDOM.integers(0, HEIGHT, COUNT), "p": RANDOM.integers(0, 2, COUNT),
}  # fmt: skip
ROWS = list(zip(*(EVENTS[name].tolist() for name in "txyp"), strict=True))


def evt3() -> bytes:
    words: list[int] = []
    high = -1
    for t, x, y, p in ROWS:
        if t >> 12 != high:
            high = t >> 12
            words.append(0x8000 | high)
        words += [0x6000 | t & 0xFFF, y, 0x2000 | p << 11 | x]
    return b"% evt 3.0\n% geometry 160x120\n% end\n" + np.array(words, "<u2").tobytes()


def evt2(legacy_of_21: bool | None = None) -> bytes:
    words: list[int] = []
    high = -1
    for t, x, y, p in ROWS:
        while t >> 6 != high:
            high += 1
            words.append((0x8 << 28 | high) << 32)
        words.append((p << 28 | (t & 63) << 22 | x << 11 | y) << 32 | 1)
    if legacy_of_21 is None:
        data = np.array([word >> 32 for word in words], "<u4").tobytes()
        return b"% evt 2.0\n% geometry 160x120\n% end\n" + data
    halves = np.array(words, "<u8")
    if legacy_of_21:
        halves = halves >> np.uint64(32) | halves << np.uint64(32)
    return b"% format EVT21;height=120;width=160\n% end\n" + halves.tobytes()


def dat() -> bytes:
    words = np.array([(t, p << 28 | y << 14 | x) for t, x, y, p in ROWS], "<u4")
    return b"% Data file containing Event2D events.\n% Version 2\n% Height 120\n% Width 160\n\x0c\x08" + words.tobytes()


def davis() -> bytes:
    words = np.array([(y << 22 | x << 12 | p << 11, t) for t, x, y, p in ROWS], ">u4")
    return b"#!AER-DAT2.0\r\n# AEChip: eu.seebetter.ini.chips.davis.DAVIS240C\r\n" + words.tobytes()


def event_stream() -> bytes:
    out = bytearray(b"Event Stream\x02\x00\x00\x01" + np.array([WIDTH, HEIGHT], "<u2").tobytes())
    before = 0
    for t, x, y, p in ROWS:
        out += b"\xff" * ((t - before) // 127) + bytes([(t - before) % 127 << 1 | p, x, 0, y, 0])
        before = t
    return bytes(out)


def text() -> bytes:
    return b"t,x,y,p\n" + b"".join(b"%d,%d,%d,%d\n" % row for row in ROWS)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """One small file of each format, all with the same events."""
    folder = tmp_path_factory.mktemp("whole")
    made = {
        "evt3": evt3(), "evt2": evt2(), "evt21": evt2(False), "evt21_legacy": evt2(True), "dat": dat(),
        "aedat2": davis(), "es": event_stream(), "text": text(),
    }  # fmt: skip
    np.save(folder / "npy.npy", np.column_stack([EVENTS[name] for name in "txyp"]))
    np.savez(folder / "npz.npz", t=EVENTS["t"], x=EVENTS["x"], y=EVENTS["y"], p=EVENTS["p"])
    made |= {"npy": (folder / "npy.npy").read_bytes(), "npz": (folder / "npz.npz").read_bytes()}
    dv = pytest.importorskip("dv_processing")
    write_aedat4(dv, folder / "a.aedat4", EVENTS, "LZ4", (WIDTH, HEIGHT))
    write_dsec(folder / "a.h5", EVENTS, 0)
    return made | {"aedat4": (folder / "a.aedat4").read_bytes(), "hdf5": (folder / "a.h5").read_bytes()}


NAMES = ("evt3", "evt2", "evt21", "evt21_legacy", "dat", "aedat2", "es", "text", "npy", "npz", "aedat4", "hdf5")
AEDAT4_START_US = 1_600_000_000_000_000


def events_of(data: bytes, folder: Path) -> tuple[list[Any], EventFileLog]:
    """Return (microseconds, x, y, polarity) of all events of a file with these bytes, and the log."""
    file = folder / "file"
    file.write_bytes(data)
    log = open_log(file)
    assert isinstance(log, EventFileLog)
    found: list[Any] = []
    for _, message in log.messages():
        if isinstance(message, EventPacket):
            columns = (host(message.t_ns) // 1000, message.x, message.y, message.polarity)
            found += zip(*(host(column).tolist() for column in columns), strict=True)
    return found, log


@pytest.mark.parametrize("name", NAMES)
def test_all_formats_give_the_same_events(files: dict[str, bytes], tmp_path: Path, name: str) -> None:
    found, log = events_of(files[name], tmp_path)
    start = AEDAT4_START_US if name == "aedat4" else 0
    assert [(t - start, x, y, p) for t, x, y, p in found] == ROWS
    assert not log.skipped


@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_cut_file_gives_a_beginning_of_its_events(
    files: dict[str, bytes], tmp_path: Path, name: str, data: st.DataObject
) -> None:
    whole = files[name]
    length = data.draw(st.integers(0, len(whole) - 1))
    try:
        found, _ = events_of(whole[:length], tmp_path)
    except LogError:
        return
    start = AEDAT4_START_US if name == "aedat4" else 0
    beginning = [(t - start, x, y, p) for t, x, y, p in found]
    if name == "text" and beginning and beginning[-1] != ROWS[len(beginning) - 1]:
        beginning.pop()  # the last number of a line that is cut within it
    assert beginning == ROWS[: len(beginning)]


@pytest.mark.parametrize("name", NAMES)
def test_a_file_cut_within_its_first_bytes_is_never_taken_for_another_format(
    files: dict[str, bytes], tmp_path: Path, name: str
) -> None:
    for length in range(1, 49):
        with contextlib.suppress(LogError):
            found, _ = events_of(files[name][:length], tmp_path)
            start = AEDAT4_START_US if name == "aedat4" else 0
            assert [(t - start, x, y, p) for t, x, y, p in found][:1] in ([], ROWS[:1])


@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_damaged_file_gives_sound_events_or_one_clear_error(
    files: dict[str, bytes], tmp_path: Path, name: str, data: st.DataObject
) -> None:
    spoilt = bytearray(files[name])
    for _ in range(data.draw(st.integers(1, 4))):
        place = data.draw(st.integers(0, len(spoilt) - 1))
        how = data.draw(st.sampled_from(("flip", "remove", "insert", "fill")))
        if how == "flip":
            spoilt[place] ^= 1 << data.draw(st.integers(0, 7))
        elif how == "remove":
            del spoilt[place : place + data.draw(st.integers(1, 9))]
        elif how == "insert":
            spoilt[place:place] = data.draw(st.binary(min_size=1, max_size=9))
        else:
            spoilt[place : place + 16] = bytes([data.draw(st.sampled_from((0, 0xFF)))]) * 16
    try:
        found, log = events_of(bytes(spoilt), tmp_path)
    except LogError:
        return
    height, width = log.cameras["event_camera"].size
    times = [row[0] for row in found]
    assert times == sorted(times)
    assert all(x < width and y < height and p <= 1 for _, x, y, p in found)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(content=st.binary(max_size=300), head=st.sampled_from([
    b"", b"% evt 2.0\n", b"% evt 3.0\n% end\n", b"% Version 2\n", b"#!AER-DAT4.0\r\n", b"#!AER-DAT2.0\r\n",
    b"Event Stream", b"\x89HDF\r\n\x1a\n", b"\x93NUMPY", b"PK\x03\x04", b"SQLite format 3\x00", b"1 2 3 1\n",
]))  # fmt: skip
def test_any_bytes_are_a_recording_or_one_clear_error(tmp_path: Path, content: bytes, head: bytes) -> None:
    (tmp_path / "file").write_bytes(head + content)
    with contextlib.suppress(LogError):
        list(open_log(tmp_path / "file").messages())
