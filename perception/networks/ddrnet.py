"""DDRNet: real-time segmentation with a detailed branch at stride 8 beside a context branch.

Paper      Hong et al., "Deep Dual-resolution Networks for Real-time and Accurate Semantic Segmentation of Road Scenes",
           arXiv 2101.06085 (IEEE T-ITS 2022)
Reference  ydhongHIT/DDRNet, segmentation/DDRNet_{23_slim,23,39}.py (MIT): parameter names, order of ReLU and addition
Differs    returns the final logits only; `with_auxiliary` gives both heads, for training. SyncBatchNorm is BatchNorm.
           The compact one has logits for parts of a cell, and corrects them by what the stem sees (`Sharpening`).
           Maps are resized to each other's size instead of a size computed from the image, which is the same wherever
           the published code runs, and lets sizes that are no multiple of 8 through
Shapes     B batch, H rows, W columns, K classes, C = `planes`; "@8" is a map of stride 8, with ceil(H / 8) rows

A stage of two or more blocks ends without a ReLU: what is fused and added are the values before it, and whoever
consumes a stage's output applies the ReLU.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from perception.errors import ShapeError
from perception.networks.part import Axis, Part, TensorSpec


@dataclass(frozen=True)
class DDRNetConfig:
    """Everything that the three published variants and the compact one differ in; the default is 23-slim."""

    num_classes: int = 19
    depths: tuple[int, int, int, int] = (2, 2, 2, 2)
    """Blocks of the context branch at strides 4, 8, 16 and 32."""
    rounds: int = 1
    """How often the branches exchange while the context branch is at stride 16; its blocks are divided among them."""
    detail_depths: tuple[int, int] = (2, 2)
    """Blocks of the detail branch beside one round at stride 16, and beside stride 32."""
    planes: int = 32
    pool_planes: int = 128
    """Channels inside the pyramid pooling."""
    head_planes: int = 64
    auxiliary_head: bool = True
    """A second head, for training only; published checkpoints hold it."""
    sub_pixels: int = 1
    """The final head gives so many rows and columns of logits per cell of its map (Shi et al., arXiv 1609.05158): what
    is narrower than a cell, as a pole is in a small picture, has a place. The published networks have one."""
    sharpening_planes: int = 0
    """Channels of `Sharpening`; the published networks have none. It needs four sub-pixels, which make stride 2."""

    def __post_init__(self) -> None:
        if self.sharpening_planes and self.sub_pixels != 4:
            raise ShapeError(
                f"DDRNet: sharpening_planes {self.sharpening_planes} with sub_pixels {self.sub_pixels}; logits are "
                "corrected at stride 2, which takes sub_pixels: 4"
            )


DDRNET_23_SLIM = DDRNetConfig()
DDRNET_23 = replace(DDRNET_23_SLIM, planes=64, head_planes=128)
DDRNET_39 = replace(DDRNET_23, depths=(3, 4, 6, 3), rounds=2, detail_depths=(3, 3), head_planes=256)
DDRNET_COMPACT = replace(DDRNET_23_SLIM, planes=16, pool_planes=96, sub_pixels=4, sharpening_planes=16)


class BasicBlock(nn.Module):
    """Two 3x3 convolutions beside a shortcut; `relu_after` says whether the sum is rectified."""

    def __init__(self, in_channels: int, channels: int, stride: int, relu_after: bool) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, channels, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.downsample = _shortcut(in_channels, channels, stride)
        self.relu_after = relu_after

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, in_channels, H, W) to (B, channels, H / stride, W / stride)."""
        y = F.relu(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y)) + (x if self.downsample is None else self.downsample(x))
        return F.relu(y) if self.relu_after else y


class Bottleneck(nn.Module):
    """1x1, 3x3 (which holds the stride) and 1x1 to twice the width, beside a shortcut; never rectified after."""

    def __init__(self, in_channels: int, channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, channels, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.conv3 = nn.Conv2d(channels, 2 * channels, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(2 * channels)
        self.downsample = _shortcut(in_channels, 2 * channels, stride)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, in_channels, H, W) to (B, 2 * channels, H / stride, W / stride)."""
        y = F.relu(self.bn1(self.conv1(x)))
        y = F.relu(self.bn2(self.conv2(y)))
        y = self.bn3(self.conv3(y))
        return cast("Tensor", y + (x if self.downsample is None else self.downsample(x)))


class DAPPM(nn.Module):
    """Deep aggregation pyramid pooling (section 3.3): context at five scales, each added to the one before it.

    The average pools count their zero padding.
    """

    def __init__(self, in_channels: int, planes: int, out_channels: int) -> None:
        super().__init__()
        self.scale1 = nn.Sequential(nn.AvgPool2d(5, 2, 2), *_preactivated(in_channels, planes))
        self.scale2 = nn.Sequential(nn.AvgPool2d(9, 4, 4), *_preactivated(in_channels, planes))
        self.scale3 = nn.Sequential(nn.AvgPool2d(17, 8, 8), *_preactivated(in_channels, planes))
        self.scale4 = nn.Sequential(nn.AdaptiveAvgPool2d(1), *_preactivated(in_channels, planes))
        self.scale0 = nn.Sequential(*_preactivated(in_channels, planes))
        self.process1 = nn.Sequential(*_preactivated(planes, planes, kernel=3))
        self.process2 = nn.Sequential(*_preactivated(planes, planes, kernel=3))
        self.process3 = nn.Sequential(*_preactivated(planes, planes, kernel=3))
        self.process4 = nn.Sequential(*_preactivated(planes, planes, kernel=3))
        self.compression = nn.Sequential(*_preactivated(5 * planes, out_channels))
        self.shortcut = nn.Sequential(*_preactivated(in_channels, out_channels))

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, in_channels, H, W) to (B, out_channels, H, W)."""
        y0 = self.scale0(x)
        y1 = self.process1(_resized(self.scale1(x), x) + y0)
        y2 = self.process2(_resized(self.scale2(x), x) + y1)
        y3 = self.process3(_resized(self.scale3(x), x) + y2)
        y4 = self.process4(_resized(self.scale4(x), x) + y3)
        return cast("Tensor", self.compression(torch.cat((y0, y1, y2, y3, y4), 1)) + self.shortcut(x))


class SegmentationHead(nn.Module):
    """Batch norm, ReLU, 3x3 convolution, batch norm, ReLU, 1x1 convolution to the classes of each sub-pixel."""

    def __init__(self, in_channels: int, planes: int, num_classes: int, sub_pixels: int = 1) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(in_channels)
        self.conv1 = nn.Conv2d(in_channels, planes, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(planes)
        self.conv2 = nn.Conv2d(planes, num_classes * sub_pixels**2, 1)
        self.sub_pixels = sub_pixels

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, in_channels, H, W) to logits (B, K, H * sub_pixels, W * sub_pixels)."""
        x = self.conv1(F.relu(self.bn1(x)))
        logits = cast("Tensor", self.conv2(F.relu(self.bn2(x))))
        return logits if self.sub_pixels == 1 else F.pixel_shuffle(logits, self.sub_pixels)


class Sharpening(nn.Module):
    """Corrects logits at stride 2 by the stem's map of that stride, which still sees what is one pixel wide.

    The branches know what is where to about a cell; whose pixel is whose at an edge is told by colours, as in joint
    upsampling (Kopf et al., "Joint Bilateral Upsampling", SIGGRAPH 2007), here by learned convolutions. It starts by
    changing nothing.
    """

    def __init__(self, in_channels: int, planes: int, num_classes: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels + num_classes, planes, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(planes)
        self.conv2 = nn.Conv2d(planes, planes, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(planes)
        self.conv3 = nn.Conv2d(planes, num_classes, 1)
        nn.init.zeros_(self.conv3.weight)
        assert self.conv3.bias is not None
        nn.init.zeros_(self.conv3.bias)

    def forward(self, logits: Tensor, stem: Tensor) -> Tensor:
        """Map logits (B, K, h, w) and the stem's map (B, C, h, w) to logits (B, K, h, w)."""
        x = F.relu(self.bn1(self.conv1(torch.cat((stem, logits), 1))))
        x = F.relu(self.bn2(self.conv2(x)))
        return cast("Tensor", logits + self.conv3(x))


class DDRNet(nn.Module):
    """Image to class logits at stride 8, or that over `sub_pixels`."""

    align_corners: ClassVar[bool] = False
    """How logits are enlarged to the image's size."""

    def __init__(self, config: DDRNetConfig) -> None:
        super().__init__()
        self.config = config
        c, detail = config.planes, 2 * config.planes
        self.conv1 = nn.Sequential(
            nn.Conv2d(3, c, 3, 2, padding=1), nn.BatchNorm2d(c), nn.ReLU(),
            nn.Conv2d(c, c, 3, 2, padding=1), nn.BatchNorm2d(c), nn.ReLU(),
        )  # fmt: skip
        self.layer1 = _stage(c, c, config.depths[0], stride=1)
        self.layer2 = _stage(c, 2 * c, config.depths[1], stride=2)
        self.suffixes = [""] if config.rounds == 1 else [f"_{n + 1}" for n in range(config.rounds)]
        for n, suffix in enumerate(self.suffixes):
            in_channels, stride = (2 * c, 2) if n == 0 else (4 * c, 1)
            in_detail = 2 * c if n == 0 else detail
            setattr(self, f"layer3{suffix}", _stage(in_channels, 4 * c, config.depths[2] // config.rounds, stride))
            setattr(self, f"layer3{suffix}_", _stage(in_detail, detail, config.detail_depths[0], stride=1))
            setattr(self, f"down3{suffix}", nn.Sequential(*_downward(detail, 4 * c)))
            setattr(self, f"compression3{suffix}", _compression(4 * c, detail))
        self.layer4 = _stage(4 * c, 8 * c, config.depths[3], stride=2)
        self.layer4_ = _stage(detail, detail, config.detail_depths[1], stride=1)
        self.down4 = nn.Sequential(*_downward(detail, 4 * c), nn.ReLU(), *_downward(4 * c, 8 * c))
        self.compression4 = _compression(8 * c, detail)
        self.layer5_ = nn.Sequential(Bottleneck(detail, detail, stride=1))
        self.layer5 = nn.Sequential(Bottleneck(8 * c, 8 * c, stride=2))
        self.spp = DAPPM(16 * c, config.pool_planes, 4 * c)
        if config.auxiliary_head:
            self.seghead_extra = SegmentationHead(detail, config.head_planes, config.num_classes)
        self.final_layer = SegmentationHead(4 * c, config.head_planes, config.num_classes, config.sub_pixels)
        self.sharpening = (
            Sharpening(c, config.sharpening_planes, config.num_classes) if config.sharpening_planes else None
        )

    def forward(self, image: Tensor) -> Tensor:
        """Map a normalised RGB image (B, 3, H, W) to logits (B, K, S ceil(H / 8), S ceil(W / 8)), S `sub_pixels`.

        With sharpening they are (B, K, ceil(H / 2), ceil(W / 2)): none lies beyond the image.
        """
        stem = self._stem(image)  # C @2
        logits = cast("Tensor", self.final_layer(self._fused(stem)[0]))
        if self.sharpening is None:
            return logits
        return cast("Tensor", self.sharpening(logits[:, :, : stem.shape[2], : stem.shape[3]], stem))

    def _stem(self, image: Tensor) -> Tensor:
        return _in_turn(self.conv1, range(3), image)

    def with_auxiliary(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Return the logits of the final head, not sharpened, and the auxiliary head's (B, K, ceil(H / 8), ...)."""
        fused, early = self._fused(self._stem(image))
        return self.final_layer(fused), self.seghead_extra(early)

    def _fused(self, stem: Tensor) -> tuple[Tensor, Tensor]:
        """Return what the heads read: both branches added (4C @8), and the detail branch before stride 32 (2C @8)."""
        context = self.layer1(_in_turn(self.conv1, range(3, 6), stem))  # C @4
        context = detail = self.layer2(F.relu(context))  # 2C @8
        for suffix in self.suffixes:
            context, detail = self._exchanged(context, detail, "3" + suffix)  # 4C @16, 2C @8
        early = detail
        context, detail = self._exchanged(context, detail, "4")  # 8C @32, 2C @8
        detail = self.layer5_(F.relu(detail))  # 4C @8
        context = self.spp(self.layer5(F.relu(context)))  # 4C @64
        return detail + _resized(context, detail), early

    def _exchanged(self, context: Tensor, detail: Tensor, stage: str) -> tuple[Tensor, Tensor]:
        """Run one stage of both branches, then bilateral fusion: each gets what the other was before the fusion."""
        context = getattr(self, f"layer{stage}")(F.relu(context))
        detail = getattr(self, f"layer{stage}_")(F.relu(detail))
        downward, compression = getattr(self, f"down{stage}"), getattr(self, f"compression{stage}")
        return (
            context + downward(F.relu(detail)),
            detail + _resized(compression(F.relu(context)), detail),
        )

    def parts(self) -> Mapping[str, Part]:
        """Return the one part, `segment`: what `forward` does."""
        batch, height, width = Axis("batch", 1, 1, 8), Axis("height", 8, 512, 2176), Axis("width", 8, 1024, 4096)
        s = self.config.sub_pixels
        rows, columns = Axis("rows", s, 64 * s, 272 * s), Axis("columns", s, 128 * s, 512 * s)
        part = Part(
            name="segment",
            module=self,
            inputs={"image": TensorSpec("float32", (batch, 3, height, width))},
            outputs={"logits": TensorSpec("float32", (batch, self.config.num_classes, rows, columns))},
            example=lambda: (torch.rand(1, 3, 136, 200, generator=torch.Generator().manual_seed(0)),),
        )
        return {part.name: part}


def enlarged_logits(logits: Tensor, size: tuple[int, int]) -> Tensor:
    """Enlarge logits (B, K, h, w) to an image's (H, W): bilinear, corners not aligned, as released."""
    return F.interpolate(logits, size=size, mode="bilinear", align_corners=DDRNet.align_corners)


def _in_turn(layers: nn.Sequential, numbers: range, x: Tensor) -> Tensor:
    """Run some layers by themselves: a slice of them is a module of its own, which no tracer knows."""
    for number in numbers:
        x = layers[number](x)
    return x


def _stage(in_channels: int, channels: int, depth: int, stride: int) -> nn.Sequential:
    """Return `depth` basic blocks, the first with the stride; the last of several has no ReLU after it."""
    blocks = [BasicBlock(in_channels, channels, stride, relu_after=True)]
    blocks += [BasicBlock(channels, channels, 1, relu_after=n < depth - 1) for n in range(1, depth)]
    return nn.Sequential(*blocks)


def _shortcut(in_channels: int, out_channels: int, stride: int) -> nn.Sequential | None:
    if stride == 1 and in_channels == out_channels:
        return None
    return nn.Sequential(nn.Conv2d(in_channels, out_channels, 1, stride, bias=False), nn.BatchNorm2d(out_channels))


def _downward(in_channels: int, out_channels: int) -> tuple[nn.Module, nn.Module]:
    return nn.Conv2d(in_channels, out_channels, 3, 2, padding=1, bias=False), nn.BatchNorm2d(out_channels)


def _compression(in_channels: int, out_channels: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(in_channels, out_channels, 1, bias=False), nn.BatchNorm2d(out_channels))


def _preactivated(in_channels: int, out_channels: int, kernel: int = 1) -> tuple[nn.Module, nn.Module, nn.Module]:
    convolution = nn.Conv2d(in_channels, out_channels, kernel, padding=kernel // 2, bias=False)
    return nn.BatchNorm2d(in_channels), nn.ReLU(), convolution


def _resized(x: Tensor, like: Tensor) -> Tensor:
    return F.interpolate(x, size=like.shape[-2:], mode="bilinear", align_corners=False)
