"""A drive that several files look at: simulated once."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from perception.cli.main import main
from perception.logs.log import Log
from perception.logs.open_log import open_log

RIG = {
    "name": "one_camera",
    "base_link": "on the road",
    "sensors": {
        "lidar": {"kind": "lidar", "rate_hz": 10, "lidar": {
            "rings": 32, "range_m": [1.0, 80.0], "vertical_fov_deg": [-25.0, 8.0], "intensity_scale": 1}},
        "cam_front": {"kind": "camera", "rate_hz": 5, "calibration": "cam_front.yaml", "exposure_ms": 2},
        "ego": {"kind": "odometry", "rate_hz": 50},
    },
    "transforms": {
        "base_link_from_lidar": {"translation_m": [1.2, 0.0, 1.9], "rotation_xyzw": [0.0, 0.0, 0.0, 1.0]},
        "base_link_from_cam_front": {"translation_m": [1.9, 0.0, 1.5], "rotation_xyzw": [0.0, 0.0, 0.0, 1.0]},
    },
}  # fmt: skip
CAMERA = {"model": "plumb_bob", "width_px": 512, "height_px": 256, "focal_px": [300.0, 300.0],
          "center_px": [255.5, 119.5], "coefficients": [-0.08, 0.01, 0.0, 0.0, 0.0]}  # fmt: skip
LAUNCH = (
    "name: bump\nrig: rig\nego_motion: ego\nendpoint: ipc:///tmp/perception-bump.ipc\n"
    "nodes:\n  sensors: {node: simulator, settings: {seed: 1}}\n"
    "  segmenter:\n    node: image_segmenter\n    settings: {weights: 'filled:ddrnet_compact'}\n"
    "    inputs: {image: cam_front/image}\n"
    "outputs: {mask: {topic: segmenter/cam_front/mask}}\n"
)


@pytest.fixture(scope="package")
def drive(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A launch file of a car with one LiDAR and one camera, and 10 s of its driving."""
    folder = tmp_path_factory.mktemp("bump")
    (folder / "rig").mkdir()
    (folder / "rig" / "rig.yaml").write_text(yaml.safe_dump(RIG))
    (folder / "rig" / "cam_front.yaml").write_text(yaml.safe_dump(CAMERA))
    (folder / "car.yaml").write_text(LAUNCH)
    log = folder / "drive.mcap"
    with pytest.raises(SystemExit) as ended:
        main(["simulate", str(folder / "car.yaml"), "--seed", "5", "--duration", "10", "--out", str(log)])
    assert ended.value.code == 0
    return folder / "car.yaml", log


@pytest.fixture(scope="package")
def log(drive: tuple[Path, Path]) -> Log:
    """The log of that drive; its rig is the true one."""
    return open_log(drive[1])
