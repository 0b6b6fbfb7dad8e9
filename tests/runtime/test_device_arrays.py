"""Arrays on a device, with a fake one: nodes of a process share them; only who is outside gets a copy on the host."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from perception.messages import Header, Message, PointCloud, host
from perception.messages.array import DeviceArray
from perception.messages.codec import decode, encode
from perception.runtime.graph import Edge, Graph
from perception.runtime.group import Group
from perception.runtime.node import Node, On, Out
from perception.runtime.output_stamper import RunContext
from perception.runtime.ownership import on_host
from tests.runtime.graphs import cloud, spec


class FakeDeviceArray:
    """An array that is filled late: its values are there once somebody waited for the producer's event."""

    def __init__(self, values: NDArray[Any]) -> None:
        self._values, self._ready = values, False
        self.shape, self.dtype = values.shape, values.dtype
        self.waits = self.copies = 0

    def wait(self, stream: Any = None) -> None:
        self.waits += 1
        self._ready = True

    def to_host(self) -> NDArray[Any]:
        self.wait()
        self.copies += 1
        return self._values.copy()

    def on_device(self) -> NDArray[Any]:
        """Read it as a consumer on the same device does."""
        assert self._ready, "read before the producer's event"
        return self._values

    def __dlpack__(self, **kwargs: Any) -> Any:
        return self._values.__dlpack__()

    def __dlpack_device__(self) -> tuple[int, int]:
        return (2, 0)


class Producer(Node):
    """Gives out an array that is on its device."""

    sweep = On[PointCloud]()
    out = Out[PointCloud]()

    def on_sweep(self, sweep: PointCloud) -> PointCloud:
        return PointCloud(header=sweep.header, xyz_m=FakeDeviceArray(host(sweep.xyz_m) * 2))


class Consumer(Node):
    """Waits for the event on its own stream, and reads on the device."""

    sweep = On[PointCloud]()
    out = Out[PointCloud]()

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[FakeDeviceArray] = []

    def on_sweep(self, sweep: PointCloud) -> PointCloud:
        array = sweep.xyz_m
        assert isinstance(array, FakeDeviceArray)
        array.wait(stream="mine")
        self.seen.append(array)
        return PointCloud(header=sweep.header, xyz_m=array.on_device() + np.float32(1))


def run(outside: bool) -> tuple[Consumer, list[tuple[str, Message]]]:
    """Run producer and consumer in one group; `outside`: a reader in another process gets every message."""
    consumer = Consumer()
    specs = (
        spec("producer", [Edge("lidar/points", "sweep", PointCloud)], {"out": "made"}),
        spec("consumer", [Edge("made", "sweep", PointCloud)], {"out": "used"}),
    )
    types: dict[str, type[Message]] = dict.fromkeys(("lidar/points", "made", "used"), PointCloud)
    graph = Graph(name="device", nodes=specs, outputs=(), sensors=(), message_types=types, endpoint="")
    emitted: list[tuple[str, Message]] = []

    def emit(topic: str, message: Message) -> None:
        if outside:
            record = encode(on_host(message, "networks", lambda: 5)).to_bytes()
            emitted.append((topic, decode(record, PointCloud)))

    group = Group(
        graph, {"producer": Producer(), "consumer": consumer}, RunContext(run="x"), emit, lambda topic, t_ns: None
    )
    group.offer("lidar/points", cloud(100, 3.0))
    group.run_until_idle()
    return consumer, emitted


def test_nodes_of_one_process_hand_a_device_array_on_without_a_copy() -> None:
    consumer, _ = run(outside=False)
    (array,) = consumer.seen
    assert isinstance(array, DeviceArray)
    assert (array.copies, array.waits) == (0, 1)


def test_a_reader_outside_gets_one_copy_on_the_host_as_a_span_of_its_own() -> None:
    consumer, emitted = run(outside=True)
    (array,) = consumer.seen
    assert array.copies == 1
    by_topic = dict(emitted)
    made, used = by_topic["made"], by_topic["used"]
    assert isinstance(made, PointCloud)
    assert isinstance(used, PointCloud)
    np.testing.assert_array_equal(host(made.xyz_m), np.full((3, 3), 6.0))
    np.testing.assert_array_equal(host(used.xyz_m), np.full((3, 3), 7.0))
    assert made.timing.spans[-1].stage == "networks copies to host"
    assert all("host" not in span.stage for span in used.timing.spans)


def test_a_message_of_host_arrays_passes_as_it_is() -> None:
    message = PointCloud(header=Header(frame_id="lidar", t_sensor_ns=1), xyz_m=np.zeros((2, 3), np.float32))
    assert on_host(message, "p", lambda: 0) is message
