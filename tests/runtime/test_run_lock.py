"""Which graphs run on this machine, and where they publish."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from perception.cli.main import main
from perception.errors import LaunchFileError, UserError
from perception.runtime import run_lock
from perception.runtime.run_lock import RunLock, endpoint_of, is_it_running, running

HERE, THERE = "tcp://127.0.0.1:5560", "tcp://127.0.0.1:5577"


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of locks that no graph of this machine is in."""
    monkeypatch.setattr(run_lock, "runs_folder", lambda: tmp_path / "runs")
    return tmp_path / "runs"


def test_a_graph_is_found_by_its_name_once_it_publishes() -> None:
    with RunLock("street") as lock:
        assert running() == {"street": ""}
        with pytest.raises(UserError, match="no graph named 'street'"):
            endpoint_of("street")
        lock.note_endpoint(THERE)
        assert endpoint_of("street") == THERE
        with pytest.raises(UserError, match=r"running: street\. Did you mean 'street'\?"):
            endpoint_of("streat")
        with pytest.raises(LaunchFileError, match=f"is running already \\(process {os.getpid()}\\)"):
            RunLock("street")
    assert running() == {}


def test_a_graph_whose_launcher_is_gone_does_not_run(folder: Path) -> None:
    folder.mkdir()
    (folder / "gone.lock").touch()
    (folder / "gone.json").write_text(json.dumps({"run": "0" * 8, "launcher": 1, "endpoint": THERE, "processes": {}}))
    assert running() == {}
    assert is_it_running(HERE) == "is the graph running?"
    with pytest.raises(UserError, match="none is running"):
        endpoint_of("gone")


def test_where_nobody_answers_the_graphs_that_publish_elsewhere_are_named() -> None:
    with RunLock("street") as lock, RunLock("silent"):
        lock.note_endpoint(THERE)
        assert is_it_running(HERE) == f"is the graph running? On this machine run: street at {THERE}."
        assert is_it_running(THERE) == "is the graph running?"


@pytest.mark.parametrize("command", [["replay", "pause"], ["hz", "objects", "--timeout", "0.3"]])
def test_a_command_at_the_wrong_endpoint_names_the_right_one(
    tmp_path: Path, command: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("perception.runtime.snapshot_socket.THERE_S", 0.3)
    with RunLock("street") as lock:
        lock.note_endpoint(THERE)
        with pytest.raises(SystemExit) as ended:
            main([*command, "--endpoint", f"ipc://{tmp_path}/none.ipc"])
    assert ended.value.code == 1
    assert f"street at {THERE}" in capsys.readouterr().err
