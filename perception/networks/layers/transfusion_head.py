"""TransFusion head on LiDAR features: object queries from a heatmap, one decoder layer, a box for each query.

Paper      Bai et al., "TransFusion: Robust LiDAR-Camera Fusion for 3D Object Detection with Transformers", CVPR 2022
Reference  Haiyang-W/DSVT, pcdet/models/dense_heads/transfusion_head.py (Apache-2.0)
Differs    queries of equal score keep the order of class and cell; maps need not be square. Kept on purpose: each query
           is a batch item of its own in self-attention, so it sees itself alone; keys of a window that crosses the
           border of the map wrap into the next row, and only indices outside the whole map are left out
Shapes     B samples, C channels, X and Y cells (maps are turned to x, y), P queries, K classes, W keys of a window
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from perception.networks.layers.boxes import Boxes3D
from perception.networks.layers.center_head import BevCells
from perception.networks.part import Axis, Part, RunPart, TensorSpec
from perception.ops.boxes_bev import rotated_nms

REACH = 20
"""Cells to each side of a query that it attends to: 41 x 41."""
HEADS = {"center": 2, "height": 1, "dim": 3, "rot": 2, "vel": 2, "iou": 1}


@dataclass(frozen=True)
class TransFusionConfig:
    """As published for nuScenes; `small` are the classes without peak search among neighbours and with suppression."""

    in_channels: int = 384
    channels: int = 128
    num_classes: int = 10
    proposals: int = 200
    heads: int = 8
    hidden: int = 256
    small: tuple[int, ...] = (8, 9)
    iou_power: float = 0.5
    nms_iou: float = 0.175
    center_limit_m: tuple[float, float, float, float, float, float] = (-61.2, -61.2, -10, 61.2, 61.2, 10)
    score_min: float = 0.0


class _ConvNorm(nn.Module):
    """Convolution, norm and ReLU under mmcv's names."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv, self.bn = nn.Conv2d(channels, channels, 3, padding=1), nn.BatchNorm2d(channels)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.bn(self.conv(x)))


class _PositionEmbedding(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.position_embedding_head = nn.Sequential(
            nn.Conv1d(2, channels, 1), nn.BatchNorm1d(channels), nn.ReLU(), nn.Conv1d(channels, channels, 1)
        )

    def forward(self, place: Tensor) -> Tensor:
        """Map places (B, P, 2) to (B, P, C)."""
        out: Tensor = self.position_embedding_head(place.transpose(1, 2)).transpose(1, 2)
        return out


class _Attention(nn.Module):
    """Multi-head attention under torch's parameter names."""

    def __init__(self, channels: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.in_proj_weight = nn.Parameter(torch.empty(3 * channels, channels))
        self.in_proj_bias = nn.Parameter(torch.zeros(3 * channels))
        self.out_proj = nn.Linear(channels, channels)
        nn.init.xavier_uniform_(self.in_proj_weight)

    def forward(self, query: Tensor, key: Tensor, left_out: Tensor | None) -> Tensor:
        """Attend (R, 1, C) to (R, W, C), keys being values; `left_out` (R, W)."""
        weights, biases = self.in_proj_weight.chunk(3), self.in_proj_bias.chunk(3)
        q, k, v = (
            F.linear(x, w, b).reshape(*x.shape[:2], self.heads, -1).transpose(1, 2)
            for x, w, b in zip((query, key, key), weights, biases, strict=True)
        )
        scores = (q * q.shape[3] ** -0.5) @ k.transpose(2, 3)
        if left_out is not None:
            scores = scores.masked_fill(left_out[:, None, None, :], -torch.inf)
        out: Tensor = self.out_proj((scores.softmax(dim=3) @ v).transpose(1, 2).flatten(2))
        return out


class Decoder(nn.Module):
    """One layer: self-attention of each query with itself, cross-attention to the cells around it, feed-forward."""

    def __init__(self, config: TransFusionConfig) -> None:
        super().__init__()
        c = config.channels
        self.self_attn, self.multihead_attn = _Attention(c, config.heads), _Attention(c, config.heads)
        self.linear1, self.linear2 = nn.Linear(c, config.hidden), nn.Linear(config.hidden, c)
        self.norm1, self.norm2, self.norm3 = nn.LayerNorm(c), nn.LayerNorm(c), nn.LayerNorm(c)
        self.self_posembed, self.cross_posembed = _PositionEmbedding(c), _PositionEmbedding(c)

    def forward(
        self, query: Tensor, place: Tensor, cells: Tensor, places: Tensor, index: Tensor, left_out: Tensor
    ) -> Tensor:
        """Decode queries.

        Args:
            query: (B, P, C).
            place: (B, P, 2) cell x and y of each query, + 0.5.
            cells: (B, X * Y, C) features of the map.
            places: (X * Y, 2) cell x and y of each, + 0.5.
            index: (B, P, W) cells around each query.
            left_out: (B, P, W) True where there is no such cell.
        """
        batch, queries, channels = query.shape
        q = query.reshape(-1, 1, channels)
        at = self.self_posembed(place).reshape(-1, 1, channels)
        x = self.norm1(q + self.self_attn(q + at, q + at, None))
        keys = cells + self.cross_posembed(places[None])
        around = keys.gather(1, index.flatten(1).unsqueeze(2).expand(-1, -1, channels))
        around = around.reshape(batch * queries, -1, channels)
        x = self.norm2(x + self.multihead_attn(x + at, around, left_out.flatten(0, 1)))
        x = self.norm3(x + self.linear2(F.relu(self.linear1(x))))
        found: Tensor = x.reshape(batch, queries, channels)
        return found


def _all_places(width: int, height: int, like: Tensor) -> Tensor:
    """Return (X * Y, 2) cell x and y, + 0.5."""
    x, y = torch.meshgrid(torch.arange(width), torch.arange(height), indexing="ij")
    return (torch.stack((x, y), dim=2).reshape(-1, 2) + 0.5).to(like)


class DecoderPart(nn.Module):
    """The exportable part behind the choice of queries."""

    def __init__(self, head: TransFusionHead) -> None:
        super().__init__()
        self.decoder, self.prediction_head, self.class_encoding = (
            head.decoder,
            head.prediction_head,
            head.class_encoding,
        )

    def forward(
        self, cell: Tensor, kind: Tensor, place: Tensor, cells: Tensor, places: Tensor, index: Tensor, left_out: Tensor
    ) -> tuple[Tensor, ...]:
        """Decode the queries of the cells `cell` (B, P), of the classes `kind` (B, K, P), 1 or 0; see `Decoder`."""
        query = cells.gather(1, cell.unsqueeze(2).expand(-1, -1, cells.shape[2]))
        query = query + self.class_encoding(kind).transpose(1, 2)
        decoded = self.decoder(query, place, cells, places, index, left_out).transpose(1, 2)
        return tuple(self.prediction_head[name](decoded) for name in (*HEADS, "heatmap"))


class TransFusionHead(nn.Module):
    """Its forward is the dense part: features turned to x, y, and the heatmap."""

    def __init__(self, config: TransFusionConfig) -> None:
        super().__init__()
        self.config = config
        c = config.channels
        self.shared_conv = nn.Conv2d(config.in_channels, c, 3, padding=1)
        self.heatmap_head = nn.Sequential(_ConvNorm(c), nn.Conv2d(c, config.num_classes, 3, padding=1))
        self.class_encoding = nn.Conv1d(config.num_classes, c, 1)
        self.decoder = Decoder(config)
        outputs = {**HEADS, "heatmap": config.num_classes}
        self.prediction_head = nn.ModuleDict({name: _prediction(c, count) for name, count in outputs.items()})
        self.maps = {"shared": c, "dense_heatmap": config.num_classes}

    def forward(self, bev: Tensor) -> tuple[Tensor, ...]:
        """Map (B, C', Y, X) to features (B, C, X, Y) and heatmap logits (B, K, X, Y)."""
        shared = self.shared_conv(bev.transpose(2, 3))
        return shared, self.heatmap_head(shared)

    def queries(self, heatmap: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Choose queries: scores (B, K, P) of the chosen cells in all classes, class (B, P) and cell (B, P)."""
        heat = heatmap.sigmoid()
        classes, height, width = heat.shape[1:]
        peak = F.pad(F.max_pool2d(heat, 3, 1, 0), (1, 1, 1, 1), value=0.0)
        small = torch.zeros(classes, dtype=torch.bool, device=heat.device)
        small[[k for k in self.config.small if k < classes]] = True
        peak = torch.where(small[None, :, None, None], heat, peak)
        kept = (heat * (heat == peak)).flatten(1)
        best = kept.argsort(dim=1, descending=True, stable=True)[:, : self.config.proposals]
        label, cell = best // (height * width), best % (height * width)
        scores = (heat * (heat == peak)).flatten(2).gather(2, cell.unsqueeze(1).expand(-1, classes, -1))
        return scores, label, cell

    def decoded(self, maps: Mapping[str, Tensor], run: RunPart) -> dict[str, Tensor]:
        """Return the raw numbers of each query; "center" in cells of the map."""
        shared = maps["shared"]
        width, height = shared.shape[2:]
        scores, label, cell = self.queries(maps["dense_heatmap"])
        cells = shared.flatten(2).transpose(1, 2)
        place = torch.stack((cell // height, cell % height), dim=2) + 0.5
        offset = torch.arange(-REACH, REACH + 1, device=cell.device)
        around = (offset[:, None] * height + offset[None]).reshape(-1)
        index = cell.unsqueeze(2) + around
        outside = (index < 0) | (index >= width * height)
        inputs = {
            "cell": cell,
            "kind": F.one_hot(label, self.config.num_classes).transpose(1, 2).to(shared).contiguous(),
            "place": place.float(),
            "cells": cells.contiguous(),
            "places": _all_places(width, height, shared),
            "index": index.clamp(0, width * height - 1),
            "left_out": outside,
        }
        numbers = {name: value.clone() for name, value in run("decoder", inputs).items()}
        numbers["center"] = numbers["center"] + place.transpose(1, 2)
        return {**numbers, "query_heatmap_score": scores, "query_labels": label}

    def boxes(self, maps: Mapping[str, Tensor], cells: BevCells, run: RunPart) -> list[Boxes3D]:
        """Return the final boxes of each sample, in the order of the queries."""
        return self.boxes_of(self.decoded(maps, run), cells)

    def boxes_of(self, numbers: Mapping[str, Tensor], cells: BevCells) -> list[Boxes3D]:
        """Read boxes out of the raw numbers."""
        classes = F.one_hot(numbers["query_labels"], self.config.num_classes).transpose(1, 2)
        score, label = (numbers["heatmap"].sigmoid() * numbers["query_heatmap_score"] * classes).max(dim=1)
        iou = ((numbers["iou"][:, 0] + 1) / 2).clamp(0, 1)
        power = self.config.iou_power
        return [
            self._sample(
                {name: value[b] for name, value in numbers.items()}, score[b], label[b], iou[b] ** power, cells
            )
            for b in range(len(score))
        ]

    def _sample(
        self, numbers: Mapping[str, Tensor], score: Tensor, label: Tensor, factor: Tensor, cells: BevCells
    ) -> Boxes3D:
        size = numbers["dim"].exp().T
        xy = numbers["center"].T * score.new_tensor(cells.cell_m) + score.new_tensor(cells.minimum_m)
        center = torch.cat((xy, numbers["height"].T - size[:, 2:] / 2), dim=1)
        limit = score.new_tensor(self.config.center_limit_m)
        kept = (score > self.config.score_min) & ((center >= limit[:3]) & (center <= limit[3:])).all(dim=1)
        yaw = torch.atan2(numbers["rot"][0], numbers["rot"][1])
        rectified = score ** (1 - self.config.iou_power) * factor
        boxes = Boxes3D(center, size, yaw, rectified, label, numbers["vel"].T)
        return self._without_doubles(boxes.chosen(kept.nonzero().squeeze(1)))

    def _without_doubles(self, boxes: Boxes3D) -> Boxes3D:
        """Suppress overlapping boxes of the small classes."""
        boxes = boxes.cpu()
        label = boxes.label.numpy()
        stays = np.ones(len(label), np.bool_)
        flat = torch.cat((boxes.center[:, :2], boxes.size[:, :2], boxes.yaw.unsqueeze(1)), dim=1).double().numpy()
        for number in self.config.small:
            of_class = np.flatnonzero(label == number)
            stays[of_class] = False
            stays[of_class[rotated_nms(flat[of_class], boxes.score.numpy()[of_class], self.config.nms_iou)]] = True
        return boxes.chosen(torch.from_numpy(np.flatnonzero(stays)))

    def parts(self) -> Mapping[str, Part]:
        """Return the part `decoder`."""
        c, p, k = self.config.channels, self.config.proposals, self.config.num_classes
        batch, cells, keys = Axis("batch", 1, 1, 8), Axis("cells", 1, 32_400, 65_536), (2 * REACH + 1) ** 2
        outputs = {**HEADS, "heatmap": self.config.num_classes}
        return {
            "decoder": Part(
                "decoder",
                DecoderPart(self).eval(),
                {
                    "cell": TensorSpec("int64", (batch, p)),
                    "kind": TensorSpec("float32", (batch, k, p)),
                    "place": TensorSpec("float32", (batch, p, 2)),
                    "cells": TensorSpec("float32", (batch, cells, c)),
                    "places": TensorSpec("float32", (cells, 2)),
                    "index": TensorSpec("int64", (batch, p, keys)),
                    "left_out": TensorSpec("bool", (batch, p, keys)),
                },
                {name: TensorSpec("float32", (batch, count, p)) for name, count in outputs.items()},
                lambda: _example(c, p, k, keys),
            )
        }


def _prediction(channels: int, count: int) -> nn.Sequential:
    first = nn.Sequential(nn.Conv1d(channels, 64, 1), nn.BatchNorm1d(64), nn.ReLU())
    return nn.Sequential(first, nn.Conv1d(64, count, 1))


def _example(channels: int, proposals: int, classes: int, keys: int) -> tuple[Tensor, ...]:
    generator = torch.Generator().manual_seed(3)
    cells = 60 * 60
    index = torch.randint(0, cells, (1, proposals, keys), generator=generator)
    kind = torch.randint(0, classes, (1, proposals), generator=generator)
    return (
        torch.randint(0, cells, (1, proposals), generator=generator),
        F.one_hot(kind, classes).transpose(1, 2).float().contiguous(),
        torch.rand(1, proposals, 2, generator=generator) * 60,
        torch.randn(1, cells, channels, generator=generator),
        _all_places(60, 60, torch.zeros(())),
        index,
        index % 7 == 0,
    )


__all__ = ["TransFusionConfig", "TransFusionHead"]
