"""Residual backbone on a bird's-eye-view map, with upsampled branches that are concatenated (SECOND's neck).

Reference  Haiyang-W/DSVT, pcdet/models/backbones_2d/base_bev_backbone.py, BaseBEVResBackbone (Apache-2.0)
Differs    maps need not be multiples of the strides: branches are cut to the size of the first
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

EPS = 1e-3


@dataclass(frozen=True)
class BevBackboneConfig:
    """Widths and strides of the stages and of the branches; a branch stride below 1 shrinks."""

    in_channels: int = 192
    layers: tuple[int, ...] = (1, 2, 2)
    strides: tuple[int, ...] = (1, 2, 2)
    channels: tuple[int, ...] = (128, 128, 256)
    up_strides: tuple[float, ...] = (1, 2, 4)
    up_channels: tuple[int, ...] = (128, 128, 128)

    @property
    def out_channels(self) -> int:
        return sum(self.up_channels)

    @property
    def stride(self) -> float:
        """Cells of the input along each side of one of the output."""
        return self.strides[0] / self.up_strides[0]


class BevBlock(nn.Module):
    """Two 3x3 convolutions with a shortcut; the first block of a stage has a 1x1 convolution in it."""

    def __init__(self, in_channels: int, channels: int, stride: int, *, shortcut: bool) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, channels, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels, eps=EPS)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels, eps=EPS)
        if shortcut:
            self.downsample_layer = nn.Sequential(
                nn.Conv2d(in_channels, channels, 1, stride, bias=False), nn.BatchNorm2d(channels, eps=EPS)
            )
        self.has_shortcut = shortcut

    def forward(self, x: Tensor) -> Tensor:
        out = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        return F.relu(out + (self.downsample_layer(x) if self.has_shortcut else x))


class BevBackbone(nn.Module):
    """Map (B, C, H, W) to (B, sum of branch channels, H', W')."""

    def __init__(self, config: BevBackboneConfig) -> None:
        super().__init__()
        self.blocks, self.deblocks = nn.ModuleList(), nn.ModuleList()
        in_channels = config.in_channels
        for layers, stride, channels in zip(config.layers, config.strides, config.channels, strict=True):
            first = BevBlock(in_channels, channels, stride, shortcut=True)
            rest = [BevBlock(channels, channels, 1, shortcut=False) for _ in range(layers)]
            self.blocks.append(nn.Sequential(first, *rest))
            in_channels = channels
        for up_stride, channels, up in zip(config.up_strides, config.channels, config.up_channels, strict=True):
            self.deblocks.append(
                nn.Sequential(_branch(channels, up, up_stride), nn.BatchNorm2d(up, eps=EPS), nn.ReLU())
            )

    def forward(self, x: Tensor) -> Tensor:
        branches = []
        for block, deblock in zip(self.blocks, self.deblocks, strict=True):
            x = block(x)
            branches.append(deblock(x))
        height, width = branches[0].shape[2:]
        return torch.cat([_cut(branch, height, width) for branch in branches], dim=1)


def _cut(x: Tensor, height: int, width: int) -> Tensor:
    return x if x.shape[2:] == (height, width) else x[:, :, :height, :width]


def _branch(channels: int, up: int, stride: float) -> nn.Module:
    if stride >= 1:
        return nn.ConvTranspose2d(channels, up, int(stride), int(stride), bias=False)
    down = round(1 / stride)
    return nn.Conv2d(channels, up, down, down, bias=False)
