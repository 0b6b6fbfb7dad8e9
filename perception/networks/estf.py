"""Recognise an activity in a clip of event images: ESTF.

Paper      Wang et al., "HARDVS: Revisiting Human Activity Recognition with Dynamic Vision Sensors", AAAI 2024
           (arXiv 2211.09648)
Reference  Event-AHU/HARDVS, mmaction/models/backbones/hardvs_ESTF.py, commit a770ff56 (Apache-2.0). No checkpoint was
           published, so that code is the definition; where it departs from the paper's figure it is followed, and the
           place marked "as released".
Differs    cut in two: what one image costs (stem and tokens) and what a clip costs (transformers and head), so that a
           stream pays for each image once; widths, clip length and image size are configuration
Shapes     B clips, T images of a clip (8), N images, S side of the square image (240), G rows and columns of the token
           grid (4), D width of a token (256), K classes (300)
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from perception.errors import ShapeError
from perception.networks.layers.resnet import RESNETS, ResNetConfig, residual_stage
from perception.networks.part import Axis, Part, RunPart, TensorSpec

RGB_MEAN = (104.0, 117.0, 128.0)
"""Subtracted from red, green and blue of 0 to 255, in this order, as released."""


@dataclass(frozen=True)
class ESTFConfig:
    """Sizes of the network; the default is the published one."""

    stem: ResNetConfig = RESNETS["resnet18"]
    num_classes: int = 300
    clip_len: int = 8
    image_size: int = 240
    dim: int = 256
    num_heads: int = 4
    mlp_ratio: float = 4.0
    qkv_bias: bool = False
    layer_scale: bool = True
    """A learned factor per channel on each residual branch."""
    hidden: tuple[int, int] = (3072, 3072)
    """Widths of the two layers between the tokens and the classifier."""
    unused_entries: bool = True
    """Hold what a published state dict has and nothing reads: the stem's classifier and `norm4`."""

    @property
    def grid(self) -> int:
        """Rows, and columns, of the token grid: the stem has stride 32, the token convolution stride 2."""
        return -(-self.image_size // 32) // 2

    @property
    def temporal_channels(self) -> int:
        """Channels per cell that make one token of an image."""
        return self.dim // self.grid**2

    def __post_init__(self) -> None:
        if self.grid < 1 or self.dim % self.grid**2 or self.dim % self.num_heads:
            raise ShapeError(
                f"ESTF of image size {self.image_size} has {self.grid} x {self.grid} cells: its dim {self.dim} must be "
                f"a multiple of {self.grid**2} and of the {self.num_heads} heads"
            )


ESTF_HARDVS = ESTFConfig()
ESTF_COMPACT = ESTFConfig(
    stem=ResNetConfig(depths=(1, 1, 1, 1), widths=(32, 64, 128, 192)),
    image_size=128,
    dim=128,
    mlp_ratio=2.0,
    hidden=(384, 256),
    unused_entries=False,
)


class Stem(nn.Module):
    """ResNet up to its last map; the classifier `fc` is only held."""

    def __init__(self, config: ESTFConfig) -> None:
        super().__init__()
        width = config.stem.widths[0]
        self.conv1 = nn.Conv2d(3, width, 7, stride=2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.layer1 = residual_stage(config.stem, 0)
        self.layer2 = residual_stage(config.stem, 1)
        self.layer3 = residual_stage(config.stem, 2)
        self.layer4 = residual_stage(config.stem, 3)
        if config.unused_entries:
            self.fc = nn.Linear(config.stem.channels[3], 1000)

    def forward(self, image: Tensor) -> Tensor:
        """Map (N, 3, S, S) to (N, C, ceil(S / 32), ceil(S / 32))."""
        x = F.max_pool2d(F.relu(self.bn1(self.conv1(image))), 3, stride=2, padding=1)
        out: Tensor = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return out


class Attention(nn.Module):
    """Self-attention of tokens; q, k and v come from one product, in this order."""

    def __init__(self, config: ESTFConfig) -> None:
        super().__init__()
        self.num_heads = config.num_heads
        self.qkv = nn.Linear(config.dim, 3 * config.dim, bias=config.qkv_bias)
        self.proj = nn.Linear(config.dim, config.dim)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, L, D) to the same shape."""
        q, k, v = self.qkv(x).unflatten(2, (3, self.num_heads, -1)).permute(2, 0, 3, 1, 4).unbind(0)
        weights = ((q @ k.transpose(2, 3)) * q.shape[-1] ** -0.5).softmax(dim=-1)  # (B, heads, L, L)
        out: Tensor = self.proj((weights @ v).transpose(1, 2).flatten(2))
        return out


class Mlp(nn.Module):
    """Widen, exact GELU, narrow."""

    def __init__(self, config: ESTFConfig) -> None:
        super().__init__()
        hidden = int(config.dim * config.mlp_ratio)
        self.fc1 = nn.Linear(config.dim, hidden)
        self.fc2 = nn.Linear(hidden, config.dim)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, L, D) to the same shape."""
        out: Tensor = self.fc2(F.gelu(self.fc1(x)))
        return out


class LayerScale(nn.Module):
    """A factor per channel."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(1e-5 * torch.ones(dim))

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, L, D) to the same shape."""
        return x * self.gamma


class Backbone(nn.Module):
    """Stem, tokens, transformers and two wide layers; parameters carry the published names, numbers included."""

    def __init__(self, config: ESTFConfig) -> None:
        super().__init__()
        self.config = config
        channels, dim, cells = config.stem.channels[3], config.dim, config.grid**2
        self.pos_embed = nn.Parameter(torch.zeros(1, config.clip_len, dim))
        self.pos_embed_spatial = nn.Parameter(torch.zeros(1, cells, dim))
        first, second = config.hidden
        self.snn_fc = nn.Sequential(
            nn.Linear((config.clip_len + cells) * dim, first), nn.ReLU(), nn.Dropout(0.5),
            nn.Linear(first, second), nn.ReLU(), nn.Dropout(0.5),
        )  # fmt: skip
        self.norm1, self.attn1, self.ls1 = nn.LayerNorm(dim), Attention(config), _scale(config)
        self.norm2, self.mlp1, self.ls2 = nn.LayerNorm(dim), Mlp(config), _scale(config)
        self.norm3, self.attn2, self.ls3 = nn.LayerNorm(dim), Attention(config), _scale(config)
        if config.unused_entries:
            self.norm4 = nn.LayerNorm(dim)
        self.mlp2, self.ls4 = Mlp(config), _scale(config)
        self.norm5, self.attn3, self.ls5 = nn.LayerNorm(dim), Attention(config), _scale(config)
        self.norm6, self.mlp3, self.ls6 = nn.LayerNorm(dim), Mlp(config), _scale(config)
        self.norm7, self.attn4, self.ls7 = nn.LayerNorm(dim), Attention(config), _scale(config)
        self.norm8, self.mlp4, self.ls8 = nn.LayerNorm(dim), Mlp(config), _scale(config)
        self.norm9, self.attn5, self.ls9 = nn.LayerNorm(dim), Attention(config), _scale(config)
        self.norm10, self.mlp5, self.ls10 = nn.LayerNorm(dim), Mlp(config), _scale(config)
        self.resnet18_feature_extractor = Stem(config)
        self.res_out_temporal_conv2d = _token_convolution(channels, config.temporal_channels)
        self.res_out_spatial_conv2d = _token_convolution(channels, dim)

    def image_tokens(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Map images (N, 3, S, S), mean subtracted, to temporal tokens (N, D) and spatial tokens (N, G * G, D)."""
        features = self.resnet18_feature_extractor(image)
        temporal = self.res_out_temporal_conv2d(features).flatten(1)  # channel by channel, each row by row
        spatial = self.res_out_spatial_conv2d(features).flatten(2).transpose(1, 2)
        return temporal, spatial

    def clip_features(self, temporal: Tensor, spatial: Tensor) -> Tensor:
        """Map tokens (B, T, D) and (B, T, G * G, D) of whole clips to features (B, hidden)."""
        # As released: a norm after the attention (2, 6, 8, 10) replaces the residual stream, and the images of a clip
        # are summed, not averaged.
        t = temporal + self.pos_embed  # (B, T, D)
        t = self.norm2(t + self.ls1(self.attn1(self.norm1(t))))
        t = t + self.ls2(self.mlp1(t))
        s = spatial.sum(dim=1) + self.pos_embed_spatial  # (B, G * G, D)
        s = s + self.ls3(self.attn2(self.norm3(s)))  # as released: norm4 is computed here and thrown away
        s = s + self.ls4(self.mlp2(s))
        both = torch.cat((t, s), dim=1)  # (B, T + G * G, D)
        both = self.norm6(both + self.ls5(self.attn3(self.norm5(both))))
        both = both + self.ls6(self.mlp3(both))
        t = t + both[:, : self.config.clip_len]
        s = s + both[:, self.config.clip_len :]
        t = self.norm8(t + self.ls7(self.attn4(self.norm7(t))))
        t = t + self.ls8(self.mlp4(t))
        s = self.norm10(s + self.ls9(self.attn5(self.norm9(s))))
        s = s + self.ls10(self.mlp5(s))
        out: Tensor = self.snn_fc(torch.cat((t, s), dim=1).flatten(1))
        return out


class Head(nn.Module):
    """Dropout and the classifier."""

    def __init__(self, config: ESTFConfig) -> None:
        super().__init__()
        self.fc_cls = nn.Linear(config.hidden[1], config.num_classes)

    def forward(self, features: Tensor) -> Tensor:
        """Map (B, hidden) to logits (B, K)."""
        out: Tensor = self.fc_cls(F.dropout(features, 0.5, self.training))
        return out


class ESTF(nn.Module):
    """Logits of activities for clips of event images."""

    def __init__(self, config: ESTFConfig = ESTF_HARDVS) -> None:
        super().__init__()
        self.config = config
        self.backbone = Backbone(config)
        self.cls_head = Head(config)

    def forward(self, clips: Tensor) -> Tensor:
        """Map clips (B, 3, T, H, W), mean subtracted, any T, H and W, to logits (B, K)."""
        temporal, spatial = self.backbone.image_tokens(self.prepared(clips))
        _, logits = self.classify(*self.of_clips(temporal, spatial))
        return logits

    def classify(self, temporal: Tensor, spatial: Tensor) -> tuple[Tensor, Tensor]:
        """Map tokens (B, T, D) and (B, T, G * G, D) to features (B, hidden) and logits (B, K)."""
        features = self.backbone.clip_features(temporal, spatial)
        return features, self.cls_head(features)

    def recognise(self, clips: Tensor, run: RunPart) -> tuple[Tensor, Tensor]:
        """Do what `forward` does on an engine's parts; returns features (B, hidden) and logits (B, K)."""
        tokens = run("image_tokens", {"image": self.prepared(clips)})
        temporal, spatial = self.of_clips(tokens["temporal"], tokens["spatial"])
        outputs = run("clip", {"temporal": temporal, "spatial": spatial})
        return outputs["features"], outputs["logits"]

    def prepared(self, clips: Tensor) -> Tensor:
        """Resize clips (B, 3, T, H, W) in space and time, and return their images (B * clip_len, 3, S, S).

        Raises:
            ShapeError: another number of axes or colours, or an empty clip.
        """
        if clips.ndim != 5 or clips.shape[1] != 3 or 0 in clips.shape:
            raise ShapeError(f"clips have shape {tuple(clips.shape)}; expected (B, 3, T, H, W), none of them 0")
        size = (self.config.clip_len, self.config.image_size, self.config.image_size)
        if clips.shape[2] == size[0]:  # in time nothing happens: image by image is the same and needs no 5-D resize
            return self.prepared_images(clips.transpose(1, 2).flatten(0, 1))
        resized = F.interpolate(clips, size=size, mode="trilinear", align_corners=False)
        return resized.transpose(1, 2).flatten(0, 1)

    def prepared_images(self, images: Tensor) -> Tensor:
        """Resize images (N, 3, H, W) to (N, 3, S, S); the shape of the picture is not kept, as released."""
        size = (self.config.image_size, self.config.image_size)
        return F.interpolate(images, size=size, mode="bilinear", align_corners=False)

    def of_clips(self, temporal: Tensor, spatial: Tensor) -> tuple[Tensor, Tensor]:
        """Group tokens of images, clip after clip, into (B, T, D) and (B, T, G * G, D)."""
        length = self.config.clip_len
        return temporal.reshape(-1, length, *temporal.shape[1:]), spatial.reshape(-1, length, *spatial.shape[1:])

    def parts(self) -> Mapping[str, Part]:
        """Return `image_tokens`, what one image costs, and `clip`, what a clip costs beyond its images."""
        config = self.config
        images, clips = Axis("images", 1, config.clip_len, 64), Axis("clips", 1, 1, 16)
        cells, length, dim, side = config.grid**2, config.clip_len, config.dim, config.image_size

        def random(*shape: int) -> Tensor:
            return torch.randn(*shape, generator=torch.Generator().manual_seed(0))

        def example_image() -> tuple[Tensor, ...]:
            return (30 * random(2, 3, side, side),)

        def example_clip() -> tuple[Tensor, ...]:
            return random(2, length, dim), random(2, length, cells, dim)

        tokens = Part(
            name="image_tokens",
            module=_ImageTokens(self.backbone),
            inputs={"image": TensorSpec("float32", (images, 3, side, side))},
            outputs={
                "temporal": TensorSpec("float32", (images, dim)),
                "spatial": TensorSpec("float32", (images, cells, dim)),
            },
            example=example_image,
        )
        clip = Part(
            name="clip",
            module=_Clip(self),
            inputs={
                "temporal": TensorSpec("float32", (clips, length, dim)),
                "spatial": TensorSpec("float32", (clips, length, cells, dim)),
            },
            outputs={
                "features": TensorSpec("float32", (clips, config.hidden[1])),
                "logits": TensorSpec("float32", (clips, config.num_classes)),
            },
            example=example_clip,
        )
        return {part.name: part for part in (tokens, clip)}


class _ImageTokens(nn.Module):
    def __init__(self, backbone: Backbone) -> None:
        super().__init__()
        self.backbone = backbone

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        return self.backbone.image_tokens(image)


class _Clip(nn.Module):
    def __init__(self, network: ESTF) -> None:
        super().__init__()
        self.network = network

    def forward(self, temporal: Tensor, spatial: Tensor) -> tuple[Tensor, Tensor]:
        return self.network.classify(temporal, spatial)


def normalised(images: Tensor) -> Tensor:
    """Turn RGB images (..., H, W, 3) of 0 to 255 into what the network reads, float32 (..., 3, H, W)."""
    mean = torch.tensor(RGB_MEAN, dtype=torch.float32)
    return (images.to(torch.float32) - mean).movedim(-1, -3)


def clip_indices(total: int, clip_len: int = 8) -> list[int]:
    """Return the images of the clip that stands for a recording of `total` images.

    The middle `clip_len` ones; a shorter recording starts again from its first image. Training data numbers the images
    of a recording in steps of five: index i is file 5 i.

    Raises:
        ShapeError: the recording holds no image.

    Source: mmaction2 SampleFrames in test mode with one clip, as HARDVS configures it.
    """
    if total < 1:
        raise ShapeError(f"a recording of {total} images; a clip needs at least one")
    first = (total - clip_len + 1) // 2 if total >= clip_len else 0
    return [(first + step) % total for step in range(clip_len)]


def _scale(config: ESTFConfig) -> nn.Module:
    return LayerScale(config.dim) if config.layer_scale else nn.Identity()


def _token_convolution(in_channels: int, out_channels: int) -> nn.Sequential:
    convolution = nn.Conv2d(in_channels, out_channels, 4, stride=2, padding=1, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(out_channels))  # as released: no activation
