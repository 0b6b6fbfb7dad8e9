"""What is right is not reported: the shipped files, and rigs that a person could build."""

from __future__ import annotations

import math
import random
from pathlib import Path
from typing import Any

import pytest
import yaml

from perception.runtime.launch_file.load import check_launch

ROOT = Path(__file__).parents[2]

COEFFICIENTS = {
    "plumb_bob": [-0.1, 0.02, 0.0005, -0.0003, 0.0],
    "rational_polynomial": [0.05, -0.01, 0.0002, 0.0001, 0.0, 0.1, 0.0, 0.0],
    "kannala_brandt": [-0.01, 0.002, -0.0008, 0.0001],
    "double_sphere": [-0.2, 0.58],
}


def good_rig(seed: int) -> tuple[dict[str, Any], dict[str, dict[str, Any]]]:
    """Return rig.yaml and the camera files of a car: a LiDAR on its roof and one to six cameras around it."""
    chance = random.Random(seed)
    sensors: dict[str, Any] = {
        "lidar": {
            "kind": "lidar", "rate_hz": chance.choice([5, 10, 20]),
            "lidar": {"rings": chance.choice([16, 32, 64, 128]), "range_m": [0.5, chance.choice([50, 100, 200])],
                      "vertical_fov_deg": [-25, 15]},
        }
    }  # fmt: skip
    roof = {"translation_m": [chance.uniform(0.5, 1.5), 0.0, chance.uniform(1.5, 2.2)], "rotation_xyzw": [0, 0, 0, 1]}
    transforms: dict[str, Any] = {"base_link_from_lidar": roof}
    cameras: dict[str, dict[str, Any]] = {}
    count = chance.randint(1, 6)
    for index in range(count):
        name, yaw = f"cam_{index}", 2 * math.pi * index / count + chance.uniform(-0.2, 0.2)
        place = [1.5 + 0.3 * math.cos(yaw), 0.6 * math.sin(yaw), chance.uniform(1.0, 1.8)]
        turn = [0.0, 0.0, math.sin(yaw / 2), math.cos(yaw / 2)]
        transforms[f"base_link_from_{name}"] = {"translation_m": place, "rotation_xyzw": turn}
        width, height = chance.choice([(640, 480), (1280, 720), (1600, 900)])
        model = chance.choice(sorted(COEFFICIENTS))
        focal = width * chance.uniform(0.5, 1.2)
        sensors[name] = {"kind": "camera", "rate_hz": chance.choice([5, 10, 20]), "serial": f"{seed}-{index}",
                         "calibration": f"{name}.yaml", "exposure_ms": chance.uniform(1, 20)}  # fmt: skip
        cameras[f"{name}.yaml"] = {
            "model": model, "serial": f"{seed}-{index}", "width_px": width, "height_px": height,
            "focal_px": [focal, focal * chance.uniform(0.99, 1.01)],
            "center_px": [width / 2 + chance.uniform(-9, 9), height / 2 + chance.uniform(-9, 9)],
            "coefficients": COEFFICIENTS[model],
        }  # fmt: skip
    rig = {"name": f"car_{seed}", "base_link": "on the road", "sensors": sensors, "transforms": transforms}
    return rig, cameras


def launch_of(rig: dict[str, Any]) -> dict[str, Any]:
    """Return a launch file that uses every sensor of a rig."""
    cameras = [name for name in rig["sensors"] if name.startswith("cam_")]
    slowest_hz = max(sensor["rate_hz"] for sensor in rig["sensors"].values())
    return {
        "name": rig["name"], "rig": "rig", "ego_motion": "none",
        "nodes": {
            "sensors": {"node": "simulator", "paced_by": "detector"},
            "segmenter": {
                "node": "image_segmenter", "inputs": {"image": [f"{name}/image" for name in cameras]},
                "settings": {"weights": "filled:ddrnet_compact"},
            },
            "detector": {
                "node": "lidar_detector", "inputs": {"sweep": "lidar/points"},
                "settings": {"weights": "filled:dsvt_pillar_120"},
            },
            "fuser": {
                "node": "fuser",
                "inputs": {"scene.sweep": "lidar/points", "scene.masks": "segmenter/*/mask",
                           "scene.boxes": "detector/detections"},
                "joins": {"scene": {"tolerance_ms": 450 / slowest_hz, "deadline_ms": 300}},
            },
        },
        "outputs": {"objects": {"topic": "fuser/objects", "deadline_ms": 400}},
        "health": {"lidar": {"required": True}},
    }  # fmt: skip


@pytest.mark.parametrize("seed", range(20))
def test_a_rig_that_a_person_could_build_has_no_fault(tmp_path: Path, seed: int) -> None:
    rig, cameras = good_rig(seed)
    (tmp_path / "rig").mkdir()
    for name, content in ({"rig.yaml": rig} | cameras).items():
        (tmp_path / "rig" / name).write_text(yaml.safe_dump(content))
    file = tmp_path / "car.yaml"
    file.write_text(yaml.safe_dump(launch_of(rig), sort_keys=False))
    graph, faults = check_launch(file)
    assert [str(fault) for fault in faults.all()] == []
    assert graph is not None
    assert graph.rig is not None
    assert set(graph.rig.sensors) == set(rig["sensors"])


@pytest.mark.parametrize("file", sorted((ROOT / "launch").glob("*.yaml")), ids=lambda file: file.name)
def test_a_shipped_launch_file_has_no_fault(file: Path) -> None:
    assert [str(fault) for fault in check_launch(file)[1].all()] == []
