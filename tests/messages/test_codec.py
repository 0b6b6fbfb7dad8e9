"""Records: any MessagePack library reads them, nothing is copied, and no bytes can hurt the reader."""

from __future__ import annotations

import resource

import msgpack
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from perception.errors import MessageError, ShapeError
from perception.messages import (
    EventPacket,
    FusedObject,
    Header,
    Image,
    Message,
    ObjectClass,
    PointCloud,
    RawPackets,
    Span,
    Timing,
    TrackedObjects,
)
from perception.messages.codec import (
    Cuts,
    Record,
    content,
    decode,
    decode_envelope,
    decode_header,
    decode_timing,
    encode,
    with_timing,
)
from perception.messages.topics import MESSAGE_TYPES

HEADER = Header(frame_id="lidar", t_sensor_ns=1_700_000_000_123_456_789, seq=7)


def cloud(points: int = 5) -> PointCloud:
    random = np.random.default_rng(3)
    return PointCloud(
        header=HEADER,
        timing=Timing(t_received_ns=1, spans=(Span("decode", 2, 3),)),
        xyz_m=random.normal(size=(points, 3)).astype(np.float32),
        intensity=random.random(points, np.float32),
        t_offset_ns=np.arange(-points, 0, dtype=np.int32),
    )


def test_a_planner_reads_a_record_with_the_msgpack_package_alone() -> None:
    message = cloud()
    record = msgpack.unpackb(encode(message).to_bytes())
    header, body, *_, timing = record
    assert header["schema"] == "perception.point_cloud/1"
    assert header["t_sensor_ns"] == 1_700_000_000_123_456_789
    assert timing["spans"] == [["decode", 2, 3]]
    where = body["xyz_m"]
    xyz = np.frombuffer(record[where["element"]], where["dtype"]).reshape(where["shape"])
    np.testing.assert_array_equal(xyz, np.asarray(message.xyz_m))
    assert body["ring"] is None


def test_every_buffer_starts_at_a_multiple_of_64_bytes() -> None:
    data = encode(cloud(11)).to_bytes()
    start = np.frombuffer(data, np.uint8).ctypes.data
    read = decode(data, PointCloud)
    for array in (read.xyz_m, read.intensity, read.t_offset_ns):
        assert isinstance(array, np.ndarray)
        assert (array.ctypes.data - start) % 64 == 0


def first_array_at(record: Record) -> int:
    """Return where a record's first array begins: behind body, pad and the five bytes of its own head."""
    unpacker = msgpack.Unpacker()
    unpacker.feed(record.to_bytes()[record.cuts.body :])
    unpacker.skip()
    unpacker.skip()
    return int(record.cuts.body + unpacker.tell() + 5)


@given(first_at=st.integers(0, 120).map(lambda blocks: blocks * 64), points=st.integers(0, 300))
def test_the_first_array_begins_where_its_bytes_are_already_and_the_record_says_the_same(
    first_at: int, points: int
) -> None:
    message = cloud(points)
    assert isinstance(message.xyz_m, np.ndarray)
    plain, record = encode(message), encode(message, message.xyz_m, first_at)
    assert not encode(message, np.zeros((points, 3), np.float32), first_at).is_in_place  # not the message's
    target = bytearray(record.size)
    record.write_into(target)
    assert target == record.to_bytes()
    assert first_array_at(record) == max(first_array_at(plain), first_at)
    assert record.is_in_place == (first_array_at(record) == first_at)
    if record.is_in_place:
        where = slice(first_at, first_at + message.xyz_m.nbytes)
        target[where] = bytes(message.xyz_m.nbytes)
        record.write_into(target, but_first=True)
        assert not any(target[where])  # what is there already is left alone, and nothing else
        target[where] = message.xyz_m.tobytes()
        assert target == record.to_bytes()
    else:  # there was no room for what stands before it
        assert record.to_bytes() == plain.to_bytes()
    header, body, *_, timing = msgpack.unpackb(bytes(target))
    assert (header, body, timing) == tuple(msgpack.unpackb(plain.to_bytes())[part] for part in (0, 1, -1))
    read = decode(bytes(target), PointCloud)
    for array, wanted in ((read.xyz_m, message.xyz_m), (read.t_offset_ns, message.t_offset_ns)):
        np.testing.assert_array_equal(np.asarray(array), np.asarray(wanted))


def test_decoded_arrays_are_read_only_views_of_the_bytes_that_keep_them_alive() -> None:
    data = bytearray(encode(cloud()).to_bytes())
    read = decode(data, PointCloud)
    assert isinstance(read.xyz_m, np.ndarray)
    assert np.shares_memory(read.xyz_m, np.frombuffer(data, np.uint8))
    with pytest.raises(ValueError, match="read-only"):
        read.xyz_m[0, 0] = 1.0
    with pytest.raises(BufferError):
        data.clear()  # the views hold the buffer


def test_a_kept_message_owns_its_arrays() -> None:
    data = bytearray(encode(cloud()).to_bytes())
    kept = decode(data, PointCloud).keep()
    data.clear()
    np.testing.assert_array_equal(np.asarray(kept.xyz_m), np.asarray(cloud().xyz_m))


def test_writing_into_a_buffer_gives_the_same_bytes() -> None:
    record = encode(cloud(100))
    target = bytearray(b"\xff" * (record.size + 10))
    assert record.write_into(target) == record.size
    assert bytes(target[: record.size]) == record.to_bytes()
    with pytest.raises(MessageError, match="does not fit"):
        record.write_into(bytearray(record.size - 1))


def test_publishing_changes_the_timing_and_nothing_before_it() -> None:
    data = encode(cloud()).to_bytes()
    published = with_timing(data, Timing(t_published_ns=99))
    assert content(published) == content(data)
    assert decode_timing(published).t_published_ns == 99
    assert decode_header(published).seq == 7


@pytest.mark.parametrize("message", [cloud(), TrackedObjects(header=HEADER, objects=(), valid_until_ns=5)])
def test_a_known_timing_is_replaced_as_any_other(message: Message) -> None:
    data, later = encode(message).to_bytes(), Timing(t_published_ns=99, deadline_met=True)
    assert with_timing(data, later, before=message.timing) == with_timing(data, later)
    other = Timing(t_received_ns=12345)  # not what the record holds: then it is read
    assert with_timing(data, later, before=other) == with_timing(data, later)


def test_who_passes_a_record_on_reads_header_and_timing_alone() -> None:
    data = encode(cloud()).to_bytes()
    envelope, whole = decode_envelope(data), decode(data)
    assert (envelope.header, envelope.timing) == (whole.header, whole.timing)
    with pytest.raises(MessageError, match="not a record"):
        decode_envelope(data[:-1])


@pytest.mark.parametrize("message", [cloud(), TrackedObjects(header=HEADER, objects=(), valid_until_ns=5)])
def test_who_knows_a_records_cuts_reads_nothing_of_what_is_between(message: Message) -> None:
    written = encode(message)
    data = bytearray(written.to_bytes())
    whole = decode_envelope(data)
    body, timing = written.cuts
    data[body:timing] = b"\xc1" * (timing - body)  # which is no MessagePack
    envelope = decode_envelope(data, written.cuts)
    assert (envelope.header, envelope.timing) == (whole.header, whole.timing)
    with pytest.raises(MessageError, match="in its timing"):
        decode_envelope(data, Cuts(body, timing + 1))


def test_arrays_that_are_not_contiguous_or_big_endian_arrive_the_same() -> None:
    pixels = np.arange(2 * 6 * 3, dtype=np.uint8).reshape(6, 2, 3).transpose(1, 0, 2)
    image = Image(header=HEADER, encoding="rgb8", height_px=2, width_px=6, data=pixels)
    np.testing.assert_array_equal(np.asarray(decode(encode(image).to_bytes(), Image).data), pixels)
    times = np.array([1, 2, 3], dtype=">i8")
    packet = EventPacket(
        header=HEADER, height_px=4, width_px=4, t_ns=times, x=np.zeros(3, np.uint16), y=np.zeros(3, np.uint16),
        polarity=np.ones(3, np.uint8),
    )  # fmt: skip
    np.testing.assert_array_equal(np.asarray(decode(encode(packet).to_bytes(), EventPacket).t_ns), [1, 2, 3])


def test_nested_objects_come_back_as_they_were() -> None:
    car = FusedObject(
        id=2**63 + 5, existence_probability=0.9, classes=(ObjectClass("car", 0.9),), center_m=(1.0, 2.0, 3.0),
        rotation_xyzw=(0.0, 0.0, 0.0, 1.0), size_lwh_m=(4.0, 2.0, 1.5), velocity_mps=(1.0, 0.0, 0.0), has_velocity=True,
    )  # fmt: skip
    message = TrackedObjects(header=HEADER, objects=(car, car), odom_from_base_link=(0.0,) * 6 + (1.0,))
    read = decode(encode(message).to_bytes(), TrackedObjects)
    assert read.objects == message.objects
    assert read.odom_from_base_link == message.odom_from_base_link


def test_an_array_of_another_dtype_or_shape_is_refused_when_writing() -> None:
    message = cloud(5)
    with pytest.raises(ShapeError, match="xyz_m is float64; expected float32"):
        encode(PointCloud(header=HEADER, xyz_m=np.zeros((5, 3))))
    with pytest.raises(ShapeError, match=r"xyz_m has shape \(5, 4\); expected \(N, 3\)"):
        encode(PointCloud(header=HEADER, xyz_m=np.zeros((5, 4), np.float32)))
    with pytest.raises(ShapeError, match=r"intensity has shape \(4,\); expected \(N,\) with N = 5"):
        encode(PointCloud(header=HEADER, xyz_m=message.xyz_m, intensity=np.zeros(4, np.float32)))
    stamps = np.zeros(3, np.int64)
    packets = RawPackets(header=HEADER, format="x", data=np.zeros(9, np.uint8), t_packet_ns=stamps, offsets=stamps[:2])
    with pytest.raises(ShapeError, match=r"t_packet_ns has shape \(3,\); expected \(packets,\) with packets = 1"):
        encode(packets)


def test_a_value_beyond_64_bits_is_refused_when_writing() -> None:
    with pytest.raises(MessageError, match="no place in a record"):
        encode(PointCloud(header=HEADER, timing=Timing(t_received_ns=2**64), xyz_m=np.zeros((0, 3), np.float32)))


def test_readers_ignore_unknown_keys_and_fill_in_missing_ones() -> None:
    header, body, *buffers, timing = msgpack.unpackb(encode(cloud()).to_bytes())
    body["from_the_future"] = {"a": [1, 2]}
    header["also_new"] = 1
    del body["intensity_scale"]
    read = decode(msgpack.packb([header, body, *buffers, timing]), PointCloud)
    assert read.intensity_scale == 1.0


def test_a_record_of_another_type_or_version_is_named() -> None:
    data = encode(cloud()).to_bytes()
    with pytest.raises(MessageError, match="where Image"):
        decode(data, Image)
    with pytest.raises(MessageError, match=r"this version reads 'perception\.point_cloud/1'"):
        decode(data.replace(b"perception.point_cloud/1", b"perception.point_cloud/2"))
    with pytest.raises(MessageError, match="unknown schema"):
        decode(data.replace(b"perception.point_cloud/1", b"perception.point_clown/1"))


def test_every_message_type_is_found_by_its_schema() -> None:
    leaves = [leaf for leaf in Message.__subclasses__() if leaf.__module__.startswith("perception.")]
    assert {leaf.SCHEMA for leaf in leaves} == set(MESSAGE_TYPES)


HOSTILE = {
    "nothing": b"",
    "a number": b"\x05",
    "an array of four billion": b"\xdd\xff\xff\xff\xff" + b"\x00" * 64,
    "an array of 65535": b"\xdc\xff\xff" + b"\x00" * 64,
    "a map": b"\x83" + b"\xa1a\x01" * 3,
    "an even count": b"\x94\x80\x80\xc4\x00\x80",
    "deep nesting": b"\x93" + b"\x91" * 200_000 + b"\x01",
    "an ext type": b"\x93\xc7\x01\x05a\x80\x80",
    "a string of four gigabytes": b"\x93\xdb\xff\xff\xff\xffabc",
    "a map of four billion in the header": b"\x93\xdf\xff\xff\xff\xff\x80\x80",
}


@pytest.mark.parametrize("data", HOSTILE.values(), ids=HOSTILE.keys())
def test_bytes_that_are_no_record_are_a_message_error(data: bytes) -> None:
    with pytest.raises(MessageError):
        decode(data)


def forged(body: dict[str, object], buffers: list[object] | None = None) -> bytes:
    header = {"frame_id": "l", "t_sensor_ns": 1, "schema": "perception.point_cloud/1"}
    return bytes(msgpack.packb([header, body, *(buffers or [b"", b"\0" * 12]), {}]))


@pytest.mark.parametrize(
    "where",
    [
        {"dtype": "float32", "shape": [2, 3], "element": 3},  # more than the buffer has
        {"dtype": "float32", "shape": [2**62, 3], "element": 3},  # overflows 64 bits
        {"dtype": "float32", "shape": [-1, 3], "element": 3},
        {"dtype": "float32", "shape": [1, 3], "element": 2},  # a pad
        {"dtype": "float32", "shape": [1, 3], "element": 99},
        {"dtype": "float32", "shape": [1, 3], "element": -2},
        {"dtype": "float32", "shape": [1, 3], "element": 4},  # timing
        {"dtype": "object", "shape": [1, 3], "element": 3},
        {"dtype": "float64", "shape": [1, 3], "element": 3},
        {"dtype": "float32", "shape": [3], "element": 3},
        "text",
        None,
    ],
)
def test_an_array_reference_that_does_not_fit_is_a_message_error(where: object) -> None:
    decode(forged({"xyz_m": {"dtype": "float32", "shape": [1, 3], "element": 3}}))
    with pytest.raises(MessageError):
        decode(forged({"xyz_m": where}))
    with pytest.raises(MessageError):
        decode(forged({"xyz_m": {"dtype": "float32", "shape": [1, 3], "element": 3}}, [b"", 5]))


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_damaged_records_never_do_worse_than_a_message_error(data: st.DataObject) -> None:
    good = encode(cloud(3)).to_bytes()
    damaged = bytearray(good)
    for _ in range(data.draw(st.integers(1, 6))):
        damaged[data.draw(st.integers(0, len(good) - 1))] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(0, len(good)))
    for candidate in (bytes(damaged), good[:cut], good + bytes(damaged[:cut])):
        try:
            message = decode(candidate)
        except MessageError:
            continue
        assert isinstance(message, Message)


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=200))
def test_random_bytes_never_do_worse_than_a_message_error(data: bytes) -> None:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(MessageError):
        decode(data)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000  # kilobytes
