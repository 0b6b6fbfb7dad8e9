"""KITTI's GPS and inertial packets (oxts): thirty numbers a frame, in a file each or a line each.

Geiger et al., IJRR 2013, and the development kit: latitude, longitude, altitude, roll, pitch, yaw, velocities (north,
east, forward, left, up), accelerations and rates in the vehicle's axes and the earth's, and how well all is known.
"""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from perception.errors import LogError
from perception.geometry.transforms import Transform
from perception.logs.kitti_calibration import KittiCalibration
from perception.logs.poses import pose_fields, rigid
from perception.messages import Gnss, Header, Imu, Odometry

Float = NDArray[np.float64]
COLUMNS = 30
_EARTH_RADIUS_M = 6_378_137.0


def read_oxts(file: Path) -> Float:
    """Read a file of one packet. Raises LogError as `oxts_of`."""
    try:
        text = file.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise LogError(f"{file}: not an oxts packet: {error}") from None
    return oxts_of(text, str(file))


def oxts_of(text: str, where: str) -> Float:
    """Return the numbers of a packet (30,).

    Raises:
        LogError: it has others; `where` is named.
    """
    try:
        numbers = np.array([float(word) for word in text.split()])
    except ValueError as error:
        raise LogError(f"{where}: not an oxts packet: {error}") from None
    if len(numbers) != COLUMNS or not np.isfinite(numbers[:23]).all():
        raise LogError(f"{where}: {len(numbers)} numbers; an oxts packet has {COLUMNS} finite ones")
    return numbers


class OxtsTrack:
    """The way of the vehicle, from its first packet on.

    Args:
        first: the first packet; `odom` is where base_link was then.
        calibration: tells where the inertial unit is.
    """

    def __init__(self, first: Float, calibration: KittiCalibration) -> None:
        self._base_from_imu = calibration.base_link_from_imu().matrix
        self._scale = math.cos(math.radians(first[0]))
        self._odom_from_plane = np.linalg.inv(self._plane_from_base(first))

    def _plane_from_base(self, numbers: Float) -> Float:
        matrix: Float = _plane_from_imu(numbers, self._scale) @ np.linalg.inv(self._base_from_imu)
        return matrix

    def odom_from_base_link(self, numbers: Float) -> Transform:
        """Return the pose of a packet. Raises LogError where it is none."""
        return rigid(self._odom_from_plane @ self._plane_from_base(numbers))

    def odometry(self, numbers: Float, header: Header) -> Odometry:
        """Return pose and velocities of a packet, with the stamp and clock of a header."""
        turned = self._base_from_imu[:3, :3]
        linear, angular = turned @ numbers[8:11], turned @ numbers[17:20]
        linear = linear - np.cross(angular, self._base_from_imu[:3, 3])  # from the IMU's place to base_link's
        translation, rotation = pose_fields(self.odom_from_base_link(numbers))
        return Odometry(
            header=Header(frame_id="odom", t_sensor_ns=header.t_sensor_ns, clock=header.clock, seq=header.seq),
            translation_m=translation, rotation_xyzw=rotation, velocity_mps=_triple(linear),
            angular_velocity_radps=_triple(angular),
        )  # fmt: skip


def imu_of(numbers: Float, header: Header) -> Imu:
    """Return rates and accelerations of a packet, in the axes of the unit."""
    return Imu(header=header, angular_velocity_radps=_triple(numbers[17:20]), acceleration_mps2=_triple(numbers[11:14]))


def gnss_of(numbers: Float, header: Header) -> Gnss:
    """Return the position of a packet."""
    north, east, up = numbers[6], numbers[7], numbers[10]
    return Gnss(
        header=header, latitude_deg=float(numbers[0]), longitude_deg=float(numbers[1]), altitude_m=float(numbers[2]),
        velocity_enu_mps=(float(east), float(north), float(up)), heading_rad=float(numbers[5]),
    )  # fmt: skip


def _plane_from_imu(numbers: Float, scale: float) -> Float:
    """Return the pose on a Mercator plane, as the development kit does; one scale for the whole drive."""
    latitude, longitude, altitude, roll, pitch, yaw = numbers[:6]
    pose = np.eye(4)
    pose[:3, 3] = (
        scale * _EARTH_RADIUS_M * math.radians(longitude),
        scale * _EARTH_RADIUS_M * math.log(math.tan(math.radians(90 + latitude) / 2)),
        altitude,
    )
    (sr, cr), (sp, cp), (sy, cy) = ((math.sin(a), math.cos(a)) for a in (roll, pitch, yaw))
    pose[:3, :3] = (
        np.array([[cy, -sy, 0], [sy, cy, 0], [0, 0, 1]])
        @ np.array([[cp, 0, sp], [0, 1, 0], [-sp, 0, cp]])
        @ np.array([[1, 0, 0], [0, cr, -sr], [0, sr, cr]])
    )
    return pose


def _triple(values: Float) -> tuple[float, float, float]:
    return float(values[0]), float(values[1]), float(values[2])


__all__ = ["COLUMNS", "OxtsTrack", "gnss_of", "imu_of", "oxts_of", "read_oxts"]
