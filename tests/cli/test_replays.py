"""Real recordings through both networks and the fusion, and simulated drives: from the log to the outputs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from perception.cli.main import main
from perception.logs.open_log import open_log
from perception.messages import Detections3D, PaintedPoints, SegmentationMask, TrackedObjects, host


def run(*arguments: str | Path) -> int:
    with pytest.raises(SystemExit) as ended:
        main([*map(str, arguments)])
    assert isinstance(ended.value.code, int)
    return ended.value.code


def replayed(log: Path, folder: Path, *more: str | Path) -> Path:
    """Replay in lockstep and return the recording of the run."""
    out = folder / f"{log.stem}_out.mcap"
    ends = ["--set", f"endpoint=ipc://{folder}/out.ipc", "--set", f"name=replay_{log.stem[:20]}"]
    assert run("launch", "replay.yaml", "--replay", log, "--mode", "lockstep", "--record", out, *ends, *more) == 0
    return out


def cameras_of(painted: PaintedPoints) -> NDArray[np.uint8]:
    assert painted.camera is not None
    return host(painted.camera)


def test_a_real_kitti_drive_runs_through_both_networks_and_is_painted(data_folder: Path, tmp_path: Path) -> None:
    log = open_log(replayed(data_folder / "kitti_raw_seq", tmp_path, "--until", "0.25"))
    counts = log.counts()
    names = ("segmenter/cam_front/mask", "detector/detections", "fuser/painted", "fuser/objects")
    assert {name: counts[name] for name in names} == dict.fromkeys(names, 3)
    painted = [m for _, m in log.messages() if isinstance(m, PaintedPoints)]
    camera = cameras_of(painted[0])
    assert 10_000 < (camera == 0).sum() < 25_000  # about 18,000 points lie in the picture of frame 0
    assert painted[0].header.clock == "assumed"
    assert any("no ego motion" in reason for reason in painted[0].header.degraded)


def test_the_real_nuscenes_keyframe_runs_with_six_cameras(data_folder: Path, tmp_path: Path) -> None:
    log = open_log(replayed(data_folder / "nuscenes_keyframe", tmp_path))
    masks = [m for _, m in log.messages() if isinstance(m, SegmentationMask)]
    assert len(masks) == 6
    assert {host(m.label).shape for m in masks} == {(900, 1600)}
    messages = [m for _, m in log.messages()]
    painted = next(m for m in messages if isinstance(m, PaintedPoints))
    assert len(painted.cameras) == 6
    assert (cameras_of(painted) != 255).mean() > 0.4  # six cameras see most of what the LiDAR does
    assert any(isinstance(m, Detections3D) and m.header.frame_id == "base_link" for m in messages)
    objects = next(m for m in messages if isinstance(m, TrackedObjects))
    assert "hyperbolic tangent of the intensity" in objects.header.adaptations


def test_a_simulated_drive_has_its_truth_and_the_same_seed_gives_the_same_bytes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = [tmp_path / f"{number}.mcap" for number in range(2)]
    for file in files:
        assert run("simulate", "car.yaml", "--seed", "4", "--duration", "0.6", "--out", file) == 0
    assert "times real time" in capsys.readouterr().out
    first, second = (file.read_bytes() for file in files)
    assert first == second
    log = open_log(files[0])
    assert {"lidar/points", "cam_front/image", "truth/objects", "truth/cam_front/mask", "ego"} <= set(log.topics())
    assert log.rig is not None
    truth = [m for topic, m in log.messages() if topic == "truth/objects" and isinstance(m, TrackedObjects)]
    assert len(truth) == 6
    assert all(thing.has_velocity and thing.visibility is not None for thing in truth[-1].objects)
    assert run("simulate", "car.yaml", "--out", files[0]) == 2  # nothing is overwritten
    assert run("simulate", "replay.yaml", "--out", tmp_path / "x.mcap") == 2


def test_a_simulated_drive_replays_with_ego_motion(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    drive = tmp_path / "drive.mcap"
    chosen = ("--sensor", "lidar", "--sensor", "cam_front", "--sensor", "ego")
    assert run("simulate", "car.yaml", "--seed", "4", "--duration", "0.6", "--out", drive, *chosen) == 0
    log = open_log(replayed(drive, tmp_path))
    painted = [m for topic, m in log.messages() if isinstance(m, PaintedPoints) and not topic.startswith("truth/")]
    assert len(painted) == 6
    assert not any("no ego motion" in reason for m in painted for reason in m.header.degraded)
