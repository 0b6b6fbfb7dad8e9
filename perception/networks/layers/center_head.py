"""Center-point head: one heatmap per class and the numbers of a box for each cell of a bird's-eye-view map.

Paper      Yin et al., "Center-based 3D Object Detection and Tracking", CVPR 2021; rectified scores: Hu et al.,
           "AFDetV2", AAAI 2022
Reference  Haiyang-W/DSVT, pcdet/models/dense_heads/center_head.py (Apache-2.0)
Differs    suppression uses true headings, as OpenPCDet's class_specific_nms does; with `turned` it gives what DSVT's
           own repository computes, every box turned by 90 degrees
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from perception.networks.layers.boxes import Boxes3D
from perception.ops.boxes_bev import rotated_nms

EPS = 1e-3


@dataclass(frozen=True)
class CenterHeadConfig:
    """Widths, and how boxes are read out.

    `iou_power` is the exponent of the predicted IoU in the score, by class; `nms_iou` the threshold, by class.
    """

    in_channels: int = 384
    shared_channels: int = 64
    num_classes: int = 3
    score_min: float = 0.1
    center_limit_m: tuple[float, float, float, float, float, float] = (-80, -80, -10, 80, 80, 10)
    most_boxes: int = 500
    iou_power: tuple[float, ...] = (0.68, 0.71, 0.65)
    nms_iou: tuple[float, ...] = (0.75, 0.6, 0.55)
    nms_before: int = 4096
    nms_after: int = 500
    velocity: bool = False


class CenterHead(nn.Module):
    """Map features (B, C, H, W) to one map per number of a box."""

    def __init__(self, config: CenterHeadConfig) -> None:
        super().__init__()
        self.config = config
        shared = config.shared_channels
        self.shared_conv = nn.Sequential(
            nn.Conv2d(config.in_channels, shared, 3, padding=1, bias=False), nn.BatchNorm2d(shared, eps=EPS), nn.ReLU()
        )
        channels = {"center": 2, "center_z": 1, "dim": 3, "rot": 2, "iou": 1}
        if config.velocity:
            channels["vel"] = 2
        self.maps = {**channels, "hm": config.num_classes}
        self.heads_list = nn.ModuleList([nn.ModuleDict({name: _head(shared, n) for name, n in self.maps.items()})])

    def forward(self, bev: Tensor) -> tuple[Tensor, ...]:
        """Return the maps in the order of `self.maps`, before sigmoid and exp."""
        shared = self.shared_conv(bev)
        heads = self.heads_list[0]
        return tuple(heads.get_submodule(name)(shared) for name in self.maps)


def _head(channels: int, out: int) -> nn.Sequential:
    first = nn.Sequential(
        nn.Conv2d(channels, channels, 3, padding=1, bias=False), nn.BatchNorm2d(channels, eps=EPS), nn.ReLU()
    )
    return nn.Sequential(first, nn.Conv2d(channels, out, 3, padding=1))


@dataclass(frozen=True)
class BevCells:
    """Where the cells of a map are: the corner of the first one, and their size along x and y, metres."""

    minimum_m: tuple[float, float]
    cell_m: tuple[float, float]


def read_out(maps: Mapping[str, Tensor], config: CenterHeadConfig, cells: BevCells) -> list[Boxes3D]:
    """Read the boxes of each sample out of the maps, before suppression; scores are rectified by the predicted IoU."""
    heat = maps["hm"].sigmoid()
    batch, classes, height, width = heat.shape
    per_class, place = heat.flatten(2).topk(min(config.most_boxes, height * width))
    score, best = per_class.flatten(1).topk(min(config.most_boxes, per_class.shape[1] * per_class.shape[2]))
    label = best // per_class.shape[2]
    cell = place.flatten(1).gather(1, best)
    found = []
    for sample in range(batch):
        at = cell[sample]
        numbers = {name: values[sample].flatten(1)[:, at].T for name, values in maps.items() if name != "hm"}
        found.append(
            _boxes(numbers, score[sample], label[sample], torch.stack((at % width, at // width), 1), config, cells)
        )
    assert classes == config.num_classes
    return found


def _boxes(
    numbers: Mapping[str, Tensor], score: Tensor, label: Tensor, cell: Tensor, config: CenterHeadConfig, cells: BevCells
) -> Boxes3D:
    size = score.new_tensor(cells.cell_m)
    xy = (cell + numbers["center"]) * size + score.new_tensor(cells.minimum_m)
    center = torch.cat((xy, numbers["center_z"]), dim=1)
    limit = score.new_tensor(config.center_limit_m)
    kept = (score > config.score_min) & ((center >= limit[:3]) & (center <= limit[3:])).all(dim=1)
    power = score.new_tensor(config.iou_power)[label]
    iou = ((numbers["iou"][:, 0] + 1) / 2).clamp(0, 1)
    rectified = score.pow(1 - power) * iou.pow(power)
    yaw = torch.atan2(numbers["rot"][:, 1], numbers["rot"][:, 0])
    boxes = Boxes3D(center, numbers["dim"].exp(), yaw, rectified, label, numbers.get("vel"))
    return boxes.chosen(kept).cpu()


def suppress(
    boxes: Boxes3D, config: CenterHeadConfig, *, nms_iou: tuple[float, ...] | None = None, turned: bool = False
) -> Boxes3D:
    """Suppress overlapping boxes of each class; what stays is ordered by class, then by descending score.

    Args:
        boxes: of one sample, in the memory of the host.
        config: thresholds.
        nms_iou: other thresholds than the configuration's.
        turned: turn every box by 90 degrees first, as DSVT's repository does.
    """
    size = boxes.size[:, [1, 0]] if turned else boxes.size[:, :2]
    flat = torch.cat((boxes.center[:, :2], size, boxes.yaw.unsqueeze(1)), dim=1).double().numpy()
    score, label = boxes.score.numpy(), boxes.label.numpy()
    kept = []
    for number, threshold in enumerate(nms_iou or config.nms_iou):
        of_class = np.flatnonzero(label == number)
        chosen = rotated_nms(flat[of_class], score[of_class], threshold, config.nms_before, config.nms_after)
        kept.append(of_class[chosen])
    return boxes.chosen(torch.from_numpy(np.concatenate(kept)))


__all__ = ["BevCells", "CenterHead", "CenterHeadConfig", "read_out", "suppress"]
