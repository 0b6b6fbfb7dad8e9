"""Files that other libraries write: AEDAT4 by dv-processing, HDF5 in published layouts, arrays and text."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from perception.errors import LogError
from perception.logs.events.event_file import EventFileLog
from perception.logs.open_log import open_log
from perception.messages import EventPacket, Trigger, host

COUNT = 3000


@pytest.fixture
def events() -> dict[str, NDArray[Any]]:
    """Columns of a made-up recording of 0.3 s on 640 x 480 pixels; times in microseconds."""
    random = np.random.default_rng(3)
    return {
        "t": np.sort(random.integers(0, 300_000, COUNT)), "x": random.integers(0, 640, COUNT).astype(np.uint16),
        "y": random.integers(0, 480, COUNT).astype(np.uint16), "p": random.integers(0, 2, COUNT).astype(np.uint8),
    }  # fmt: skip


def read(path: Path) -> tuple[EventFileLog, dict[str, NDArray[np.int64]]]:
    """Return the log and the columns of all its events, times in nanoseconds."""
    log = open_log(path)
    assert isinstance(log, EventFileLog)
    packets = [message for _, message in log.messages() if isinstance(message, EventPacket)]
    names = {"t": "t_ns", "x": "x", "y": "y", "p": "polarity"}
    return log, {
        key: np.concatenate([host(getattr(packet, name)) for packet in packets]).astype(np.int64)
        for key, name in names.items()
    }


def check(found: dict[str, NDArray[np.int64]], events: dict[str, NDArray[Any]], offset_us: int = 0) -> None:
    np.testing.assert_array_equal(found["t"], (events["t"] + offset_us) * 1000)
    for name in "xyp":
        np.testing.assert_array_equal(found[name], events[name])


def write_dsec(path: Path, events: dict[str, NDArray[Any]], offset_us: int) -> None:
    h5py = pytest.importorskip("h5py")
    hdf5plugin = pytest.importorskip("hdf5plugin")
    how = hdf5plugin.Blosc(cname="zstd", clevel=5, shuffle=hdf5plugin.Blosc.SHUFFLE)
    with h5py.File(path, "w") as file:
        for name, kind in (("t", np.uint32), ("x", np.uint16), ("y", np.uint16), ("p", np.uint8)):
            file.create_dataset(f"events/{name}", data=events[name].astype(kind), chunks=(100,), **how)
        file["t_offset"] = np.int64(offset_us)
        file["ms_to_idx"] = np.searchsorted(events["t"], np.arange(301) * 1000)


def test_dsec(tmp_path: Path, events: dict[str, NDArray[Any]]) -> None:
    write_dsec(tmp_path / "events.h5", events, 51_648_000_000)
    log, found = read(tmp_path / "events.h5")
    check(found, events, 51_648_000_000)
    assert log.cameras["event_camera"].size == (480, 640)
    late = [m for _, m in log.messages(from_ns=(51_648_000_000 + 250_000) * 1000) if isinstance(m, EventPacket)]
    assert sum(len(host(m.t_ns)) for m in late) == (events["t"] >= 250_000).sum()


def test_the_index_of_milliseconds_leaves_out_what_is_early(tmp_path: Path, events: dict[str, NDArray[Any]]) -> None:
    write_dsec(tmp_path / "events.h5", events, 0)
    log = open_log(tmp_path / "events.h5")
    assert isinstance(log, EventFileLog)
    pieces = list(log.cameras["event_camera"].pieces(from_ns=250_400_000))
    assert sum(len(piece.events) for piece in pieces) == (events["t"] >= 250_000).sum()


def test_m3ed_has_a_camera_on_each_side(tmp_path: Path, events: dict[str, NDArray[Any]]) -> None:
    h5py = pytest.importorskip("h5py")
    kinds = {"t": "i8", "x": "u2", "y": "u2", "p": "i1"}  # as rosbag2hdf5.py makes them
    with h5py.File(tmp_path / "data.h5", "w") as file:
        for side in ("left", "right"):
            group = file.create_group(f"prophesee/{side}")
            for name, kind in kinds.items():
                group.create_dataset(
                    name, data=events[name].astype(kind), compression="lzf", chunks=(40_000,), maxshape=(None,)
                )
            milliseconds = np.arange(0, int(np.floor(events["t"][-1] / 1e3))) * 1e3
            group["ms_map_idx"] = np.searchsorted(events["t"], milliseconds).astype("u8")
            group["calib/resolution"] = np.array([1280, 720])
            group["calib/distortion_coeffs"] = np.zeros(4)
        file["ovc/imu/accel"] = np.zeros((3, 3))
        file["ovc/left/ts"] = np.zeros(3, "i8")
        file["ovc/left/ts_map_prophesee_left_t"] = np.zeros(3, "u8")
        file["ouster/data"] = np.zeros((1, 2, 3), "u1")
    log = open_log(tmp_path / "data.h5")
    assert set(log.topics()) == {"event_camera_left/events", "event_camera_right/events"}
    assert isinstance(log, EventFileLog)
    assert dict(log.event_counts()) == dict.fromkeys(log.topics(), COUNT)
    stamps = [message.header.t_sensor_ns for _, message in log.messages()]
    assert stamps == sorted(stamps)
    assert log.cameras["event_camera_left"].size == (720, 1280)
    for from_us in (0, 123_400, 299_999):  # the last lies behind the end of the index
        late = [m for _, m in log.messages(from_ns=from_us * 1000, topics=["event_camera_left/events"])]
        times = np.concatenate([host(m.t_ns) for m in late if isinstance(m, EventPacket)] or [np.zeros(0)])
        assert (times >= from_us * 1000).sum() == (events["t"] >= from_us).sum()


def test_hdf5_with_tables_of_events(tmp_path: Path, events: dict[str, NDArray[Any]]) -> None:
    h5py = pytest.importorskip("h5py")
    with h5py.File(tmp_path / "mvsec.h5", "w") as file:
        rows = np.column_stack([events["x"], events["y"], 1.5e9 + events["t"] / 1e6, np.where(events["p"], 1, -1)])
        file["davis/left/events"] = rows
        file["davis/right/events"] = rows
    log = open_log(tmp_path / "mvsec.h5")
    assert isinstance(log, EventFileLog)
    assert dict(log.event_counts()) == {"event_camera_left/events": COUNT, "event_camera_right/events": COUNT}
    with h5py.File(tmp_path / "records.h5", "w") as file:
        kinds = np.dtype([("x", "<u2"), ("y", "<u2"), ("p", "<i2"), ("t", "<i8")])
        file["CD/events"] = np.rec.fromarrays([events[name] for name in "xypt"], kinds)
    check(read(tmp_path / "records.h5")[1], events)


def test_an_index_of_milliseconds_that_lies_is_not_believed(tmp_path: Path, events: dict[str, NDArray[Any]]) -> None:
    write_dsec(tmp_path / "events.h5", events, 0)
    h5py = pytest.importorskip("h5py")
    with h5py.File(tmp_path / "events.h5", "r+") as file:
        file["ms_to_idx"][:] = COUNT
    late = [m for _, m in open_log(tmp_path / "events.h5").messages(from_ns=250_000_000) if isinstance(m, EventPacket)]
    assert sum(len(host(m.t_ns)) for m in late) == (events["t"] >= 250_000).sum()


def test_hdf5_without_events_or_with_its_end_missing_is_one_clear_error(
    tmp_path: Path, events: dict[str, NDArray[Any]]
) -> None:
    h5py = pytest.importorskip("h5py")
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file["pictures"] = np.zeros((2, 2))
    with pytest.raises(LogError, match="HDF5 without events"):
        open_log(tmp_path / "other.h5")
    write_dsec(tmp_path / "events.h5", events, 0)
    data = (tmp_path / "events.h5").read_bytes()
    (tmp_path / "cut.h5").write_bytes(data[: len(data) // 2])
    with pytest.raises(LogError, match="not a whole HDF5 file"):
        open_log(tmp_path / "cut.h5")


def test_a_damaged_block_of_hdf5_is_skipped_and_counted(tmp_path: Path, events: dict[str, NDArray[Any]]) -> None:
    write_dsec(tmp_path / "events.h5", events, 0)
    h5py = pytest.importorskip("h5py")
    with h5py.File(tmp_path / "events.h5") as file:
        chunk = file["events/t"].id.get_chunk_info(0)
    data = bytearray((tmp_path / "events.h5").read_bytes())
    data[chunk.byte_offset : chunk.byte_offset + chunk.size] = b"\xff" * chunk.size
    (tmp_path / "events.h5").write_bytes(data)
    log = open_log(tmp_path / "events.h5")
    list(log.messages())
    assert sum(log.skipped.values()) == COUNT


@pytest.mark.parametrize("compression", ["NONE", "LZ4", "LZ4_HIGH", "ZSTD", "ZSTD_HIGH"])
def test_aedat4_as_dv_processing_writes_it(tmp_path: Path, events: dict[str, NDArray[Any]], compression: str) -> None:
    dv = pytest.importorskip("dv_processing")
    write_aedat4(dv, tmp_path / "made.aedat4", events, compression)
    log, found = read(tmp_path / "made.aedat4")
    check(found, events, 1_600_000_000_000_000)
    edges = [message for _, message in log.messages() if isinstance(message, Trigger)]
    assert [(edge.header.t_sensor_ns, edge.rising) for edge in edges] == [
        (1_600_000_000_100_000_000, True), (1_600_000_000_200_000_000, False),
    ]  # fmt: skip
    assert not log.skipped


def write_aedat4(
    dv: Any, path: Path, events: dict[str, NDArray[Any]], compression: str, size_wh: tuple[int, int] = (640, 480)
) -> None:
    config = dv.io.MonoCameraWriter.Config("made", getattr(dv.CompressionType, compression))
    config.addEventStream(size_wh)
    config.addTriggerStream()
    writer = dv.io.MonoCameraWriter(str(path), config)
    store = dv.EventStore()
    for t, x, y, p in zip(events["t"].tolist(), events["x"], events["y"], events["p"], strict=True):
        store.push_back(1_600_000_000_000_000 + t, int(x), int(y), bool(p))
    writer.writeEvents(store)
    kinds = dv.TriggerType if hasattr(dv, "TriggerType") else dv.Trigger.TriggerType
    for t, kind in ((100_000, kinds.EXTERNAL_SIGNAL_RISING_EDGE), (200_000, kinds.EXTERNAL_SIGNAL_FALLING_EDGE)):
        writer.writeTrigger(dv.Trigger(1_600_000_000_000_000 + t, kind))
    del writer


@pytest.mark.parametrize(("scale", "kind"), [(1, np.int64), (1e-6, np.float64)])
def test_arrays_of_four_columns_in_microseconds_or_seconds(
    tmp_path: Path, events: dict[str, NDArray[Any]], scale: float, kind: Any
) -> None:
    np.save(tmp_path / "a.npy", np.column_stack([events["t"] * scale, *(events[n] for n in "xyp")]).astype(kind))
    log, found = read(tmp_path / "a.npy")
    check(found, events)
    assert any("taken as" in note for note in log.notes)


def test_columns_in_another_order_and_darker_as_minus_one(tmp_path: Path, events: dict[str, NDArray[Any]]) -> None:
    signed = np.where(events["p"] > 0, 1, -1)
    np.save(tmp_path / "a.npy", np.column_stack([events["x"], events["y"], signed, events["t"]]))
    check(read(tmp_path / "a.npy")[1], events)


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_archives(tmp_path: Path, events: dict[str, NDArray[Any]], save: Any) -> None:
    save(tmp_path / "a.npz", **events)
    check(read(tmp_path / "a.npz")[1], events)


def test_archives_with_one_array_of_events(tmp_path: Path, events: dict[str, NDArray[Any]]) -> None:
    rows = np.column_stack([events[name] for name in "txyp"])
    np.savez(tmp_path / "only.npz", rows)
    np.savez(tmp_path / "named.npz", events=rows, label=np.array(3))
    for name in ("only.npz", "named.npz"):
        check(read(tmp_path / name)[1], events)


def test_nanoseconds_by_name(tmp_path: Path, events: dict[str, NDArray[Any]]) -> None:
    np.savez(tmp_path / "a.npz", t_ns=events["t"] * 1000, x=events["x"], y=events["y"], polarity=events["p"])
    check(read(tmp_path / "a.npz")[1], events)


@pytest.mark.parametrize(
    ("head", "line"),
    [
        ("", "{s:.6f} {x} {y} {p}"),  # as in the Event Camera Dataset
        ("%geometry:640,480\n", "{x},{y},{p},{t}"),  # as metavision_file_to_csv writes
        ("timestamp,x,y,polarity\n", "{t} , {x}, {y} ,{p} "),
        ("# made by hand\nx;y;t_ns;p\n", "{x};{y};{t}000;{p}"),
    ],
)
def test_text(tmp_path: Path, events: dict[str, NDArray[Any]], head: str, line: str) -> None:
    columns = zip(*(events[name].tolist() for name in "txyp"), strict=True)
    text = "".join(line.format(s=t / 1e6, t=t, x=x, y=y, p=p) + "\n" for t, x, y, p in columns)
    (tmp_path / "events.txt").write_text(head + text)
    log, found = read(tmp_path / "events.txt")
    check(found, events)
    if "geometry" in head:
        assert log.cameras["event_camera"].size == (480, 640)


def test_lines_that_are_no_events_are_counted(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("1 2 3 1\n" * 20 + "2 what 3 1\n3 70000 1 1\n4 -1 1 1\n5 1 1 0\n1 1 1 0\n6 1")
    log, found = read(tmp_path / "a.csv")
    assert len(found["t"]) == 21
    assert sum(log.skipped.values()) == 5


def test_arrays_that_are_cut_off_or_no_events(tmp_path: Path, events: dict[str, NDArray[Any]]) -> None:
    table = np.column_stack([events[name] for name in "txyp"])
    np.save(tmp_path / "a.npy", table)
    data = (tmp_path / "a.npy").read_bytes()
    (tmp_path / "cut.npy").write_bytes(data[: len(data) // 2])
    log, found = read(tmp_path / "cut.npy")
    assert 0 < len(found["t"]) < COUNT
    assert log.skipped["byte of a word that is cut off"] == (COUNT - len(found["t"])) * 32
    np.save(tmp_path / "objects.npy", np.array([{}], object), allow_pickle=True)
    np.save(tmp_path / "cube.npy", np.zeros((3, 4, 5)))
    np.save(tmp_path / "wide.npy", np.zeros((3, 7)))
    np.savez(tmp_path / "other.npz", a=np.zeros(3))
    for name in ("objects.npy", "cube.npy", "wide.npy", "other.npz"):
        with pytest.raises(LogError, match="expected"):
            open_log(tmp_path / name)


def test_an_archive_that_claims_more_than_it_holds_is_read_to_its_end(tmp_path: Path) -> None:
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "<i8", "fortran_order": False, "shape": (1 << 60,)})
    with zipfile.ZipFile(tmp_path / "bomb.npz", "w") as archive:
        for name in "txyp":
            archive.writestr(f"{name}.npy", header.getvalue() + np.arange(5, dtype="<i8").clip(0, 1).tobytes())
    assert len(read(tmp_path / "bomb.npz")[1]["t"]) == 5
