"""A LiDAR that moved, and cameras that seem to have: which answer holds."""

from __future__ import annotations

from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from perception.calibrate.bump.estimate import Estimate, motion_between
from perception.calibrate.bump.findings import Finding
from perception.calibrate.bump.rig_check import RigCheck
from perception.geometry.rig import Rig
from perception.geometry.transforms import Transform

ROLLED = np.radians([-1.0, 0, 0, 0, 0, 0])
LEFT = np.radians([0.02, 0, 0, 0, 0, 0])
"""What is left of the motion where the LiDAR is put to its place."""
CAMERAS = ("front", "rear", "left")
RIG: Any = SimpleNamespace(
    sensor=lambda name: SimpleNamespace(frame=name), base_link_from=lambda frame: Transform.identity()
)


def found(name: str, state: Any, moved: Any = 0.0) -> Finding:
    return Finding(name, state, np.zeros(6) + moved, np.full(6, 1e-3))


class Told(RigCheck):
    """Is told what the sensors say: so many cameras seem to have moved before and after the LiDAR is put right."""

    def __init__(self, before: int, after: int, alone: Any = ROLLED, lidar: Any = "ok") -> None:
        self.recording: Any = SimpleNamespace(lidar="lidar", pictures=CAMERAS)
        self._before, self._after, self._alone, self._state = before, after, alone, lidar
        self.looked = 0

    def _of_lidar(self, place: Transform) -> tuple[Estimate, float]:
        return Estimate.at(self._alone, 1e6 * np.eye(6), 1000, np.zeros((6, 6))), 0.0

    def _judged(self, rig: Rig, places: Mapping[str, Transform]) -> list[Finding]:
        self.looked += 1
        is_put_right = np.abs(motion_between(Transform.identity(), places["lidar"])).max() > 1e-6
        moved = self._after if is_put_right else self._before
        lidar = found("lidar", "ok", LEFT) if is_put_right else found("lidar", self._state, 0.5 * ROLLED)
        return [lidar, *(found(name, "moved" if at < moved else "ok") for at, name in enumerate(CAMERAS))]


def states(check: RigCheck) -> dict[str, str]:
    return {finding.sensor: finding.state for finding in check.findings(RIG)}


def test_where_all_cameras_seem_to_have_moved_the_lidar_did_if_that_explains_them() -> None:
    check = Told(before=3, after=0)
    lidar, *cameras = check.findings(RIG)
    assert lidar.state == "moved"
    np.testing.assert_allclose(lidar.moved, ROLLED + LEFT, atol=1e-9)
    assert [camera.state for camera in cameras] == ["ok"] * 3


def test_an_answer_with_as_many_moved_sensors_is_no_better() -> None:
    assert states(Told(before=1, after=0)) == {"lidar": "ok", "front": "moved", "rear": "ok", "left": "ok"}
    assert states(Told(before=2, after=2))["lidar"] == "ok"


@pytest.mark.parametrize("alone", [0.4 * ROLLED, 0.0 * ROLLED])
def test_a_lidar_that_is_in_its_place_by_itself_is_not_tried_elsewhere(alone: Any) -> None:
    check = Told(before=3, after=0, alone=alone)
    assert states(check)["lidar"] == "ok"
    assert check.looked == 1


def test_a_lidar_that_moved_is_put_where_it_says_itself_if_a_camera_is_left_over() -> None:
    check = Told(before=3, after=0, lidar="moved")
    assert states(check) == {"lidar": "moved", "front": "ok", "rear": "ok", "left": "ok"}
    assert check.looked == 2  # by the common answer no camera is left over
