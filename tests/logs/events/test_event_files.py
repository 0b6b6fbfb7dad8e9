"""Recordings of event cameras: every event as independent decoders listed it, in any pieces; faults are counted."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from perception.errors import LogError
from perception.logs.events.event_file import EventFileLog
from perception.logs.events.other_words import Dat, Nmnist
from perception.logs.events.prophesee_words import Evt2, Evt3
from perception.logs.open_log import open_log
from perception.messages import EventPacket, Trigger, host

FILES = (
    "expelliarmus_evt2_sample.raw", "tonic_sample_ncars.dat", "faery_dvs.es", "IMU_translBoxes.aedat",
    "tonic_sample_nmnist.bin", "expelliarmus_evt3_sample.raw",
)  # fmt: skip


def columns(log: object) -> tuple[NDArray[np.int64], ...]:
    """Return t in microseconds, x, y and polarity of all events."""
    assert isinstance(log, EventFileLog)
    packets = [m for _, m in log.messages() if isinstance(m, EventPacket)]
    parts = [[host(getattr(m, name)) for m in packets] for name in ("t_ns", "x", "y", "polarity")]
    t, x, y, polarity = (np.concatenate(part).astype(np.int64) for part in parts)
    return t // 1000, x, y, polarity


@pytest.mark.parametrize("name", FILES)
def test_every_event_of_a_real_recording_is_what_an_independent_decoder_listed(data_folder: Path, name: str) -> None:
    expected = json.loads((data_folder / "events" / "expected.json").read_text())[name]
    t, x, y, polarity = columns(open_log(data_folder / "events" / name))
    assert len(t) == expected["n_events"]
    assert (polarity.sum(), x.sum(), y.sum()) == (expected["n_on"], expected["sum_x"], expected["sum_y"])
    assert np.column_stack((t, x, y, polarity))[:5].tolist() == expected["first_5_txyp"]
    assert (np.diff(t) >= 0).all()
    if "evt3" not in name:  # its listed times are another decoder's fault; see the next test
        assert (t[0], t[-1]) == (expected["t_first"], expected["t_last"])
        assert (t - t[0]).sum() == expected["sum_t_minus_first"]


def test_evt3_times_do_not_jump_where_the_low_bits_fall_by_a_little(data_folder: Path) -> None:
    """The listed times of this file jump by 4096 us at each fall of a low time word, at 9 stray words and at 2 wraps.

    At a wrap the high bits rise as well, so those jumps count one wrap twice. By the high words alone, which come every
    16 us (551 of them), the recording is 8.8 ms long, not 54.
    """
    listed = np.load(data_folder / "events" / "expelliarmus_evt3_sample.npy")
    t, x, y, polarity = columns(open_log(data_folder / "events" / "expelliarmus_evt3_sample.raw"))
    for values, name in ((x, "x"), (y, "y"), (polarity, "p")):
        np.testing.assert_array_equal(values, listed[name])
    apart = listed["t"] - t
    assert set(np.unique(np.diff(apart))) == {0, 4096}
    assert (np.diff(apart) > 0).sum() == 11
    assert t[-1] - t[0] == pytest.approx(551 * 16, abs=32)


def test_what_comes_out_does_not_depend_on_where_the_bytes_are_cut(data_folder: Path) -> None:
    data = (data_folder / "events" / "expelliarmus_evt3_sample.raw").read_bytes()[1000:61_000]
    whole = Evt3(720, 1280).feed(data)
    cut = Evt3(720, 1280)
    pieces = [cut.feed(data[begin : begin + 777]) for begin in range(0, len(data), 777)]
    np.testing.assert_array_equal(np.concatenate([piece.events.t_ns for piece in pieces]), whole.events.t_ns)
    np.testing.assert_array_equal(np.concatenate([piece.events.x for piece in pieces]), whole.events.x)


def test_times_go_on_after_the_wrap_of_every_format() -> None:
    evt3 = Evt3(720, 1280)
    words = [0x8FFF, 0x6FFF, 0x0005, 0x2003, 0x8000, 0x6001, 0x2004]  # high, low, row 5, column 3; then both wrap
    decoded = evt3.feed(np.array(words, "<u2").tobytes())
    assert (decoded.events.t_ns // 1000).tolist() == [(1 << 24) - 1, (1 << 24) + 1]
    evt2 = Evt2(480, 640)
    last, first = (0x8 << 28) | 0xFFFFFFF, 0x8 << 28
    event = (1 << 28) | (63 << 22) | (7 << 11) | 9
    decoded = evt2.feed(np.array([last, event, first, event], "<u4").tobytes())
    assert (decoded.events.t_ns // 1000).tolist() == [(1 << 34) - 1, (1 << 34) + 63]
    dat = Dat(480, 640).feed(np.array([[0xFFFFFFFF, 0], [2, 0]], "<u4").tobytes())
    assert (dat.events.t_ns // 1000).tolist() == [(1 << 32) - 1, (1 << 32) + 2]
    nmnist = Nmnist(34, 34).feed(bytes([1, 2, 0xFF, 0xFF, 0xFF, 3, 4, 0, 0, 1]))
    assert (nmnist.events.t_ns // 1000).tolist() == [(1 << 23) - 1, (1 << 23) + 1]


def test_trigger_words_come_out_as_messages(tmp_path: Path) -> None:
    file = tmp_path / "triggered.raw"
    words = [0x8001, 0x6000, 0x0005, 0x2003, 0xA101, 0x6010, 0x2003, 0xA100]
    file.write_bytes(b"% evt 3.0\n% geometry 1280x720\n" + np.array(words, "<u2").tobytes())
    log = open_log(file)
    edges = [m for _, m in log.messages() if isinstance(m, Trigger)]
    assert [(edge.header.t_sensor_ns, edge.channel, edge.rising) for edge in edges] == [
        (4_096_000, 1, True), (4_112_000, 1, False),
    ]  # fmt: skip
    assert log.counts() == {"event_camera/events": 1, "event_camera/triggers": 2}


@pytest.mark.parametrize("name", FILES)
def test_a_cut_file_gives_its_events_up_to_the_cut_and_counts_the_rest(
    data_folder: Path, tmp_path: Path, name: str
) -> None:
    source = data_folder / "events" / name
    whole = columns(open_log(source))
    data = source.read_bytes()
    file = tmp_path / name
    length = len(data) * 3 // 5
    file.write_bytes(data[: length - length % 5 if name.endswith(".bin") else length])
    log = open_log(file)
    found = columns(log)
    assert 0 < len(found[0]) < len(whole[0])
    for column, expected in zip(found, whole, strict=True):
        np.testing.assert_array_equal(column, expected[: len(column)])


def test_events_outside_the_sensor_and_times_that_run_backwards_are_counted(tmp_path: Path) -> None:
    file = tmp_path / "bad.raw"
    words = [0x8001, 0x6010, 0x0005, 0x2003, 0x6000, 0x2004, 0x6011, 0x02FF, 0x2005]
    file.write_bytes(b"% evt 3.0\n% geometry 640x480\n" + np.array(words, "<u2").tobytes())
    log = open_log(file)
    assert len(columns(log)[0]) == 1
    assert dict(log.skipped) == {"event whose time runs backwards": 1, "event outside the sensor": 1}


def test_an_unknown_encoding_is_one_clear_error(tmp_path: Path) -> None:
    file = tmp_path / "new.raw"
    file.write_bytes(b"% evt 4.0\n\x00\x00")
    with pytest.raises(LogError, match=r"expected EVT2, EVT2\.1 or EVT3"):
        open_log(file)
