"""DeepInteraction++ in the loops of its published code, to measure ours against: one view, one layer at a time.

The same weights and the same result; what differs is how often things are done. Depth is completed and unprojected for
every view in every layer, cells meet columns for every view in every layer, all five pyramid levels are made, pillars
attend to projected keys in four buckets by their number, and every image layer of the decoder runs view by view. One
sample at a time, as there. Projections are chains of tensors, as there; depth is completed by our compiled filters in
place of OpenCV's, and regions are pooled by our compiled RoIAlign in place of detectron2's.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from perception.networks.deepinteraction import DeepInteraction
from perception.networks.layers import deformable_attention, interaction_encoder, swin
from perception.networks.layers.interaction_decoder import BoxFields, Decoded, InteractionDecoder, box_corners
from perception.networks.layers.interaction_encoder import Fused, ImageBlock, LidarBlock, SingleHead
from perception.networks.layers.interaction_geometry import (
    FrameGeometry,
    Pillars,
    ViewGeometry,
    _polar_grid,
    _warp_grid,
    cells_in_tensors,
    depths_in_tensors,
    project,
)
from perception.ops import host_sampling
from perception.ops.depth_completion import complete_depth
from perception.ops.roi_align import roi_align

KEY_BUCKETS = (20, 40, 80, 120)
PYRAMID_LEVELS = 5


@contextmanager
def without_blocks() -> Iterator[None]:
    """Let layers work on all rows at once and sample in tensors, as the published ones do."""
    most = 1 << 40
    changes: list[tuple[Any, str, int]] = [
        (swin, "ROWS", most), (deformable_attention, "QUERIES", most), (host_sampling, "COMPILED", False),
        (interaction_encoder, "COLUMNS", most),
    ]  # fmt: skip
    before = [getattr(module, name) for module, name, _ in changes]
    for module, name, value in changes:
        setattr(module, name, value)
    try:
        yield
    finally:
        for (module, name, _), value in zip(changes, before, strict=True):
            setattr(module, name, value)


class PublishedFusion:
    """The stages of one network, looped."""

    def __init__(
        self, network: DeepInteraction, points: Tensor, pillars: Pillars, image_from_lidar: Tensor, poses: Tensor
    ) -> None:
        """Take one sample: points (N, F), its pillars, and (1, V, 4, 4) of both."""
        self.network, self.points, self.pillars = network, points, pillars
        self.image_from_lidar, self.poses = image_from_lidar, poses
        self.size, self.geometry = network.config.image_size, network.config.geometry

    def image(self, images: Tensor) -> list[Tensor]:
        """Images (V, 3, H, W) to the two finest of five levels."""
        return self.network.img_neck(self.network.img_backbone(images), PYRAMID_LEVELS)[:2]  # type: ignore[no-any-return]

    def interaction(self, images: Sequence[Tensor], bevs: Sequence[Tensor]) -> Fused:
        """Do what `InteractionEncoder.forward` does, geometry included."""
        encoder = self.network.imgpts_neck
        image_levels = [encoder.multi_scale_conv_img(x) for x in images]
        bev_levels = [encoder.multi_scale_conv_pts(x) for x in bevs]
        image, bev = image_levels[0], bev_levels[0]
        for image_block, lidar_block in zip(encoder.img_fusion_blocks, encoder.pts_fusion_blocks, strict=True):
            assert isinstance(image_block, ImageBlock)
            assert isinstance(lidar_block, LidarBlock)
            image, bev = (
                image_block(image, bev, image_levels, self._warped()),
                self._lidar_block(lidar_block, bev, image, bev_levels),
            )
        return Fused(image, encoder.shared_conv_pts(torch.cat(list(bevs), 1)), bev)

    def _warped(self) -> FrameGeometry:
        rows, columns = (side // self.geometry.image_stride for side in self.size)
        grids, insides = [], []
        for view in range(self.image_from_lidar.shape[1]):
            projection = self.image_from_lidar[0, view : view + 1]
            depth = complete_depth(depths_in_tensors(self.points, projection, self.size, (rows, columns)))
            grid, inside = _warp_grid(depth, projection, self.size, self.geometry)
            grids.append(grid)
            insides.append(inside)
        none = torch.zeros(0)
        return FrameGeometry(none, torch.cat(grids)[None], torch.cat(insides)[None], none, none, none, none, none)

    def _lidar_block(self, block: LidarBlock, bev: Tensor, image: Tensor, levels: Sequence[Tensor]) -> Tensor:
        looped: Any = _Looped(block, [block.attentions[0], partial(self._polar, block), partial(self._aligned, block)])
        nothing: Any = None  # the loops work out the geometry themselves
        return LidarBlock.forward(looped, bev, levels, (image, nothing, nothing))

    def _polar(self, block: LidarBlock, bev: Tensor, image: Tensor, _: object) -> Tensor:
        attention: Any = block.attentions[1]
        total, count = torch.zeros_like(bev), torch.zeros_like(bev[:, :1])
        for view in range(image.shape[0]):
            only = slice(view, view + 1)
            views = self._view(view)
            total = total + attention.seen(bev, image[only], views)[:, 0]
            count = count + views.cell_seen[:, 0]
        return bev + total / count.clamp(min=1.0)

    def _view(self, view: int) -> ViewGeometry:
        given = (self.image_from_lidar[0, view : view + 1], self.poses[0, view : view + 1], self.size, self.geometry)
        grid, seen = cells_in_tensors(*given)
        return ViewGeometry(_polar_grid(*given)[None], grid[None], seen[None, :, None].to(grid.dtype))

    def _aligned(self, block: LidarBlock, bev: Tensor, image: Tensor, _: object) -> Tensor:
        head: Any = block.attentions[2].learnedAlign
        count, slots = self.pillars.points.shape[:2]
        given = torch.arange(slots) < self.pillars.counts[:, None]
        keys, seen = [], []
        for view in range(image.shape[0]):
            points = self.pillars.points[:, :, :3].reshape(-1, 3)
            where, _, visible = project(points, self.image_from_lidar[0, view : view + 1], *self.size)
            sampled = F.grid_sample(
                image[view : view + 1], 2 * where[None] - 1, align_corners=False
            )  # (1, C, 1, P * S)
            keys.append(sampled[0, :, 0].T.reshape(count, slots, -1))
            seen.append(visible.reshape(count, slots) & given)
        every, present = torch.cat(keys, 1), torch.cat(seen, 1)
        cells = bev[0].flatten(1).T
        found = torch.zeros_like(cells)
        number = present.sum(1)
        low = 0
        for high in (*KEY_BUCKETS[:-1], every.shape[1]):
            rows = torch.nonzero((number > low) & (number <= high))[:, 0]
            order = present[rows].int().argsort(dim=1, descending=True, stable=True)[:, :high]
            own = every[rows].gather(1, order[..., None].expand(-1, -1, every.shape[2]))
            absent = ~present[rows].gather(1, order)
            at = self.pillars.cells[rows]
            found[at] = projected_attention(head, cells[at], own, absent) if len(rows) else found[at]
            low = high
        return bev + found.T.reshape(bev.shape)

    def decoder(self, image: Tensor, fused: Fused) -> Decoded:
        """Run the decoder, its image layers one view after the other."""
        decoder = copy.copy(self.network.pts_bbox_head)
        looped: Callable[..., Any] = partial(image_layer, decoder)
        object.__setattr__(decoder, "image_layer", looped)
        return decoder(fused.lidar, fused.fused, image, self.image_from_lidar)  # type: ignore[no-any-return]


class _Looped:
    """A block with other attentions; everything else is the block's."""

    def __init__(self, block: LidarBlock, attentions: Sequence[Any]) -> None:
        self._block, self.attentions = block, attentions

    def __getattr__(self, name: str) -> Any:
        return getattr(self._block, name)


def projected_attention(head: SingleHead, query: Tensor, keys: Tensor, absent: Tensor) -> Tensor:
    """Do what `SingleHead.forward` does, with keys and values projected."""
    channels = query.shape[1]
    weights, biases = head.in_proj_weight.reshape(3, channels, channels), head.in_proj_bias.reshape(3, channels)
    q, k, v = (F.linear(x, weights[i], biases[i]) for i, x in enumerate((query, keys, keys)))
    logits = ((k @ q[:, :, None])[..., 0] * channels**-0.5).masked_fill(absent, -torch.inf)
    return head.out_proj((logits.softmax(-1)[:, None] @ v)[:, 0])  # type: ignore[no-any-return]


def image_layer(
    decoder: InteractionDecoder,
    block: Any,
    queries: Tensor,
    current: BoxFields,
    image: Tensor,
    image_from_lidar: Tensor,
) -> tuple[Tensor, Tensor]:
    """Do what `InteractionDecoder.image_layer` does, one view after the other; a later one overwrites."""
    stride, bins = decoder.config.image_stride, decoder.config.bins
    size = queries.new_tensor([image.shape[3] * stride, image.shape[2] * stride])
    updated, on_view = torch.zeros_like(queries), torch.full(queries.shape[:2], -1)
    for view in range(image.shape[0]):
        boxes = decoder.boxes(current)[0]
        centre = torch.cat([boxes[:, :2], current.height[0].T], -1)
        points = torch.cat([centre[:, None], box_corners(boxes)], 1)
        matrix = image_from_lidar[0, view]
        projected = points @ matrix[:3, :3].T + matrix[:3, 3]
        pixels = projected[..., :2] / projected[..., 2:].clamp(min=1e-5)
        held = torch.nonzero(((pixels[:, 0] > 0) & (pixels[:, 0] < size)).all(-1))[:, 0]
        if len(held) <= 1:
            continue
        corners = pixels[held, 1:]
        regions = torch.cat([corners.amin(1), corners.amax(1)], -1) / stride
        pooled = roi_align(image[view : view + 1], regions, torch.zeros(len(held), dtype=torch.int64), bins)
        zero = torch.zeros(1, len(held), dtype=torch.int64)
        updated[:, held] = block(queries[:, held], pooled, zero[:, :1], zero, None)
        on_view[:, held] = view
    return updated, on_view


__all__ = ["PublishedFusion", "without_blocks"]
