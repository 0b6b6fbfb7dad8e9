"""`perception track`, `evaluate tracking` and `keys new` as a user runs them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from perception.cli.main import main

DETECTION = "2,100,100,200,200,5.0,1.5,1.8,4.0,2.0,1.6,20.0,-1.57,-1.6"
LABEL = "7 Car 0 0 -1.6 100 100 200 200 1.5 1.8 4.0 2.0 1.6 20.0 -1.57"


def run(*arguments: object) -> int:
    with pytest.raises(SystemExit) as ended:
        main([str(argument) for argument in arguments])
    return int(ended.value.code or 0)


def test_tracks_are_written_and_scored(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("detection/car", "calib", "label"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "detection/car/0000.txt").write_text("\n".join(f"{frame},{DETECTION}" for frame in range(10)))
    (tmp_path / "calib/0000.txt").write_text("P2: 700 0 600 0 0 700 180 0 0 0 1 0\n")
    (tmp_path / "label/0000.txt").write_text("\n".join(f"{frame} {LABEL}" for frame in range(10)))
    out = tmp_path / "out"
    assert run("track", tmp_path / "detection", "--format", "kitti", "--calib", tmp_path / "calib", "--out", out) == 0
    assert capsys.readouterr().out == "0000: 1 tracks in 10 frames\n"
    scored = ("evaluate", "tracking", "--truth", tmp_path / "label", "--results", out, "--json", "--rules")
    assert run(*scored, "kitti") == 0
    assert json.loads(capsys.readouterr().out)["2D IoU 0.5"]["Car"]["MOTA"] == 100.0
    assert run(*scored, "ab3dmot") == 0
    found = json.loads(capsys.readouterr().out)
    assert set(found) == {"rules", "3D IoU 0.25", "3D IoU 0.5"}
    assert found["3D IoU 0.5"]["Car"]["IDS"] == 0


def test_what_is_missing_is_told_in_a_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("track", tmp_path / "none", "--calib", tmp_path, "--out", tmp_path / "out") == 2
    assert "does not exist; expected a folder with a file NAME.txt per sequence" in capsys.readouterr().err
    assert run("evaluate", "tracking", "--rules", "kitti", "--truth", tmp_path / "none", "--results", tmp_path) == 2
    assert "is no folder" in capsys.readouterr().err


def test_keys_are_made_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("keys", "new", tmp_path / "keys", "--client", "planner") == 0
    assert "'planner' may connect" in capsys.readouterr().out
    assert sorted(path.name for path in (tmp_path / "keys/for_clients/planner").iterdir()) == [
        "planner.key", "planner.key_secret", "publisher.key",
    ]  # fmt: skip
    assert run("keys", "new", tmp_path / "keys", "--client", "planner") == 2
    assert "has keys for 'planner' already" in capsys.readouterr().err
