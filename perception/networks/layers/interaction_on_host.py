"""The interaction encoder of DeepInteraction++ on a host, where nothing is learned: the same function row by row.

`interaction_encoder` says it in whole maps, which an exporter, a GPU and a training want. A host would spend most of
its time on what lies between the products: maps that are turned from channels first to last and back, samples of every
channel that are made before they are summed, and buffers that the system maps and clears. Here a cell is a row of
channels throughout; what is done to each row alone is done to a block of rows while it is in cache; samples are read
where they lie, and only where a camera sees the cell.

Shapes     as in `interaction_encoder`
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from perception.networks.layers.deformable_attention import reference_points
from perception.networks.layers.interaction_geometry import FrameGeometry, ViewGeometry
from perception.ops.blocks import HOST_ROWS
from perception.ops.host_norms import normed_on_host
from perception.ops.host_products import linear_on_host
from perception.ops.host_sampling import attended_on_host, bilinear_on_host
from perception.ops.side_by_side import side_by_side

if TYPE_CHECKING:
    from perception.networks.layers.interaction_encoder import (
        ImageBlock,
        InteractionEncoder,
        LidarBlock,
        PillarAlignment,
        PolarAttention,
    )

COLUMNS = 100
"""Image columns that are worked on at a time."""


class Rows(NamedTuple):
    """Maps of one size, row by row."""

    values: Tensor
    """(N, H * W, C)."""
    size: tuple[int, int]
    """H and W."""

    @property
    def cells(self) -> Tensor:
        """The maps as (N, H, W, C)."""
        return self.values.reshape(len(self.values), *self.size, -1)

    def as_map(self) -> Tensor:
        """The maps as (N, C, H, W), channels last in memory."""
        return self.cells.permute(0, 3, 1, 2)


def fused_on_host(
    encoder: InteractionEncoder,
    images: Sequence[Tensor],
    bevs: Sequence[Tensor],
    views: ViewGeometry,
    frame: FrameGeometry,
) -> tuple[Tensor, Tensor, Tensor]:
    """Do what `InteractionEncoder.forward` does; returns the fields of `Fused`."""
    image_levels = [_rows(encoder.multi_scale_conv_img(x)) for x in images]
    bev_levels = [_rows(encoder.multi_scale_conv_pts(x)) for x in bevs]
    image, bev = image_levels[0], bev_levels[0]
    image_block: Any
    lidar_block: Any
    for image_block, lidar_block in zip(encoder.img_fusion_blocks, encoder.pts_fusion_blocks, strict=True):
        image, bev = (
            _image_block(image_block, image, bev, image_levels, frame),
            _lidar_block(lidar_block, bev, image, bev_levels, views, frame),
        )
    return image.as_map(), encoder.shared_conv_pts(torch.cat(list(bevs), 1)), bev.as_map()


def _rows(maps: Tensor) -> Rows:
    return Rows(maps.flatten(2).transpose(1, 2), (maps.shape[2], maps.shape[3]))


def _attending(attend: Any, levels: Sequence[Rows], index: int) -> Callable[[Tensor, Tensor], Tensor]:
    """Return the deformable attention to one map of each level."""
    values = [_projected(attend, level.values[index]) for level in levels]
    return attend.answers(torch.cat(values), tuple(level.size for level in levels))  # type: ignore[no-any-return]


def _projected(attend: Any, values: Tensor) -> Tensor:
    return linear_on_host(attend.value_proj, values)


def _in_blocks(*tensors: Tensor) -> Iterator[tuple[Tensor, ...]]:
    return zip(*(torch.split(x, HOST_ROWS) for x in tensors), strict=True)


def _image_block(block: ImageBlock, image: Rows, bev: Rows, levels: Sequence[Rows], frame: FrameGeometry) -> Rows:
    """Do what `ImageBlock.forward` does, view by view."""
    places = reference_points(*image.size, image.values)
    local: Any = block.attentions[1].Local
    norms: Any
    ffns: Any
    norms, ffns = block.norms, block.ffns
    per_sample = len(image.values) // len(bev.values)
    out = torch.empty(image.values.shape)

    def update(view: int) -> None:
        sample, camera = divmod(view, per_sample)
        grid, inside = frame.warp_grid[sample, camera].flatten(0, 1), frame.warp_inside[sample, camera].flatten()
        lifted = _projected(local, bilinear_on_host(bev.cells[sample : sample + 1], grid[None], inside[None]))
        from_own, from_lifted = _attending(block.attentions[0], levels, view), local.answers(lifted, (image.size,))
        for query, at, target in _in_blocks(image.values[view], places, out[view]):
            own = torch.empty(query.shape)
            met = normed_on_host(norms[0], query, from_own(query, at), own)
            met = normed_on_host(norms[1], met, from_lifted(met, at))
            met = normed_on_host(norms[2], met, ffns[0].on_host(met))
            _join(target, block, own, met, ffns[1])

    side_by_side(update, range(len(out)))
    return Rows(out, image.size)


def _lidar_block(
    block: LidarBlock, bev: Rows, image: Rows, levels: Sequence[Rows], views: ViewGeometry, frame: FrameGeometry
) -> Rows:
    """Do what `LidarBlock.forward` does."""
    attentions: Any
    norms: Any
    attentions, norms = block.attentions, block.norms
    places = reference_points(*bev.size, bev.values)
    own, met = (torch.empty(bev.values.shape) for _ in range(2))
    for sample, rows in enumerate(bev.values):
        answers = _attending(attentions[0], levels, sample)

        def attend(given: tuple[Tensor, ...], answers: Callable[[Tensor, Tensor], Tensor] = answers) -> None:
            query, at, total, target = given
            target.copy_(normed_on_host(norms[0], query, answers(query, at), total))

        side_by_side(attend, _in_blocks(rows, places, own[sample], met[sample]))
    met = normed_on_host(norms[1], met, _polar(attentions[1], Rows(met, bev.size), image, views))
    said = aligned(attentions[2], Rows(met, bev.size), image, frame)
    out = torch.empty(bev.values.shape)

    def join(given: tuple[Tensor, ...]) -> None:
        target, own_rows, met_rows, said_rows = given
        _join(target, block, own_rows, normed_on_host(norms[2], met_rows, said_rows), block.ffns[0])

    side_by_side(join, _in_blocks(*(x.flatten(0, 1) for x in (out, own, met, said))))
    return Rows(out, bev.size)


def _join(out: Tensor, block: Any, own: Tensor, met: Tensor, feed_forward: Any) -> None:
    """Write what both blocks end with: the own branch after its feed-forward network, and the other one scaled."""
    out.copy_(normed_on_host(block.norms[3], own, feed_forward.on_host(own))).add_(met, alpha=float(block.scale))


def _polar(attention: PolarAttention, bev: Rows, image: Rows, views: ViewGeometry) -> Tensor:
    """Return what `PolarAttention.forward` adds, (B, cells, C)."""
    maps, columns = bev.cells, image.cells.transpose(1, 2)  # (B, S_y, S_x, C), (B * V, w, h, C)
    columns = columns.reshape(len(maps), -1, *columns.shape[1:])
    share = views.cell_seen[:, :, 0] / views.cell_seen.sum(1).clamp(min=1.0)
    shape = (columns.shape[2], columns.shape[4], share)
    on_rays, on_columns = (attention.encoding(rows, *shape) for rows in (attention.radii, columns.shape[3]))

    def attend(given: tuple[Tensor, Tensor, Tensor]) -> None:
        blocks = (torch.split(x, COLUMNS) for x in (*given, on_rays, on_columns))
        for target, rays, pixels, encoding, column_encoding in zip(*blocks, strict=True):
            target.copy_(attention.transformer_layers(rays + encoding, pixels + column_encoding))

    found = []
    for sample, own in enumerate(maps):
        grid = views.polar_grid[sample].transpose(1, 2)  # (V, w, R, 2)
        rays = bilinear_on_host(own[None], grid.reshape(1, -1, 2)).reshape(*grid.shape[:3], -1)
        polar = torch.empty(rays.shape)
        side_by_side(attend, zip(polar, rays, columns[sample], strict=True))
        places = views.cell_grid[sample].flip(-1).flatten(1, 2)  # radius, column: the columns are the rows of this map
        found.append(bilinear_on_host(polar, places, share[sample].flatten(1)))
    return torch.stack(found)


def aligned(attention: PillarAlignment, bev: Rows, image: Rows, frame: FrameGeometry) -> Tensor:
    """Return what `PillarAlignment.forward` adds, (B, cells, C)."""
    align, cells = attention.learnedAlign, bev.values.flatten(0, 1)
    queries = align.asked(cells[frame.pillar_cells])
    pixels = image.values.flatten(0, 1)
    summed = attended_on_host(pixels, frame.sample_cells, frame.sample_weights, frame.pillar_samples, queries)
    said = torch.cat([align.said(summed), summed.new_zeros(1, summed.shape[1])])
    return said[frame.cell_pillar].reshape(bev.values.shape)


__all__ = ["Rows", "aligned", "fused_on_host"]
