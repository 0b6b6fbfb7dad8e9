"""Recordings of event cameras: every event as independent decoders listed it, in any pieces; faults are counted."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from perception.errors import LogError
from perception.logs.events.event_file import EventFileLog
from perception.logs.events.prophesee_words import Evt3
from perception.logs.open_log import open_log
from perception.messages import EventPacket, Imu, Trigger, host
from perception.ops.events import Events

FILES = (
    "expelliarmus_evt2_sample.raw", "tonic_sample_ncars.dat", "faery_dvs.es", "IMU_translBoxes.aedat",
    "tonic_sample_nmnist.bin", "expelliarmus_evt3_sample.raw", "tonic_sample.aedat4",
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


def test_a_ros_bag_gives_the_events_and_triggers_that_the_authors_of_its_format_count(data_folder: Path) -> None:
    """Sums of event_camera_codecs, test/decoder_test.cpp, evt3_decode: of t in ns, x, y and polarity."""
    folder = data_folder / "events_ros2bag_evt3"
    for path in (folder, folder / "test_data_evt3_trigger_0.db3"):
        log = open_log(path)
        t, x, y, polarity = columns(log)
        sums = (t.sum() * 1000, x.sum(), y.sum(), polarity.sum())
        assert sums == (1222326831810000, 42078718, 31656267, 41439)
        edges = [m for _, m in log.messages() if isinstance(m, Trigger)]
        edge_sums = (
            sum(e.header.t_sensor_ns for e in edges),
            sum(e.rising for e in edges),
            sum(e.channel for e in edges),
        )
        assert edge_sums == (29096982000, 1, 0)
        assert len(edges) == log.counts()["event_camera/triggers"] == 2
        assert not log.skipped


def test_imu_samples_of_an_aedat4_file_come_out_too(data_folder: Path) -> None:
    log = open_log(data_folder / "events" / "tonic_sample.aedat4")
    samples = [m for topic, m in log.messages() if topic == "event_camera/imu"]
    assert len(samples) == 475
    for sample in samples:
        assert isinstance(sample, Imu)
        assert np.linalg.norm(sample.acceleration_mps2) == pytest.approx(9.81, rel=0.5)  # the camera is held by hand


def test_an_array_of_the_same_recording_gives_the_same_events(data_folder: Path) -> None:
    listed = np.load(data_folder / "events" / "expelliarmus_evt3_sample.npy")
    log = open_log(data_folder / "events" / "expelliarmus_evt3_sample.npy")
    for values, name in zip(columns(log), "txyp", strict=True):
        np.testing.assert_array_equal(values, listed[name])


def test_what_comes_out_does_not_depend_on_where_the_bytes_are_cut(data_folder: Path) -> None:
    data = (data_folder / "events" / "expelliarmus_evt3_sample.raw").read_bytes()[1000:61_000]
    whole = Evt3(720, 1280)
    expected = Events.joined([whole.feed(data).events, whole.finish().events])
    cut = Evt3(720, 1280)
    pieces = [cut.feed(data[begin : begin + 777]).events for begin in range(0, len(data), 777)]
    found = Events.joined([*pieces, cut.finish().events])
    np.testing.assert_array_equal(found.t_ns, expected.t_ns)
    np.testing.assert_array_equal(found.x, expected.x)
    assert cut.skipped == whole.skipped


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
    file.write_bytes(data[:length])
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
