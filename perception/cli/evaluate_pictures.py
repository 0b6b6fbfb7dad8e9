"""The worst frames of an evaluation as pictures: from above, and in the cameras of the log."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from perception.evaluation.html_report import FramePicture
    from perception.evaluation.worst_frames import WorstFrame
    from perception.geometry.rig import Rig, Sensor
    from perception.logs.log import Log
    from perception.messages import Image

NEAR_NS = 60_000_000
"""How far a camera's picture may be from the instant: the vehicle has moved by so much in it."""
CAMERAS = 3


def pictures_of(worst: Mapping[str, Sequence[WorstFrame]], log: Log, rig: Rig | None) -> dict[str, list[FramePicture]]:
    """Return the pictures of each output's worst frames, with those of the log's cameras that show something."""
    from perception.evaluation.html_report import FramePicture

    cameras = {} if rig is None else {f"{n}/image": s for n, s in rig.sensors.items() if s.camera is not None}
    images = _images({frame.t_ns for frames in worst.values() for frame in frames}, log, cameras)
    return {
        topic: [FramePicture(frame.caption, frame.boxes, _drawn(frame, images, cameras, rig)) for frame in frames]
        for topic, frames in worst.items()
    }


def _images(stamps: set[int], log: Log, cameras: Mapping[str, Sensor]) -> dict[tuple[str, int], Image]:
    """Return each camera's picture nearest to each stamp, from one pass through the log."""
    from perception.messages import Image

    topics = [topic for topic in cameras if topic in log.topics()]
    found: dict[tuple[str, int], Image] = {}
    if not topics or not stamps:
        return found
    for topic, message in log.messages(min(stamps) - NEAR_NS, max(stamps) + NEAR_NS, topics):
        if not isinstance(message, Image):
            continue
        for t_ns in stamps:
            apart, before = abs(message.header.t_sensor_ns - t_ns), found.get((topic, t_ns))
            if apart <= NEAR_NS and (before is None or apart < abs(before.header.t_sensor_ns - t_ns)):
                found[topic, t_ns] = message.keep()
    return found


def _drawn(
    frame: WorstFrame, images: Mapping[tuple[str, int], Image], cameras: Mapping[str, Sensor], rig: Rig | None
) -> tuple[bytes, ...]:
    """Return JPEGs: of a mask its camera's, of boxes the cameras that see one, at most three."""
    from perception.errors import PerceptionError
    from perception.evaluation.camera_pictures import with_boxes, with_mask
    from perception.geometry.boxes import Boxes
    from perception.nodes._pictures import rgb_of

    drawn: list[bytes] = []
    for topic, sensor in cameras.items():
        image = images.get((topic, frame.t_ns))
        if image is None or rig is None or sensor.camera is None or len(drawn) == CAMERAS:
            continue
        try:
            rgb = rgb_of(image)
        except PerceptionError:
            continue  # a damaged picture: the frame is shown without it
        if frame.mask is not None and frame.frame_id == sensor.frame:
            drawn.append(with_mask(rgb, *frame.mask))
        if frame.boxes is not None and rgb.shape[:2] == (sensor.camera.height_px, sensor.camera.width_px):
            optical_from_base_link = rig.base_link_from(sensor.frame).inverse()
            boxes = [Boxes(of.center_m, of.size_lwh_m, of.yaw_rad) for of in frame.boxes]
            picture = with_boxes(rgb, sensor.camera, optical_from_base_link, boxes[0], boxes[1])
            drawn += [picture] if picture is not None else []
    return tuple(drawn)


__all__ = ["pictures_of"]
