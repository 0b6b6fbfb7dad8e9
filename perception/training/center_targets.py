"""What a center-point head should say: a heatmap of Gaussian peaks by class, and the numbers of a box at each peak.

Paper      Yin et al., "Center-based 3D Object Detection and Tracking", CVPR 2021, sections 3 (heatmap, regression) and
           4; the radius of a peak: Law and Deng, "CornerNet", ECCV 2018, section 3.2
Shapes     B samples, K classes, H rows along y, W columns along x, M boxes of a sample, P peaks of a batch

DSVT and FlatFormer give the same numbers under other names, and FlatFormer's boxes stand in the convention of old
MMDetection3D: clockwise yaw from -y, the width first. `DSVT_HEAD` and `FLATFORMER_HEAD` say how both write a box.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from perception.networks.layers.center_head import BevCells
from perception.training.sweeps import LabelledSweep

MIN_OVERLAP = 0.1
"""Overlap that a box keeps with a true one when its centre is off by the radius of a peak."""
MIN_RADIUS = 2
"""Cells; CenterPoint's floor for what is smaller than a cell."""


@dataclass(frozen=True)
class CenterTargets:
    """The truth of a batch on the map of a head.

    Attributes:
        heatmap: (B, K, H, W) 0 to 1; 1 at the cell of a centre.
        sample: (P,) of each peak.
        cell: (P,) row * W + column.
        boxes: (P, 7) x, y, z, length, width, height, yaw, metres in the frame of the card.
        velocity: (P, 2).
        offset: (P, 2) x and y of the centre inside its cell, 0 to 1.
    """

    heatmap: Tensor
    sample: Tensor
    cell: Tensor
    boxes: Tensor
    velocity: Tensor
    offset: Tensor

    def to(self, device: torch.device) -> CenterTargets:
        """Return them on a device."""
        return CenterTargets(*(getattr(self, field.name).to(device) for field in fields(self)))


@dataclass(frozen=True)
class HeadConvention:
    """How a head writes boxes.

    Attributes:
        heatmap: name of its heatmap.
        center: name of the offset inside the cell.
        numbers: the other maps of a box from (P, 7) boxes and (P, 2) velocities.
        boxes: back from the maps at peaks: (P, 5) z, length, width, height, yaw.
        iou_from: the lowest value of the IoU map: what it says for an overlap of 0; it says 1 for 1.
    """

    heatmap: str
    center: str
    numbers: Callable[[Tensor, Tensor], dict[str, Tensor]]
    boxes: Callable[[Mapping[str, Tensor]], Tensor]
    iou_from: float


def center_targets(
    sweeps: Sequence[LabelledSweep], classes: int, size: tuple[int, int], cells: BevCells
) -> CenterTargets:
    """Return the truth of a batch; boxes whose centre lies outside the map are left out.

    Args:
        sweeps: of the batch, boxes in the frame of the card.
        classes: K.
        size: H, W of the head's maps.
        cells: where the cells are.
    """
    height, width = size
    heatmap = np.zeros((len(sweeps), classes, height, width), np.float32)
    sample, cell, offset, boxes, velocity = [], [], [], [], []
    for number, sweep in enumerate(sweeps):
        place = (sweep.boxes[:, :2] - np.array(cells.minimum_m, np.float32)) / np.array(cells.cell_m, np.float32)
        at = np.floor(place).astype(np.int64)
        inside = ((at >= 0) & (at < (width, height))).all(axis=1)
        for k in np.flatnonzero(inside):
            size_cells = sweep.boxes[k, 3:5] / np.array(cells.cell_m, np.float32)
            radius = max(MIN_RADIUS, int(peak_radius(float(size_cells[0]), float(size_cells[1]))))
            draw_peak(heatmap[number, sweep.label[k]], at[k, 0], at[k, 1], radius)
        sample.append(np.full(int(inside.sum()), number, np.int64))
        cell.append(at[inside, 1] * width + at[inside, 0])
        offset.append((place - at)[inside].astype(np.float32))
        boxes.append(sweep.boxes[inside])
        velocity.append(sweep.velocity[inside])
    return CenterTargets(
        torch.from_numpy(heatmap),
        *(torch.from_numpy(np.concatenate(values)) for values in (sample, cell, boxes, velocity, offset)),
    )


def peak_radius(length: float, width: float, overlap: float = MIN_OVERLAP) -> float:
    """Return how far the centre of a rectangle may be off, along both sides, for at least so much overlap; in cells.

    Of the three cases of the published formula the smallest is taken, with its roots as published: both boxes are of
    one size and moved, or one holds the other, smaller or larger by the radius on every side.
    """
    total, area = length + width, length * width
    moved = (total + math.sqrt(total**2 - 4 * area * (1 - overlap) / (1 + overlap))) / 2
    smaller = (2 * total + math.sqrt(4 * total**2 - 16 * (1 - overlap) * area)) / 2
    larger = (-2 * overlap * total + math.sqrt(4 * overlap**2 * total**2 + 16 * overlap * (1 - overlap) * area)) / 2
    return min(moved, smaller, larger)


def draw_peak(heatmap: NDArray[np.float32], column: int, row: int, radius: int) -> None:
    """Raise a map (H, W) to a Gaussian around a cell, cut at the radius; its sigma is a third of that."""
    height, width = heatmap.shape
    sigma = (2 * radius + 1) / 6
    rows = np.arange(max(0, row - radius), min(height, row + radius + 1))
    columns = np.arange(max(0, column - radius), min(width, column + radius + 1))
    squares = (rows[:, None] - row) ** 2 + (columns[None] - column) ** 2
    part = heatmap[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    np.maximum(part, np.exp(-squares / (2 * sigma**2)).astype(np.float32), out=part)


def at_peaks(values: Tensor, targets: CenterTargets) -> Tensor:
    """Return the numbers of a map (B, C, H, W) at the peaks, (P, C)."""
    return values.flatten(2)[targets.sample, :, targets.cell]


def boxes_at_peaks(maps: Mapping[str, Tensor], targets: CenterTargets, head: HeadConvention, cells: BevCells) -> Tensor:
    """Return the boxes that a head says at the peaks, (P, 7), as `boxes` of the targets."""
    read = {name: at_peaks(values, targets) for name, values in maps.items() if name != head.heatmap}
    width = targets.heatmap.shape[3]
    corner = torch.stack((targets.cell % width, targets.cell // width), dim=1) + read[head.center]
    xy = corner * corner.new_tensor(cells.cell_m) + corner.new_tensor(cells.minimum_m)
    return torch.cat((xy, head.boxes(read)), dim=1)


def _dsvt_numbers(boxes: Tensor, velocity: Tensor) -> dict[str, Tensor]:
    rot = torch.stack((boxes[:, 6].cos(), boxes[:, 6].sin()), dim=1)
    return {"center_z": boxes[:, 2:3], "dim": boxes[:, 3:6].log(), "rot": rot, "vel": velocity}


def _dsvt_boxes(read: Mapping[str, Tensor]) -> Tensor:
    yaw = torch.atan2(read["rot"][:, 1:], read["rot"][:, :1])
    return torch.cat((read["center_z"], read["dim"].exp(), yaw), dim=1)


def _flatformer_numbers(boxes: Tensor, velocity: Tensor) -> dict[str, Tensor]:
    yaw = -boxes[:, 6] - math.pi / 2
    rot = torch.stack((yaw.sin(), yaw.cos()), dim=1)
    return {"height": boxes[:, 2:3], "dim": boxes[:, [4, 3, 5]].log(), "rot": rot}


def _flatformer_boxes(read: Mapping[str, Tensor]) -> Tensor:
    yaw = -torch.atan2(read["rot"][:, :1], read["rot"][:, 1:]) - math.pi / 2
    return torch.cat((read["height"], read["dim"][:, [1, 0, 2]].exp(), yaw), dim=1)


DSVT_HEAD = HeadConvention("hm", "center", _dsvt_numbers, _dsvt_boxes, iou_from=-1.0)
FLATFORMER_HEAD = HeadConvention("heatmap", "reg", _flatformer_numbers, _flatformer_boxes, iou_from=0.0)
"""Its velocity has no weight in training, as published."""

__all__ = [
    "DSVT_HEAD", "FLATFORMER_HEAD", "CenterTargets", "HeadConvention", "at_peaks", "boxes_at_peaks", "center_targets",
    "draw_peak", "peak_radius",
]  # fmt: skip
