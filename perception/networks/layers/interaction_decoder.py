"""Multi-modal predictive interaction decoder of DeepInteraction++.

Paper      Yang et al., "DeepInteraction++: Multi-Modality Interaction for Autonomous Driving", TPAMI 2025, section 3.2
Reference  fudan-zvg/DeepInteraction, projects/mmdet3d_plugin/models/{dense_heads/deepinteractionplusplus_decoder.py,
           utils/decoder_utils.py} (Apache-2.0)
Differs    an image layer decodes every query once, in the last view that holds it, among the queries of that view:
           the published loop over views decodes it in each and keeps the last. Cells need not be square
Shapes     B batch, V views, C channels, P queries, S_y x S_x cells of the bird's-eye view, h x w image cells, N classes

Kept on purpose: the 3 x 3 maximum drops the outermost cells, but for classes that take every cell (pedestrians and
cones); a query whose depth is negative still counts as on the view where its clamped projection lands; a view with a
single query is skipped; the LiDAR layers read twice the size of the box; the branch around the dynamic convolution is
that of the first query of the view (in LiDAR layers, of all), added to every query: the published shapes (1, P, C) and
(P, 1, C) broadcast, and row 0 is taken.

Boxes, their corners and where they project stay in float32 whatever the layers compute in: half precision has steps of
0.03 m at 50 m, and overflows at the pixels of a corner beside a camera.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from perception.networks.layers.attention import Attention, TransformerDecoderLayer
from perception.networks.layers.interaction_geometry import apply_matrix
from perception.networks.layers.swin import FeedForward
from perception.ops.roi_align import roi_align

MIN_DEPTH = 1e-5
HALVES = (torch.float16, torch.bfloat16)
FIELDS = {"center": 2, "height": 1, "dim": 3, "rot": 2, "vel": 2}


@dataclass(frozen=True)
class DecoderConfig:
    """The published sizes by default."""

    channels: int = 128
    classes: int = 10
    queries: int = 200
    layers: int = 4  # image and LiDAR in turn
    heads: int = 8
    hidden: int = 256  # of the first layer
    field_channels: int = 64
    bins: int = 7  # of a region of interest
    every_cell_classes: tuple[int, ...] = (8, 9)
    origin: tuple[float, float] = (-54.0, -54.0)  # x, y of the first cell's corner, metres
    cell: tuple[float, float] = (0.6, 0.6)  # metres
    image_stride: int = 4
    fields: dict[str, int] = field(default_factory=lambda: dict(FIELDS))


class BoxFields(NamedTuple):
    """What is predicted for each query, one column per query."""

    center: Tensor
    """(B, 2, P) x and y in cells."""
    height: Tensor
    """(B, 1, P) z of the centre, metres."""
    dim: Tensor
    """(B, 3, P) log of the sizes along x, y, z, metres."""
    rot: Tensor
    """(B, 2, P) sine and cosine of the yaw."""
    vel: Tensor
    """(B, 2, P) metres per second."""
    heatmap: Tensor
    """(B, N, P) class logits."""


class Decoded(NamedTuple):
    """All that the decoder yields."""

    heatmap_lidar: Tensor
    """(B, N, S_y, S_x) logits."""
    heatmap_fused: Tensor
    """(B, N, S_y, S_x) logits."""
    query_labels: Tensor
    """(B, P) int64 class of each query."""
    query_pos: Tensor
    """(B, P, 2) x and y of each query's cell centre, cells."""
    query_scores: Tensor
    """(B, N, P) heatmap at each query's cell."""
    fields: BoxFields
    """The layers one after the other on the last axis, (B, ., layers * P)."""
    on_mask: Tensor
    """(B, layers, P) False where a layer's prediction was replaced by the first one."""


class _Start(NamedTuple):
    """What stands before the image and LiDAR layers, named as in `Decoded`."""

    heatmap_lidar: Tensor
    heatmap_fused: Tensor
    query_labels: Tensor
    query_pos: Tensor
    query_scores: Tensor
    queries: Tensor
    """(B, P, C)."""
    fields: BoxFields
    """(B, ., P)."""

    def decoded(self, fields: BoxFields, on_mask: Tensor) -> Decoded:
        return Decoded(*self[:5], fields, on_mask)


class ConvNorm(nn.Module):
    """Convolution without bias, batch norm, ReLU, under mmcv's names."""

    def __init__(self, in_channels: int, out_channels: int, kernel: int, dims: int) -> None:
        super().__init__()
        if dims == 2:
            self.conv: nn.Module = nn.Conv2d(in_channels, out_channels, kernel, padding=kernel // 2, bias=False)
            self.bn: nn.Module = nn.BatchNorm2d(out_channels)
        else:
            self.conv = nn.Conv1d(in_channels, out_channels, kernel, padding=kernel // 2, bias=False)
            self.bn = nn.BatchNorm1d(out_channels)

    def forward(self, x: Tensor) -> Tensor:
        return self.bn(self.conv(x)).relu()  # type: ignore[no-any-return]


def _in_full(x: Tensor) -> Tensor:
    return x.float() if x.dtype in HALVES else x


class PredictionHead(nn.Module):
    """Two pointwise convolutions per field."""

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__()
        for name, width in (config.fields | {"heatmap": config.classes}).items():
            hidden = ConvNorm(config.channels, config.field_channels, 1, 1)
            self.add_module(name, nn.Sequential(hidden, nn.Conv1d(config.field_channels, width, 1)))

    def forward(self, queries: Tensor) -> BoxFields:
        """Predict from (B, C, P)."""
        return BoxFields(*(_in_full(self.get_submodule(name)(queries)) for name in BoxFields._fields))


class PositionEmbedding(nn.Module):
    """Positions (B, P, 2) to (B, P, C)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.position_embedding_head = nn.Sequential(
            nn.Conv1d(2, channels, 1), nn.BatchNorm1d(channels), nn.ReLU(), nn.Conv1d(channels, channels, 1)
        )

    def forward(self, positions: Tensor) -> Tensor:
        return self.position_embedding_head(positions.transpose(1, 2)).transpose(1, 2)  # type: ignore[no-any-return]


class QueryLayer(TransformerDecoderLayer):
    """The first layer: queries look at the LiDAR bird's-eye view (TransFusion)."""

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__(config.channels, config.heads, config.hidden)
        self.self_posembed = PositionEmbedding(config.channels)
        self.cross_posembed = PositionEmbedding(config.channels)

    def decode(self, queries: Tensor, bev: Tensor, query_pos: Tensor, bev_pos: Tensor) -> Tensor:
        """Decode queries (B, P, C) at (B, P, 2) against cells (B, S, C) at (1, S, 2), all in cells."""
        own, cells = self.self_posembed(query_pos.to(bev.dtype)), self.cross_posembed(bev_pos.to(bev.dtype))
        return self(queries, bev, own, cells)  # type: ignore[no-any-return]


class DynamicConv(nn.Module):
    """Two products of a region's bins with matrices that the query itself yields (Sparse R-CNN)."""

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__()
        channels = config.channels
        self.dynamic_layer = nn.Linear(channels, 2 * channels * channels)
        self.norm1, self.norm2 = nn.LayerNorm(channels), nn.LayerNorm(channels)
        self.out_layer = nn.Linear(channels * config.bins**2, channels)
        self.norm3 = nn.LayerNorm(channels)

    def forward(self, queries: Tensor, regions: Tensor) -> Tensor:
        """Combine queries (N, C) with the bins of their regions (N, bins * bins, C) to (N, C)."""
        channels = queries.shape[1]
        matrices = self.dynamic_layer(queries).reshape(-1, 2, channels, channels)
        x = self.norm1(regions @ matrices[:, 0]).relu()
        x = self.norm2(x @ matrices[:, 1]).relu()
        return self.norm3(self.out_layer(x.flatten(1))).relu()  # type: ignore[no-any-return]


class RegionBlock(nn.Module):
    """Queries look at each other and at their own region; LiDAR blocks carry the suffix `_pts` in their names."""

    def __init__(self, config: DecoderConfig, suffix: str) -> None:
        super().__init__()
        channels = config.channels
        self.suffix = suffix
        self.add_module(f"dyconv{suffix}", DynamicConv(config))
        self.add_module(f"dyconv_pre_self_attn{suffix}", Attention(channels, config.heads))
        for name in ("norm1", "norm2", "norm3", "self_norm"):
            self.add_module(name + suffix, nn.LayerNorm(channels))
        self.ffn = FeedForward(channels, 4 * channels, nn.ReLU())
        self.self_ffn = FeedForward(channels, 4 * channels, nn.ReLU())
        self.scale = nn.Parameter(torch.full((1,), 0.5))
        self.self_scale = nn.Parameter(torch.full((1,), 0.5))

    def forward(self, queries: Tensor, regions: Tensor, leaders: Tensor, group: Tensor, mask: Tensor | None) -> Tensor:
        """Update queries from their regions, and from the first query of their group.

        Args:
            queries: (B, P, C).
            regions: (B * P, bins * bins, C).
            leaders: (B, G) int64, the first query of each group.
            group: (B, P) int64, the group of each query.
            mask: (B, P + G, P) added to the attention of queries and leaders on all queries.
        """
        named = {name: self.get_submodule(name + self.suffix) for name in ("dyconv", "norm1", "norm2", "norm3")}
        attend = self.get_submodule(f"dyconv_pre_self_attn{self.suffix}")
        channels, count = queries.shape[2], queries.shape[1]
        asking = torch.cat([queries, queries.gather(1, leaders[..., None].expand(-1, -1, channels))], 1)
        asking = named["norm1"](asking + attend(asking, queries, queries, mask))
        queries, leading = asking[:, :count], asking[:, count:]
        shared = self.get_submodule(f"self_norm{self.suffix}")(self.self_ffn(leading))  # (B, G, C)
        met = named["dyconv"](queries.flatten(0, 1), regions).reshape(queries.shape)
        queries = named["norm3"](self.ffn(named["norm2"](queries + met)))
        shared = shared.gather(1, group[..., None].expand(-1, -1, channels))
        return queries * self.scale + shared * self.self_scale  # type: ignore[no-any-return]


def box_corners(boxes: Tensor) -> Tensor:
    """Corners of boxes (..., 7) x, y, z of the bottom centre, sizes along x, y, z, yaw: (..., 8, 3).

    In the convention of mmdet3d before 1.0, where the yaw turns clockwise: x' = x cos + y sin, y' = y cos - x sin.
    """
    corner = torch.arange(8, device=boxes.device)
    x, y, z = (side.to(boxes.dtype) for side in (corner >= 4, corner % 4 >= 2, corner % 2 >= 1))
    signs = torch.stack([x - 0.5, y - 0.5, z], -1)
    offset = boxes[..., None, 3:6] * signs
    sine, cosine = boxes[..., 6:7].sin(), boxes[..., 6:7].cos()
    turned_x = offset[..., 0] * cosine + offset[..., 1] * sine
    turned_y = offset[..., 1] * cosine - offset[..., 0] * sine
    return torch.stack([turned_x, turned_y, offset[..., 2]], -1) + boxes[..., None, :3]


def _projected(points: Tensor, image_from_lidar: Tensor) -> Tensor:
    """Apply (B, V, 4, 4) to points (B, 1, N, 3): (B, V, N, 3) u * depth, v * depth, depth."""
    if points.is_cuda:  # autocast would compute a matrix product in half precision
        return apply_matrix(image_from_lidar[:, :, None], points)
    return points @ image_from_lidar[..., :3, :3].transpose(2, 3) + image_from_lidar[..., None, :3, 3]


class InteractionDecoder(nn.Module):
    """Queries from the heatmap, refined on the images and on the bird's-eye view in turn."""

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__()
        self.config = config
        self.heatmap_head = self._heatmap_head()
        self.heatmap_head_img = self._heatmap_head()  # the fused bird's-eye view, in spite of its published name
        self.class_encoding = nn.Conv1d(config.classes, config.channels, 1)
        self.decoder = nn.ModuleList([QueryLayer(config)])
        self.prediction_heads = nn.ModuleList([PredictionHead(config)])
        self.decode_head = nn.ModuleList(RegionBlock(config, "_pts" if i % 2 else "") for i in range(config.layers))
        self.pred_head = nn.ModuleList(PredictionHead(config) for _ in range(config.layers))

    def _heatmap_head(self) -> nn.Sequential:
        channels = self.config.channels
        return nn.Sequential(ConvNorm(channels, channels, 3, 2), nn.Conv2d(channels, self.config.classes, 3, padding=1))

    def forward(self, lidar: Tensor, fused: Tensor, image: Tensor, image_from_lidar: Tensor) -> Decoded:
        """Decode.

        Args:
            lidar: (B, C, S_y, S_x), the bird's-eye view of the LiDAR alone.
            fused: (B, C, S_y, S_x), the one after the interaction.
            image: (B * V, C, h, w); the images are image_stride times as large.
            image_from_lidar: (B, V, 4, 4) to (u * depth, v * depth, depth, 1) pixels.
        """
        start = self._start(lidar, fused)
        fields, on_mask = self.refine(start.queries, start.fields, fused, image, image_from_lidar)
        return start.decoded(fields, on_mask)

    def without_images(self, lidar: Tensor, fused: Tensor) -> Decoded:
        """Decode maps (B, C, S_y, S_x) where no camera sees anything, to learn from.

        The first of the layers is what `forward` says of every query then. The others are its LiDAR layers, as if no
        image layer were between them, so that they can learn before there are images.
        """
        start = self._start(lidar, fused)
        queries, current, layers = start.queries, start.fields, [start.fields]
        for block, predict in list(zip(self.decode_head, self.pred_head, strict=True))[1::2]:
            queries = self.lidar_layer(block, queries, current, fused)
            predicted = predict(queries.transpose(1, 2))
            current = predicted._replace(center=predicted.center + current.center)
            layers.append(current)
        fields = BoxFields(*(torch.cat(values, -1) for values in zip(*layers, strict=True)))
        return start.decoded(fields, torch.zeros_like(fields.height[:, 0], dtype=torch.bool))

    def _start(self, lidar: Tensor, fused: Tensor) -> _Start:
        """Choose the queries, and let them look at the LiDAR's map."""
        heat_lidar, heat_fused = _in_full(self.heatmap_head(lidar)), _in_full(self.heatmap_head_img(fused))
        scores, labels, cells = self.choose_queries((heat_lidar.sigmoid() + heat_fused.sigmoid()) / 2)
        bev = lidar.flatten(2).transpose(1, 2)  # (B, S, C)
        positions = self._cell_centres(lidar)
        query_pos = positions[0][cells]
        queries = bev.gather(1, cells[..., None].expand(-1, -1, bev.shape[2]))
        one_hot = (labels[:, None] == torch.arange(self.config.classes, device=labels.device)[:, None]).to(bev.dtype)
        queries = queries + self.class_encoding(one_hot).transpose(1, 2)
        decode = self.decoder[0]
        assert isinstance(decode, QueryLayer)
        queries = decode.decode(queries, bev, query_pos, positions)
        first = self.prediction_heads[0](queries.transpose(1, 2))
        first = first._replace(center=first.center + query_pos.transpose(1, 2))
        return _Start(heat_lidar, heat_fused, labels, query_pos, scores, queries, first)

    def choose_queries(self, heat: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Take the strongest local maxima of a heatmap (B, N, S_y, S_x).

        Returns:
            The (B, N, P) heat at each query's cell, zero for classes without a maximum there; (B, P) labels; (B, P)
            cells, row * S_x + column.
        """
        peaks = F.pad(F.max_pool2d(heat, 3, 1), (1, 1, 1, 1))
        number = torch.arange(self.config.classes, device=heat.device)[:, None, None]
        kept = heat == peaks
        for every in self.config.every_cell_classes:
            kept = kept | (number == every)
        heat = heat * kept.to(heat.dtype)
        heat = heat.flatten(2)
        best = heat.flatten(1).topk(self.config.queries, sorted=True).indices
        labels, cells = best // heat.shape[2], best % heat.shape[2]
        return heat.gather(2, cells[:, None].expand(-1, heat.shape[1], -1)), labels, cells

    def _cell_centres(self, bev: Tensor) -> Tensor:
        y = torch.arange(bev.shape[2], dtype=torch.float32, device=bev.device) + 0.5
        x = torch.arange(bev.shape[3], dtype=torch.float32, device=bev.device) + 0.5
        rows, columns = torch.meshgrid(y, x, indexing="ij")
        return torch.stack([columns, rows], -1).reshape(1, -1, 2)

    def refine(
        self, queries: Tensor, first: BoxFields, fused: Tensor, image: Tensor, image_from_lidar: Tensor
    ) -> tuple[BoxFields, Tensor]:
        """Run the image and LiDAR layers on queries (B, P, C) that predicted `first`."""
        current, reference = first, first.center
        on_image = torch.ones_like(first.height[:, 0], dtype=torch.bool)
        layers, masks = [], []
        for index, (block, predict) in enumerate(zip(self.decode_head, self.pred_head, strict=True)):
            if index % 2 == 0:
                queries, on_view = self.image_layer(block, queries, current, image, image_from_lidar)
                on_image = on_image & (on_view >= 0)
            else:
                queries = self.lidar_layer(block, queries, current, fused)
            predicted = predict(queries.transpose(1, 2))
            delta = predicted.center  # looks forward twice: each reference is the one before, moved by this delta
            predicted = predicted._replace(center=delta + reference)
            reference = delta + current.center
            current = BoxFields(
                *(torch.where(on_image[:, None], new, old) for new, old in zip(predicted, first, strict=True))
            )
            layers.append(current)
            masks.append(on_image)
        return BoxFields(*(torch.cat(values, -1) for values in zip(*layers, strict=True))), torch.stack(masks, 1)

    def boxes(self, fields: BoxFields) -> Tensor:
        """Boxes (B, P, 7) of predictions: x, y, z of the bottom centre, sizes along x, y, z in metres, yaw."""
        center = [fields.center[:, i : i + 1] * self.config.cell[i] + self.config.origin[i] for i in (0, 1)]
        size, yaw = fields.dim.exp(), torch.atan2(fields.rot[:, 0:1], fields.rot[:, 1:2])
        return torch.cat([*center, fields.height - size[:, 2:] * 0.5, size, yaw], 1).transpose(1, 2)

    def image_layer(
        self, block: nn.Module, queries: Tensor, current: BoxFields, image: Tensor, image_from_lidar: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Refine queries (B, P, C) on the images; also return the last view that holds each, -1 where none does."""
        batch, count = queries.shape[:2]
        views, stride = image_from_lidar.shape[1], self.config.image_stride
        height, width = image.shape[2] * stride, image.shape[3] * stride
        boxes = self.boxes(current)
        centre = torch.cat([boxes[..., :2], current.height.transpose(1, 2)], -1)
        points = torch.cat([centre[:, :, None], box_corners(boxes)], 2).reshape(batch, 1, count * 9, 3)
        projected = _projected(points, image_from_lidar)
        pixels = projected[..., :2] / projected[..., 2:].clamp(min=MIN_DEPTH)
        pixels = pixels.reshape(batch, views, count, 9, 2)
        u, v = pixels[:, :, :, 0].unbind(-1)
        holds = (u > 0) & (u < width) & (v > 0) & (v < height)  # (B, V, P)
        holds = holds & (holds.sum(2, keepdim=True) > 1)
        number = torch.arange(views, device=queries.device)[:, None]
        on_view = torch.where(holds, number, -1).amax(1)  # (B, P)
        view = on_view.clamp(min=0)
        corners = pixels[:, :, :, 1:].gather(1, view[:, None, :, None, None].expand(-1, -1, -1, 8, 2))[:, 0]
        regions = torch.cat([corners.amin(2), corners.amax(2)], -1) / stride  # (B, P, 4)
        maps = torch.arange(batch, device=queries.device)[:, None] * views + view
        pooled = roi_align(image, regions.flatten(0, 1), maps.flatten(), self.config.bins).to(queries.dtype)
        # Queries see those of their own view; a query on no view, and a view without queries, see all: dropped below
        together = holds.gather(1, view[:, :, None].expand(-1, -1, count)) | (on_view < 0)[:, :, None]
        together = torch.cat([together, holds | ~holds.any(2, keepdim=True)], 1)  # (B, P + V, P)
        mask = torch.where(together, 0.0, -math.inf).to(queries.dtype)
        updated = block(queries, pooled, holds.int().argmax(2), view, mask)
        return torch.where((on_view >= 0)[..., None], updated, torch.zeros_like(updated)), on_view

    def lidar_layer(self, block: nn.Module, queries: Tensor, current: BoxFields, fused: Tensor) -> Tensor:
        """Refine queries (B, P, C) on the fused bird's-eye view."""
        boxes = self.boxes(current)
        boxes = torch.cat([boxes[..., :3], 2 * boxes[..., 3:6], boxes[..., 6:]], -1)
        corners = box_corners(boxes)
        corners = torch.stack([(corners[..., i] - self.config.origin[i]) / self.config.cell[i] for i in (0, 1)], -1)
        regions = torch.cat([corners.amin(2), corners.amax(2)], -1).flatten(0, 1)
        sample = torch.arange(len(queries), device=queries.device)[:, None].expand(-1, queries.shape[1])
        pooled = roi_align(fused, regions, sample.flatten(), self.config.bins).to(queries.dtype)
        return block(queries, pooled, torch.zeros_like(sample[:, :1]), torch.zeros_like(sample), None)  # type: ignore[no-any-return]
