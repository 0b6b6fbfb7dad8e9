"""Planners: real sockets, gaps, restarts, late joiners, and a reader that has only pyzmq and msgpack."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import msgpack
import pytest
import zmq

import perception
from perception.errors import ChannelError, LaunchFileError, UserError
from perception.messages import GraphState, Header, Status, Timing
from perception.messages.codec import encode
from perception.runtime.publisher import Publisher


def state(seq: int, *, epoch: int = 0, run: str = "a") -> bytes:
    header = Header(frame_id="", t_sensor_ns=time.time_ns(), seq=seq, epoch=epoch, run=run)
    return encode(GraphState(header=header, state="ok", reasons=(), sensors={}, nodes={})).to_bytes()


@pytest.fixture
def publisher(tmp_path: Path) -> Iterator[Publisher]:
    made = Publisher(f"ipc://{tmp_path}/car.ipc")
    yield made
    made.close()


def settle(publisher: Publisher) -> None:
    """Wait until subscriptions have arrived."""
    for _ in range(20):
        time.sleep(0.01)
        publisher.greet()


def test_a_planner_gets_what_it_subscribed_to_with_its_age(publisher: Publisher) -> None:
    with perception.subscribe(publisher.endpoint, ["state"]) as subscription:
        settle(publisher)
        publisher.publish("state2", state(0))
        publisher.publish("state", state(0))
        received = subscription.receive(2)
        assert received is not None
        assert (received.topic, received.gap, received.restarted) == ("state", 0, False)
        assert 0 <= received.age_ms < 2000
        assert subscription.receive(0.05) is None


def test_data_without_host_time_is_as_old_as_its_arrival_in_the_graph(publisher: Publisher) -> None:
    now_ns = time.time_ns()
    header = Header(frame_id="", t_sensor_ns=5, clock="simulated")
    timing = Timing(t_received_ns=now_ns - 300_000_000, t_published_ns=now_ns)
    message = GraphState(header=header, timing=timing, state="ok", reasons=(), sensors={}, nodes={})
    with perception.subscribe(publisher.endpoint, ["state"]) as subscription:
        settle(publisher)
        publisher.publish("state", encode(message).to_bytes())
        received = subscription.receive(2)
        assert received is not None
        assert 300 <= received.age_ms < 2300


def test_lost_messages_are_a_gap_and_a_new_epoch_is_a_restart(publisher: Publisher) -> None:
    with perception.subscribe(publisher.endpoint, ["state"], keep="all") as subscription:
        settle(publisher)
        found = []
        for record in (state(0), state(3), state(0, epoch=1), state(1, epoch=1), state(0, run="b")):
            publisher.publish("state", record)
            received = subscription.receive(2)
            assert received is not None
            found.append((received.gap, received.restarted))
        assert found == [(0, False), (2, False), (0, True), (0, False), (0, True)]


def status(process: str, seq: int, *, epoch: int = 0) -> bytes:
    header = Header(frame_id="", t_sensor_ns=time.time_ns(), seq=seq, epoch=epoch, run="a")
    return encode(Status(header=header, process=process, host="box", pid=1, nodes=())).to_bytes()


def test_the_processes_that_share_the_topic_of_statuses_are_counted_apart(publisher: Publisher) -> None:
    sent = (("a", 8, 0), ("b", 3, 1), ("a", 9, 0), ("b", 6, 1), ("a", 10, 0), ("b", 0, 2))
    with perception.subscribe(publisher.endpoint, ["status"], keep="all") as subscription:
        settle(publisher)
        found = []
        for process, seq, epoch in sent:
            publisher.publish("status", status(process, seq, epoch=epoch))
            received = subscription.receive(2)
            assert received is not None
            found.append((received.gap, received.restarted))
        assert found == [(0, False), (0, False), (0, False), (2, False), (0, False), (0, True)]
    with perception.subscribe(publisher.endpoint, ["status"]) as subscription:
        settle(publisher)
        for process, seq in (("a", 11), ("b", 1), ("a", 12), ("b", 2)):
            publisher.publish("status", status(process, seq, epoch=2))
        time.sleep(0.1)
        newest = [subscription.receive(2), subscription.receive(2)]
        assert [(m.message.process, m.message.header.seq) for m in newest] == [("a", 12), ("b", 2)]  # type: ignore[union-attr]


def test_the_newest_message_wins_and_what_it_replaced_is_counted(publisher: Publisher) -> None:
    with perception.subscribe(publisher.endpoint) as subscription:
        settle(publisher)
        publisher.publish("state", state(0))
        assert subscription.receive(2) is not None
        for seq in range(1, 3):  # as many as the high-water mark lets wait
            publisher.publish("state", state(seq))
            time.sleep(0.05)
        received = subscription.receive(2)
        assert received is not None
        assert (received.message.header.seq, received.gap) == (2, 1)


def test_a_late_joiner_gets_the_last_record_at_once(publisher: Publisher) -> None:
    publisher.publish("state", state(41))
    with perception.subscribe(publisher.endpoint, ["state"]) as subscription:
        settle(publisher)
        received = subscription.receive(2)
        assert received is not None
        assert received.message.header.seq == 41


def test_pyzmq_and_msgpack_are_enough(publisher: Publisher) -> None:
    context = zmq.Context()
    socket = context.socket(zmq.SUB)
    socket.connect(publisher.endpoint)
    socket.subscribe("state")
    settle(publisher)
    publisher.publish("state", state(5))
    topic, data = socket.recv_multipart()
    header, body, _timing = msgpack.unpackb(data)
    assert (topic, header["seq"], body["state"]) == (b"state", 5, "ok")
    socket.close()
    context.term()


def test_nonsense_on_the_socket_is_counted_and_skipped(publisher: Publisher) -> None:
    with perception.subscribe(publisher.endpoint) as subscription:
        settle(publisher)
        publisher.publish("state", b"nonsense")
        publisher.publish("state", state(1))
        received = subscription.receive(2)
        assert received is not None
        assert received.message.header.seq == 1
        assert subscription.unreadable == 1


def test_an_endpoint_in_use_is_one_clear_line(publisher: Publisher, tmp_path: Path) -> None:
    with pytest.raises(LaunchFileError, match="is in use by another graph"):
        Publisher(publisher.endpoint)
    tcp = Publisher("tcp://127.0.0.1:*")
    port = tcp._socket.getsockopt_string(zmq.LAST_ENDPOINT)
    with pytest.raises(LaunchFileError, match="cannot be used"):
        Publisher(port)
    tcp.close()
    with pytest.raises(LaunchFileError, match="cannot be used"):
        Publisher(f"ipc://{tmp_path}/no/such/folder/x.ipc")


def test_a_planner_without_a_graph_is_told(tmp_path: Path) -> None:
    with (
        perception.subscribe(f"ipc://{tmp_path}/none.ipc", timeout_s=0.05) as subscription,
        pytest.raises(ChannelError, match="is the graph running"),
    ):
        next(iter(subscription))
    with pytest.raises(UserError, match="is no endpoint"):
        perception.subscribe("nowhere")


def test_the_socket_file_is_gone_after_closing(tmp_path: Path) -> None:
    made = Publisher(f"ipc://{tmp_path}/gone.ipc")
    made.close()
    assert not (tmp_path / "gone.ipc").exists()
