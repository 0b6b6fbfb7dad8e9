"""FlatFormer: a transformer on pillars, in equal groups along flattened windows, with a center head.

Paper      Liu et al., "FlatFormer: Flattened Window Attention for Efficient Point Cloud Transformer", CVPR 2023
Reference  mit-han-lab/flatformer at 31dc5a9 (built on MMDetection3D, Apache-2.0)
Differs    three faults of the published code, kept only where `published_faults` is set, as parity cases want it: the
           pillar with the smallest (y, x) of each sample is lost; a later sample of less than one group attends to
           pillars of the one before (here it repeats its own); small grids mix the samples of a batch
Shapes     N points, V pillars, S groups, G slots of a group, C channels, B samples, H rows along y, W columns along x
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from perception.networks.layers.attention import Attention
from perception.networks.layers.boxes import Boxes3D
from perception.networks.layers.point_encoder import PointEncoder
from perception.networks.part import Axis, Part, RunPart, TensorSpec
from perception.ops.bev_map import bev_map
from perception.ops.boxes_bev import rotated_nms
from perception.ops.dynamic_voxels import decorated, numbered
from perception.ops.flat_windows import FlatGroups, flat_groups, flat_orders

EPS = 1e-3
MAPS = {"reg": 2, "height": 1, "dim": 3, "rot": 2, "vel": 2, "iou": 1}
Watch: TypeAlias = "Callable[[str, Tensor], None]"


@dataclass(frozen=True)
class FlatFormerConfig:
    """The published sizes for Waymo by default; the 2 and 3 sweep variants differ in their points alone."""

    minimum_m: tuple[float, float, float] = (-74.88, -74.88, -2.0)
    maximum_m: tuple[float, float, float] = (74.88, 74.88, 4.0)
    grid: tuple[int, int] = (468, 468)  # pillars along x and y
    point_features: int = 5
    vfe_channels: tuple[int, int] = (64, 128)
    heads: int = 8
    blocks: int = 2
    window: tuple[int, int] = (13, 13)
    shift: tuple[int, int] = (6, 6)
    group: int = 144
    bev_channels: tuple[int, int] = (64, 128)
    bev_layers: tuple[int, int] = (3, 3)  # convolutions of a stage after its first
    neck_channels: tuple[int, int] = (128, 128)
    head_channels: int = 64
    num_classes: int = 3
    score_min: float = 0.1
    most_cells: int = 4096
    coder_limit_m: tuple[float, float, float, float, float, float] = (-74.88, -74.88, -10, 74.88, 74.88, 10)
    center_limit_m: tuple[float, float, float, float, float, float] = (-80, -80, -10, 80, 80, 10)
    iou_power: float = 2.0
    nms_iou: tuple[float, ...] = (0.8, 0.55, 0.55)
    nms_before: tuple[int, ...] = (2048, 1024, 1024)
    nms_after: tuple[int, ...] = (300, 100, 100)
    published_faults: bool = False

    @property
    def channels(self) -> int:
        return self.vfe_channels[1]

    @property
    def pillar_m(self) -> tuple[float, float]:
        low, high = self.minimum_m, self.maximum_m
        return (high[0] - low[0]) / self.grid[0], (high[1] - low[1]) / self.grid[1]


@dataclass(frozen=True)
class Pillars:
    """Points by pillar.

    Attributes:
        points: (N, 1 + F) batch, x, y, z, features.
        pillar: (N,) index of each point's pillar.
        coords: (V, 4) int32 batch, z, y, x; ordered by batch, y, x with x fastest.
    """

    points: Tensor
    pillar: Tensor
    coords: Tensor


class GroupAttention(nn.Module):
    """Holds the attention one level deeper, as the published names do."""

    def __init__(self, channels: int, heads: int) -> None:
        super().__init__()
        self.attn = Attention(channels, heads)


class BasicLayer(nn.Module):
    """Attention in each group, and a feed-forward layer, both normalised afterwards."""

    def __init__(self, channels: int, heads: int) -> None:
        super().__init__()
        self.attn = GroupAttention(channels, heads)
        self.fc1, self.fc2 = nn.Linear(channels, 2 * channels), nn.Linear(2 * channels, channels)
        self.norm1, self.norm2 = nn.LayerNorm(channels), nn.LayerNorm(channels)

    def forward(self, x: Tensor, position: Tensor, index: Tensor) -> Tensor:
        """Map pillars (V, C) to slots (S, G, C); `index` (S, G) are the pillars in the slots."""
        value = x[index]
        key = value + position[index]
        value = self.norm1(value + self.attn.attn(key, key, value))
        out: Tensor = self.norm2(value + self.fc2(F.gelu(self.fc1(value))))
        return out


class BasicBlock(nn.Module):
    """Four layers, one for each order."""

    def __init__(self, channels: int, heads: int) -> None:
        super().__init__()
        self.block = nn.ModuleList([BasicLayer(channels, heads) for _ in range(4)])


class FlatBackbone(nn.Module):
    """The exportable part on pillars."""

    def __init__(self, config: FlatFormerConfig) -> None:
        super().__init__()
        self.block_list = nn.ModuleList([BasicBlock(config.channels, config.heads) for _ in range(config.blocks)])

    def forward(self, x: Tensor, position: Tensor, index: Tensor, first: Tensor) -> tuple[Tensor, ...]:
        """Return the pillars (V, C) after each block; `index` (4, S, G), `first` (4, V) by order."""
        outputs = []
        for block in self.block_list:
            for order, layer in enumerate(block.block):  # type: ignore[arg-type]
                x = layer(x, position, index[order]).flatten(0, 1)[first[order]]
            outputs.append(x)
        return tuple(outputs)


class Second(nn.Module):
    """Two stages of convolutions; where shapes agree, the input is added after the activation."""

    def __init__(self, config: FlatFormerConfig) -> None:
        super().__init__()
        self.blocks = nn.ModuleList()
        before = config.channels
        for stage, (channels, layers) in enumerate(zip(config.bev_channels, config.bev_layers, strict=True)):
            convolutions = [_convolution(before, channels, stride=1 + stage)]
            convolutions += [_convolution(channels, channels, stride=1) for _ in range(layers)]
            self.blocks.append(nn.ModuleList(convolutions))
            before = channels

    def forward(self, x: Tensor) -> list[Tensor]:
        """Turn (B, C, H, W) into one map per stage."""
        maps = []
        for block in self.blocks:
            for convolve in block.children():
                out = convolve(x)
                x = out + x if out.shape[1:] == x.shape[1:] else out
            maps.append(x)
        return maps


def _convolution(before: int, channels: int, stride: int) -> nn.Sequential:
    convolution = nn.Conv2d(before, channels, 3, stride, padding=1, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(channels, eps=EPS), nn.ReLU())


class Neck(nn.Module):
    """Bring both stages to full resolution, side by side."""

    def __init__(self, config: FlatFormerConfig) -> None:
        super().__init__()
        self.deblocks = nn.ModuleList(
            nn.Sequential(
                nn.ConvTranspose2d(before, channels, 1 + stage, 1 + stage, bias=False),
                nn.BatchNorm2d(channels, eps=EPS),
                nn.ReLU(),
            )
            for stage, (before, channels) in enumerate(zip(config.bev_channels, config.neck_channels, strict=True))
        )

    def forward(self, maps: list[Tensor]) -> Tensor:
        """Return (B, sum of channels, H, W)."""
        first = maps[0].shape[2:]
        return torch.cat(
            [deblock(x)[:, :, : first[0], : first[1]] for deblock, x in zip(self.deblocks, maps, strict=True)], dim=1
        )


class ConvNormRelu(nn.Module):
    """A convolution under the names of mmcv's ConvModule."""

    def __init__(self, before: int, channels: int, eps: float) -> None:
        super().__init__()
        self.conv = nn.Conv2d(before, channels, 3, padding=1, bias=False)
        self.bn = nn.BatchNorm2d(channels, eps=eps)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.bn(self.conv(x)))


class CenterHead(nn.Module):
    """One map per number of a box; the norms of the task heads have torch's own epsilon, unlike all others."""

    def __init__(self, config: FlatFormerConfig) -> None:
        super().__init__()
        shared = config.head_channels
        self.maps = {**MAPS, "heatmap": config.num_classes}
        self.shared_conv = ConvNormRelu(sum(config.neck_channels), shared, EPS)
        heads = {
            name: nn.Sequential(ConvNormRelu(shared, shared, 1e-5), nn.Conv2d(shared, channels, 3, padding=1))
            for name, channels in self.maps.items()
        }
        self.task_heads = nn.ModuleList([nn.ModuleDict(heads)])

    def forward(self, bev: Tensor) -> tuple[Tensor, ...]:
        shared = self.shared_conv(bev)
        return tuple(self.task_heads[0].get_submodule(name)(shared) for name in self.maps)


class BevPart(nn.Module):
    """The exportable part on the dense map: 2D backbone, neck and head."""

    def __init__(self, backbone: Second, neck: Neck, head: CenterHead) -> None:
        super().__init__()
        self.backbone, self.neck, self.head = backbone, neck, head

    def forward(self, bev: Tensor) -> tuple[Tensor, ...]:
        neck = self.neck(self.backbone(bev))
        return (neck, *self.head(neck))


@dataclass(frozen=True)
class RawBoxes:
    """Boxes of one sample in the convention of the published code.

    Attributes:
        center: (M, 3) geometric centre.
        size: (M, 3) the first along x at yaw 0.
        yaw: (M,) clockwise.
        velocity: (M, 2) trained with weight 0: means nothing.
        score: (M,).
        label: (M,).
    """

    center: Tensor
    size: Tensor
    yaw: Tensor
    velocity: Tensor
    score: Tensor
    label: Tensor

    def chosen(self, index: Tensor) -> RawBoxes:
        return RawBoxes(
            self.center[index], self.size[index], self.yaw[index], self.velocity[index], self.score[index],
            self.label[index],
        )  # fmt: skip

    def cpu(self) -> RawBoxes:
        """Return them in the memory of the host."""
        return RawBoxes(
            self.center.cpu(), self.size.cpu(), self.yaw.cpu(), self.velocity.cpu(), self.score.cpu(), self.label.cpu()
        )


class FlatFormer(nn.Module):
    """Points to boxes."""

    def __init__(self, config: FlatFormerConfig) -> None:
        super().__init__()
        self.config = config
        self.voxel_encoder = PointEncoder(config.point_features, *config.vfe_channels, "vfe_layers")
        self.middle_encoder = FlatBackbone(config)
        self.backbone = Second(config)
        self.neck = Neck(config)
        self.bbox_head = CenterHead(config)

    def pillars(self, points: Tensor) -> Pillars:
        """Sort points (N, 1 + F) into pillars; one outside the range lands in a pillar of the border, as published."""
        points = points[torch.isfinite(points).all(dim=1)]
        nx, ny = self.config.grid
        place = (points[:, 1:3] - points.new_tensor(self.config.minimum_m[:2])) / points.new_tensor(
            self.config.pillar_m
        )
        cell = torch.floor(place)
        x, y = cell[:, 0].clamp(0, nx - 1).long(), cell[:, 1].clamp(0, ny - 1).long()
        batch = points[:, 0].long()
        unique, index = numbered((batch * ny + y) * nx + x, (int(batch.max()) + 1 if len(batch) else 0) * ny * nx)
        rows = unique // nx
        coords = torch.stack((rows // ny, torch.zeros_like(unique), rows % ny, unique % nx), dim=1).int()
        if self.config.published_faults and len(unique):
            leads = torch.ones_like(unique, dtype=torch.bool)
            leads[1:] = coords[1:, 0] != coords[:-1, 0]
            kept = ~leads[index]
            points, index = points[kept], (torch.cumsum(~leads, 0) - 1)[index[kept]]
            coords = coords[~leads]
        return Pillars(points, index, coords)

    def pillar_features(self, pillars: Pillars, run: RunPart) -> Tensor:
        """Return the features of the pillars, (V, C)."""
        low, high = self.config.minimum_m, self.config.maximum_m
        points, pillar, count = pillars.points[:, 1:], pillars.pillar, len(pillars.coords)
        size = points.new_tensor((*self.config.pillar_m, high[2] - low[2]))
        center = pillars.coords[:, [3, 2, 1]].float() * size + (size / 2 + points.new_tensor(low))
        x, encoder = decorated(points, pillar, center), self.voxel_encoder
        return encoder(x, pillar, count) if self.training else encoder.encoded(x, pillar, count, run)

    def position(self, coords: Tensor) -> Tensor:
        """Return the sine and cosine embedding of the pillars' places, (V, C): x in the first half, y in the second."""
        half = self.config.channels // 2
        channel = torch.arange(half, dtype=torch.float32, device=coords.device)
        frequency = 10000 ** (2 * torch.div(channel, 2, rounding_mode="floor") / half)
        halves = []
        for axis in (3, 2):
            angle = coords[:, axis].float().unsqueeze(1) / frequency
            halves.append(torch.stack((angle[:, 0::2].sin(), angle[:, 1::2].cos()), dim=2).flatten(1))
        return torch.cat(halves, dim=1)

    def groups(self, coords: Tensor) -> tuple[Tensor, Tensor]:
        """Return the pillars in the slots, (4, S, G), and each pillar's first slot, (4, V), by order."""
        orders, grouped = self.flattened(coords)
        first = torch.empty_like(orders).scatter_(1, orders, grouped.first.expand_as(orders))
        return orders[:, grouped.padded].view(4, -1, self.config.group), first

    def flattened(self, coords: Tensor) -> tuple[Tensor, FlatGroups]:
        """Return the four orders of the pillars, (4, V), and how they are cut into groups."""
        config = self.config
        step = 10 * config.grid[0] * config.grid[1] if config.published_faults else None
        orders = flat_orders(coords, config.grid, config.window, config.shift, step)
        counts = torch.bincount(coords[:, 0].long())
        return orders, flat_groups(counts, config.group, beyond=config.published_faults)

    def bev(self, x: Tensor, coords: Tensor, batch: int) -> Tensor:
        """Scatter the pillars onto the map (B, C, ny, nx)."""
        nx, ny = self.config.grid
        return bev_map(x, coords, batch, ny, nx)

    def maps(self, points: Tensor, batch: int, run: RunPart, watch: Watch | None = None) -> Mapping[str, Tensor]:
        """Return the head's raw maps and, for a `watch`, everything on the way to them.

        Args:
            points: (N, 1 + F) batch, x, y, z, features.
            batch: number of samples; a sample without points gives an empty map.
            run: runs the parts.
            watch: called with a name and a tensor at each stage.
        """
        watch = watch or (lambda name, value: None)
        pillars = self.pillars(points)
        coords = pillars.coords
        watch("voxel_coords", coords)
        x = points.new_zeros(0, self.config.channels)
        if len(coords):
            x = self.pillar_features(pillars, run)
            watch("vfe_features", x)
            position, (index, first) = self.position(coords), self.groups(coords)
            watch("pe", position)
            outputs = run("blocks", {"x": x, "position": position, "index": index, "first": first})
            for name, value in outputs.items():
                watch(name, value)
            x = outputs[f"block{self.config.blocks - 1}"]
        outputs = run("bev", {"bev": self.bev(x, coords, batch)})
        watch("neck", outputs["neck"])
        return outputs

    def in_range(self, points: Tensor) -> Tensor:
        """Return the points (N, F) that the published pipeline keeps: strictly inside, 1 mm off in z."""
        low, high = points.new_tensor(self.config.minimum_m), points.new_tensor(self.config.maximum_m)
        margin = points.new_tensor((0.0, 0.0, 0.001))
        return points[((points[:, :3] > low + margin) & (points[:, :3] < high - margin)).all(dim=1)]

    def detect(self, points: Tensor, run: RunPart) -> Boxes3D:
        """Detect in one cloud: points (N, F), x, y, z, features, in the frame of the card."""
        kept = self.in_range(points)
        batched = torch.cat((kept.new_zeros(len(kept), 1), kept), dim=1)
        return self.boxes(self.maps(batched, 1, run))[0]

    def boxes(self, maps: Mapping[str, Tensor]) -> list[Boxes3D]:
        """Return the final boxes of each sample, in the house's convention."""
        return [_in_house_convention(raw) for raw in self.raw_boxes(maps)]

    def raw_boxes(self, maps: Mapping[str, Tensor]) -> list[RawBoxes]:
        """Return the final boxes of each sample as the published code gives them, but for the height of z."""
        return [self._suppressed(boxes) for boxes in self._read_out(maps)]

    def _read_out(self, maps: Mapping[str, Tensor]) -> list[RawBoxes]:
        config = self.config
        heat = maps["heatmap"].sigmoid() * maps["iou"].clamp(0, 1) ** config.iou_power
        most = min(config.most_cells, heat.shape[2] * heat.shape[3])
        per_class, place = heat.flatten(2).topk(most)
        score, best = per_class.flatten(1).topk(most)
        cell = place.flatten(1).gather(1, best)
        found = []
        for sample in range(len(heat)):
            at, width = cell[sample], heat.shape[3]
            numbers = {name: maps[name][sample].flatten(1)[:, at].T for name in MAPS}
            xy = torch.stack((at % width, at // width), dim=1) + numbers["reg"]
            xy = xy * xy.new_tensor(config.pillar_m) + xy.new_tensor(config.minimum_m[:2])
            center = torch.cat((xy, numbers["height"]), dim=1)
            limit = xy.new_tensor(config.coder_limit_m)
            inside = ((center >= limit[:3]) & (center <= limit[3:])).all(dim=1)
            yaw = torch.atan2(numbers["rot"][:, 0], numbers["rot"][:, 1])
            boxes = RawBoxes(center, numbers["dim"].exp(), yaw, numbers["vel"], score[sample], best[sample] // most)
            found.append(boxes.chosen(torch.nonzero(inside & (score[sample] > config.score_min)).squeeze(1)).cpu())
        return found

    def _suppressed(self, boxes: RawBoxes) -> RawBoxes:
        config = self.config
        flat = torch.cat((boxes.center[:, :2], boxes.size[:, :2], -boxes.yaw.unsqueeze(1)), dim=1).double().numpy()
        kept = []
        for number in range(config.num_classes):
            of_class = np.flatnonzero(boxes.label.numpy() == number)
            chosen = rotated_nms(
                flat[of_class], boxes.score.numpy()[of_class], config.nms_iou[number], config.nms_before[number],
                config.nms_after[number],
            )  # fmt: skip
            kept.append(of_class[chosen])
        final = boxes.chosen(torch.from_numpy(np.concatenate(kept)))
        limit = final.center.new_tensor(config.center_limit_m)
        inside = ((final.center >= limit[:3]) & (final.center <= limit[3:])).all(dim=1)
        return final.chosen(torch.nonzero(inside).squeeze(1))

    def parts(self) -> Mapping[str, Part]:
        """Return the parts: `points` and `voxels` of the encoder, `blocks` on pillars, `bev` on the map."""
        config = self.config
        pillars, groups = Axis("pillars", 1, 10_000, 400_000), Axis("groups", 1, 80, 4000)
        batch, (nx, ny), c = Axis("batch", 1, 1, 8), config.grid, config.channels
        rows = TensorSpec("float32", (pillars, c))
        maps = {"neck": sum(config.neck_channels), **self.bbox_head.maps}
        return self.voxel_encoder.parts() | {
            "blocks": Part(
                "blocks",
                self.middle_encoder,
                {
                    "x": rows,
                    "position": rows,
                    "index": TensorSpec("int64", (4, groups, config.group)),
                    "first": TensorSpec("int64", (4, pillars)),
                },
                {f"block{block}": rows for block in range(config.blocks)},
                self._example,
            ),
            "bev": Part(
                "bev",
                BevPart(self.backbone, self.neck, self.bbox_head).eval(),
                {"bev": TensorSpec("float32", (batch, c, ny, nx))},
                {name: TensorSpec("float32", (batch, channels, ny, nx)) for name, channels in maps.items()},
                lambda: (torch.rand(1, c, ny, nx, generator=torch.Generator().manual_seed(7)),),
            ),
        }

    def _example(self) -> tuple[Tensor, ...]:
        generator = torch.Generator().manual_seed(3)
        size = torch.tensor([min(side, 40) for side in self.config.grid])
        cells = torch.unique((torch.rand(400, 2, generator=generator) * size).long(), dim=0)
        zeros = torch.zeros(len(cells), 2, dtype=torch.long)
        coords = torch.cat((zeros, cells.flip(1)), dim=1).int()
        x = torch.randn(len(coords), self.config.channels, generator=generator)
        return (x, self.position(coords), *self.groups(coords))


def _in_house_convention(raw: RawBoxes) -> Boxes3D:
    """Turn clockwise yaw from -y into counter-clockwise heading from +x, and put the length first."""
    heading = -raw.yaw - math.pi / 2
    heading = torch.atan2(heading.sin(), heading.cos())
    return Boxes3D(raw.center, raw.size[:, [1, 0, 2]], heading, raw.score, raw.label)


__all__ = ["FlatFormer", "FlatFormerConfig", "Pillars", "RawBoxes"]
