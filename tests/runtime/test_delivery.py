"""Planners that stop, flood or send nonsense; keys; snapshots; a graph that falls silent; objects at other instants."""

from __future__ import annotations

import multiprocessing
import os
import signal
import socket
import struct
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec
import numpy as np
import psutil
import pytest
import zmq

import perception
from perception.errors import ChannelError, LaunchFileError, MessageError, UserError
from perception.messages import (
    FusedObject,
    GraphState,
    Header,
    ObjectClass,
    ObjectMotion,
    SegmentationMask,
    TrackedObjects,
)
from perception.messages.codec import encode
from perception.runtime.curve_keys import client_keys, new_keys, publisher_keys
from perception.runtime.publisher import Publisher, is_local, snapshot_of

SECOND_NS = 1_000_000_000


def state(seq: int, word: str = "ok", period_ns: int = 500_000_000) -> bytes:
    header = Header(frame_id="", t_sensor_ns=time.time_ns(), seq=seq, run="a")
    made = GraphState(header=header, state="ok", reasons=(), sensors={}, nodes={}, period_ns=period_ns)
    return encode(msgspec.structs.replace(made, state=word)).to_bytes()


def car(**changes: object) -> FusedObject:
    covariance = np.diag([0.04, 0.04, 0.01, 0.25, 0.01])[np.triu_indices(5)]
    made = FusedObject(
        id=1, existence_probability=0.9, classes=(ObjectClass("car", 1.0),), center_m=(10.0, 2.0, 0.5),
        rotation_xyzw=(0.0, 0.0, 0.0, 1.0), size_lwh_m=(4.0, 2.0, 1.5), velocity_mps=(8.0, 0.0, 0.0), has_velocity=True,
        covariance_pose=(0.04, *[0.0] * 5, 0.04, *[0.0] * 4, 0.1, *[0.0] * 8, 0.01),
        motion=ObjectMotion("turning", 0.0, 2.0, 0.5, tuple(covariance.tolist())),
    )  # fmt: skip
    return msgspec.structs.replace(made, **changes)


def objects(t_ns: int, *things: FusedObject, valid_ms: float = 500, seq: int = 0) -> TrackedObjects:
    header = Header(frame_id="base_link", t_sensor_ns=t_ns, run="a", seq=seq)
    return TrackedObjects(header=header, objects=things, valid_until_ns=t_ns + round(valid_ms * 1e6))


@pytest.fixture
def publisher(tmp_path: Path) -> Iterator[Publisher]:
    made = Publisher(f"ipc://{tmp_path}/car.ipc")
    yield made
    made.close()


def settle(publisher: Publisher, seconds: float = 0.3) -> None:
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        time.sleep(0.01)
        publisher.greet()


def stand_still(endpoint: str, ready: object) -> None:
    """A planner that subscribes to everything and is then stopped."""
    context = zmq.Context()
    reader = context.socket(zmq.SUB)
    reader.setsockopt(zmq.RCVHWM, 2)
    reader.connect(endpoint)
    reader.subscribe("")
    reader.recv_multipart()
    ready.set()  # type: ignore[attr-defined]
    time.sleep(600)


def test_a_stopped_planner_and_a_gigabit_of_output_cost_the_graph_nothing(publisher: Publisher) -> None:
    """Its memory stays where it was, and another planner gets every message."""
    spawn = multiprocessing.get_context("spawn")
    ready = spawn.Event()
    stopped = spawn.Process(target=stand_still, args=(publisher.endpoint, ready), daemon=True)
    stopped.start()
    mask = SegmentationMask(
        header=Header(frame_id="cam", t_sensor_ns=0, run="a"), classes=("road",), label=np.zeros((1000, 1000), np.uint8)
    )
    try:
        while not ready.is_set():
            publisher.publish("mask", encode(mask).to_bytes())
            time.sleep(0.02)
        assert stopped.pid is not None
        os.kill(stopped.pid, signal.SIGSTOP)
        with perception.subscribe(publisher.endpoint, ["mask"], keep="all") as planner:
            settle(publisher)
            while planner.receive(0.1) is not None:
                pass
            before = psutil.Process().memory_info().rss
            for seq in range(1, 126):  # 125 megabytes are a gigabit
                header = msgspec.structs.replace(mask.header, seq=seq)
                publisher.publish("mask", encode(msgspec.structs.replace(mask, header=header)).to_bytes())
                received = planner.receive(5)
                assert received is not None
                assert received.message.header.seq == seq
            grown = psutil.Process().memory_info().rss - before
        assert grown < 60e6  # the high-water mark of 2 a topic, 8 topics, of a megabyte each, on both sides
    finally:
        os.kill(stopped.pid or 0, signal.SIGKILL)
        stopped.join()


def test_a_flood_of_subscriptions_is_forgotten_and_others_go_on(
    publisher: Publisher, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("perception.runtime.publisher.MAX_WISHES", 3000)
    context = zmq.Context()
    flood = context.socket(zmq.XSUB)
    flood.setsockopt(zmq.SNDHWM, 0)
    flood.connect(publisher.endpoint)
    with perception.subscribe(publisher.endpoint, ["state"]) as planner:
        settle(publisher)
        for number in range(6000):
            flood.send(b"\x01" + str(number).encode())
        until = time.monotonic() + 20
        while not publisher.begun_anew and time.monotonic() < until:
            publisher.publish("state", state(0))
        assert publisher.begun_anew
        flood.close(linger=0)
        for seq in range(1, 200):  # the honest one comes back by itself
            publisher.publish("state", state(seq))
            received = planner.receive(0.1)
            if received is not None and received.message.header.seq:
                break
        else:
            pytest.fail("the planner never came back")
    context.term()


def test_garbage_on_the_port_ends_with_its_connection() -> None:
    publisher = Publisher("tcp://127.0.0.1:*")
    endpoint = publisher._socket.getsockopt_string(zmq.LAST_ENDPOINT)
    host, _, port = endpoint.removeprefix("tcp://").rpartition(":")
    noise = [b"\x00" * 4096, b"GET / HTTP/1.1\r\n\r\n", os.urandom(4096)]
    # a peer that greets as ZeroMQ 3.1 NULL SUB does and then announces a frame of a terabyte
    greeting = b"\xff" + b"\x00" * 8 + b"\x7f\x03\x00NULL" + b"\x00" * 16 + b"\x00" * 32
    ready = b"\x05READY\x0bSocket-Type\x00\x00\x00\x03SUB"
    noise.append(greeting + b"\x04" + bytes([len(ready)]) + ready + b"\x02" + struct.pack(">Q", 1 << 40))
    peers = []
    for bytes_sent in noise:
        peer = socket.create_connection((host, int(port)))
        peer.sendall(bytes_sent)
        peers.append(peer)
    with perception.subscribe(endpoint, ["state"]) as planner:
        settle(publisher)
        publisher.publish("state", state(1))
        received = planner.receive(5)
        assert received is not None
        peers[-1].settimeout(5)
        while peers[-1].recv(4096):
            pass  # it is cut off, rather than waited for
    for peer in peers:
        peer.close()
    publisher.close()


def test_a_snapshot_is_given_on_request(publisher: Publisher) -> None:
    publisher.publish("state", state(4))
    publisher.publish("objects", encode(objects(5, seq=9)).to_bytes())
    context = zmq.Context()
    request = context.socket(zmq.REQ)
    request.connect(publisher.snapshot_endpoint)
    request.send(b"objects")
    settle(publisher)
    topic, record = request.recv_multipart()
    assert (topic, msgspec.msgpack.decode(record)[0]["seq"]) == (b"objects", 9)
    request.send(b"")
    settle(publisher)
    assert request.recv_multipart()[::2] == [b"state", b"objects"]
    request.send(b"nothing of the sort")
    settle(publisher)
    assert request.recv_multipart() == [b""]
    request.close()
    context.term()


@pytest.mark.parametrize(
    "endpoint", ["tcp://0.0.0.0:5599", "tcp://*:5599", "tcp://192.168.7.7:5599", "tcp://[::]:5599"]
)
def test_an_endpoint_that_others_can_reach_needs_keys(endpoint: str) -> None:
    with pytest.raises(LaunchFileError, match="can be reached from other machines, and has no CURVE keys"):
        Publisher(endpoint)


def test_an_open_endpoint_must_be_named_twice() -> None:
    with pytest.raises(LaunchFileError, match="can be reached"):
        Publisher("tcp://0.0.0.0:*", open_endpoint="tcp://0.0.0.0:1")
    Publisher("tcp://0.0.0.0:*", open_endpoint="tcp://0.0.0.0:*").close()
    assert all(
        map(is_local, ("ipc:///a", "tcp://127.0.0.1:1", "tcp://127.9.9.9:1", "tcp://[::1]:1", "tcp://localhost:1"))
    )
    assert snapshot_of("tcp://127.0.0.1:5560") == "tcp://127.0.0.1:6560"


def test_only_clients_with_a_key_get_anything(tmp_path: Path) -> None:
    keys = tmp_path / "keys"
    planner_keys = new_keys(keys, "planner")
    stranger_keys = new_keys(tmp_path / "other", "planner")
    (stranger_keys / "publisher.key").write_bytes((keys / "publisher.key").read_bytes())
    assert (keys / "publisher.key_secret").stat().st_mode & 0o077 == 0
    publisher = Publisher("tcp://127.0.0.1:*", keys=publisher_keys(keys))
    endpoint = publisher._socket.getsockopt_string(zmq.LAST_ENDPOINT)
    with (
        perception.subscribe(endpoint, ["state"], keys=planner_keys) as planner,
        perception.subscribe(endpoint, ["state"], keys=stranger_keys) as stranger,
        perception.subscribe(endpoint, ["state"]) as open_reader,
    ):
        received = None
        for seq in range(100):
            publisher.publish("state", state(seq))
            received = received or planner.receive(0.05)
        assert received is not None
        assert stranger.receive(0.2) is None
        assert open_reader.receive(0.1) is None
    publisher.close()


def test_keys_that_cannot_be_used_are_told(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no name for a client"):
        new_keys(tmp_path, "../evil")
    with pytest.raises(UserError, match="cannot be read as a CURVE key"):
        publisher_keys(tmp_path)
    made = new_keys(tmp_path, "planner")
    with pytest.raises(UserError, match="has keys for 'planner' already"):
        new_keys(tmp_path, "planner")
    with pytest.raises(UserError, match="holds 0 secret keys of a client"):
        client_keys(tmp_path)
    assert client_keys(made).publisher == publisher_keys(tmp_path).public


def test_silence_for_two_periods_means_unsafe(publisher: Publisher) -> None:
    with perception.subscribe(publisher.endpoint, ["objects"]) as planner:
        assert planner.safety().state == "unsafe"
        settle(publisher)
        publisher.publish("state", state(0, "degraded", period_ns=300_000_000))
        until = time.monotonic() + 5
        while planner.safety().state == "unsafe" and time.monotonic() < until:
            time.sleep(0.01)
        assert planner.safety().state == "degraded"
        assert planner.receive(0.05) is None  # the state is not among the topics that were asked for
        time.sleep(0.65)
        assert planner.safety().state == "unsafe"
        assert "silent for" in planner.safety().reasons[0]


def test_objects_move_on_and_become_less_certain(publisher: Publisher) -> None:
    with perception.subscribe(publisher.endpoint, ["objects"]) as planner:
        with pytest.raises(ChannelError, match="no objects have come"):
            planner.at(0)
        settle(publisher)
        publisher.publish("objects", encode(objects(SECOND_NS, car())).to_bytes())
        assert planner.receive(5) is not None
        moved = planner.at(SECOND_NS + SECOND_NS // 4)
        (thing,) = moved.objects
        assert thing.center_m == pytest.approx((12.0, 2.0, 0.5))
        assert moved.header.t_sensor_ns == SECOND_NS + SECOND_NS // 4
        # along the road: 0.04 + (1/4)^2 * 0.25 of the speed, and (1/32)^2 * 2^2 of what it may accelerate
        assert thing.covariance_pose is not None
        assert thing.covariance_pose[0] == pytest.approx(0.04 + 0.25 / 16 + 4 / 1024)
        # across: 0.04 + (8/4)^2 * 0.01 of the heading, (8/32)^2 * 0.01 of the turn rate, and a half of what it may
        # accelerate, since it need not go where its heading points
        assert thing.covariance_pose[6] == pytest.approx(0.04 + 4 * 0.01 + 0.01 / 16 + 0.25 * 4 / 1024)
        assert planner.at(SECOND_NS).objects[0].covariance_pose[0] == pytest.approx(0.04)  # type: ignore[index]
        with pytest.raises(MessageError, match="valid for 500 ms and are asked for 501 ms after"):
            planner.at(SECOND_NS + 501_000_000)
        with pytest.raises(MessageError, match="before their stamp"):
            planner.at(SECOND_NS - 1)


def test_an_object_of_unknown_velocity_stays_and_its_doubt_grows_fast(publisher: Publisher) -> None:
    from perception.runtime.prediction import objects_at

    still = car(has_velocity=False, velocity_mps=None, motion=None)
    (thing,) = objects_at(objects(0, still), SECOND_NS // 10).objects
    assert thing.center_m == still.center_m
    assert thing.covariance_pose is not None
    assert thing.covariance_pose[0] == pytest.approx(0.04 + 1.0)


@pytest.mark.parametrize("kind", ["turning", "straight"])
def test_planners_move_objects_as_the_tracker_does(kind: str) -> None:
    from perception.runtime.prediction import objects_at
    from perception.tracking.motion import STRAIGHT, TURNING, predict

    random = np.random.default_rng(3)
    root = random.normal(size=(5, 5))
    cov, yaw, rate = root @ root.T, 0.7, 0.3
    speed = np.array([6.0 * np.cos(yaw), 6.0 * np.sin(yaw)]) if kind == "turning" else np.array([3.0, -2.0])
    motion = ObjectMotion("turning" if kind == "turning" else "straight", rate, 2.0, 0.5,
                          tuple(cov[np.triu_indices(5)].tolist()))  # fmt: skip
    thing = car(velocity_mps=(*speed.tolist(), 0.0), motion=motion,
                rotation_xyzw=(0.0, 0.0, float(np.sin(yaw / 2)), float(np.cos(yaw / 2))))  # fmt: skip
    (moved,) = objects_at(objects(0, thing), 400_000_000).objects
    mean = np.array([10.0, 2.0, yaw, 6.0, rate] if kind == "turning" else [10.0, 2.0, yaw, *speed])
    expected, model = cov.copy(), TURNING if kind == "turning" else STRAIGHT
    predict(mean, expected, model, 2.0, 0.5, 0.4, np.empty((5, 5)), np.empty((5, 5)))
    np.testing.assert_allclose(moved.center_m[:2], mean[:2], atol=1e-9)
    assert moved.motion is not None
    np.testing.assert_allclose(moved.motion.covariance, expected[np.triu_indices(5)], rtol=1e-7, atol=1e-9)


def test_a_planner_may_name_a_topic_alone(publisher: Publisher, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PERCEPTION_ENDPOINT", publisher.endpoint)
    with perception.subscribe("objects") as planner:
        assert planner.endpoint == publisher.endpoint


def test_one_topic_may_be_given_by_itself(publisher: Publisher) -> None:
    with perception.subscribe(publisher.endpoint, "objects") as planner:
        settle(publisher)
        publisher.publish("mask", state(0))
        publisher.publish("objects", encode(objects(5, seq=9)).to_bytes())
        found = planner.receive(5.0)
    assert found is not None
    assert found.topic == "objects"
