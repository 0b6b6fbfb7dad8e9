"""Multi-modal representational interaction encoder of DeepInteraction++.

Paper      Yang et al., "DeepInteraction++: Multi-Modality Interaction for Autonomous Driving", TPAMI 2025, section 3.1
Reference  fudan-zvg/DeepInteraction, projects/mmdet3d_plugin/models/necks/fusion_transformerv4.py (Apache-2.0)
Differs    sampling positions are given (`interaction_geometry`), views are batched, and the alignment of pillars with
           pixels attends to the sampled features directly: with one head, folding the key projection into the query
           and the value projection behind the sum is the same function at a fraction of the memory
Shapes     B batch, V views, C channels, h x w image cells, S_y x S_x bird's-eye-view cells, R radii, P pillars,
           L samples of a pillar, K samples in all
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from perception.networks.layers.attention import TransformerDecoderLayer
from perception.networks.layers.deformable_attention import MultiScaleDeformableAttention, reference_points
from perception.networks.layers.interaction_geometry import FrameGeometry, ViewGeometry
from perception.networks.layers.interaction_on_host import fused_on_host
from perception.networks.layers.swin import FeedForward
from perception.ops.blocks import in_blocks
from perception.ops.host_norms import normed_on_host
from perception.ops.host_products import product_type
from perception.ops.host_sampling import may_round_otherwise

COLUMNS, PILLARS = 32, 512
"""Image columns and pillars that are worked on at a time."""
SINE_TEMPERATURE = 10000.0


@dataclass(frozen=True)
class InteractionConfig:
    """The published sizes by default."""

    image_channels: int = 256
    bev_channels: int = 256  # of each of the two upsampled maps
    channels: int = 128
    layers: int = 2
    heads: int = 8
    points: int = 4
    hidden: int = 512
    radii: int = 60


@dataclass(frozen=True)
class Fused:
    """What the encoder hands to the decoder."""

    image: Tensor
    """(B * V, C, h, w)."""
    lidar: Tensor
    """(B, C, S_y, S_x) LiDAR alone."""
    fused: Tensor
    """(B, C, S_y, S_x) after the interaction."""


class WarpedLidar(nn.Module):
    """LiDAR to image: each image cell attends around itself in the bird's-eye-view features lifted to its pixels."""

    def __init__(self, config: InteractionConfig) -> None:
        super().__init__()
        self.Local = MultiScaleDeformableAttention(config.channels, 1, config.heads, config.points)

    def forward(self, image: Tensor, bev: Tensor, frame: FrameGeometry, size: tuple[int, int]) -> Tensor:
        """Update image features (B * V, h * w, C) from the bird's-eye view (B, C, S_y, S_x)."""
        warped = warp(bev, frame, size)
        return self.Local(image, reference_points(*size, image), [warped])  # type: ignore[no-any-return]


def warp(bev: Tensor, frame: FrameGeometry, size: tuple[int, int]) -> Tensor:
    """Read the bird's-eye view (B, C, S_y, S_x) at the place of every image cell: (B * V, C, h, w)."""
    batch, channels = bev.shape[:2]
    sampled = F.grid_sample(bev, frame.warp_grid.flatten(1, 2), align_corners=False)  # (B, C, V * h, w)
    sampled = sampled.reshape(batch, channels, -1, *size).transpose(1, 2) * frame.warp_inside[:, :, None]
    return sampled.reshape(-1, channels, *size)


def sine_encoding(rows: int, columns: int, channels: int, like: Tensor) -> Tensor:
    """Sine position encoding of a map, rows first: (rows, columns, channels)."""
    half = channels // 2
    index = torch.arange(half, dtype=like.dtype, device=like.device)
    period = SINE_TEMPERATURE ** (2 * (index // 2) / half)

    def encode(length: int) -> Tensor:
        angle = torch.arange(length, dtype=like.dtype, device=like.device)[:, None] / period
        return torch.stack([angle[:, 0::2].sin(), angle[:, 1::2].cos()], -1).reshape(length, half)

    y = encode(rows)[:, None].expand(rows, columns, half)
    x = encode(columns)[None].expand(rows, columns, half)
    return torch.cat([y, x], -1)


class PolarTransformer(nn.Module):
    """One decoder layer over a normed memory, under the names of `torch.nn.Transformer` without encoder layers."""

    def __init__(self, config: InteractionConfig) -> None:
        super().__init__()
        layer = TransformerDecoderLayer(config.channels, config.heads, config.hidden)
        self.encoder = nn.ModuleDict({"norm": nn.LayerNorm(config.channels)})
        self.decoder = nn.ModuleDict({"layers": nn.ModuleList([layer]), "norm": nn.LayerNorm(config.channels)})

    def forward(self, query: Tensor, memory: Tensor) -> Tensor:
        layers = self.decoder["layers"]
        assert isinstance(layers, nn.ModuleList)
        norms: Any = self.encoder["norm"], self.decoder["norm"]
        if may_round_otherwise(query):
            return normed_on_host(norms[1], layers[0](query, normed_on_host(norms[0], memory, dtype=product_type())))
        return norms[1](layers[0](query, norms[0](memory)))  # type: ignore[no-any-return]


class PolarAttention(nn.Module):
    """Image to LiDAR: the radii along each image column attend to the pixels of that column."""

    def __init__(self, config: InteractionConfig) -> None:
        super().__init__()
        self.radii = config.radii
        self.transformer_layers = PolarTransformer(config)

    def forward(self, bev: Tensor, image: Tensor, views: ViewGeometry) -> Tensor:
        """Update the bird's-eye view (B, C, S_y, S_x) from image features (B * V, C, h, w)."""
        seen = self.seen(bev, image, views)
        return bev + seen.sum(1) / views.cell_seen.sum(1).clamp(min=1.0)

    @staticmethod
    def encoding(rows: int, columns: int, channels: int, like: Tensor) -> Tensor:
        """Return what is added to a map column by column, (columns, rows, channels)."""
        return sine_encoding(rows, columns, channels, like).transpose(0, 1)

    def seen(self, bev: Tensor, image: Tensor, views: ViewGeometry) -> Tensor:
        """Return what each view says of the cells that it sees, (B, V, C, S_y, S_x), 0 of the others."""
        channels, rows, columns = image.shape[1:]
        rays = F.grid_sample(bev, views.polar_grid.flatten(1, 2), align_corners=False)  # (B, C, V * R, w)
        rays = rays.reshape(bev.shape[0], channels, -1, self.radii, columns).permute(0, 2, 4, 3, 1)
        rays = rays.reshape(-1, columns, self.radii, channels)
        rays = rays + self.encoding(self.radii, columns, channels, bev)
        pixels = image.permute(0, 3, 2, 1) + self.encoding(rows, columns, channels, bev)
        polar = in_blocks(self.transformer_layers, [rays.flatten(0, 1), pixels.flatten(0, 1)], COLUMNS)
        polar = polar.reshape(-1, columns, self.radii, channels).permute(0, 3, 2, 1)
        seen = F.grid_sample(polar, views.cell_grid.flatten(0, 1), align_corners=False)  # (B * V, C, S_y, S_x)
        return seen.reshape(bev.shape[0], -1, *bev.shape[1:]) * views.cell_seen


class PillarAlignment(nn.Module):
    """Image to LiDAR: each pillar attends to the image features at its own points."""

    def __init__(self, config: InteractionConfig) -> None:
        super().__init__()
        self.learnedAlign = SingleHead(config.channels)

    def forward(self, bev: Tensor, image: Tensor, frame: FrameGeometry) -> Tensor:
        """Update the bird's-eye view (B, C, S_y, S_x) from image features (B * V, C, h, w)."""
        channels = bev.shape[1]
        cells = bev.permute(0, 2, 3, 1).reshape(-1, channels)
        pixels = image.permute(0, 2, 3, 1).reshape(-1, channels)
        samples = torch.zeros_like(frame.sample_weights[:, :1])
        for corner in range(4):
            samples = samples + pixels[frame.sample_cells[:, corner]] * frame.sample_weights[:, corner, None]
        samples = torch.cat([samples, samples.new_zeros(1, samples.shape[1])])  # (K + 1, C)

        def align(queries: Tensor, own: Tensor) -> Tensor:
            return self.learnedAlign(queries, samples[own], own == samples.shape[0] - 1)  # type: ignore[no-any-return]

        aligned = in_blocks(align, [cells[frame.pillar_cells], frame.pillar_samples], PILLARS)
        aligned = torch.cat([aligned, aligned.new_zeros(1, channels)])[frame.cell_pillar]  # (B * S_y * S_x, C)
        return bev + aligned.reshape(bev.shape[0], *bev.shape[2:], channels).permute(0, 3, 1, 2)


class SingleHead(nn.Module):
    """Attention of one query each over its own keys, which are the values, too; names of `nn.MultiheadAttention`."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.in_proj_weight = nn.Parameter(torch.empty(3 * channels, channels))
        self.in_proj_bias = nn.Parameter(torch.zeros(3 * channels))
        self.out_proj = nn.Linear(channels, channels)
        nn.init.xavier_uniform_(self.in_proj_weight)

    def forward(self, query: Tensor, keys: Tensor, absent: Tensor) -> Tensor:
        """Attend: query (P, C), keys (P, L, C), absent (P, L) True for keys that are not there, to (P, C).

        q . (W_k f + b_k) is (W_k^T q) . f plus a number that the softmax cancels; and as weights sum to one,
        sum a (W_v f + b_v) is W_v (sum a f) + b_v. So neither keys nor values are projected.
        """
        logits = (keys @ self.asked(query)[:, :, None])[..., 0].masked_fill(absent, -torch.inf)
        return self.said((logits.softmax(-1)[:, None] @ keys)[:, 0])

    def asked(self, query: Tensor) -> Tensor:
        """Return what the keys are multiplied with, (P, C)."""
        weights, biases = self._projections()
        return F.linear(query, weights[0], biases[0]) @ weights[1] * weights.shape[1] ** -0.5  # type: ignore[no-any-return]

    def said(self, summed: Tensor) -> Tensor:
        """Return the answer that follows from the weighted sum of the keys, (P, C)."""
        weights, biases = self._projections()
        return self.out_proj(F.linear(summed, weights[2], biases[2]))  # type: ignore[no-any-return]

    def _projections(self) -> tuple[Tensor, Tensor]:
        channels = self.in_proj_weight.shape[1]
        return self.in_proj_weight.reshape(3, channels, channels), self.in_proj_bias.reshape(3, channels)


class ImageBlock(nn.Module):
    """Image features: deformable self attention, LiDAR to image, feed-forward; and a branch around the interaction."""

    def __init__(self, config: InteractionConfig) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(1))
        own = MultiScaleDeformableAttention(config.channels, 2, config.heads, config.points)
        self.attentions = nn.ModuleList([own, WarpedLidar(config)])
        self.ffns = nn.ModuleList(FeedForward(config.channels, config.hidden, nn.ReLU(inplace=True)) for _ in range(2))
        self.norms = nn.ModuleList(nn.LayerNorm(config.channels) for _ in range(4))

    def forward(self, image: Tensor, bev: Tensor, levels: Sequence[Tensor], frame: FrameGeometry) -> Tensor:
        """Update (B * V, C, h, w) from the previous bird's-eye view."""
        size = (image.shape[2], image.shape[3])
        own = self.attentions[0](image.flatten(2).transpose(1, 2), reference_points(*size, image), levels)
        met = self.attentions[1](self.norms[0](own), bev, frame, size)
        return self.joined(own, met).transpose(1, 2).reshape(image.shape)

    def joined(self, own: Tensor, met: Tensor) -> Tensor:
        """Join what was attended to (..., C) in the image and in the bird's-eye view."""
        met = self.norms[2](self.ffns[0](self.norms[1](met)))
        return self.norms[3](self.ffns[1](own)) + self.scale * met  # type: ignore[no-any-return]


class LidarBlock(nn.Module):
    """Bird's-eye view: deformable self attention, image to LiDAR twice; and a branch around the interaction."""

    def __init__(self, config: InteractionConfig) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(1))
        own = MultiScaleDeformableAttention(config.channels, 2, config.heads, config.points)
        self.attentions = nn.ModuleList([own, PolarAttention(config), PillarAlignment(config)])
        self.ffns = nn.ModuleList([FeedForward(config.channels, config.hidden, nn.ReLU(inplace=True))])
        self.norms = nn.ModuleList(nn.LayerNorm(config.channels) for _ in range(4))

    def forward(
        self, bev: Tensor, levels: Sequence[Tensor], cameras: tuple[Tensor, ViewGeometry, FrameGeometry] | None
    ) -> Tensor:
        """Update (B, C, S_y, S_x) from the previous image features, and where they lie; None without any camera."""

        def on_map(x: Tensor) -> Tensor:
            return x.transpose(1, 2).reshape(bev.shape)

        def in_sequence(x: Tensor) -> Tensor:
            return x.flatten(2).transpose(1, 2)

        own = self.attentions[0](in_sequence(bev), reference_points(bev.shape[2], bev.shape[3], bev), levels)
        met = self.norms[0](own)
        if cameras is None:
            met = self.norms[1](met)
        else:
            image, views, frame = cameras
            met = in_sequence(self.attentions[1](on_map(met), image, views))
            met = in_sequence(self.attentions[2](on_map(self.norms[1](met)), image, frame))
        return on_map(self.joined(own, met))

    def joined(self, own: Tensor, met: Tensor) -> Tensor:
        """Join what was attended to (..., C) in the bird's-eye view and in the images."""
        return self.norms[3](self.ffns[0](own)) + self.scale * self.norms[2](met)  # type: ignore[no-any-return]


class InteractionEncoder(nn.Module):
    """Two streams, image and bird's-eye view, that read each other's previous features in every layer."""

    def __init__(self, config: InteractionConfig) -> None:
        super().__init__()
        self.config = config
        self.shared_conv_pts = nn.Conv2d(2 * config.bev_channels, config.channels, 3, padding=1)
        self.multi_scale_conv_img = nn.Conv2d(config.image_channels, config.channels, 3, padding=1)
        self.multi_scale_conv_pts = nn.Conv2d(config.bev_channels, config.channels, 3, padding=1)
        self.img_fusion_blocks = nn.ModuleList(ImageBlock(config) for _ in range(config.layers))
        self.pts_fusion_blocks = nn.ModuleList(LidarBlock(config) for _ in range(config.layers))

    def forward(
        self, images: Sequence[Tensor], bevs: Sequence[Tensor], views: ViewGeometry, frame: FrameGeometry
    ) -> Fused:
        """Fuse.

        Args:
            images: two image pyramid levels, (B * V, C_image, h, w) and (B * V, C_image, h / 2, w / 2).
            bevs: the two upsampled bird's-eye views, (B, C_bev, S_y, S_x) each.
            views: where columns and cells meet.
            frame: where points connect pixels and cells.
        """
        if may_round_otherwise(images[0]):
            return Fused(*fused_on_host(self, images, bevs, views, frame))
        image_levels = [self.multi_scale_conv_img(x) for x in images]
        bev_levels = [self.multi_scale_conv_pts(x) for x in bevs]
        image, bev = image_levels[0], bev_levels[0]
        for image_block, lidar_block in zip(self.img_fusion_blocks, self.pts_fusion_blocks, strict=True):
            image, bev = (
                image_block(image, bev, image_levels, frame),
                lidar_block(bev, bev_levels, (image, views, frame)),
            )
        return Fused(image, self.shared_conv_pts(torch.cat(list(bevs), 1)), bev)

    def without_images(self, bevs: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """Return `lidar` and `fused` of `forward` where no camera sees anything, at a fraction of the work."""
        levels = [self.multi_scale_conv_pts(x) for x in bevs]
        bev = levels[0]
        for block in self.pts_fusion_blocks:
            bev = block(bev, levels, None)
        return self.shared_conv_pts(torch.cat(list(bevs), 1)), bev
