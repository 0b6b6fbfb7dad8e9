"""Dense bird's-eye-view backbone and its pyramid, behind a sparse voxel encoder.

Paper      Yan et al., "SECOND: Sparsely Embedded Convolutional Detection", Sensors 2018
Reference  open-mmlab/mmdetection3d v0.17.1, mmdet3d/models/{backbones/second.py,necks/second_fpn.py}, the neck changed
           as in fudan-zvg/DeepInteraction, projects/mmdet3d_plugin/models/updated_modules/second_fpn.py (Apache-2.0)
Differs    nothing; the neck returns the concatenation and each upsampled stage, as that repository's does
Shapes     B batch, C channels, H rows along y, W columns along x
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

BATCH_NORM_EPS = 1e-3


@dataclass(frozen=True)
class SecondConfig:
    """The published sizes by default."""

    in_channels: int = 256
    channels: tuple[int, ...] = (128, 256)
    layers: tuple[int, ...] = (5, 5)  # convolutions of a stage after its first
    strides: tuple[int, ...] = (1, 2)
    neck_channels: tuple[int, ...] = (256, 256)
    neck_strides: tuple[int, ...] = (1, 2)  # upsampling


class Second(nn.Module):
    """Stages of 3 x 3 convolutions, the first of each with its stride."""

    def __init__(self, config: SecondConfig) -> None:
        super().__init__()
        stages, before = [], config.in_channels
        for channels, layers, stride in zip(config.channels, config.layers, config.strides, strict=True):
            modules: list[nn.Module] = []
            for layer in range(1 + layers):
                convolution = nn.Conv2d(before, channels, 3, stride if layer == 0 else 1, padding=1, bias=False)
                modules += [convolution, nn.BatchNorm2d(channels, eps=BATCH_NORM_EPS), nn.ReLU()]
                before = channels
            stages.append(nn.Sequential(*modules))
        self.blocks = nn.ModuleList(stages)

    def forward(self, bev: Tensor) -> list[Tensor]:
        """Turn (B, C, H, W) into one map per stage."""
        maps = []
        for block in self.blocks:
            bev = block(bev)
            maps.append(bev)
        return maps


class SecondNeck(nn.Module):
    """Bring every stage to the resolution of the first."""

    def __init__(self, config: SecondConfig) -> None:
        super().__init__()
        deblocks = []
        for before, channels, stride in zip(config.channels, config.neck_channels, config.neck_strides, strict=True):
            convolution: nn.Module
            if stride == 1:
                convolution = nn.Conv2d(before, channels, 1, bias=False)
            else:
                convolution = nn.ConvTranspose2d(before, channels, stride, stride, bias=False)
            norm = nn.BatchNorm2d(channels, eps=BATCH_NORM_EPS)
            deblocks.append(nn.Sequential(convolution, norm, nn.ReLU()))
        self.deblocks = nn.ModuleList(deblocks)

    def forward(self, maps: list[Tensor]) -> tuple[Tensor, list[Tensor]]:
        """Return the concatenation of the upsampled stages, (B, sum of channels, H, W), and each of them."""
        upsampled = [deblock(x) for deblock, x in zip(self.deblocks, maps, strict=True)]
        return torch.cat(upsampled, 1), upsampled
