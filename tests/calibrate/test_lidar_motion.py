"""What a LiDAR tells of its own place while odometry is wrong."""

from __future__ import annotations

import numpy as np
import pytest

from perception.calibrate.bump.lidar_motion import lidar_moved
from perception.calibrate.bump.recording import Recording, recording_of
from perception.cli.calibrate.inputs import grey_of
from perception.geometry.transforms import Transform
from perception.logs.log import Log


@pytest.fixture(scope="module")
def driven(log: Log) -> tuple[Recording, Transform]:
    """Sweeps and odometry, and the LiDAR's true place."""
    assert log.rig is not None
    recording = recording_of(log.messages(topics=["lidar/points", "ego"]), "lidar", "ego", (), grey_of)
    return recording, log.rig.base_link_from("lidar")


def test_an_odometer_that_is_off_by_a_percent_is_found_to_be_and_moves_no_lidar(
    driven: tuple[Recording, Transform],
) -> None:
    """Over 2.5 s, surfaces are off by 15 cm: more than counts at the first look."""
    recording, place = driven
    longer = 0.009
    few = recording.sweeps[::5]  # half a second apart
    first = lidar_moved(few, place, recording.track)
    other = lidar_moved(few, place, recording.track.scaled(longer))
    assert first is not None
    assert other is not None
    assert (1 + other[1]) * (1 + longer) == pytest.approx(1 + first[1], abs=2e-4)
    assert (np.abs(other[0].moved - first[0].moved) < first[0].deviation).all()
