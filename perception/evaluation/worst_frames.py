"""Find the instants at which an object output was most wrong, to look at."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from perception.evaluation.deliveries import Delivered, offline
from perception.evaluation.html_report import FramePicture
from perception.evaluation.message_scores import RANGE_M, object_boxes
from perception.messages import Message, TrackedObjects

NEAR_M = 2.0


def worst_frames(truth: Sequence[Message], outputs: Sequence[Delivered], count: int) -> list[FramePicture]:
    """Return the frames with the most missed and invented boxes within 50 m, the worst first; none for other tasks."""
    found = []
    for pair in offline(truth, outputs):
        if not isinstance(pair.truth, TrackedObjects) or pair.output is None:
            continue
        there, given = object_boxes(pair.truth, seen_only=True), object_boxes(pair.output)
        there, given = there[there.range_m < RANGE_M], given[given.range_m < RANGE_M]
        apart = np.linalg.norm(there.center_m[:, None, :2] - given.center_m[None, :, :2], axis=2)
        missed = int((apart.min(axis=1, initial=np.inf) > NEAR_M).sum())
        invented = int((apart.min(axis=0, initial=np.inf) > NEAR_M).sum())
        caption = f"{pair.truth.header.t_sensor_ns} ns: {missed} missed, {invented} invented"
        found.append((missed + invented, FramePicture(caption, there, given)))
    return [picture for errors, picture in sorted(found, key=lambda item: -item[0])[:count] if errors]


__all__ = ["worst_frames"]
