"""The exportable parts of DeepInteraction++: five modules of tensors in and tensors out.

Outside stay, as data-dependent index building: voxelisation and its means, the tables of the sparse convolutions, depth
completion with the sampling positions that follow from it, and the reading of boxes. No multiply-add of a layer is
outside.

Shapes     B batch, V views, N voxels, K samples and P pillars as in `interaction_geometry`
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from perception.networks.layers.fpn import FeaturePyramid
from perception.networks.layers.interaction_decoder import BoxFields, Decoded, InteractionDecoder
from perception.networks.layers.interaction_encoder import InteractionEncoder
from perception.networks.layers.interaction_geometry import (
    FrameGeometry,
    GeometryConfig,
    Pillars,
    ViewGeometry,
    frame_geometry,
    view_geometry,
)
from perception.networks.layers.second import Second, SecondConfig, SecondNeck
from perception.networks.layers.sparse_encoder import SparseEncoder, SparseTables, sparse_tables
from perception.networks.layers.swin import SwinTransformer
from perception.networks.part import Axis, Part, TensorSpec
from perception.ops.side_by_side import side_by_side
from perception.ops.sparse_conv import Triple

VIEW_INPUTS = ("polar_grid", "cell_grid", "cell_seen")
FRAME_INPUTS = (
    "warp_grid",
    "warp_inside",
    "sample_cells",
    "sample_weights",
    "pillar_samples",
    "pillar_cells",
    "cell_pillar",
)
IN_TORCH = ("sparse_encoder", "interaction")
"""Parts that a CPU computes faster in torch than in ONNX Runtime (measured): there, code compiled for the host adds and
samples row by row; a graph of operators reads empty neighbours, too, and makes every sample before it sums them."""
PATCHES = 16_384
"""Patches of images that are worked on at a time."""
FIELD_OUTPUTS = tuple(f"pred_{name}" for name in BoxFields._fields)


class ImagePart(nn.Module):
    """Images (B * V, 3, H, W) to the two finest pyramid levels."""

    def __init__(self, backbone: SwinTransformer, neck: FeaturePyramid) -> None:
        super().__init__()
        self.backbone, self.neck = backbone, neck

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        if images.is_cuda or torch.compiler.is_exporting():
            return tuple(self.neck(self.backbone(images), 2))
        each = side_by_side(lambda some: self.neck(self.backbone(some), 2), torch.split(images, images_at_once(images)))
        return tuple(torch.cat(levels) for levels in zip(*each, strict=True))


def images_at_once(images: Tensor) -> int:
    """Return how many images (N, 3, H, W) a host works on together: small ones as many as each thread has to take.

    Large ones alone, for the reason of `in_blocks`.
    """
    patches = images.shape[2] * images.shape[3] // 16
    return max(1, min(PATCHES // patches, -(-len(images) // torch.get_num_threads())))


class SparsePart(nn.Module):
    """Voxels and tables to the dense bird's-eye view; exporters bind axes to the names of the inputs.

    The tables of a resolution stand side by side, so that an encoder of fewer resolutions takes the first ones.
    """

    def __init__(self, encoder: SparseEncoder) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(
        self,
        voxels: Tensor,
        dense: Tensor,
        same0: Tensor,
        down0: Tensor,
        same1: Tensor | None = None,
        down1: Tensor | None = None,
        same2: Tensor | None = None,
        down2: Tensor | None = None,
        same3: Tensor | None = None,
        down3: Tensor | None = None,
    ) -> Tensor:
        same, down = (
            [table for table in tables if table is not None]
            for tables in ((same0, same1, same2, same3), (down0, down1, down2, down3))
        )
        return self.encoder(voxels, dense, same, down)  # type: ignore[no-any-return]


class BevPart(nn.Module):
    """Dense bird's-eye view to its two upsampled maps."""

    def __init__(self, backbone: Second, neck: SecondNeck) -> None:
        super().__init__()
        self.backbone, self.neck = backbone, neck

    def forward(self, bev: Tensor) -> tuple[Tensor, ...]:
        return tuple(self.neck(self.backbone(bev))[1])


class InteractionPart(nn.Module):
    """Both streams and where they meet, to the features that the decoder reads."""

    def __init__(self, encoder: InteractionEncoder) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(
        self,
        image0: Tensor,
        image1: Tensor,
        up0: Tensor,
        up1: Tensor,
        polar_grid: Tensor,
        cell_grid: Tensor,
        cell_seen: Tensor,
        warp_grid: Tensor,
        warp_inside: Tensor,
        sample_cells: Tensor,
        sample_weights: Tensor,
        pillar_samples: Tensor,
        pillar_cells: Tensor,
        cell_pillar: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor]:
        views = ViewGeometry(polar_grid, cell_grid, cell_seen)
        frame = FrameGeometry(
            image0.new_zeros(0),  # the depth map is no input: the encoder reads what follows from it
            warp_grid,
            warp_inside,
            sample_cells,
            sample_weights,
            pillar_samples,
            pillar_cells,
            cell_pillar,
        )
        fused = self.encoder((image0, image1), (up0, up1), views, frame)
        return fused.image, fused.lidar, fused.fused


class DecoderPart(nn.Module):
    """Features to predictions."""

    def __init__(self, decoder: InteractionDecoder) -> None:
        super().__init__()
        self.decoder = decoder

    def forward(self, image: Tensor, lidar: Tensor, fused: Tensor, image_from_lidar: Tensor) -> tuple[Tensor, ...]:
        decoded = self.decoder(lidar, fused, image, image_from_lidar)
        return (*decoded[:5], *decoded.fields, decoded.on_mask)


@dataclass(frozen=True)
class Sizes:
    """What the parts are built for."""

    batch: int
    views: int
    image: tuple[int, int]  # H, W
    geometry: GeometryConfig

    @property
    def cells(self) -> tuple[int, int]:
        """h, w of the image feature map."""
        return self.image[0] // self.geometry.image_stride, self.image[1] // self.geometry.image_stride


def image_part(backbone: SwinTransformer, neck: FeaturePyramid, sizes: Sizes) -> Part:
    """Return the part of the image branch."""
    height, width = sizes.image
    count, channels = sizes.batch * sizes.views, neck.out_channels
    return Part(
        "image",
        ImagePart(backbone, neck).eval(),
        {"images": _floats(count, 3, height, width)},
        {
            "image0": _floats(count, channels, height // 4, width // 4),
            "image1": _floats(count, channels, height // 8, width // 8),
        },
        lambda: (_noise(count, 3, height, width),),
    )


def sparse_part(encoder: SparseEncoder, sizes: Sizes) -> Part:
    """Return the part of the sparse voxel encoder."""
    config = encoder.config
    depth, rows, columns = config.out_grid
    rows_at = [Axis(f"voxels{index}", 1, 60_000, 400_000) for index in range(len(config.channels) + 1)]
    inputs = {
        "voxels": TensorSpec("float32", (rows_at[0], config.in_channels)),
        "dense": TensorSpec("int64", (sizes.batch, depth * rows * columns)),
    }
    for index in range(len(config.channels)):
        inputs[f"same{index}"] = TensorSpec("int64", (27, rows_at[index]))
        positions = 27 if index < len(config.paddings) else 3
        inputs[f"down{index}"] = TensorSpec("int64", (positions, rows_at[index + 1]))

    def example() -> tuple[Tensor, ...]:
        coordinates = _example_voxels(config.grid, sizes.batch)
        tables = sparse_tables(coordinates, config, sizes.batch)
        return tuple(sparse_inputs(_noise(len(coordinates), config.in_channels), tables).values())

    outputs = {"bev": _floats(sizes.batch, config.out_channels * depth, rows, columns)}
    return Part("sparse_encoder", SparsePart(encoder).eval(), inputs, outputs, example)


def bev_part(backbone: Second, neck: SecondNeck, config: SecondConfig, sizes: Sizes) -> Part:
    """Return the part of the bird's-eye-view backbone."""
    bev = (sizes.batch, config.in_channels, *sizes.geometry.bev)
    outputs = {
        f"up{index}": _floats(sizes.batch, channels, *sizes.geometry.bev)
        for index, channels in enumerate(config.neck_channels)
    }
    return Part(
        "bev_backbone", BevPart(backbone, neck).eval(), {"bev": _floats(*bev)}, outputs, lambda: (_noise(*bev),)
    )


def interaction_part(encoder: InteractionEncoder, sizes: Sizes) -> Part:
    """Return the part of the interaction encoder."""
    config, count, (height, width) = encoder.config, sizes.batch * sizes.views, sizes.cells
    rows, columns = sizes.geometry.bev
    samples, pillars, most = (
        Axis("samples", 1, 150_000, 1_000_000),
        Axis("pillars", 1, 20_000, 60_000),
        Axis("most", 1, 40, 400),
    )
    image, lidar = config.image_channels, config.bev_channels
    inputs = {
        "image0": _floats(count, image, height, width),
        "image1": _floats(count, image, height // 2, width // 2),
        "up0": _floats(sizes.batch, lidar, rows, columns),
        "up1": _floats(sizes.batch, lidar, rows, columns),
        "polar_grid": _floats(sizes.batch, sizes.views, config.radii, width, 2),
        "cell_grid": _floats(sizes.batch, sizes.views, rows, columns, 2),
        "cell_seen": _floats(sizes.batch, sizes.views, 1, rows, columns),
        "warp_grid": _floats(sizes.batch, sizes.views, height, width, 2),
        "warp_inside": _floats(sizes.batch, sizes.views, height, width),
        "sample_cells": TensorSpec("int64", (samples, 4)),
        "sample_weights": TensorSpec("float32", (samples, 4)),
        "pillar_samples": TensorSpec("int64", (pillars, most)),
        "pillar_cells": TensorSpec("int64", (pillars,)),
        "cell_pillar": TensorSpec("int64", (sizes.batch * rows * columns,)),
    }

    def example() -> tuple[Tensor, ...]:
        views, frame = example_geometry(sizes)
        features = [_noise(*spec.shape) for spec in list(inputs.values())[:4]]
        return (*features, *geometry_inputs(views, frame).values())

    bev = _floats(sizes.batch, config.channels, rows, columns)
    outputs = {"image": _floats(count, config.channels, height, width), "lidar": bev, "fused": bev}
    return Part("interaction", InteractionPart(encoder).eval(), inputs, outputs, example)


def decoder_part(decoder: InteractionDecoder, sizes: Sizes) -> Part:
    """Return the part of the decoder."""
    config, batch, (rows, columns) = decoder.config, sizes.batch, sizes.geometry.bev
    inputs = {
        "image": _floats(batch * sizes.views, config.channels, *sizes.cells),
        "lidar": _floats(batch, config.channels, rows, columns),
        "fused": _floats(batch, config.channels, rows, columns),
        "image_from_lidar": _floats(batch, sizes.views, 4, 4),
    }
    queries, classes = config.queries, config.classes
    fields = {**config.fields, "heatmap": classes}
    outputs = {
        "heatmap_lidar": _floats(batch, classes, rows, columns),
        "heatmap_fused": _floats(batch, classes, rows, columns),
        "query_labels": TensorSpec("int64", (batch, queries)),
        "query_pos": _floats(batch, queries, 2),
        "query_scores": _floats(batch, classes, queries),
        **{f"pred_{name}": _floats(batch, fields[name], config.layers * queries) for name in BoxFields._fields},
        "on_mask": TensorSpec("bool", (batch, config.layers, queries)),
    }

    def example() -> tuple[Tensor, ...]:
        features = [_noise(*spec.shape) for spec in list(inputs.values())[:3]]
        return (*features, example_rig(sizes)[0])

    return Part("decoder", DecoderPart(decoder).eval(), inputs, outputs, example)


def _floats(*shape: int) -> TensorSpec:
    return TensorSpec("float32", shape)


def _noise(*shape: Any) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


def example_rig(sizes: Sizes) -> tuple[Tensor, Tensor]:
    """A ring of level cameras 1.5 m above the origin: image_from_lidar and lidar_from_camera, (B, V, 4, 4)."""
    height, width = sizes.image
    poses = torch.eye(4).repeat(sizes.views, 1, 1)
    yaw = torch.arange(sizes.views) * (2 * math.pi / max(sizes.views, 1))
    forward, zero = torch.stack([yaw.cos(), yaw.sin()], -1), torch.zeros(sizes.views)
    poses[:, :3, 0] = torch.stack([forward[:, 1], -forward[:, 0], zero], -1)  # image columns grow to the right
    poses[:, :3, 1] = torch.tensor([0.0, 0.0, -1.0])
    poses[:, :3, 2] = torch.cat([forward, zero[:, None]], -1)
    poses[:, :3, 3] = torch.cat([0.5 * forward, zero[:, None] + 1.5], -1)
    intrinsics = torch.eye(4)
    intrinsics[0, 0] = intrinsics[1, 1] = 0.6 * width
    intrinsics[0, 2], intrinsics[1, 2] = width / 2, height / 2
    image_from_lidar = intrinsics @ torch.linalg.inv(poses)
    return tuple(x.expand(sizes.batch, *x.shape).contiguous() for x in (image_from_lidar, poses))  # type: ignore[return-value]


def example_geometry(sizes: Sizes) -> tuple[ViewGeometry, FrameGeometry]:
    """Geometry of the example rig and of random points, a thousand a sample."""
    image_from_lidar, lidar_from_camera = example_rig(sizes)
    config, generator = sizes.geometry, torch.Generator().manual_seed(0)
    low, high = torch.tensor(config.point_range[:3]), torch.tensor(config.point_range[3:])
    clouds = [torch.rand(1000, 3, generator=generator) * (high - low) + low for _ in range(sizes.batch)]
    rows, columns = config.bev
    groups = []
    for sample, cloud in enumerate(clouds):
        place = ((cloud[:, :2] - low[:2]) / (high[:2] - low[:2]) * torch.tensor([columns, rows])).long()
        cell, row = ((sample * rows + place[:, 1]) * columns + place[:, 0]).unique(return_inverse=True)  # type: ignore[no-untyped-call]
        first = torch.full((len(cell),), len(cloud)).scatter_reduce(0, row, torch.arange(len(cloud)), "amin")
        groups.append((cloud[first][:, None], cell))
    points, cells = (torch.cat(parts) for parts in zip(*groups, strict=True))
    pillars = Pillars(points, torch.ones(len(points), dtype=torch.int64), cells)
    views = view_geometry(image_from_lidar, lidar_from_camera, sizes.image, config)
    return views, frame_geometry(clouds, pillars, image_from_lidar, sizes.image, config)


def _example_voxels(grid: Triple, batch: int) -> NDArray[np.int64]:
    """Five hundred occupied cells a sample, in pairs side by side, so that the convolutions have neighbours."""
    rng = np.random.default_rng(0)
    step = np.array((0, 0, 0, 1))
    corner = rng.integers(0, np.array((batch, *grid)) - step, (250 * batch, 4))
    return np.unique(np.concatenate([corner, corner + step]), axis=0)


def sparse_inputs(voxels: Tensor, tables: SparseTables) -> dict[str, Tensor]:
    """Name the inputs of the sparse encoder."""
    named = {"voxels": voxels, "dense": tables.dense}
    for index, (same, down) in enumerate(zip(tables.same, tables.down, strict=True)):
        named |= {f"same{index}": same, f"down{index}": down}
    return named


def geometry_inputs(views: ViewGeometry, frame: FrameGeometry) -> dict[str, Tensor]:
    """Name the geometry inputs of the interaction encoder."""
    return {name: getattr(views, name) for name in VIEW_INPUTS} | {name: getattr(frame, name) for name in FRAME_INPUTS}


def decoded_from(outputs: Mapping[str, Tensor]) -> Decoded:
    """Read the decoder's outputs."""
    return Decoded(
        outputs["heatmap_lidar"],
        outputs["heatmap_fused"],
        outputs["query_labels"],
        outputs["query_pos"],
        outputs["query_scores"],
        BoxFields(*(outputs[name] for name in FIELD_OUTPUTS)),
        outputs["on_mask"],
    )
