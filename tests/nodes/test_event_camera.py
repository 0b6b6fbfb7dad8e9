"""Event cameras: iniVation's network streams from another process, a real recording among them, and Prophesee's SDK.

No camera was attached. The Metavision SDK is not installed here either: a module stands in its place that has the part
of its interface that the driver calls, and gives the events of a real recording.
"""

import json
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from perception.errors import NotInstalledError, UserError
from perception.messages import EventPacket
from perception.messages.array import host
from perception.nodes import _event_devices
from perception.nodes.event_camera import EventCamera, EventCameraConfig
from perception.runtime.node import Bound, NodeSetup

NOWHERE = NodeSetup(name="camera", rig=None, inputs={}, search_folders=())
SERVER = """
import sys, time
import dv_processing as dv
port, first_us, recording = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
batches = []
if recording:
    source = dv.io.MonoCameraRecording(recording)
    size = source.getEventResolution()
    while source.isRunning("events"):
        batch = source.getNextEventBatch()
        batches += [batch] if batch is not None else []
else:
    size = (320, 240)
    for k in range(40):
        batch = dv.EventStore()
        for i in range(50):
            batch.push_back(first_us + k * 10_000 + i * 200, (k * 50 + i) % 320, i % 240, i % 2 == 0)
        batches.append(batch)
stream = dv.io.Stream.EventStream(0, "events", "TEST_01", size)
writer = dv.io.NetworkWriter("127.0.0.1", port, stream)
print("up", flush=True)
while writer.getClientCount() == 0:
    time.sleep(0.001)
began, first = time.monotonic(), batches[0].getLowestTime()
for batch in batches:
    time.sleep(max(0.0, (batch.getHighestTime() - first) / 1e6 - (time.monotonic() - began)))
    writer.writeEvents(batch)
time.sleep(60)
"""


def free_port() -> int:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Camera:
    """Another process that serves events by dv-processing's own writer; it dies as a camera whose plug is drawn."""

    def __init__(self, port: int, first_us: int = 1_000_000, recording: str = "") -> None:
        command = [sys.executable, "-c", SERVER, str(port), str(first_us), recording]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == "up\n"

    def __enter__(self) -> "Camera":
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.communicate()


def listened(driver: EventCamera, seconds: float = 60.0) -> Iterator[object]:
    end = time.monotonic() + seconds
    for _, item in driver.messages():
        yield item
        if time.monotonic() > end:
            return


def driver_of(port: int, **settings: object) -> EventCamera:
    return EventCamera(
        EventCameraConfig.model_validate({"device": "dv_network", "port": port, "sensor": "events", **settings})
    )


def test_a_real_recording_sent_at_real_speed_arrives_event_for_event(data_folder: Path) -> None:
    pytest.importorskip("dv_processing")
    port = free_port()
    recording = data_folder / "events" / "tonic_sample.aedat4"
    expected = json.loads((data_folder / "events" / "expected.json").read_text())[recording.name]
    packets: list[EventPacket] = []
    with Camera(port, recording=str(recording)):
        for item in listened(driver_of(port, stamps="sensor")):
            packets += [item] if isinstance(item, EventPacket) else []
            if sum(len(host(packet.t_ns)) for packet in packets) >= expected["n_events"]:
                break
    t_us, x, y, polarity = (
        np.concatenate([host(getattr(packet, name)) for packet in packets]).astype(np.int64)
        for name in ("t_ns", "x", "y", "polarity")
    )
    t_us //= 1000
    assert len(t_us) == expected["n_events"]
    assert (t_us[0], t_us[-1]) == (expected["t_first"], expected["t_last"])
    assert (t_us - t_us[0]).sum() == expected["sum_t_minus_first"]
    assert (x.sum(), y.sum(), polarity.sum()) == (expected["sum_x"], expected["sum_y"], expected["n_on"])
    assert [packets[0].width_px, packets[0].height_px] == expected["sensor_wh"]
    assert packets[-1].events_before == expected["n_events"] - len(host(packets[-1].t_ns))


def test_a_camera_that_starts_anew_with_another_clock_goes_on_in_the_hosts_time() -> None:
    pytest.importorskip("dv_processing")
    port = free_port()
    driver = driver_of(port)
    began_ns = time.time_ns()
    packets: list[EventPacket] = []
    items = listened(driver)
    with Camera(port, first_us=10**15):
        for item in items:
            packets += [item] if isinstance(item, EventPacket) else []
            if len(packets) >= 20:
                break
    before = len(packets)
    bounds = [next(items) for _ in range(3)]
    while not any(isinstance(item, Bound) for item in bounds):
        bounds.append(next(items))
    with Camera(port, first_us=0):
        for item in items:
            packets += [item] if isinstance(item, EventPacket) else []
            if len(packets) >= before + 20:
                break
    times = np.concatenate([host(packet.t_ns) for packet in packets])
    assert (np.diff(times) >= 0).all()
    assert began_ns < times[0] < times[-1] <= time.time_ns()
    assert {packet.header.clock for packet in packets} == {"host"}
    (note,) = driver.monitor.notes(time.monotonic_ns())
    assert "1 reconnections" in note
    assert "jumps of its clock: 1" in note


class _Iterator:
    """Metavision's EventsIterator, as far as the driver uses it; a folder of arrays takes the place of the camera."""

    batches: tuple[np.ndarray, ...] = ()

    def __init__(self, input_path: str, delta_t: int) -> None:
        assert delta_t == 10_000
        if input_path == "missing":
            raise RuntimeError("Camera not found. Check that a camera is plugged")

    def get_size(self) -> tuple[int, int]:
        return 720, 1280  # height, width, in this order

    def __iter__(self) -> Iterator[Any]:
        return iter(self.batches)


@pytest.fixture
def metavision(monkeypatch: pytest.MonkeyPatch) -> None:
    package, module = ModuleType("metavision_core"), ModuleType("metavision_core.event_io")
    module.EventsIterator = _Iterator  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "metavision_core", package)
    monkeypatch.setitem(sys.modules, "metavision_core.event_io", module)


@pytest.mark.usefixtures("metavision")
def test_batches_of_the_metavision_interface_become_packets(data_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stored = np.load(data_folder / "events" / "expelliarmus_evt3_sample.npy")
    kind = np.dtype([("x", "<u2"), ("y", "<u2"), ("p", "<i2"), ("t", "<i8")])
    rows = np.zeros(len(stored), kind)
    for name, of in zip(("t", "x", "y", "p"), stored.dtype.names or range(4), strict=True):
        rows[name] = stored[of] if stored.dtype.names else stored[:, of]
    parts = np.array_split(rows, 6)
    monkeypatch.setattr(_Iterator, "batches", (parts[0], rows[:0], *parts[1:]))
    driver = EventCamera(EventCameraConfig(device="metavision", stamps="sensor"))
    packets = [item[1] for item in driver.received() if item is not None]
    assert all(isinstance(packet, EventPacket) for packet in packets)
    for ours, theirs, scale in (("t_ns", "t", 1000), ("x", "x", 1), ("y", "y", 1), ("polarity", "p", 1)):
        together = np.concatenate([host(getattr(packet, ours)) for packet in packets])
        np.testing.assert_array_equal(together, rows[theirs].astype(np.int64) * scale)
    assert {(p.width_px, p.height_px) for p in packets if isinstance(p, EventPacket)} == {(1280, 720)}
    lost = EventCamera(EventCameraConfig(device="metavision", serial="missing"))
    with pytest.raises(ConnectionError, match="missing: Camera not found"):
        list(lost.received())


def test_without_the_sdk_what_to_install_is_said_at_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_event_devices, "find_spec", lambda _: None)
    with pytest.raises(NotInstalledError, match="Metavision SDK, or OpenEB"):
        EventCamera.create(EventCameraConfig(device="metavision"), NOWHERE)
    with pytest.raises(NotInstalledError, match=r"perception-runtime\[events\]"):
        EventCamera.create(EventCameraConfig(), NOWHERE)
    with pytest.raises(UserError, match="`serial` names a camera on USB"):
        EventCamera.topics(EventCameraConfig(device="dv_network", serial="DVX1"), NOWHERE)


def test_an_inivation_camera_that_is_not_plugged_in_is_a_lost_connection_and_no_crash() -> None:
    pytest.importorskip("dv_processing")
    driver = EventCamera(EventCameraConfig(serial="NONE0000"))
    assert isinstance(next(listened(driver)), Bound)
    assert driver.monitor.failure == "NONE0000: Could not find device with given serial number"
