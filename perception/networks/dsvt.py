"""DSVT: a transformer on sparse voxels, with attention inside sets of equal size that turn from layer to layer.

Paper      Wang et al., "DSVT: Dynamic Sparse Voxel Transformer with Rotated Sets", CVPR 2023
Reference  Haiyang-W/DSVT at 8cfc2a6 (Apache-2.0)
Differs    sets and positions are computed once per stage; a set is written back by gathering each voxel's first slot.
           A voxel that stands in n slots of a set counts once: published code leaves all but one out of attention, here
           each has a share of 1/n, which is the same sum without infinities in a softmax
           Kept on purpose: the position embedding of layer i in a block is that of window configuration i, although
           both layers use configuration block % 2 (the authors call it a bug; the published accuracy contains it)
Shapes     N points, V voxels, S sets, T slots of a set, C channels, B samples, H rows along y, W columns along x
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from perception.networks.layers.bev_backbone import BevBackbone, BevBackboneConfig
from perception.networks.layers.boxes import Boxes3D
from perception.networks.layers.center_head import BevCells, CenterHead, CenterHeadConfig, read_out, suppress
from perception.networks.layers.point_encoder import PointEncoder
from perception.networks.layers.transfusion_head import TransFusionConfig, TransFusionHead
from perception.networks.part import Axis, Part, RunPart, TensorSpec
from perception.ops.bev_map import bev_map
from perception.ops.dynamic_voxels import DynamicVoxels, VoxelGrid, decorated, dynamic_voxels
from perception.ops.window_sets import WindowSets, window_sets

Window: TypeAlias = tuple[int, int, int]


@dataclass(frozen=True)
class StageConfig:
    """One stage: windows (x, y, z) of both configurations, the shift of the second, and pooling along z after it."""

    windows: tuple[Window, Window] = ((12, 12, 1), (24, 24, 1))
    shift: Window = (6, 6, 0)
    set_size: int = 36
    blocks: int = 4
    pool_z: int = 1


@dataclass(frozen=True)
class DSVTConfig:
    """The pillar variant for Waymo; the other published variants differ in what their cards say."""

    minimum_m: tuple[float, float, float] = (-74.88, -74.88, -2.0)
    voxel_m: tuple[float, float, float] = (0.32, 0.32, 6.0)
    grid: tuple[int, int, int] = (468, 468, 1)
    point_features: int = 5
    test_z: bool = True
    channels: int = 192
    heads: int = 8
    hidden: int = 384
    stages: tuple[StageConfig, ...] = (StageConfig(),)
    backbone: BevBackboneConfig = field(default_factory=BevBackboneConfig)
    head: Literal["center", "transfusion"] = "center"
    center_head: CenterHeadConfig = field(default_factory=CenterHeadConfig)
    transfusion_head: TransFusionConfig = field(default_factory=TransFusionConfig)

    @property
    def voxel_grid(self) -> VoxelGrid:
        return VoxelGrid(self.minimum_m, self.voxel_m, self.grid)


class Attention(nn.Module):
    """Multi-head attention under the parameter names of torch's, as plain operations that every engine knows."""

    def __init__(self, channels: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.in_proj_weight = nn.Parameter(torch.empty(3 * channels, channels))
        self.in_proj_bias = nn.Parameter(torch.zeros(3 * channels))
        self.out_proj = nn.Linear(channels, channels)
        nn.init.xavier_uniform_(self.in_proj_weight)

    def forward(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """Attend within each row: (S, Q, C) to (S, K, C)."""
        weights, biases = self.in_proj_weight.chunk(3), self.in_proj_bias.chunk(3)
        q, k, v = (
            F.linear(x, w, b).reshape(*x.shape[:2], self.heads, -1).transpose(1, 2)
            for x, w, b in zip((query, key, value), weights, biases, strict=True)
        )
        scores = (q * q.shape[3] ** -0.5) @ k.transpose(2, 3)  # (S, heads, Q, K)
        out: Tensor = self.out_proj((scores.softmax(dim=3) @ v).transpose(1, 2).flatten(2))
        return out

    def within_sets(self, placed: Tensor, x: Tensor, index: Tensor, bias: Tensor, first: Tensor) -> Tensor:
        """Attend within sets of voxels, queries and keys from `placed`, values from `x`: (V, C) to (V, C).

        Linear layers are done per voxel, of which there are less than half as many as slots, with the heads in front of
        the voxels, so that what is gathered lies as the products want it.

        Args:
            placed: (V, C).
            x: (V, C).
            index: (S, T) voxel of each slot.
            bias: (S, T) added to the scores of a slot.
            first: (V,) slot that is read for each voxel, counted over all sets.
        """
        c, d = x.shape[1], x.shape[1] // self.heads
        weight, bias_of = self.in_proj_weight, self.in_proj_bias
        to_place, to_value = weight[: 2 * c], weight[2 * c :]
        place_bias, value_bias = bias_of[: 2 * c], bias_of[2 * c :]
        projected = torch.cat((F.linear(placed, to_place, place_bias), F.linear(x, to_value, value_bias)), dim=1)
        by_head = projected.reshape(-1, 3 * self.heads, d).transpose(0, 1).contiguous()  # (3 heads, V, d)
        slots = by_head.index_select(1, index.flatten()).reshape(3, self.heads, *index.shape, d)
        q, k, v = slots.unbind(0)  # (heads, S, T, d) each
        scores = (q * d**-0.5) @ k.transpose(2, 3) + bias.unsqueeze(1)
        found = (scores.softmax(dim=3) @ v).flatten(1, 2).index_select(1, first)  # (heads, V, d)
        out: Tensor = self.out_proj(found.transpose(0, 1).flatten(1))
        return out


class SetAttention(nn.Module):
    """Attention inside sets and a feed-forward layer."""

    def __init__(self, config: DSVTConfig) -> None:
        super().__init__()
        c = config.channels
        self.self_attn = Attention(c, config.heads)
        self.linear1, self.linear2 = nn.Linear(c, config.hidden), nn.Linear(config.hidden, c)
        self.norm1, self.norm2 = nn.LayerNorm(c), nn.LayerNorm(c)

    def forward(self, x: Tensor, position: Tensor, index: Tensor, bias: Tensor, first: Tensor) -> Tensor:
        """Map voxels (V, C); `index` (S, T), `bias` (S, T), `first` (V,)."""
        x = self.norm1(x + self.self_attn.within_sets(x + position, x, index, bias, first))
        out: Tensor = self.norm2(x + self.linear2(F.gelu(self.linear1(x))))
        return out


class EncoderLayer(nn.Module):
    """Set attention with a residual and a norm around it."""

    def __init__(self, config: DSVTConfig) -> None:
        super().__init__()
        self.win_attn = SetAttention(config)
        self.norm = nn.LayerNorm(config.channels)

    def forward(self, x: Tensor, position: Tensor, index: Tensor, bias: Tensor, first: Tensor) -> Tensor:
        out: Tensor = self.norm(self.win_attn(x, position, index, bias, first) + x)
        return out


class Block(nn.Module):
    """Two layers, the first on sets ordered by y, the second by x."""

    def __init__(self, config: DSVTConfig) -> None:
        super().__init__()
        self.encoder_list = nn.ModuleList([EncoderLayer(config), EncoderLayer(config)])


class PositionEmbedding(nn.Module):
    """Place inside a window to channels."""

    def __init__(self, dims: int, channels: int) -> None:
        super().__init__()
        self.position_embedding_head = nn.Sequential(
            nn.Linear(dims, channels), nn.BatchNorm1d(channels), nn.ReLU(), nn.Linear(channels, channels)
        )

    def forward(self, place: Tensor) -> Tensor:
        out: Tensor = self.position_embedding_head(place)
        return out


class InputLayer(nn.Module):
    """Holds the position embeddings: by stage, block and window configuration."""

    def __init__(self, config: DSVTConfig) -> None:
        super().__init__()
        self.posembed_layers = nn.ModuleList()
        height = config.grid[2]
        for stage in config.stages:
            dims = 3 if height > 1 else 2
            blocks = [
                nn.ModuleList([PositionEmbedding(dims, config.channels) for _ in range(2)]) for _ in range(stage.blocks)
            ]
            self.posembed_layers.append(nn.ModuleList(blocks))
            height = -(-height // stage.pool_z)


class AttentionPooling(nn.Module):
    """Attention-style 3D pooling: the voxels above each other become one (section 3.3 of the paper)."""

    def __init__(self, config: DSVTConfig, slots: int) -> None:
        super().__init__()
        self.pos_embedding = nn.Parameter(torch.zeros(slots, config.channels))
        self.self_attn = Attention(config.channels, config.heads)
        self.norm = nn.LayerNorm(config.channels)

    def forward(self, slots: Tensor) -> Tensor:
        """Map (M, slots, C), zeros where there is no voxel, to (M, C); empty slots take part, as published."""
        query = slots.max(dim=1, keepdim=True).values
        out: Tensor = self.norm(self.self_attn(query, slots + self.pos_embedding, slots) + query).squeeze(1)
        return out


class Stage(nn.Module):
    """The exportable part of one stage: all its blocks, with their position embeddings."""

    def __init__(self, backbone: Backbone3D, number: int, first_block: int) -> None:
        super().__init__()
        self.blocks: nn.ModuleList = getattr(backbone, f"stage_{number}")
        self.norms = backbone.residual_norm(number)
        self.embeddings: nn.ModuleList = backbone.input_layer.posembed_layers[number]  # type: ignore[assignment]
        self.first_block = first_block

    def forward(
        self, x: Tensor, places_0: Tensor, places_1: Tensor, index_0: Tensor, index_1: Tensor, bias_0: Tensor,
        bias_1: Tensor, first_0: Tensor, first_1: Tensor,
    ) -> tuple[Tensor, ...]:  # fmt: skip
        """Return the output of each block, (V, C); inputs end in the number of their window configuration."""
        places, outputs = (places_0, places_1), []
        sets = ((index_0, bias_0, first_0), (index_1, bias_1, first_1))
        for number, (block, norm, embeddings) in enumerate(zip(self.blocks, self.norms, self.embeddings, strict=True)):
            index, bias, first = sets[(self.first_block + number) % 2]
            before = x
            for axis, layer in enumerate(block.encoder_list):  # type: ignore[arg-type]
                position = embeddings[axis](places[axis])  # type: ignore[index]
                x = layer(x, position, index[axis], bias[axis], first[axis])
            x = norm(x + before)
            outputs.append(x)
        return tuple(outputs)


class Backbone3D(nn.Module):
    """Parameters of all stages under their published names."""

    def __init__(self, config: DSVTConfig) -> None:
        super().__init__()
        self.input_layer = InputLayer(config)
        for number, stage in enumerate(config.stages):
            setattr(self, f"stage_{number}", nn.ModuleList([Block(config) for _ in range(stage.blocks)]))
            norms = nn.ModuleList([nn.LayerNorm(config.channels) for _ in range(stage.blocks)])
            setattr(self, f"residual_norm_stage_{number}", norms)
            if stage.pool_z > 1:
                setattr(self, f"stage_{number}_reduction", AttentionPooling(config, stage.pool_z))

    def residual_norm(self, number: int) -> nn.ModuleList:
        return getattr(self, f"residual_norm_stage_{number}")  # type: ignore[no-any-return]

    def pooling(self, number: int) -> AttentionPooling:
        return getattr(self, f"stage_{number}_reduction")  # type: ignore[no-any-return]


class BevPart(nn.Module):
    """The exportable part on the dense map: 2D backbone and head."""

    def __init__(self, backbone: BevBackbone, head: nn.Module) -> None:
        super().__init__()
        self.backbone, self.head = backbone, head

    def forward(self, bev: Tensor) -> tuple[Tensor, ...]:
        features = self.backbone(bev)
        return (features, *self.head(features))


@dataclass(frozen=True)
class StageInputs:
    """Voxels that enter a stage, and their sets in both window configurations."""

    coords: Tensor
    sets: tuple[WindowSets, WindowSets]
    places: tuple[Tensor, Tensor]

    def named(self, x: Tensor) -> dict[str, Tensor]:
        """Return the inputs of the stage's part."""
        named = {"x": x}
        for number, (sets, place) in enumerate(zip(self.sets, self.places, strict=True)):
            named |= {
                f"places_{number}": place, f"index_{number}": sets.index, f"bias_{number}": sets.bias,
                f"first_{number}": sets.first,
            }  # fmt: skip
        return named


class DSVT(nn.Module):
    """Points to boxes."""

    def __init__(self, config: DSVTConfig) -> None:
        super().__init__()
        self.config = config
        self.register_buffer("global_step", torch.zeros(1, dtype=torch.long))
        self.vfe = PointEncoder(config.point_features, config.channels // 2, config.channels, "pfn_layers")
        self.backbone_3d = Backbone3D(config)
        self.backbone_2d = BevBackbone(config.backbone)
        self.dense_head: CenterHead | TransFusionHead = (
            CenterHead(config.center_head) if config.head == "center" else TransFusionHead(config.transfusion_head)
        )

    def voxels(self, points: Tensor) -> DynamicVoxels:
        """Sort points (N, 4 + C), batch, x, y, z, features, into voxels."""
        return dynamic_voxels(points, self.config.voxel_grid, test_z=self.config.test_z)

    def voxel_features(self, voxels: DynamicVoxels, run: RunPart) -> Tensor:
        """Return the features of the voxels, (V, C)."""
        grid, points, count = self.config.voxel_grid, voxels.points[:, 1:], len(voxels.coords)
        size, minimum = points.new_tensor(grid.voxel_m), points.new_tensor(grid.minimum_m)
        center = voxels.coords[:, [3, 2, 1]].float() * size + (size / 2 + minimum)
        x = decorated(points, voxels.voxel, center)
        return self.vfe(x, voxels.voxel, count) if self.training else self.vfe.encoded(x, voxels.voxel, count, run)

    def stage_inputs(self, coords: Tensor, number: int) -> StageInputs:
        """Cut the voxels that enter a stage into sets."""
        stage = self.config.stages[number]
        height = self._height(number)
        grid = (self.config.grid[0], self.config.grid[1], height)
        shifts = ((0, 0, 0), stage.shift)
        first, second = (
            window_sets(coords, grid, window, shift, stage.set_size)
            for window, shift in zip(stage.windows, shifts, strict=True)
        )
        places = []
        for sets, window in zip((first, second), stage.windows, strict=True):
            z, y, x = sets.inside.float().unbind(1)
            place = torch.stack((x - window[0] / 2, y - window[1] / 2, z - window[2] / 2), dim=1)
            places.append(place if height > 1 else place[:, :2])
        return StageInputs(coords, (first, second), (places[0], places[1]))

    def pooled(self, x: Tensor, coords: Tensor, number: int, run: RunPart) -> tuple[Tensor, Tensor]:
        """Pool a stage's voxels along z; returns features (M, C) and coordinates (M, 4)."""
        slots = self.config.stages[number].pool_z
        batch, z, y, width = coords.long().unbind(1)
        nx, ny, nz = self.config.grid
        key = ((batch * nx + width) * ny + y) * nz + z // slots
        unique, index = torch.unique(key, return_inverse=True)
        held = x.new_zeros(len(unique) * slots, x.shape[1])
        held[index * slots + z % slots] = x
        column = unique // nz
        coords = torch.stack((column // (nx * ny), unique % nz, column % ny, column // ny % nx), dim=1).int()
        return run(f"pool_{number}", {"slots": held.reshape(-1, slots, held.shape[1])})["pooled"], coords

    def bev(self, x: Tensor, coords: Tensor, batch: int) -> Tensor:
        """Scatter the voxels of the last stage onto the map (B, C, ny, nx)."""
        nx, ny, _ = self.config.grid
        return bev_map(x, coords, batch, ny, nx)

    def maps(self, points: Tensor, batch: int, run: RunPart, watch: Watch | None = None) -> Mapping[str, Tensor]:
        """Return the head's raw maps and, for a `watch`, everything on the way to them.

        Args:
            points: (N, 4 + C) batch, x, y, z, features.
            batch: number of samples; a sample without points gives an empty map.
            run: runs the parts.
            watch: called with a name and a tensor at each stage.
        """
        watch = watch or (lambda name, value: None)
        voxels = self.voxels(points)
        watch("voxel_coords", voxels.coords)
        if len(voxels.coords) == 0:
            x, coords = points.new_zeros(0, self.config.channels), voxels.coords
        else:
            x = self.voxel_features(voxels, run)
            watch("vfe_features", x)
            x, coords = self._stages(x, voxels.coords, run, watch)
        outputs = run("bev", {"bev": self.bev(x, coords, batch)})
        watch("bev_features", outputs["features"])
        return outputs

    def _stages(self, x: Tensor, coords: Tensor, run: RunPart, watch: Watch) -> tuple[Tensor, Tensor]:
        for number, stage in enumerate(self.config.stages):
            inputs = self.stage_inputs(coords, number)
            if number:
                watch(f"coords_s{number}", coords)
            for shift, sets in enumerate(inputs.sets):
                watch(f"set_inds_s{number}_shift{shift}", sets.index)
            outputs = run(f"stage_{number}", inputs.named(x))
            for block in range(stage.blocks):
                watch(f"block_s{number}_b{block}", outputs[f"block_{block}"])
            x = outputs[f"block_{stage.blocks - 1}"]
            if stage.pool_z > 1:
                x, coords = self.pooled(x, coords, number, run)
                watch(f"reduction_s{number}", x)
        return x, coords

    def detect(self, points: Tensor, run: RunPart) -> Boxes3D:
        """Detect in one sweep: points (N, 3 + C), x, y, z, features, in the frame of the card."""
        batched = torch.cat((points.new_zeros(len(points), 1), points), dim=1)
        return self.boxes(self.maps(batched, 1, run), run)[0]

    def boxes(self, maps: Mapping[str, Tensor], run: RunPart) -> list[Boxes3D]:
        """Return the final boxes of each sample."""
        if isinstance(self.dense_head, TransFusionHead):
            return self.dense_head.boxes(maps, self.cells, run)
        head = self.config.center_head
        return [suppress(boxes, head) for boxes in self.raw_boxes(maps)]

    def raw_boxes(self, maps: Mapping[str, Tensor]) -> list[Boxes3D]:
        """Return the boxes of each sample before suppression (center head)."""
        assert isinstance(self.dense_head, CenterHead)
        named = {name: maps[name] for name in self.dense_head.maps}
        return read_out(named, self.config.center_head, self.cells)

    @property
    def cells(self) -> BevCells:
        """Where the cells of the head's maps are."""
        stride = self.config.backbone.stride
        voxel = self.config.voxel_m
        return BevCells(self.config.minimum_m[:2], (voxel[0] * stride, voxel[1] * stride))

    def parts(self) -> Mapping[str, Part]:
        """Return the parts: `points`, `voxels`, `stage_0`, `pool_0`, ..., `bev`, and the head's own."""
        found = self.vfe.parts()
        first_block = 0
        for number, stage in enumerate(self.config.stages):
            found[f"stage_{number}"] = self._stage_part(number, stage, first_block)
            first_block += stage.blocks
            if stage.pool_z > 1:
                found[f"pool_{number}"] = self._pool_part(number, stage)
        found["bev"] = self._bev_part()
        if isinstance(self.dense_head, TransFusionHead):
            found |= self.dense_head.parts()
        return found

    def _stage_part(self, number: int, stage: StageConfig, first_block: int) -> Part:
        c, t = self.config.channels, stage.set_size
        voxels = Axis("voxels", 1, 10_000, 400_000)
        inputs = {"x": TensorSpec("float32", (voxels, c))}
        dims = 3 if self._height(number) > 1 else 2
        for config in range(2):
            sets = Axis(f"sets_{config}", 1, 1000, 100_000)
            inputs |= {
                f"places_{config}": TensorSpec("float32", (voxels, dims)),
                f"index_{config}": TensorSpec("int64", (2, sets, t)),
                f"bias_{config}": TensorSpec("float32", (2, sets, t)),
                f"first_{config}": TensorSpec("int64", (2, voxels)),
            }
        order = ["x", *(f"{name}_{config}" for name in ("places", "index", "bias", "first") for config in range(2))]
        outputs = {f"block_{block}": TensorSpec("float32", (voxels, c)) for block in range(stage.blocks)}
        module = Stage(self.backbone_3d, number, first_block).eval()
        return Part(
            f"stage_{number}",
            module,
            {name: inputs[name] for name in order},
            outputs,
            lambda: self._example(number, order),
        )

    def _height(self, number: int) -> int:
        height = self.config.grid[2]
        for earlier in self.config.stages[:number]:
            height = -(-height // earlier.pool_z)
        return height

    def _example(self, number: int, order: list[str]) -> tuple[Tensor, ...]:
        generator = torch.Generator().manual_seed(number)
        nx, ny, _ = self.config.grid
        size = torch.tensor((min(nx, 40), min(ny, 40), self._height(number)))
        cells = torch.unique((torch.rand(300, 3, generator=generator) * size).long(), dim=0)
        coords = torch.cat((torch.zeros(len(cells), 1, dtype=torch.long), cells.flip(1)), dim=1).int()
        x = torch.randn(len(coords), self.config.channels, generator=generator)
        named = self.stage_inputs(coords, number).named(x)
        return tuple(named[name] for name in order)

    def _pool_part(self, number: int, stage: StageConfig) -> Part:
        columns, c = Axis("columns", 1, 10_000, 400_000), self.config.channels
        return Part(
            f"pool_{number}",
            self.backbone_3d.pooling(number),
            {"slots": TensorSpec("float32", (columns, stage.pool_z, c))},
            {"pooled": TensorSpec("float32", (columns, c))},
            lambda: (torch.randn(50, stage.pool_z, c, generator=torch.Generator().manual_seed(number)),),
        )

    def _bev_part(self) -> Part:
        nx, ny, _ = self.config.grid
        batch, c = Axis("batch", 1, 1, 8), self.config.channels
        stride = self.config.backbone.stride
        rows, columns = int(ny / stride), int(nx / stride)
        outputs = {"features": TensorSpec("float32", (batch, self.config.backbone.out_channels, rows, columns))}
        for name, channels in self.dense_head.maps.items():
            shape = (columns, rows) if self.config.head == "transfusion" else (rows, columns)
            outputs[name] = TensorSpec("float32", (batch, channels, *shape))
        return Part(
            "bev",
            BevPart(self.backbone_2d, self.dense_head).eval(),
            {"bev": TensorSpec("float32", (batch, c, ny, nx))},
            outputs,
            lambda: (torch.rand(1, c, ny, nx, generator=torch.Generator().manual_seed(7)),),
        )


Watch: TypeAlias = "Callable[[str, Tensor], None]"

__all__ = ["DSVT", "DSVTConfig", "StageConfig", "StageInputs"]
