"""A recording may end, be slow or lose its disk: the graph never waits for it, and what it lost is counted."""

from __future__ import annotations

import shutil
import threading
from collections import namedtuple
from pathlib import Path

import pytest

from perception.errors import LogError
from perception.messages.codec import Bytes
from perception.runtime.recorder import QUEUE, Recorder

Usage = namedtuple("Usage", "total used free")


class File:
    """A writer that fails at a message, or waits until it may go on."""

    def __init__(self, folder: Path, fails_at: int | None = None, may_go_on: threading.Event | None = None) -> None:
        self.path, self.messages, self.closed, self._fails_at = folder / "out.mcap", 0, 0, fails_at
        self._may_go_on = may_go_on

    def write(self, topic: str, record: Bytes, t_log_ns: int) -> None:
        if self._may_go_on is not None:
            self._may_go_on.wait()
        if self.messages == self._fails_at:
            raise LogError(f"{self.path}: cannot go on writing: No space left on device")
        self.messages += 1

    def flush(self) -> None: ...

    def size(self) -> int:
        return 100 * self.messages

    def close(self) -> None:
        self.closed += 1


def recorded(recorder: Recorder, count: int) -> Recorder:
    for number in range(count):
        recorder.record("lidar/points", b"record", number)
    return recorder


def test_all_records_are_in_the_file_when_it_is_closed(tmp_path: Path) -> None:
    file = File(tmp_path)
    recorder = recorded(Recorder(file), 100).close()
    assert (file.messages, file.closed, recorder.stopped, sum(recorder.dropped.values())) == (100, 1, "", 0)


def test_a_disk_that_fails_ends_the_recording_and_says_why(tmp_path: Path) -> None:
    file = File(tmp_path, fails_at=10)
    recorder = recorded(Recorder(file), 50).close()
    assert file.messages == 10
    assert "No space left on device" in recorder.stopped
    recorded(recorder, 5)
    assert recorder.dropped["lidar/points"] >= 5


def test_a_disk_that_is_almost_full_ends_the_recording(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: Usage(100, 96, 4))
    file = File(tmp_path)
    recorder = recorded(Recorder(file), 5).close()
    assert recorder.stopped == f"the disk of {file.path} is 96% full"
    assert file.messages == 1


def test_a_disk_that_is_gone_ends_the_recording_and_not_its_thread(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def gone(folder: Path) -> Usage:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(shutil, "disk_usage", gone)
    recorder = recorded(Recorder(File(tmp_path)), 3 * QUEUE)
    assert "Input/output error" in recorder.close().stopped


def test_a_size_ends_the_recording(tmp_path: Path) -> None:
    file = File(tmp_path)
    recorder = recorded(Recorder(file, max_bytes=1000), 50).close()
    assert recorder.stopped == f"{file.path} has reached 1000 bytes"
    assert file.messages == 10


def test_a_slow_disk_costs_records_that_are_counted_and_never_the_graphs_time(tmp_path: Path) -> None:
    may_go_on = threading.Event()
    file = File(tmp_path, may_go_on=may_go_on)
    recorder = recorded(Recorder(file), QUEUE + 50)  # returns although nothing is written
    assert recorder.dropped["lidar/points"] in (49, 50)
    may_go_on.set()
    assert file.messages + recorder.close().dropped["lidar/points"] <= QUEUE + 50
    assert file.messages + recorder.dropped["lidar/points"] == QUEUE + 50


def test_in_lockstep_the_graph_waits_for_a_slow_disk_and_nothing_is_lost(tmp_path: Path) -> None:
    may_go_on = threading.Event()
    file = File(tmp_path, may_go_on=may_go_on)
    recorder = Recorder(file, lossless=True)
    giving = threading.Thread(target=recorded, args=(recorder, 2 * QUEUE))
    giving.start()
    giving.join(0.1)
    assert giving.is_alive()
    may_go_on.set()
    giving.join()
    recorder.close()
    assert (file.messages, recorder.dropped.total()) == (2 * QUEUE, 0)
