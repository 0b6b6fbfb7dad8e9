"""Cards of LiDAR and fusion networks against rigs: what is met, and what is refused with the reason."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

from perception.runtime.launch_file.load import check_launch

ROOT = Path(__file__).parents[2]
LIDAR_CARDS = (
    "dsvt_pillar_waymo", "dsvt_voxel_waymo", "dsvt_nuscenes", "dsvt_compact", "flatformer_waymo_1f",
    "flatformer_waymo_2f", "flatformer_waymo_3f", "flatformer_compact", "flatformer_compact_3f",
)  # fmt: skip
FUSION_CARDS = ("deepinteraction_nuscenes", "deepinteraction_compact")


def faults(folder: Path, card: str, lidar_height_m: float = 1.9, **settings: Any) -> list[str]:
    """Return the codes and texts that check reports for one detector of the simulated car."""
    shutil.copytree(ROOT / "calibration/simulated_car", folder / "rig")
    rig = yaml.safe_load((folder / "rig/rig.yaml").read_text())
    rig["transforms"]["base_link_from_lidar"]["translation_m"][2] = lidar_height_m
    (folder / "rig/rig.yaml").write_text(yaml.safe_dump(rig))
    fusion = card in FUSION_CARDS
    inputs = {"scene.sweep": "lidar/points", "scene.images": "cam_*/image"} if fusion else {"sweep": "lidar/points"}
    document = {
        "name": "cards", "rig": "./rig", "ego_motion": "ego",
        "nodes": {
            "sensors": {"node": "simulator"},
            "detector": {
                "node": "fusion_detector" if fusion else "lidar_sweeps_detector",
                "settings": {"weights": f"filled:{card}", **settings}, "inputs": inputs,
            },
        },
        "outputs": {"detections": {"topic": "detector/detections"}},
    }  # fmt: skip
    (folder / "launch.yaml").write_text(yaml.safe_dump(document))
    _, found = check_launch(folder / "launch.yaml")
    return [f"{fault.code}: {fault}" for fault in found.all()]


@pytest.mark.parametrize("card", [*LIDAR_CARDS, *FUSION_CARDS])
def test_a_common_roof_lidar_meets_every_card(card: str, tmp_path: Path) -> None:
    assert faults(tmp_path, card) == []


@pytest.mark.parametrize("card", ["dsvt_nuscenes", *FUSION_CARDS])
def test_a_lidar_on_a_truck_is_refused_where_the_card_is_of_the_sensor_s_height(card: str, tmp_path: Path) -> None:
    (fault,) = faults(tmp_path, card, lidar_height_m=3.4)
    assert fault.startswith("card-height")
    assert "any_height: true" in fault


@pytest.mark.parametrize("card", ["dsvt_nuscenes", *FUSION_CARDS])
def test_the_refusal_can_be_overridden(card: str, tmp_path: Path) -> None:
    assert faults(tmp_path, card, lidar_height_m=3.4, any_height=True) == []


def test_what_the_sensor_does_not_measure_is_refused_where_nothing_may_be_filled_in(tmp_path: Path) -> None:
    (fault,) = faults(tmp_path, "flatformer_waymo_1f", fill_missing=False)
    assert fault.startswith("card-sensor")
    assert "elongation" in fault
