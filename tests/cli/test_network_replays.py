"""Real recordings through the LiDAR and fusion networks, by the shipped launch files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from perception.cli.main import main
from perception.logs.open_log import open_log
from perception.messages import Detections3D, host


def replayed(launch_file: str, log: Path, folder: Path, *nodes: str) -> list[Detections3D]:
    """Replay in lockstep on torch, which needs no engine to be built, and return what was detected."""
    out = folder / "out.mcap"
    arguments = ["launch", launch_file, "--replay", str(log), "--mode", "lockstep", "--record", str(out)]
    arguments += ["--until", "0.15", "--set", f"endpoint=ipc://{folder}/out.ipc"]
    for node in nodes:
        arguments += ["--set", f"nodes.{node}.settings.engine=torch", "--set", f"nodes.{node}.settings.score_min=0"]
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 0
    found = [message for _, message in open_log(out).messages() if isinstance(message, Detections3D)]
    return [message for message in found if message.header.models]  # not the log's own truth


def test_kitti_runs_through_both_lidar_networks(data_folder: Path, tmp_path: Path) -> None:
    found = replayed("lidar_replay.yaml", data_folder / "kitti_raw_seq", tmp_path, "dsvt", "flatformer")
    assert len(found) == 4  # two networks, two sweeps
    for message in found:
        assert message.header.frame_id == "base_link"
        assert len(host(message.center_m)) > 0
        assert np.isfinite(host(message.center_m)).all()
        assert "elongation is not measured: 0 in its place" in message.header.adaptations or any(
            "no ego motion" in text for text in message.header.adaptations
        )


@pytest.mark.parametrize(
    ("capture", "needs"),
    [
        ("velodyne_pcap/sample_velodyne_hdl32.pcap", ""),
        ("ouster_pcap/OS-1-128_v2.3.0_1024x10_lb_n3.pcap", ""),
        ("nebula_hesai_40p/1673400149412331409", "rosbags"),
    ],
    ids=["velodyne", "ouster", "hesai"],
)
def test_captures_of_three_makers_run_through_both_lidar_networks(
    data_folder: Path, tmp_path: Path, capture: str, needs: str
) -> None:
    if needs:
        pytest.importorskip(needs, reason="ROS bags need the extra 'ros'")
    found = replayed("lidar_replay.yaml", data_folder / capture, tmp_path, "dsvt", "flatformer")
    assert {message.header.models[-1].card for message in found} == {"dsvt_compact", "flatformer_compact"}
    for message in found:
        assert len(host(message.center_m)) > 0
        assert np.isfinite(host(message.center_m)).all()
        assert any("elongation" in text for text in message.header.adaptations)


def test_the_nuscenes_keyframe_runs_through_the_fusion_with_six_cameras(data_folder: Path, tmp_path: Path) -> None:
    (message,) = replayed("surround_replay.yaml", data_folder / "nuscenes_keyframe", tmp_path, "fusion")
    assert message.header.frame_id == "base_link"
    assert "lost" not in message.header.sensors.values()
    assert not any(reason.startswith("without") for reason in message.header.degraded)
    assert len(host(message.center_m)) > 0
    assert np.isfinite(host(message.center_m)).all()
    # what is found lies where the points and pictures are, around the car
    assert np.abs(host(message.center_m)[:, :2]).max() < 62
