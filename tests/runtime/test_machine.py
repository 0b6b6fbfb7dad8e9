"""Full disks, heat and full shared memory are noticed, said, and do not end a process."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from perception.errors import ChannelError
from perception.messages.codec import encode
from perception.runtime import machine, shared_memory
from perception.runtime.health import Health
from perception.runtime.machine import MachineWatch
from perception.runtime.shared_memory import SharedMemoryHost, TopicLimits, remove_leftovers
from tests.runtime.graphs import cloud, graph


def zone(system: Path, degrees: float, *, passive: float = 95.0) -> None:
    folder = system / "class/thermal/thermal_zone0"
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in {
        "type": "x86_pkg_temp", "temp": str(round(degrees * 1000)), "trip_point_0_type": "active",
        "trip_point_0_temp": "40000", "trip_point_1_type": "passive", "trip_point_1_temp": str(round(passive * 1000)),
    }.items():  # fmt: skip
        (folder / name).write_text(text + "\n")


def throttled(system: Path, count: int) -> None:
    folder = system / "devices/system/cpu/cpu0/thermal_throttle"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "core_throttle_count").write_text(f"{count}\n")


def test_a_machine_in_order_has_no_fault(tmp_path: Path) -> None:
    zone(tmp_path, 60)
    assert MachineWatch((tmp_path,), tmp_path, tmp_path).faults() == []


def test_heat_is_said_close_to_where_the_kernel_slows_the_machine_down(tmp_path: Path) -> None:
    watch = MachineWatch((), tmp_path, tmp_path)
    zone(tmp_path, 93)
    assert watch.faults() == ["x86_pkg_temp is at 93 degrees, 95 slow it down"]


def test_slowing_down_for_heat_is_said_once_each_time(tmp_path: Path) -> None:
    throttled(tmp_path, 7)
    watch = MachineWatch((), tmp_path, tmp_path)
    assert watch.faults() == []
    throttled(tmp_path, 9)
    assert watch.faults() == ["the processor was slowed down for heat 2 times"]
    assert watch.faults() == []


def test_a_clock_that_loses_its_synchronisation_is_said_and_one_that_never_had_it_is_not(tmp_path: Path) -> None:
    states = iter([False, True, False, True])
    watch = MachineWatch((), tmp_path, tmp_path, synchronised=lambda: next(states))
    said = [watch.faults() for _ in range(4)]
    assert said == [[], [], ["this host's clock has lost its synchronisation"], []]


def test_a_full_disk_and_full_shared_memory_are_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    memory, disk = tmp_path / "memory", tmp_path / "disk"
    monkeypatch.setattr(machine, "used_share", {memory: 0.97, disk: 0.96}.get)
    watch = MachineWatch((disk,), memory, tmp_path)
    assert watch.faults() == ["shared memory is 97% full", f"the disk of {disk} is 96% full"]
    health = Health(replace(graph([], {})), 0)
    health.machine_faults(watch.faults())
    assert health.state(0, 0, "run").state == "degraded"


def test_full_shared_memory_refuses_a_record_instead_of_ending_the_process(monkeypatch: pytest.MonkeyPatch) -> None:
    run = "00000fa1"
    try:
        host = SharedMemoryHost(run, "alone", {"lidar/points": TopicLimits(1, 2, 4)}, 1)
        writer, reader = host.writer("lidar/points"), host.reader("lidar/points", 2, 4)
        record = encode(cloud(0, points=1000))
        monkeypatch.setattr(shared_memory, "free_bytes", lambda: 1 << 20)
        monkeypatch.setattr(shared_memory, "_ROOM", shared_memory._Room())
        with pytest.raises(ChannelError, match="shared memory is full"):
            writer.write(record)
        assert reader.take() is None
        monkeypatch.undo()
        writer.write(record)
        assert reader.take() is not None
    finally:
        remove_leftovers(run)
