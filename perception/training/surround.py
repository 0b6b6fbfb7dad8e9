"""One instant of the synthetic world as its LiDAR and its surround cameras see it, with true boxes, to train on.

drawing = drawn(rig, seed)                                # the same for the same seed
drawing = pasted(drawing, another, 6, random, beams)      # rare objects of another instant, in points and pixels
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray

from perception.geometry.rig import Rig
from perception.simulation.world import is_in_cabin
from perception.training.sweeps import Beams, LabelledSweep, hit, instant_of, rare_objects, swept_with_ids, with_object
from perception.training.world import Sample, world_of


@dataclass(frozen=True, eq=False)
class DrawnPicture:
    """A picture and what its pixels show.

    Attributes:
        rgb: (H, W, 3).
        owner: (H, W) index of the box that a pixel is of, -1 for none.
        distance_m: (H, W) along the ray; infinite in the sky.
    """

    rgb: NDArray[np.uint8]
    owner: NDArray[np.int16]
    distance_m: NDArray[np.float16]


@dataclass(frozen=True, eq=False)
class SurroundDrawing:
    """A deskewed sweep in `base_link`, and the pictures of all cameras in the street at its stamp by their names."""

    sweep: LabelledSweep
    pictures: Mapping[str, DrawnPicture]


def street_cameras(rig: Rig) -> list[str]:
    """Return the names of the cameras that look at the street."""
    return [s.name for s in rig.sensors.values() if s.kind == "camera" and not is_in_cabin(rig, s)]


def drawn_surround(rig: Rig, seed: int) -> list[Sample]:
    """Return the drawing of a seed as arrays that can be kept: see `Samples`."""
    world, t_ns = world_of(seed), instant_of(seed)
    sweep, ids = swept_with_ids(rig, world, t_ns)
    sample = {field.name: getattr(sweep, field.name) for field in fields(LabelledSweep)}
    numbers = np.full(2**16, -1, np.int16)
    numbers[ids] = np.arange(len(ids), dtype=np.int16)
    for name in street_cameras(rig):
        picture = world.camera(rig, name, t_ns)
        sample |= {
            f"{name}.rgb": picture.rgb,
            f"{name}.owner": numbers[picture.instance],
            f"{name}.distance_m": picture.distance_m.astype(np.float16),
        }
    return [sample]


def drawing_of(sample: Sample, cameras: list[str]) -> SurroundDrawing:
    """Return the drawing that a kept sample holds."""
    sweep = LabelledSweep(**{field.name: sample[field.name] for field in fields(LabelledSweep)})
    pictures = {
        name: DrawnPicture(**{field.name: sample[f"{name}.{field.name}"] for field in fields(DrawnPicture)})
        for name in cameras
    }
    return SurroundDrawing(sweep, pictures)


def pasted(
    drawing: SurroundDrawing, other: SurroundDrawing, most: int, random: np.random.Generator, beams: Beams
) -> SurroundDrawing:
    """Put rare objects of another instant where they are there, in the sweep and in every picture that shows them.

    What stands nearer, on a beam or in a pixel, stays in front; see `sweeps.pasted`.
    """
    sweep, pictures = drawing.sweep, dict(drawing.pictures)
    for number in rare_objects(other.sweep, most, random):
        after = with_object(sweep, other.sweep, number, beams)
        if after is not sweep:
            pictures = {name: _composed(picture, other.pictures[name], number) for name, picture in pictures.items()}
        sweep = after
    return SurroundDrawing(hit(sweep), pictures)


def _composed(picture: DrawnPicture, other: DrawnPicture, number: int) -> DrawnPicture:
    """Return a picture with the pixels of one object of another, where nothing nearer is; it belongs to no box."""
    shown = (other.owner == number) & (other.distance_m < picture.distance_m)
    if not shown.any():
        return picture
    return DrawnPicture(
        np.where(shown[..., None], other.rgb, picture.rgb), np.where(shown, np.int16(-1), picture.owner),
        np.where(shown, other.distance_m, picture.distance_m),
    )  # fmt: skip


__all__ = [
    "DrawnPicture", "SurroundDrawing", "drawing_of", "drawn_surround", "pasted", "street_cameras",
]  # fmt: skip
