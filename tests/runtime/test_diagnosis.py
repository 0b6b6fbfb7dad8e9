"""`perception doctor`: each thing that keeps a graph from running is a finding with a remedy."""

from __future__ import annotations

import json
import os
import socket
import tempfile
from collections import namedtuple
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from perception.cli.main import main
from perception.runtime import diagnosis
from perception.runtime.diagnosis import Finding, diagnose, is_loopback

Address = namedtuple("Address", "ip port")
Connection = namedtuple("Connection", "status laddr")


def finding(subject: str) -> Finding:
    return next(found for found in diagnose() if found.subject == subject)


def test_a_machine_on_which_the_tests_run_has_what_a_graph_needs(capsys: pytest.CaptureFixture[str]) -> None:
    failed = [found for found in diagnose() if found.verdict == "fail" and found.subject not in ("ray", "machine")]
    assert failed == []
    with pytest.raises(SystemExit):
        main(["doctor", "--json"])
    found = {entry["subject"]: entry for entry in json.loads(capsys.readouterr().out)}
    assert found["channels"]["text"] == "a record went through"
    assert list(Path("/dev/shm").glob(f"pcn_{os.getpid():08x}*")) == []


def test_shared_memory_that_is_missing_or_small_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(diagnosis, "SHARED_MEMORY", tmp_path / "none")
    assert finding("shared memory").verdict == "fail"
    monkeypatch.setattr(diagnosis, "SHARED_MEMORY", Path("/dev/shm"))
    monkeypatch.setattr(diagnosis, "MIN_SHARED_MEMORY_BYTES", 1 << 60)
    found = finding("shared memory")
    assert (found.verdict, found.remedy) == ("fail", "enlarge it (a container: --shm-size=1g)")


def test_a_temporary_folder_that_cannot_be_written_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "gettempdir", lambda: "/proc")
    assert finding("temporary folder").verdict == "fail"


def test_a_package_that_is_missing_fails_with_the_command_that_installs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(diagnosis, "PACKAGES", ("numpy", "not-there-at-all"))
    assert finding("packages") == Finding(
        "packages", "fail", "not installed: not-there-at-all", "pip install -c constraints.txt ."
    )


class Raylet:
    """A process of somebody's Ray."""

    info = {"name": "raylet"}  # noqa: RUF012

    def __init__(self, *addresses: str, nice: int = 0) -> None:
        self._addresses, self._nice = addresses, nice

    def net_connections(self, kind: str) -> list[Any]:
        return [Connection(psutil.CONN_LISTEN, Address(ip, 6400)) for ip in self._addresses]

    def nice(self) -> int:
        return self._nice


def seen(monkeypatch: pytest.MonkeyPatch, *processes: Raylet) -> None:
    def all_processes(attributes: list[str]) -> Iterator[Raylet]:
        yield from processes

    monkeypatch.setattr(psutil, "process_iter", all_processes)


@pytest.mark.parametrize(
    ("address", "verdict"),
    [
        ("127.0.0.1", "ok"), ("::ffff:127.0.0.1", "ok"), ("::1", "ok"), ("::", "fail"), ("0.0.0.0", "fail"),
        ("192.168.7.1", "fail"), ("fe80::1", "fail"),
    ],
)  # fmt: skip
def test_a_port_of_ray_that_answers_beyond_the_machine_fails(
    monkeypatch: pytest.MonkeyPatch, address: str, verdict: str
) -> None:
    assert is_loopback(address) == (verdict == "ok")
    seen(monkeypatch, Raylet("127.0.0.1"), Raylet("127.0.0.1", address))
    assert finding("ray").verdict == verdict


def test_workers_at_a_lower_priority_fail(monkeypatch: pytest.MonkeyPatch) -> None:
    seen(monkeypatch, Raylet("127.0.0.1", nice=15))
    assert finding("priority").verdict == "fail"


def test_a_real_port_of_a_process_named_as_rays_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(diagnosis, "RAY_NAMES", (psutil.Process().name(),))
    with socket.socket() as listener:
        listener.bind(("0.0.0.0", 0))
        listener.listen()
        found = finding("ray")
    assert found.verdict == "fail"
    assert "0.0.0.0:" in found.text
