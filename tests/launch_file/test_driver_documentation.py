"""Every launch file in the drivers' document is one that `perception check` accepts; what does not fit is found."""

import re
from pathlib import Path

import pytest

from perception.errors import LaunchFileError
from perception.runtime.launch_file.load import load_launch

TEXT = (Path(__file__).parents[2] / "docs" / "drivers.md").read_text()
BLOCKS = {re.findall(r"^name: (\w+)", block)[0]: block for block in re.findall(r"```yaml\n(.*?)```", TEXT, re.DOTALL)}


def load(tmp_path: Path, text: str) -> list[str]:
    file = tmp_path / "launch.yaml"
    file.write_text(text)
    return [f"{node.name} {node.target.partition(':')[0].rpartition('.')[2]}" for node in load_launch(file).nodes]


@pytest.mark.parametrize("name", BLOCKS)
def test_the_launch_files_of_the_document_are_accepted(name: str, tmp_path: Path) -> None:
    nodes = load(tmp_path, BLOCKS[name])
    for node in nodes:
        assert f"node: {node.partition(' ')[2]}" in BLOCKS[name]


def test_every_driver_has_an_example() -> None:
    together = "".join(BLOCKS.values())
    for node in ("lidar_udp", "camera_stream", "event_camera", "nmea_udp", "ego_motion", "lidar_odometry"):
        assert f"node: {node}" in together


@pytest.mark.parametrize(
    ("name", "right", "wrong", "expected"),
    [
        ("cameras", "sensor: cam_front", "sensor: lidar", "of kind lidar, not camera"),
        ("cameras", "stamps: offset", "stamp: offset", "Did you mean 'stamps'"),
        ("cameras", "delay_ms: 60", "delay_ms: 60, width_px: 640", "V4L2 devices only"),
        ("events", "device: dv_network", "device: dv_network, serial: DXA1", "`serial` names a camera on USB"),
        ("events", "sensor: event_cabin", "sensor: cam_front", "not event_camera"),
        ("receiver", "imu: imu", "imu: lidar", "of kind lidar, not imu"),
        ("receiver", "port: 10110", "port: 0", "greater than or equal to 1"),
        ("dead_reckoning", "speed: ego, ", "", "input 'speed' of 'motion' reads nothing"),
        ("dead_reckoning", "imu: imu/imu", "imu: ego", "carries Odometry"),
    ],
)  # fmt: skip
def test_settings_that_fit_neither_the_node_nor_the_rig_are_found_without_starting_anything(
    name: str, right: str, wrong: str, expected: str, tmp_path: Path
) -> None:
    assert right in BLOCKS[name]
    with pytest.raises(LaunchFileError, match=re.escape(expected)):
        load(tmp_path, BLOCKS[name].replace(right, wrong, 1))
