"""Residual stages, as three of our networks use them.

Paper      He et al., "Deep Residual Learning for Image Recognition", CVPR 2016
Reference  pytorch/vision, torchvision/models/resnet.py (BSD-3): parameter names and the stride in the 3x3 convolution
Differs    widths are free; without stem, pooling and classifier, which each network names in its own way
Shapes     B batch, C channels, H rows, W columns; a map of stride s has ceil(H / s) rows
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch.nn.functional as F
from torch import Tensor, nn

BlockName = Literal["basic", "bottleneck"]


@dataclass(frozen=True)
class ResNetConfig:
    """Block, number of blocks and width of the four stages; a bottleneck stage is four times as wide at its end."""

    block: BlockName = "basic"
    depths: tuple[int, int, int, int] = (2, 2, 2, 2)
    widths: tuple[int, int, int, int] = (64, 128, 256, 512)

    @property
    def channels(self) -> tuple[int, int, int, int]:
        """Channels that leave the stages, at strides 4, 8, 16 and 32."""
        expansion = 4 if self.block == "bottleneck" else 1
        first, second, third, fourth = self.widths
        return (first * expansion, second * expansion, third * expansion, fourth * expansion)


RESNETS = {
    "resnet18": ResNetConfig(),
    "resnet34": ResNetConfig(depths=(3, 4, 6, 3)),
    "resnet50": ResNetConfig("bottleneck", (3, 4, 6, 3)),
    "resnet101": ResNetConfig("bottleneck", (3, 4, 23, 3)),
}
"""The published variants by their usual names."""


class BasicBlock(nn.Module):
    """Two 3x3 convolutions beside a shortcut."""

    def __init__(self, in_channels: int, channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, channels, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.downsample = _shortcut(in_channels, channels, stride)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, in_channels, H, W) to (B, channels, H / stride, W / stride)."""
        y = F.relu(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        return F.relu(y + (x if self.downsample is None else self.downsample(x)))


class Bottleneck(nn.Module):
    """1x1, 3x3 (which holds the stride) and 1x1 to four times the width, beside a shortcut."""

    def __init__(self, in_channels: int, channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, channels, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.conv3 = nn.Conv2d(channels, 4 * channels, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(4 * channels)
        self.downsample = _shortcut(in_channels, 4 * channels, stride)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, in_channels, H, W) to (B, 4 * channels, H / stride, W / stride)."""
        y = F.relu(self.bn1(self.conv1(x)))
        y = F.relu(self.bn2(self.conv2(y)))
        y = self.bn3(self.conv3(y))
        return F.relu(y + (x if self.downsample is None else self.downsample(x)))


def residual_stage(config: ResNetConfig, index: int) -> nn.Sequential:
    """Return stage `index` (0 to 3) of `config`; all but the first halve the map in their first block."""
    block = Bottleneck if config.block == "bottleneck" else BasicBlock
    width, out_channels = config.widths[index], config.channels[index]
    in_channels = config.widths[0] if index == 0 else config.channels[index - 1]
    first = block(in_channels, width, stride=1 if index == 0 else 2)
    return nn.Sequential(first, *(block(out_channels, width, stride=1) for _ in range(config.depths[index] - 1)))


def _shortcut(in_channels: int, out_channels: int, stride: int) -> nn.Sequential | None:
    if stride == 1 and in_channels == out_channels:
        return None
    return nn.Sequential(nn.Conv2d(in_channels, out_channels, 1, stride, bias=False), nn.BatchNorm2d(out_channels))
