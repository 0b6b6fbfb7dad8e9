"""Captures of real LiDARs against the clouds and sums of independent decoders."""

import hashlib
import json
import struct
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from perception.errors import LogError
from perception.logs.lidar.hesai import HesaiDecoder, layout_of, read_angles
from perception.logs.lidar.ouster import OusterDecoder, read_metadata
from perception.logs.lidar.pcap import LOST_FRAGMENT, datagrams
from perception.logs.lidar.velodyne import VelodyneDecoder
from perception.logs.open_log import open_log
from perception.messages import PointCloud
from perception.messages.array import host


def clouds(path: Path) -> list[PointCloud]:
    return [m for _, m in open_log(path).messages(topics=["lidar/points"]) if isinstance(m, PointCloud)]


def test_a_velodyne_capture_gives_the_turns_of_velodyne_decoder(data_folder: Path) -> None:
    path = data_folder / "velodyne_pcap" / "sample_velodyne_hdl32.pcap"
    expected = json.loads((path.parent / "expected.json").read_text())[path.name]["scans"]
    ours = clouds(path)
    assert [len(host(cloud.xyz_m)) for cloud in ours] == [scan["n_points"] for scan in expected]
    for cloud, scan in zip(ours, expected, strict=True):
        xyz = host(cloud.xyz_m).astype(np.float64)
        np.testing.assert_allclose(xyz.mean(axis=0), scan["mean_xyz"], atol=1e-3)
        assert np.linalg.norm(xyz, axis=1).max() == pytest.approx(scan["max_range"], abs=0.01)
        assert host(cloud.t_offset_ns).max() == 0  # type: ignore[arg-type]  # a Velodyne has times
    assert open_log(path).rig.sensor("lidar").lidar.rings == 32  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("capture", "metadata"),
    [
        ("OS-0-128-U1_v2.3.0_1024x10.pcap", "OS-0-128-U1_v2.3.0_1024x10.json"),
        ("OS-1-128_v2.3.0_1024x10_lb_n3.pcap", "OS-1-128_v2.3.0_1024x10.json"),
    ],
)
def test_an_ouster_capture_gives_the_ranges_of_its_own_sdk(data_folder: Path, capture: str, metadata: str) -> None:
    folder = data_folder / "ouster_pcap"
    expected = json.loads((folder / "expected.json").read_text())[capture]["scans"]
    decoder = OusterDecoder(read_metadata(folder / metadata))
    frames = []
    packets = [d for d in datagrams(folder / capture, Counter()) if d.port == 7502]
    for datagram in packets:
        frames += [(points, decoder.last_range_mm) for points in decoder.feed(datagram.data, datagram.t_ns)]
    frames += [(points, decoder.last_range_mm) for points in decoder.finish()]
    assert len(frames) == len(expected)
    for (points, ranges), scan in zip(frames, expected, strict=True):
        assert hashlib.md5(np.ascontiguousarray(ranges).tobytes()).hexdigest() == scan["range_md5"]
        assert len(points) == scan["valid"]
        np.testing.assert_allclose(points.xyz_m.astype(float).mean(axis=0), scan["mean_xyz_valid"], atol=1e-6)
    log = open_log(folder / capture)
    assert log.counts() == {"imu/imu": len(expected) * 10, "lidar/points": len(expected)}


def pcd_xyz(path: Path) -> NDArray[np.float64]:
    data = path.read_bytes()
    start = data.index(b"DATA binary\n") + len(b"DATA binary\n")
    lines = [line.split() for line in data[:start].decode().splitlines()]
    header = {words[0]: words[1:] for words in lines if words[0] != "#"}
    sizes = [int(size) for size in header["SIZE"]]
    rows = np.frombuffer(data[start:], np.dtype((np.void, sum(sizes))), int(header["POINTS"][0]))
    return np.stack(
        [np.ndarray(len(rows), "<f4", rows.tobytes(), 4 * axis, (sum(sizes),)) for axis in range(3)], axis=1
    ).astype(np.float64)


@pytest.mark.parametrize(
    ("bag", "cloud", "which", "median_m"),
    [
        # The capture's stamps and blocks are interpolated otherwise there: 5 mm, as velodyne_decoder reaches, too.
        ("nebula_velodyne_vlp16/1673400471837873222", "nebula_velodyne_vlp16/1673400472138016708.pcd", 3, 0.006),
        ("nebula_hesai_40p/1673400149412331409", "nebula_hesai_40p/1673400149711850138.pcd", 2, 1e-6),
    ],
)
def test_packets_in_a_bag_give_the_cloud_of_nebula(
    data_folder: Path, bag: str, cloud: str, which: int, median_m: float
) -> None:
    pytest.importorskip("rosbags", reason="ROS bags need the extra 'ros'")
    xyz = host(clouds(data_folder / bag)[which].xyz_m)
    reference = pcd_xyz(data_folder / cloud)
    distance, _ = cKDTree(xyz).query(reference)
    assert np.median(distance) < median_m
    assert np.quantile(distance, 0.99) < 0.05
    assert abs(len(xyz) - len(reference)) < 0.002 * len(reference)


def velodyne_packet(azimuth: int, counts: int, mode: int = 0x37, model: int = 0x22) -> bytes:
    block = struct.pack("<HH", 0xEEFF, azimuth) + struct.pack("<HB", counts, 100) * 32
    return block * 12 + struct.pack("<IBB", 0, mode, model)


def test_a_return_straight_ahead_lies_on_the_x_axis() -> None:
    points = VelodyneDecoder().points(velodyne_packet(0, 5000), 0)
    assert points is not None
    level = points.xyz_m[np.abs(points.xyz_m[:, 2]) < 0.2]  # the beams at 1 degree up and down
    assert level[0] == pytest.approx([10.0 * np.cos(np.radians(1)), 0.0, 10.0 * np.sin(np.radians(1))], abs=0.01)
    assert points.ring.max() == 15


def test_azimuth_grows_clockwise() -> None:
    points = VelodyneDecoder().points(velodyne_packet(9000, 5000), 0)
    assert points is not None
    assert points.xyz_m[:, 1].max() < 0  # to the right


def test_equal_returns_of_a_dual_packet_count_once() -> None:
    single, dual = (VelodyneDecoder().points(velodyne_packet(0, 5000, mode), 0) for mode in (0x37, 0x39))
    assert single is not None
    assert dual is not None
    assert len(single) == 384
    assert len(dual) == 192


def test_packets_of_another_size_or_content_are_counted() -> None:
    decoder = VelodyneDecoder()
    assert not list(decoder.feed(b"\0" * 100, 0))
    assert not list(decoder.feed(b"\0" * 1206, 0))
    assert sum(decoder.skipped.values()) == 2


def capture(frames: list[tuple[int, bytes]]) -> bytes:
    head = struct.pack("<IHHiIII", 0xA1B2C3D4, 2, 4, 0, 0, 65535, 1)
    return head + b"".join(struct.pack("<IIII", t, 0, len(f), len(f)) + f for t, f in frames)


def ethernet(
    payload: bytes, *, identity: int = 1, offset: int = 0, more: bool = False, whole: int | None = None
) -> bytes:
    """An IPv4 frame with a part of a UDP datagram of `whole` bytes to port 2368."""
    udp = struct.pack(">HHHH", 1, 2368, 8 + (len(payload) if whole is None else whole), 0) if offset == 0 else b""
    body = udp + payload
    flags = (0x2000 if more else 0) | (offset // 8)
    ip = struct.pack(">BBHHHBBHII", 0x45, 0, 20 + len(body), identity, flags, 64, 17, 0, 1, 2)
    return b"\0" * 12 + b"\x08\x00" + ip + body


def test_fragments_are_put_together_in_any_order(tmp_path: Path) -> None:
    data = bytes(range(200)) * 2
    first, second = data[:192], data[192:]
    a = ethernet(first, more=True, whole=400)
    b = ethernet(second, offset=200)
    (tmp_path / "a.pcap").write_bytes(
        capture([(1, b), (2, a), (3, ethernet(b"x" * 30, identity=2, more=True, whole=60))])
    )
    skipped: Counter[str] = Counter()
    assert [d.data for d in datagrams(tmp_path / "a.pcap", skipped)] == [data]
    assert skipped[LOST_FRAGMENT] == 1


def test_pcapng_is_read_with_its_own_clock_resolution(tmp_path: Path) -> None:
    def block(kind: int, body: bytes) -> bytes:
        body += b"\0" * (-len(body) % 4)
        size = struct.pack("<I", 12 + len(body))
        return struct.pack("<I", kind) + size + body + size

    section = block(0x0A0D0D0A, struct.pack("<IHHq", 0x1A2B3C4D, 1, 0, -1))
    nanoseconds = struct.pack("<HHB3x", 9, 1, 9) + struct.pack("<HH", 0, 0)
    interface = block(1, struct.pack("<HHI", 1, 0, 65535) + nanoseconds)
    frame = ethernet(b"hello")
    packet = block(6, struct.pack("<IIIII", 0, 0, 1_500, len(frame), len(frame)) + frame)
    (tmp_path / "a.pcapng").write_bytes(section + interface + packet)
    assert [(d.t_ns, d.port, d.data) for d in datagrams(tmp_path / "a.pcapng", Counter())] == [(1500, 2368, b"hello")]


@pytest.mark.parametrize("size", [4, 20, 40, 300])
def test_a_capture_cut_anywhere_ends_with_a_count_or_a_clear_error(tmp_path: Path, size: int) -> None:
    whole = capture([(1, ethernet(velodyne_packet(0, 5000)))])
    (tmp_path / "cut.pcap").write_bytes(whole[:size])
    with pytest.raises(LogError, match="no packets of a known LiDAR"):
        open_log(tmp_path / "cut.pcap")


def test_a_capture_of_something_else_names_what_it_holds(tmp_path: Path) -> None:
    (tmp_path / "a.pcap").write_bytes(capture([(1, ethernet(b"x" * 50))]))
    with pytest.raises(LogError, match="1 of 50 bytes to port 2368"):
        open_log(tmp_path / "a.pcap")


def test_a_hesai_packet_is_known_by_size_and_beginning() -> None:
    assert layout_of(b"\xff\xee" + b"\0" * 1260) is not None
    assert layout_of(b"\0" * 1262) is None
    decoder = HesaiDecoder()
    xt = bytearray(1080)
    xt[:2] = b"\xee\xff"
    xt[14:16] = (2500).to_bytes(2, "little")  # first beam of the first block: 10 m at 15 degrees up
    points = decoder.points(bytes(xt), 0)
    assert points is not None
    np.testing.assert_allclose(
        points.xyz_m, [[0.0, 10 * np.cos(np.radians(15)), 10 * np.sin(np.radians(15))]], atol=1e-5
    )


def test_a_correction_file_that_is_none_costs_one_clear_line(tmp_path: Path) -> None:
    (tmp_path / "angles.csv").write_text("hello\n")
    with pytest.raises(Exception, match="expected rows of laser,elevation,azimuth"):
        read_angles(tmp_path / "angles.csv")
