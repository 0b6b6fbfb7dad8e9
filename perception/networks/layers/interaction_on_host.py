"""The interaction encoder of DeepInteraction++ on a host, where nothing is learned: the same function row by row.

`interaction_encoder` says it in whole maps, which an exporter, a GPU and a training want. A host would spend most of
its time on what lies between the products: maps that are turned from channels first to last and back, samples of every
channel that are made before they are summed, and buffers that the system maps and clears. Here a cell is a row of
channels throughout; what is done to each row alone is done to a block of rows while it is in cache; samples are read
where they lie, and only where a camera sees the cell.

Shapes     as in `interaction_encoder`
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn

from perception.networks.layers.deformable_attention import reference_points
from perception.networks.layers.interaction_geometry import FrameGeometry, ViewGeometry
from perception.ops.blocks import in_blocks
from perception.ops.host_sampling import attended_on_host, bilinear_on_host

if TYPE_CHECKING:
    from perception.networks.layers.interaction_encoder import (
        ImageBlock,
        InteractionEncoder,
        LidarBlock,
        PillarAlignment,
        PolarAttention,
    )

ROWS, COLUMNS = 4096, 100
"""Cells and image columns that are worked on at a time."""


class Rows(NamedTuple):
    """Maps, row by row."""

    values: Tensor
    """(N, cells, C)."""
    sizes: tuple[tuple[int, int], ...]
    """H and W of each level; the cells of a level follow those of the one before."""

    @property
    def first(self) -> Rows:
        """The first level alone."""
        height, width = self.sizes[0]
        return Rows(self.values[:, : height * width], self.sizes[:1])

    @property
    def cells(self) -> Tensor:
        """One level as (N, H, W, C)."""
        return self.values.reshape(len(self.values), *self.sizes[0], -1)

    def as_map(self) -> Tensor:
        """One level as (N, C, H, W), channels last in memory."""
        return self.cells.permute(0, 3, 1, 2)


def fused_on_host(
    encoder: InteractionEncoder,
    images: Sequence[Tensor],
    bevs: Sequence[Tensor],
    views: ViewGeometry,
    frame: FrameGeometry,
) -> tuple[Tensor, Tensor, Tensor]:
    """Do what `InteractionEncoder.forward` does; returns the fields of `Fused`."""
    image_levels = _convolved(encoder.multi_scale_conv_img, images)
    bev_levels = _convolved(encoder.multi_scale_conv_pts, bevs)
    image, bev = image_levels.first, bev_levels.first
    image_block: Any
    lidar_block: Any
    for image_block, lidar_block in zip(encoder.img_fusion_blocks, encoder.pts_fusion_blocks, strict=True):
        image, bev = (
            _image_block(image_block, image, bev, image_levels, frame),
            _lidar_block(lidar_block, bev, image, bev_levels, views, frame),
        )
    return image.as_map(), encoder.shared_conv_pts(torch.cat(list(bevs), 1)), bev.as_map()


def _convolved(convolution: nn.Conv2d, levels: Sequence[Tensor]) -> Rows:
    found = [convolution(level) for level in levels]
    rows = torch.cat([level.flatten(2).transpose(1, 2) for level in found], 1)
    return Rows(rows, tuple((level.shape[2], level.shape[3]) for level in found))


def _image_block(block: ImageBlock, image: Rows, bev: Rows, levels: Rows, frame: FrameGeometry) -> Rows:
    """Do what `ImageBlock.forward` does, view by view."""
    places = reference_points(*image.sizes[0], image.values)
    attend: Any = block.attentions[0]
    local: Any = block.attentions[1].Local
    per_sample = len(image.values) // len(bev.values)
    out = torch.empty(image.values.shape, dtype=torch.float32)
    for view, rows in enumerate(image.values):
        sample, camera = divmod(view, per_sample)
        grid, inside = frame.warp_grid[sample, camera].flatten(0, 1), frame.warp_inside[sample, camera].flatten()
        lifted = local.value_proj(bilinear_on_host(bev.cells[sample : sample + 1], grid[None], inside[None]))
        own_rows = attend.attend_rows(attend.value_proj(levels.values[view]), levels.sizes)
        lifted_rows = local.attend_rows(lifted, image.sizes)

        for block_of_rows, at, target in zip(*(torch.split(x, ROWS) for x in (rows, places, out[view])), strict=True):
            own = own_rows(block_of_rows, at)
            met = lifted_rows(block.norms[0](own), at)
            target.copy_(block.joined(own, met))
    return Rows(out, image.sizes)


def _lidar_block(
    block: LidarBlock, bev: Rows, image: Rows, levels: Rows, views: ViewGeometry, frame: FrameGeometry
) -> Rows:
    """Do what `LidarBlock.forward` does."""
    attend: Any
    polar: Any
    align: Any
    attend, polar, align = block.attentions
    places = reference_points(*bev.sizes[0], bev.values)
    own = torch.empty(bev.values.shape, dtype=torch.float32)
    for sample, rows in enumerate(bev.values):
        attend_rows = attend.attend_rows(attend.value_proj(levels.values[sample]), levels.sizes)
        for block_of_rows, at, target in zip(*(torch.split(x, ROWS) for x in (rows, places, own[sample])), strict=True):
            target.copy_(attend_rows(block_of_rows, at))
    met = _polar(polar, Rows(block.norms[0](own), bev.sizes), image, views)
    met = aligned(align, Rows(block.norms[1](met.values), bev.sizes), image, frame)
    joined = in_blocks(block.joined, [own.flatten(0, 1), met.values.flatten(0, 1)], ROWS)
    return Rows(joined.reshape(bev.values.shape), bev.sizes)


def _polar(attention: PolarAttention, bev: Rows, image: Rows, views: ViewGeometry) -> Rows:
    """Do what `PolarAttention.forward` does."""
    maps, columns = bev.cells, image.cells.transpose(1, 2)  # (B, S_y, S_x, C), (B * V, w, h, C)
    columns = columns.reshape(len(maps), -1, *columns.shape[1:])
    share = views.cell_seen[:, :, 0] / views.cell_seen.sum(1).clamp(min=1.0)
    shape = (columns.shape[2], columns.shape[4], bev.values)
    on_rays, on_columns = (attention.encoding(rows, *shape) for rows in (attention.radii, columns.shape[3]))

    def attend(rays: Tensor, encoding: Tensor, pixels: Tensor, column_encoding: Tensor) -> Tensor:
        return attention.transformer_layers(rays + encoding, pixels + column_encoding)  # type: ignore[no-any-return]

    found = []
    for sample, own in enumerate(maps):
        grid = views.polar_grid[sample].transpose(1, 2)  # (V, w, R, 2)
        rays = bilinear_on_host(own[None], grid.reshape(1, -1, 2)).reshape(*grid.shape[:3], -1)
        polar = torch.empty(rays.shape, dtype=torch.float32)
        for view, ray, pixels in zip(polar, rays, columns[sample], strict=True):
            blocks = (torch.split(x, COLUMNS) for x in (view, ray, on_rays, pixels, on_columns))
            for block, *given in zip(*blocks, strict=True):
                block.copy_(attend(*given))
        places = views.cell_grid[sample].flip(-1).flatten(1, 2)  # radius, column: the columns are the rows of this map
        found.append(bilinear_on_host(polar, places, share[sample].flatten(1)))
    return Rows(bev.values + torch.stack(found), bev.sizes)


def aligned(attention: PillarAlignment, bev: Rows, image: Rows, frame: FrameGeometry) -> Rows:
    """Do what `PillarAlignment.forward` does."""
    align, cells = attention.learnedAlign, bev.values.flatten(0, 1)
    queries = align.asked(cells[frame.pillar_cells])
    pixels = image.values.flatten(0, 1)
    summed = attended_on_host(pixels, frame.sample_cells, frame.sample_weights, frame.pillar_samples, queries)
    said = torch.cat([align.said(summed), summed.new_zeros(1, summed.shape[1])])
    return Rows((cells + said[frame.cell_pillar]).reshape(bev.values.shape), bev.sizes)


__all__ = ["Rows", "aligned", "fused_on_host"]
