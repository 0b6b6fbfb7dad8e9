"""Free ground: up to what stands in the way, and no further than what was seen."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from perception.messages import Header, PaintedPoints
from perception.nodes.free_ground import FreeGround, FreeGroundConfig

UNPAINTED, ROAD, CAR, SIDEWALK = 255, 0, 1, 2


def reach(points: list[tuple[float, float, float, int]], direction_rad: float) -> float:
    """Return how far the ground is free in a direction."""
    values = np.array(points)
    painted = PaintedPoints(
        header=Header(frame_id="base_link", t_sensor_ns=0), classes=("road", "car", "sidewalk"),
        xyz_m=values[:, :3].astype(np.float32), label=values[:, 3].astype(np.uint8),
    )  # fmt: skip
    polygon: NDArray[np.float32] = FreeGround(FreeGroundConfig(sectors=36)).on_painted(painted).polygon_m  # type: ignore[assignment]
    assert polygon.shape == (72, 2)
    sector = int((direction_rad + np.pi) / (2 * np.pi) * 36)
    return float(np.hypot(*polygon[2 * sector]))


def road_ahead(label: int = ROAD) -> list[tuple[float, float, float, int]]:
    return [(float(x), 0.5, 0.0, label) for x in range(2, 31)]


def test_the_road_is_free_up_to_the_car() -> None:
    assert reach([*road_ahead(), (15.2, 0.6, 0.8, CAR)], 0.02) == np.float32(np.hypot(15, 0.5))


def test_an_unpainted_road_is_free_by_its_height_and_a_pavement_is_not() -> None:
    assert reach(road_ahead(UNPAINTED), 0.02) > 29
    assert reach([*road_ahead(), (12.4, 0.5, 0.1, SIDEWALK)], 0.02) < 12.5


def test_a_bridge_is_no_obstacle() -> None:
    assert reach([*road_ahead(), (10.3, 0.4, 4.5, UNPAINTED)], 0.02) > 29


def test_what_was_not_seen_is_not_free() -> None:
    assert reach(road_ahead(), np.pi / 2) == 0.0
