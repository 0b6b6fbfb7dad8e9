"""The classes of the world: of pixels and points, and of objects.

Pixels have the 19 classes of Cityscapes in the order of its train ids, so that a mask is a label for any network that
was made for them. Identities are the names that planners and cards use.
"""

from __future__ import annotations

CLASSES = (
    "road", "sidewalk", "building", "wall", "fence", "pole", "traffic light", "traffic sign", "vegetation", "terrain",
    "sky", "person", "rider", "car", "truck", "bus", "train", "motorcycle", "bicycle",
)  # fmt: skip
(
    ROAD, SIDEWALK, BUILDING, WALL, FENCE, POLE, TRAFFIC_LIGHT, TRAFFIC_SIGN, VEGETATION, TERRAIN,
    SKY, PERSON, RIDER, CAR, TRUCK, BUS, TRAIN, MOTORCYCLE, BICYCLE,
) = range(len(CLASSES))  # fmt: skip
IDENTITIES = tuple({"wall": "barrier", "fence": "barrier"}.get(name, name.replace(" ", "_")) for name in CLASSES)

OBJECT_CLASSES = ("car", "truck", "bus", "person", "bicycle")
"""Classes of the objects that have boxes; a bicycle's box holds its rider."""

REFLECTIVITY = (
    0.08, 0.18, 0.35, 0.3, 0.3, 0.4, 0.5, 1.0, 0.35, 0.3, 0.0, 0.35, 0.35, 0.45, 0.5, 0.5, 0.5, 0.4, 0.3,
)  # fmt: skip
"""What a LiDAR gets back of each class at right angles."""

__all__ = ["CLASSES", "IDENTITIES", "OBJECT_CLASSES", "REFLECTIVITY"]
