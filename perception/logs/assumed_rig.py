"""The rig of a LiDAR recording that brings no calibration: one sensor, mounted as such sensors usually are."""

from __future__ import annotations

from collections.abc import Mapping

from perception.geometry.rig import Rig
from perception.geometry.rig_file import LidarFile
from perception.geometry.transforms import Transform
from perception.logs.log_rig import LogLidar, rig_of

HEIGHT_M = 1.8
_YAW: Mapping[str, tuple[float, float, float, float]] = {"Hesai": (0.0, 0.0, -(0.5**0.5), 0.5**0.5)}
"""Hesai's y is ahead: its frame is turned by a right angle."""
_FOV_DEG: Mapping[str, tuple[float, float]] = {
    "VLP-16": (-15.0, 15.0), "Puck Hi-Res": (-10.0, 10.0), "HDL-32E": (-30.67, 10.67), "VLP-32C": (-25.0, 15.0),
    "Pandar40P": (-25.0, 15.0), "PandarXT-32": (-16.0, 15.0), "PandarXT-16": (-15.0, 15.0),
}  # fmt: skip
NOTE = (
    f"the recording tells no mounting: lidar assumed {HEIGHT_M:g} m above base_link and level; "
    "give a rig's folder in the launch file where you know better"
)


def lidar_rig(name: str, sensor: str, rings: int) -> Rig:
    """Return the rig of a recording.

    Args:
        name: of the recording.
        sensor: what the decoder says it is: vendor and model.
        rings: beams.
    """
    vendor = sensor.partition(" ")[0]
    fov = next((of for known, of in _FOV_DEG.items() if known in sensor), (-25.0, 25.0))
    what = LidarFile(rings=rings, range_m=(0.3, 200.0), vertical_fov_deg=fov, intensity_scale=255)
    mounting = Transform.from_quaternion((0.0, 0.0, HEIGHT_M), _YAW.get(vendor, (0.0, 0.0, 0.0, 1.0)))
    return rig_of(name, "on the ground below the LiDAR", LogLidar(what, mounting, 10.0), {})


__all__ = ["NOTE", "lidar_rig"]
