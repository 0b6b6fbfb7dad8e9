"""The intrinsics of a rig as messages, for exports: other tools read them beside the pictures."""

from __future__ import annotations

from perception.geometry.rig import Rig
from perception.messages import CameraInfo, Header


def camera_infos(rig: Rig, t_ns: int) -> dict[str, CameraInfo]:
    """Return the intrinsics of each camera of a rig by topic, with this stamp."""
    return {
        f"{name}/camera_info": CameraInfo(
            header=Header(frame_id=sensor.frame, t_sensor_ns=t_ns, clock="log"), height_px=sensor.camera.height_px,
            width_px=sensor.camera.width_px, model=sensor.camera.model, focal_px=sensor.camera.focal_px,
            center_px=sensor.camera.center_px, coefficients=sensor.camera.coefficients,
        )
        for name, sensor in rig.sensors.items()
        if sensor.camera is not None
    }  # fmt: skip


__all__ = ["camera_infos"]
