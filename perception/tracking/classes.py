"""The objects that planners are told of, and how each moves: settings by identity, the same words as in model cards."""

from __future__ import annotations

from collections.abc import Mapping

from perception.tracking.settings import ClassSettings

OTHER = "unknown"
"""What a detector calls by a word that is none of these."""

_CAR = ClassSettings(acceleration_mps2=2.5, turn_radps2=0.6, position_m=0.2, heading_rad=0.1, speed_mps=8.0)
_LONG = ClassSettings(
    acceleration_mps2=1.5, turn_radps2=0.3, position_m=0.4, heading_rad=0.1, size_m=0.6, reach_m=8.0, giou_min=-0.5
)
_TWO_WHEELS = ClassSettings(
    acceleration_mps2=2.5, turn_radps2=1.0, position_m=0.15, heading_rad=0.2, speed_mps=5.0, giou_min=-0.7, reach_m=4.0
)
_PERSON = ClassSettings(
    motion="straight", acceleration_mps2=1.5, position_m=0.15, heading_rad=0.6, heading_drift_radps=1.5,
    speed_mps=1.5, giou_min=-0.6, reach_m=3.0, affinity="mahalanobis", coast_s=0.7, forget_s=2.0,
)  # fmt: skip
_STANDS = ClassSettings(
    motion="straight", acceleration_mps2=0.2, position_m=0.2, heading_rad=0.5, heading_drift_radps=0.2, speed_mps=0.2,
    giou_min=-0.5, reach_m=2.0, coast_s=1.0, forget_s=3.0,
)  # fmt: skip

OBJECTS: Mapping[str, ClassSettings] = {
    "car": _CAR, "truck": _LONG, "bus": _LONG, "trailer": _LONG, "construction_vehicle": _LONG, "train": _LONG,
    "motorcycle": _TWO_WHEELS, "bicycle": _TWO_WHEELS, "rider": _TWO_WHEELS, "person": _PERSON, "animal": _PERSON,
    "barrier": _STANDS, "traffic_cone": _STANDS, OTHER: _PERSON,
}  # fmt: skip

FAMILIES: Mapping[str, str] = {
    "car": "vehicle", "truck": "vehicle", "bus": "vehicle", "trailer": "vehicle", "construction_vehicle": "vehicle",
    "train": "vehicle", "motorcycle": "two_wheeler", "bicycle": "two_wheeler", "rider": "two_wheeler",
}  # fmt: skip
"""Classes that detectors confuse, so that their detections are of one object, whose class the evidence decides."""

__all__ = ["FAMILIES", "OBJECTS", "OTHER"]
