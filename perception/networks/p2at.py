"""Pyramid pooling axial transformer for segmentation in real time: P2AT-S, -M and -L.

Paper      Elhassan et al., "P2AT: Pyramid Pooling Axial Transformer for Real-time Semantic Segmentation",
           Expert Systems with Applications 255, 2024 (arXiv 2310.15025)
Reference  mohamedac29/P2AT, models/P2AT.py and models/common_blocks.py, commit c10ed255. No checkpoint was published,
           so that code is the definition; its quirks are kept and marked "as released".
Differs    the network ends at the logits of stride 4, as enlarging them is decoding; the global branches work on one
           pixel instead of on copies of it; the auxiliary heads run in training only
Shapes     B batch, C channels, H rows, W columns, K classes, D = 64 channels of everything after the encoder;
           "@8" is a map of stride 8, with ceil(H / 8) rows
Precision  four gates multiply two feature maps (`context * x`, attention times details, `shallow * up`,
           `shallow * deep`), so values grow with the square of the input: float16 overflows above 256 times 256.
           Check the range of trained weights before a float16 engine; bfloat16 and float32 are safe.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from perception.networks.layers.resnet import RESNETS, ResNetConfig, residual_stage
from perception.networks.part import Axis, Part, TensorSpec


@dataclass(frozen=True)
class P2ATConfig:
    """Everything that the three published variants and the compact one differ in; the default is P2AT-S."""

    encoder: ResNetConfig = RESNETS["resnet18"]
    num_classes: int = 19
    dim: int = 64
    attention_layers: int = 2
    num_heads: int = 8
    key_dim: int = 16
    value_ratio: float = 2.0
    """Channels of a value over channels of a key."""
    mlp_ratio: float = 4.0
    decoder_kernels: tuple[int, int, int] = (3, 5, 7)
    """At strides 32, 8 and 4."""
    decoder_expand: int = 4
    context_kernel: int = 7
    position_length: int = 16
    auxiliary_heads: bool = True
    """Two more heads, for training only; a checkpoint written in training holds them."""
    sub_pixels: int = 1
    """The final head gives so many rows and columns of logits per cell of its map (Shi et al., arXiv 1609.05158): what
    is narrower than a cell, as a pole is in a small picture, has a place. The released network has one."""
    align_corners: bool = True
    """How logits are enlarged to the image: as released, the centres of the corner cells are the corners of the image,
    which moves logits by up to three quarters of a cell, differently at every size; without it they stay in place."""


P2AT_S = P2ATConfig()
P2AT_M = replace(P2AT_S, encoder=RESNETS["resnet34"])
P2AT_L = replace(P2AT_S, encoder=RESNETS["resnet50"])
P2AT_COMPACT = P2ATConfig(
    encoder=ResNetConfig(depths=(1, 2, 2, 2), widths=(32, 64, 128, 192)), dim=32, num_heads=4, auxiliary_heads=True,
    sub_pixels=2, align_corners=False,
)  # fmt: skip


class ConvBlock(nn.Module):
    """Convolution, and with `act` batch normalisation and a PReLU with one slope per channel."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel: int = 1,
        *,
        act: bool = False,
        bias: bool = False,
        groups: int = 1,
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, out_channels, kernel, padding=kernel // 2, groups=groups, bias=bias)
        self.bn = nn.BatchNorm2d(out_channels) if act else nn.Identity()
        self.act = nn.PReLU(out_channels) if act else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, in_channels, H, W) to (B, out_channels, H, W)."""
        out: Tensor = self.act(self.bn(self.conv(x)))
        return out


class DetailsEnhancer(nn.Module):
    """Local features that gate the attention."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.conv1 = nn.Sequential(ConvBlock(dim, dim), nn.BatchNorm2d(dim))
        self.conv2 = nn.Sequential(ConvBlock(dim, dim, 3), nn.BatchNorm2d(dim))

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, D, H, W) to the same shape."""
        point: Tensor = self.conv1(x)
        return torch.add(point, self.conv2(point))


class PyramidPooling(nn.Module):
    """Average over growing neighbourhoods, and gate the features with them."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.conv1 = ConvBlock(dim, dim, act=True)
        self.conv2 = ConvBlock(3 * dim, dim, 3, act=True, groups=dim)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, D, H, W) to the same shape. Zero padding counts in the averages."""
        x = self.conv1(x)
        pool3 = F.avg_pool2d(x, 3, stride=1, padding=1)
        # As released: the 3x3 average stands twice where the paper's pyramid would have its wider 5x5 one.
        pool7 = F.avg_pool2d(F.avg_pool2d(pool3, 5, stride=1, padding=2), 7, stride=1, padding=3)
        context: Tensor = self.conv2(torch.cat((pool3, pool3, pool7), dim=1))
        return context * x


class PositionEmbedding(nn.Module):
    """A learned vector per position along one axis, stretched to the length of that axis."""

    def __init__(self, channels: int, length: int) -> None:
        super().__init__()
        self.pos_embed = nn.Parameter(torch.randn(1, channels, length))

    def forward(self, x: Tensor) -> Tensor:
        """Add to (B, C, L), for any L."""
        return x + F.interpolate(self.pos_embed, size=x.shape[-1], mode="linear", align_corners=False)


class PyramidAxialAttention(nn.Module):
    """Attention along rows and along columns, each over the mean of the other axis (P2A2)."""

    def __init__(self, config: P2ATConfig) -> None:
        super().__init__()
        dim, keys = config.dim, config.num_heads * config.key_dim
        values = int(config.value_ratio * config.key_dim) * config.num_heads
        self.num_heads, self.scale = config.num_heads, config.key_dim**-0.5
        self.to_q = ConvBlock(dim, keys)
        self.to_k = ConvBlock(dim, keys)
        self.to_v = ConvBlock(dim, values)
        self.proj = ConvBlock(values, dim, act=True)
        self.proj_encode_row = ConvBlock(values, values, act=True)
        self.pos_emb_row_q = PositionEmbedding(keys, config.position_length)
        self.pos_emb_row_k = PositionEmbedding(keys, config.position_length)
        self.proj_encode_column = ConvBlock(values, values)  # as released: bare, unlike the row's
        self.pos_emb_column_q = PositionEmbedding(keys, config.position_length)
        self.pos_emb_column_k = PositionEmbedding(keys, config.position_length)
        self.details_enhancer = DetailsEnhancer(dim)
        self.pool_feats_processor = PyramidPooling(dim)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, D, H, W) to the same shape."""
        details = self.details_enhancer(x)
        pooled = self.pool_feats_processor(x)
        q, k, v = self.to_q(pooled), self.to_k(pooled), self.to_v(pooled)
        row = self._attend(self.pos_emb_row_q(q.mean(3)), self.pos_emb_row_k(k.mean(3)), v.mean(3))  # (B, values, H)
        column = self._attend(self.pos_emb_column_q(q.mean(2)), self.pos_emb_column_k(k.mean(2)), v.mean(2))
        axial = self.proj_encode_row(row.unsqueeze(3)) + self.proj_encode_column(column.unsqueeze(2))
        return torch.mul(self.proj(v + axial), details)

    def _attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Attend along the last axis of (B, heads * C, L); channels are ordered head first."""
        q, k, v = (t.reshape(t.shape[0], self.num_heads, -1, t.shape[2]) for t in (q, k, v))  # (B, heads, C, L)
        weights = ((q.transpose(2, 3) @ k) * self.scale).softmax(dim=-1)  # (B, heads, L, L)
        return torch.matmul(v, weights.transpose(2, 3)).flatten(1, 2)


class Mlp(nn.Module):
    """Widen, look at the neighbours of each channel, narrow."""

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = ConvBlock(dim, hidden)
        self.dwconv = nn.Conv2d(hidden, hidden, 3, padding=1, groups=hidden)
        self.fc2 = ConvBlock(hidden, dim)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, D, H, W) to the same shape."""
        out: Tensor = self.fc2(F.relu(self.dwconv(self.fc1(x))))
        return out


class AttentionBlock(nn.Module):
    """Attention and MLP, each beside a shortcut; as released there is no normalisation."""

    def __init__(self, config: P2ATConfig) -> None:
        super().__init__()
        self.attn = PyramidAxialAttention(config)
        self.mlp = Mlp(config.dim, int(config.dim * config.mlp_ratio))

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, D, H, W) to the same shape."""
        x = x + self.attn(x)
        out: Tensor = x + self.mlp(x)
        return out


class ScaleAwareAggregation(nn.Module):
    """The attention blocks in a row (SSA)."""

    def __init__(self, config: P2ATConfig) -> None:
        super().__init__()
        self.transformer_layers = nn.ModuleList(AttentionBlock(config) for _ in range(config.attention_layers))

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, D, H, W) to the same shape."""
        for layer in self.transformer_layers:
            x = layer(x)
        return x


class DecoderBlock(nn.Module):
    """Depthwise convolution, then an MLP on each pixel, beside a shortcut (after ConvNeXt)."""

    def __init__(self, dim: int, kernel: int, expand: int) -> None:
        super().__init__()
        depthwise = nn.Conv2d(dim, dim, kernel, padding=kernel // 2, groups=dim)
        self.dwconv = nn.Sequential(depthwise, nn.BatchNorm2d(dim))
        self.pwconv1 = nn.Sequential(nn.Linear(dim, expand * dim), nn.Hardswish())
        self.pwconv2 = nn.Linear(expand * dim, dim)
        self.gamma = nn.Parameter(1e-6 * torch.ones(dim))

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, D, H, W) to the same shape."""
        y = self.dwconv(x).permute(0, 2, 3, 1)
        y = self.gamma * self.pwconv2(self.pwconv1(y))
        return torch.add(x, y.permute(0, 3, 1, 2))


class LocalRefinement(nn.Module):
    """Reduce an encoder map and add what the whole picture says of each channel (LFR)."""

    def __init__(self, in_channels: int, dim: int) -> None:
        super().__init__()
        self.conv1 = ConvBlock(in_channels, dim, act=True)
        self.conv2 = ConvBlock(dim, dim)
        self.conv3 = ConvBlock(dim, dim)
        self.fuse = ConvBlock(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W) to (B, D, H, W)."""
        x = self.conv1(x)
        whole = self.conv2(x.mean((2, 3), keepdim=True))  # one pixel, broadcast below
        out: Tensor = self.fuse(whole + self.conv3(x).sigmoid())
        return out


class SemanticSelection(nn.Module):
    """Weight the channels of each pixel of the deep map against each other (SFU)."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.conv1 = ConvBlock(dim, dim, act=True)
        self.conv2 = ConvBlock(dim, dim, bias=True)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, D, H, W) to the same shape."""
        out: Tensor = self.conv1(x) * self.conv2(x).softmax(dim=1)
        return out


class BilateralFusion(nn.Module):
    """Merge an encoder map, the next deeper encoder map and the decoder's map so far (BiF)."""

    def __init__(self, shallow_channels: int, deeper_channels: int, dim: int) -> None:
        super().__init__()
        self.down_feat = LocalRefinement(shallow_channels, dim)
        self.up_feat = SemanticSelection(dim)
        self.st_feat = nn.Sequential(ConvBlock(deeper_channels, dim), nn.BatchNorm2d(dim))
        self.fuse = nn.Sequential(ConvBlock(3 * dim, dim), nn.BatchNorm2d(dim))

    def forward(self, shallow: Tensor, deeper: Tensor, decoded: Tensor) -> Tensor:
        """Map three maps of falling size to (B, D, H, W), the size of `shallow`."""
        down = self.down_feat(shallow)
        up = _resized(self.up_feat(decoded), down)
        stage = _resized(self.st_feat(deeper), down)
        out = self.fuse(torch.cat((down, up, stage), dim=1))
        # As released: the sigmoid is on the product, and on the second one only.
        return torch.add(out + stage * up, (stage * down).sigmoid())


class ScaleBias(nn.Module):
    """A scale and a bias per channel."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(dim))
        self.bias = nn.Parameter(torch.zeros(dim))

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, D, H, W) to the same shape."""
        return x * self.weight[:, None, None] + self.bias[:, None, None]


class GlobalContext(nn.Module):
    """Add the mean of the whole picture, transformed, to every pixel (GCE).

    The convolutions see a single pixel, so that only their centre taps ever act; the rest is in the checkpoint.
    """

    def __init__(self, dim: int, kernel: int) -> None:
        super().__init__()
        self.conv1 = ConvBlock(dim, dim, 3)
        self.bn_scale = ScaleBias(dim)
        self.conv2 = ConvBlock(dim, dim, kernel, act=True)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, D, H, W) to the same shape."""
        whole: Tensor = self.conv2(self.bn_scale(self.conv1(x.mean((2, 3), keepdim=True))))
        return x + whole


class Refine(nn.Module):
    """One 3x3 block."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.c2_ = ConvBlock(dim, dim, 3, act=True)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, D, H, W) to the same shape."""
        out: Tensor = self.c2_(x)
        return out


class SegmentationHead(nn.Module):
    """Pre-activated 3x3 and 1x1 convolutions to one logit per class and sub-pixel."""

    def __init__(self, dim: int, num_classes: int, sub_pixels: int = 1) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(dim)
        self.conv1 = nn.Conv2d(dim, dim, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(dim)
        self.conv2 = nn.Conv2d(dim, num_classes * sub_pixels**2, 1)
        self.sub_pixels = sub_pixels

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, D, H, W) to (B, K, H * sub_pixels, W * sub_pixels)."""
        x = self.conv1(F.relu(self.bn1(x)))
        out: Tensor = self.conv2(F.relu(self.bn2(x)))
        return out if self.sub_pixels == 1 else F.pixel_shuffle(out, self.sub_pixels)


class P2AT(nn.Module):
    """Logits per class at stride 4, or that over `sub_pixels`, for images of any size from 8x8."""

    def __init__(self, config: P2ATConfig = P2AT_S) -> None:
        super().__init__()
        self.config = config
        self.align_corners = config.align_corners
        dim, channels = config.dim, config.encoder.channels
        self.conv1_x = nn.Conv2d(3, config.encoder.widths[0], 7, stride=2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(config.encoder.widths[0])
        self.layer1 = residual_stage(config.encoder, 0)
        self.layer2 = residual_stage(config.encoder, 1)
        self.layer3 = residual_stage(config.encoder, 2)
        self.layer4 = residual_stage(config.encoder, 3)
        self.feature_reducer = ConvBlock(channels[3], dim, act=True)
        self.deep_feature_processor = ScaleAwareAggregation(config)
        self.P1_decoder = DecoderBlock(dim, config.decoder_kernels[0], config.decoder_expand)
        self.P2_decoder = DecoderBlock(dim, config.decoder_kernels[1], config.decoder_expand)
        self.P3_decoder = DecoderBlock(dim, config.decoder_kernels[2], config.decoder_expand)
        self.BiS4 = BilateralFusion(channels[1], channels[2], dim)
        self.BiS3 = BilateralFusion(channels[0], channels[1], dim)
        self.pool_gce4 = GlobalContext(dim, config.context_kernel)
        self.pool_gce3 = GlobalContext(dim, config.context_kernel)
        self.refine1 = Refine(dim)
        self.refine2 = Refine(dim)
        self.refine3 = Refine(dim)
        self.fuse1 = ConvBlock(2 * dim, dim, 3, act=True)
        self.fuse2 = ConvBlock(2 * dim, dim, 3, act=True)
        self.final_seg_head = SegmentationHead(dim, config.num_classes, config.sub_pixels)
        if config.auxiliary_heads:
            self.aux_seg_head1 = SegmentationHead(dim, config.num_classes)
            self.aux_seg_head2 = SegmentationHead(dim, config.num_classes)

    def forward(self, image: Tensor) -> Tensor:
        """Map a normalised RGB image (B, 3, H, W) to logits (B, K, S ceil(H / 4), S ceil(W / 4)), S `sub_pixels`."""
        refined, _, _ = self._features(image)
        logits: Tensor = self.final_seg_head(refined)
        return logits

    def with_auxiliary(self, image: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the logits of the final head, and of the auxiliary heads at strides 8 and 4."""
        refined, fused8, fused4 = self._features(image)
        return self.final_seg_head(refined), self.aux_seg_head1(fused8), self.aux_seg_head2(fused4)

    def _features(self, image: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the refined map @4, and what the auxiliary heads read: the fused maps @8 and @4."""
        x = F.max_pool2d(F.relu(self.bn1(self.conv1_x(image))), 3, stride=2, padding=1)
        at4 = self.layer1(x)
        at8 = self.layer2(at4)
        at16 = self.layer3(at8)
        at32 = self.feature_reducer(self.layer4(at16))
        decoded32 = self.P1_decoder(self.deep_feature_processor(at32))
        fused8 = self.BiS4(at8, at16, decoded32)
        decoded8 = self.P2_decoder(self.pool_gce4(fused8))
        fused4 = self.BiS3(at4, at8, decoded8)
        decoded4 = self.P3_decoder(self.pool_gce3(fused4))
        x = self.refine3(decoded4)
        x = self.refine2(self.fuse1(torch.cat((_resized(decoded8, x), x), dim=1)))
        x = self.refine1(self.fuse2(torch.cat((_resized(decoded32, x), x), dim=1)))
        return x, fused8, fused4

    def parts(self) -> Mapping[str, Part]:
        """Return the one part, `segment`: what `forward` does."""
        batch, height, width = Axis("batch", 1, 1, 8), Axis("height", 8, 512, 2176), Axis("width", 8, 1024, 4096)
        s = self.config.sub_pixels
        rows, columns = Axis("rows", 2 * s, 128 * s, 544 * s), Axis("columns", 2 * s, 256 * s, 1024 * s)
        part = Part(
            name="segment",
            module=self,
            inputs={"image": TensorSpec("float32", (batch, 3, height, width))},
            outputs={"logits": TensorSpec("float32", (batch, self.config.num_classes, rows, columns))},
            example=lambda: (torch.rand(1, 3, 131, 197, generator=torch.Generator().manual_seed(0)),),
        )
        return {part.name: part}


def enlarged_logits(logits: Tensor, size: tuple[int, int]) -> Tensor:
    """Enlarge logits (B, K, h, w) to an image's (H, W): bilinear, corners aligned, as released."""
    return F.interpolate(logits, size=size, mode="bilinear", align_corners=True)


def _resized(x: Tensor, like: Tensor) -> Tensor:
    return F.interpolate(x, size=like.shape[-2:], mode="bilinear", align_corners=False)
