"""What both layouts of nuScenes share: the names of its sensors, its files of points and pictures, and its rig."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from perception.geometry.rig import Rig
from perception.geometry.rig_file import LidarFile
from perception.logs.indexed_log import picture_size, read_picture, read_points
from perception.logs.log_rig import LogCamera, LogLidar, rig_of
from perception.logs.poses import rigid
from perception.messages import Header, Image, PointCloud

HDL_32E = LidarFile(
    rings=32, range_m=(1.0, 105.0), vertical_fov_deg=(-30.67, 10.67), intensity_scale=255, point_times=False
)
BASE_LINK = "on the road, below the middle of the rear axle"
RATE_HZ = 2.0
"""Keyframes a second."""


def camera_name(channel: str) -> str:
    """Return our name of a channel: CAM_FRONT_LEFT is cam_front_left."""
    return channel.lower()


def camera_of(intrinsics: NDArray[np.float64], base_link_from_optical: NDArray[np.float64], picture: Path) -> LogCamera:
    """Return a camera from its matrices (3, 3) and (4, 4) and one of its pictures, which gives the size."""
    return LogCamera(
        size_wh_px=picture_size(picture),
        focal_px=(float(intrinsics[0, 0]), float(intrinsics[1, 1])),
        center_px=(float(intrinsics[0, 2]), float(intrinsics[1, 2])),
        base_link_from_optical=rigid(base_link_from_optical),
        rate_hz=RATE_HZ,
    )


def nuscenes_rig(name: str, cameras: Mapping[str, LogCamera], base_link_from_lidar: NDArray[np.float64] | None) -> Rig:
    """Return the rig of a log."""
    lidar = None if base_link_from_lidar is None else LogLidar(HDL_32E, rigid(base_link_from_lidar), RATE_HZ)
    return rig_of(name, BASE_LINK, lidar, cameras)


def read_image(path: Path, header: Header) -> Image:
    """Read a JPEG. Raises LogError."""
    pixels = read_picture(path)
    return Image(header=header, encoding="rgb8", height_px=pixels.shape[0], width_px=pixels.shape[1], data=pixels)


def read_sweep(path: Path, header: Header, columns: int) -> PointCloud:
    """Read rows of x, y, z, intensity (0 to 255) and, where there are five columns, ring. Raises LogError."""
    rows = read_points(path, columns)
    ring = rows[:, 4].clip(0, 65535).astype(np.uint16) if columns >= 5 else None
    return PointCloud(
        header=header, xyz_m=np.ascontiguousarray(rows[:, :3]), intensity=np.ascontiguousarray(rows[:, 3]),
        intensity_scale=255.0, ring=ring,
    )  # fmt: skip


__all__ = ["camera_name", "camera_of", "nuscenes_rig", "read_image", "read_sweep"]
