"""Estimate the pose of the wearer from cameras on the head: EgoPoseFormer.

Paper      Yang et al., "EgoPoseFormer: A Simple Baseline for Stereo Egocentric 3D Human Pose Estimation", ECCV 2024
           (arXiv 2403.18080)
Reference  ChenhongyiYang/egoposeformer, pose_estimation/models, commit e4fb005. Its SceneEgo (one camera) configuration
           was never published; `EGOPOSEFORMER_MONO` is our reading of the paper: one view, ResNet-34, else the same
Differs    cut in two parts where joints are projected into the pictures, which any camera model may do; every layer's
           pose is returned; `norm_mlp_pred`, which has no effect as released, only holds its two buffers
Shapes     B batch, V views (2: left, right), H rows and W columns of a picture, h and w of the features (a quarter),
           C channels of the neck, D width of a joint's query, J joints (16), L layers (3); joints in centimetres,
           relative to the reference point (UnrealEgo: the pelvis), along the axes of the cameras
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from perception.errors import ShapeError
from perception.networks.layers.resnet import RESNETS, ResNetConfig, residual_stage
from perception.networks.part import Axis, Part, RunPart, TensorSpec
from perception.ops.deformable_attention import deformable_attention
from perception.ops.joint_projection import Projection


@dataclass(frozen=True)
class EgoPoseFormerConfig:
    """Sizes of the network; the default is the published stereo one."""

    resnet: ResNetConfig = RESNETS["resnet18"]
    out_stride: Literal[4, 8, 16, 32] = 4
    """Stride of the features that leave the encoder; stages of smaller stride do not enter the neck."""
    neck_channels: int = 128
    num_views: int = 2
    num_joints: int = 16
    image_size: tuple[int, int] = (256, 256)
    """Rows and columns, multiples of 32."""
    dim: int = 128
    num_heads: int = 4
    num_points: int = 16
    """Samples per joint, head and view."""
    spatial_heads: int = 4
    ffn_dim: int = 512
    ffn_layers: int = 2
    num_layers: int = 3
    proposal_dim: int = 1024
    proposal_layers: int = 2
    regression_layers: int = 2
    num_heatmaps: int = 15
    """Of the pre-training network: one per joint but the head."""
    coordinate_range: tuple[tuple[float, ...], tuple[float, ...]] | None = None
    """Smallest and largest coordinates, which checkpoints with `norm_mlp_pred` hold and nothing reads."""

    def __post_init__(self) -> None:
        if any(side < 32 or side % 32 for side in self.image_size):
            raise ShapeError(f"pictures of {self.image_size}: rows and columns must be multiples of 32")
        if self.dim % self.num_heads or self.dim % self.spatial_heads:
            raise ShapeError(
                f"a dim of {self.dim} does not divide into {self.num_heads} and {self.spatial_heads} heads"
            )

    @property
    def feature_size(self) -> tuple[int, int]:
        """Rows and columns of the features."""
        return self.image_size[0] // self.out_stride, self.image_size[1] // self.out_stride


EGOPOSEFORMER_STEREO = EgoPoseFormerConfig()
EGOPOSEFORMER_MONO = replace(EGOPOSEFORMER_STEREO, resnet=RESNETS["resnet34"], num_views=1)
EGOPOSEFORMER_COMPACT = EgoPoseFormerConfig(
    resnet=ResNetConfig(depths=(1, 1, 1, 1), widths=(32, 64, 128, 192)),
    neck_channels=64,
    image_size=(192, 192),
    dim=64,
    num_points=8,
    ffn_dim=128,
    num_layers=2,
    proposal_dim=256,
)


class ResNet(nn.Module):
    """The five stages; parameters are named by stride and position, as in the published checkpoints."""

    def __init__(self, config: EgoPoseFormerConfig) -> None:
        super().__init__()
        width = config.resnet.widths[0]
        self.layer_s2 = nn.Sequential(
            nn.Conv2d(3, width, 7, 2, padding=3, bias=False), nn.BatchNorm2d(width), nn.ReLU()
        )
        self.layer_s4 = nn.Sequential(nn.MaxPool2d(3, stride=2, padding=1), residual_stage(config.resnet, 0))
        self.layer_s8 = residual_stage(config.resnet, 1)
        self.layer_s16 = residual_stage(config.resnet, 2)
        self.layer_s32 = residual_stage(config.resnet, 3)

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Map (N, 3, H, W) to the maps of stride 4, 8, 16 and 32."""
        at4 = self.layer_s4(self.layer_s2(image))
        at8 = self.layer_s8(at4)
        at16 = self.layer_s16(at8)
        return at4, at8, at16, self.layer_s32(at16)


class Neck(nn.Module):
    """Merge the maps from the top down; convolutions have biases and no normalisation."""

    def __init__(self, in_channels: tuple[int, ...], channels: int) -> None:
        super().__init__()
        levels = len(in_channels)
        self.lateral_convs = nn.ModuleList(_convolution(given, channels, 1) for given in in_channels)
        self.fuse_convs = nn.ModuleList(_convolution(2 * channels, channels, 1) for _ in range(levels - 1))
        self.fpn_convs = nn.ModuleList(_convolution(channels, channels, 3) for _ in range(levels - 1))

    def forward(self, maps: tuple[Tensor, ...]) -> Tensor:
        """Map (N, C_i, h_i, w_i), each half as large as the one before, to (N, C, h_0, w_0)."""
        laterals = [lateral(given) for lateral, given in zip(self.lateral_convs, maps, strict=True)]
        x: Tensor = laterals.pop()
        for fuse, smooth, lateral in zip(
            reversed(self.fuse_convs), reversed(self.fpn_convs), reversed(laterals), strict=True
        ):
            # As released: corners are aligned here, and nowhere else.
            up = F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=True)
            x = smooth(fuse(torch.cat((lateral, up), dim=1)))
        return x


class Encoder(nn.Module):
    """ResNet and neck."""

    def __init__(self, config: EgoPoseFormerConfig) -> None:
        super().__init__()
        self.first = (4, 8, 16, 32).index(config.out_stride)
        self.backbone = ResNet(config)
        self.neck = Neck(config.resnet.channels[self.first :], config.neck_channels)

    def forward(self, image: Tensor) -> Tensor:
        """Map (N, 3, H, W) to features (N, C, h, w)."""
        out: Tensor = self.neck(self.backbone(image)[self.first :])
        return out


class HeatmapNetwork(nn.Module):
    """The encoder's pre-training: one heatmap per joint but the head, without a sigmoid. The pose network has none."""

    def __init__(self, config: EgoPoseFormerConfig = EGOPOSEFORMER_STEREO) -> None:
        super().__init__()
        self.config = config
        self.encoder = Encoder(config)
        self.conv_heatmap = nn.Conv2d(config.neck_channels, config.num_heatmaps, 1)

    def forward(self, image: Tensor) -> Tensor:
        """Map normalised RGB images (N, 3, H, W) to heatmaps (N, M, h, w)."""
        out: Tensor = self.conv_heatmap(self.encoder(image))
        return out

    def parts(self) -> Mapping[str, Part]:
        """Return the one part, `heatmaps`; every view is an image of its own."""
        config, images = self.config, Axis("images", 1, 2, 16)
        part = Part(
            name="heatmaps",
            module=self,
            inputs={"image": TensorSpec("float32", (images, 3, *config.image_size))},
            outputs={"heatmaps": TensorSpec("float32", (images, config.num_heatmaps, *config.feature_size))},
            example=lambda: (_random(2, 3, *config.image_size),),
        )
        return {part.name: part}


class StereoAttention(nn.Module):
    """Deformable attention of joints to the features of one view; the views share it."""

    spatial_shapes: Tensor
    start_index: Tensor

    def __init__(self, config: EgoPoseFormerConfig) -> None:
        super().__init__()
        self.num_heads, self.num_points = config.num_heads, config.num_points
        self.sampling_offsets = nn.Linear(config.dim, config.num_heads * config.num_points * 2)
        self.attention_weights = nn.Linear(config.dim, config.num_heads * config.num_points)
        self.value_proj = nn.Linear(config.dim, config.dim)
        self.output_proj = nn.Linear(config.dim, config.dim)
        # What the published kernel is told; the checkpoints hold it, the shape of the features says the same.
        self.register_buffer("spatial_shapes", torch.tensor([config.feature_size]))
        self.register_buffer("start_index", torch.tensor([0]))
        self._look_around()

    def forward(self, query: Tensor, features: Tensor, anchors: Tensor) -> Tensor:
        """Attend.

        Args:
            query: (B, J, D).
            features: (B, D, h, w) of one view.
            anchors: (B, J, 2) column and row in the picture, 0 to 1.

        Returns:
            (B, J, D), without the query itself.
        """
        batch, joints, dim = query.shape
        height, width = features.shape[2:]
        value = self.value_proj(features.flatten(2).transpose(1, 2)).transpose(1, 2)
        value = value.reshape(batch, self.num_heads, dim // self.num_heads, height, width)
        offsets = self.sampling_offsets(query).reshape(batch, joints, self.num_heads, self.num_points, 2)
        weights = self.attention_weights(query).reshape(batch, joints, self.num_heads, self.num_points).softmax(-1)
        moved = torch.stack((offsets[..., 0] / width, offsets[..., 1] / height), dim=-1)
        locations = anchors[:, :, None, None] + moved
        out: Tensor = self.output_proj(deformable_attention(value, locations, weights))
        return out

    def _look_around(self) -> None:
        """Start with one direction per head, and points further and further out, whatever the query."""
        angles = torch.arange(self.num_heads) * (2 * math.pi / self.num_heads)
        directions = torch.stack((angles.cos(), angles.sin()), dim=-1)
        directions = directions / directions.abs().amax(dim=-1, keepdim=True)
        steps = torch.arange(1, self.num_points + 1)
        nn.init.zeros_(self.sampling_offsets.weight)
        self.sampling_offsets.bias.data = (directions[:, None] * steps[None, :, None]).flatten().float()
        nn.init.zeros_(self.attention_weights.weight)
        nn.init.zeros_(self.attention_weights.bias)


class JointAttention(nn.Module):
    """Self-attention of the joints of one body."""

    def __init__(self, config: EgoPoseFormerConfig) -> None:
        super().__init__()
        self.num_heads = config.spatial_heads
        self.q_proj = nn.Linear(config.dim, config.dim)
        self.k_proj = nn.Linear(config.dim, config.dim)
        self.v_proj = nn.Linear(config.dim, config.dim)
        self.out_proj = nn.Linear(config.dim, config.dim)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, J, D) to the same shape."""
        batch, joints, dim = x.shape
        q, k, v = (
            project(x).reshape(batch, joints, self.num_heads, dim // self.num_heads).transpose(1, 2)
            for project in (self.q_proj, self.k_proj, self.v_proj)
        )
        weights = ((q @ k.transpose(2, 3)) * q.shape[-1] ** -0.5).softmax(dim=-1)  # (B, heads, J, J)
        out: Tensor = self.out_proj((weights @ v).transpose(1, 2).reshape(batch, joints, dim))
        return out


class FeedForward(nn.Module):
    """Linear layers with exact GELUs between them."""

    def __init__(self, config: EgoPoseFormerConfig) -> None:
        super().__init__()
        widths = [config.dim] + [config.ffn_dim] * (config.ffn_layers - 1)
        inner = [nn.Sequential(nn.Linear(given, config.ffn_dim), nn.GELU(), nn.Dropout(0.0)) for given in widths[:-1]]
        self.layers = nn.Sequential(*inner, nn.Linear(widths[-1], config.dim), nn.Dropout(0.0))

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, J, D) to the same shape."""
        out: Tensor = self.layers(x)
        return out


class TransformerLayer(nn.Module):
    """Joints look at the pictures, then at each other, each step followed by its norm."""

    def __init__(self, config: EgoPoseFormerConfig) -> None:
        super().__init__()
        self.cross_attn = StereoAttention(config)
        self.fuse_mlp = nn.Linear(config.num_views * config.dim, config.dim)
        self.norm_cross = nn.LayerNorm(config.dim)
        self.spatial_attn = JointAttention(config)
        self.norm_spatial = nn.LayerNorm(config.dim)
        self.ffn = FeedForward(config)
        self.norm_ffn = nn.LayerNorm(config.dim)

    def forward(self, x: Tensor, features: Tensor, anchors: Tensor, in_view: Tensor) -> Tensor:
        """Refine queries (B, J, D) by features (B, V, D, h, w), anchors (B, V, J, 2) and visibility (B, V, J)."""
        views = [
            # A joint that a view does not show takes nothing from it.
            self.cross_attn(x, features[:, view], anchors[:, view]).masked_fill(~in_view[:, view, :, None], 0.0)
            for view in range(features.shape[1])
        ]
        x = self.norm_cross(x + self.fuse_mlp(torch.cat(views, dim=2)))
        x = self.norm_spatial(x + self.spatial_attn(x))
        out: Tensor = self.norm_ffn(x + self.ffn(x))
        return out


class EgoPoseFormer(nn.Module):
    """A proposal from the pooled features, refined where its joints appear in the pictures."""

    joint_index: Tensor

    def __init__(self, config: EgoPoseFormerConfig = EGOPOSEFORMER_STEREO) -> None:
        super().__init__()
        self.config = config
        dim, joints = config.dim, config.num_joints
        self.encoder = Encoder(config)
        self.feat_proj = nn.Conv2d(config.neck_channels, dim, 1)
        self.layers = nn.ModuleList(TransformerLayer(config) for _ in range(config.num_layers))
        self.query_gen_mlp = nn.Sequential(
            nn.Linear(4, dim), nn.ReLU(), nn.Linear(dim, dim), nn.ReLU(), nn.Linear(dim, dim)
        )
        widths = [config.num_views * dim] + [config.proposal_dim] * config.proposal_layers
        inner = [
            nn.Sequential(nn.Linear(given, config.proposal_dim), nn.GELU(), nn.Dropout(0.0)) for given in widths[:-1]
        ]
        self.mlp_pred = nn.Sequential(*inner, nn.Linear(widths[-1], 3 * joints))
        self.reg_mlp = nn.ModuleList(_regression(config) for _ in range(config.num_layers))
        self.post_norm = nn.ModuleList(nn.LayerNorm(dim) for _ in range(config.num_layers))
        if config.coordinate_range is not None:
            smallest, largest = config.coordinate_range
            self.register_buffer("coor_min", torch.tensor(smallest))
            self.register_buffer("coor_max", torch.tensor(largest))
        index = torch.arange(1, joints + 1, dtype=torch.float32) / joints
        self.register_buffer("joint_index", index.view(1, joints, 1), persistent=False)

    def forward(self, image: Tensor, references: Tensor, project: Projection) -> Tensor:
        """Map normalised RGB pictures (B, V, 3, H, W) to poses (B, L + 1, J, 3): the proposal, then each layer's.

        Args:
            image: in the order of the views.
            references: (B, V, 1, 3) the reference point in the frame of each camera.
            project: puts joints into the pictures.

        Raises:
            ShapeError: pictures of another size or number than the configuration's.
        """
        features, proposal = self.propose(self.checked(image))
        anchors, in_view = project(proposal.detach(), references)
        poses = self.refine(features, proposal.detach(), *self.usable(anchors, in_view))
        return torch.cat((proposal[:, None], poses), dim=1)

    def estimate(
        self, image: Tensor, references: Tensor, project: Projection, run: RunPart
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Do what `forward` does on an engine's parts.

        Returns:
            Poses (B, L + 1, J, 3), and the proposal's anchors (B, V, J, 2) and visibility (B, V, J) as projected.
        """
        outputs = run("propose", {"image": self.checked(image)})
        # Outputs belong to the engine until its next run; `refine` is another engine, so they are still there.
        features, proposal = outputs["features"], outputs["proposal"]
        anchors, in_view = project(proposal, references)
        usable, seen = self.usable(anchors, in_view)
        inputs = {"features": features, "proposal": proposal, "anchors": usable, "in_view": seen}
        poses = run("refine", inputs)["poses"]
        return torch.cat((proposal[:, None], poses), dim=1), anchors, in_view

    def checked(self, image: Tensor) -> Tensor:
        """Return pictures (B, V, 3, H, W); grey ones (B, V, H, W) get three equal colours.

        Raises:
            ShapeError: another number of views, colours or pixels.
        """
        if image.ndim == 4:
            image = image[:, :, None].expand(-1, -1, 3, -1, -1)
        expected = (self.config.num_views, 3, *self.config.image_size)
        if image.ndim != 5 or image.shape[1:] != expected:
            raise ShapeError(f"pictures of shape {tuple(image.shape)}; this network takes (B, {expected})")
        return image

    def usable(self, anchors: Tensor, in_view: Tensor) -> tuple[Tensor, Tensor]:
        """Return what `refine` takes: views as configured, and a place for joints that have none (they are masked)."""
        views = self.config.num_views  # the published projection always gives two
        return anchors[:, :views].nan_to_num(0.0).to(torch.float32), in_view[:, :views]

    def propose(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Map (B, V, 3, H, W) to features (B, V, D, h, w) and the proposal (B, J, 3)."""
        return self.proposed(self.encoder(image.reshape(-1, *image.shape[2:])))

    def proposed(self, encoded: Tensor) -> tuple[Tensor, Tensor]:
        """Do the same from what the encoder made of the pictures, (B * V, C, h, w)."""
        config = self.config
        features = self.feat_proj(encoded)  # (B * V, D, h, w)
        pooled = features.mean(dim=(2, 3)).reshape(-1, config.num_views * config.dim)
        proposal = self.mlp_pred(pooled).reshape(-1, config.num_joints, 3)
        return features.reshape(-1, config.num_views, *features.shape[1:]), proposal

    def refine(self, features: Tensor, proposal: Tensor, anchors: Tensor, in_view: Tensor) -> Tensor:
        """Return each layer's pose (B, L, J, 3): as released an offset to the proposal, not to the layer before."""
        index = self.joint_index.expand(proposal.shape[0], -1, -1)
        x = self.query_gen_mlp(torch.cat((index, proposal), dim=2))  # (B, J, D)
        poses = []
        for layer, norm, regress in zip(self.layers, self.post_norm, self.reg_mlp, strict=True):
            x = layer(x, features, anchors, in_view)
            poses.append(proposal + regress(norm(x)))
        return torch.stack(poses, dim=1)

    def parts(self) -> Mapping[str, Part]:
        """Return `propose`, pictures to features and proposal, and `refine`, which needs the proposal projected."""
        config, batch = self.config, Axis("batch", 1, 1, 8)
        views, joints = config.num_views, config.num_joints
        image = TensorSpec("float32", (batch, views, 3, *config.image_size))
        features = TensorSpec("float32", (batch, views, config.dim, *config.feature_size))
        proposal = TensorSpec("float32", (batch, joints, 3))

        def example_proposal() -> tuple[Tensor, ...]:
            anchors = torch.rand(2, views, joints, 2, generator=torch.Generator().manual_seed(1))
            in_view = torch.arange(2 * views * joints).reshape(2, views, joints) % 5 > 0
            return _random(2, views, config.dim, *config.feature_size), 30 * _random(2, joints, 3), anchors, in_view

        propose = Part(
            name="propose",
            module=_Propose(self),
            inputs={"image": image},
            outputs={"features": features, "proposal": proposal},
            example=lambda: (_random(2, views, 3, *config.image_size),),
        )
        refine = Part(
            name="refine",
            module=_Refine(self),
            inputs={
                "features": features,
                "proposal": proposal,
                "anchors": TensorSpec("float32", (batch, views, joints, 2)),
                "in_view": TensorSpec("bool", (batch, views, joints)),
            },
            outputs={"poses": TensorSpec("float32", (batch, config.num_layers, joints, 3))},
            example=example_proposal,
        )
        return {part.name: part for part in (propose, refine)}


class _Propose(nn.Module):
    def __init__(self, network: EgoPoseFormer) -> None:
        super().__init__()
        self.network = network

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        return self.network.propose(image)


class _Refine(nn.Module):
    def __init__(self, network: EgoPoseFormer) -> None:
        super().__init__()
        self.network = network

    def forward(self, features: Tensor, proposal: Tensor, anchors: Tensor, in_view: Tensor) -> Tensor:
        return self.network.refine(features, proposal, anchors, in_view)


def _convolution(in_channels: int, out_channels: int, kernel: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(in_channels, out_channels, kernel, padding=kernel // 2), nn.ReLU())


def _regression(config: EgoPoseFormerConfig) -> nn.Sequential:
    layers: list[nn.Module] = []
    for _ in range(config.regression_layers - 1):
        layers += [nn.Linear(config.dim, config.dim), nn.GELU()]
    return nn.Sequential(*layers, nn.Linear(config.dim, 3))


def _random(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))
