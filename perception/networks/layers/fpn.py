"""Feature pyramid over the stages of an image backbone.

Paper      Lin et al., "Feature Pyramid Networks for Object Detection", CVPR 2017
Reference  open-mmlab/mmdetection v2.14, mmdet/models/necks/fpn.py (Apache-2.0), without norm and activation
Differs    levels beyond the backbone's stages are plain subsampling (its max pool has a 1 x 1 window)
Shapes     B images, C_i channels of stage i, C output channels
"""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn


class ConvBlock(nn.Module):
    """A convolution with bias under the name `conv`, as mmcv's ConvModule holds it."""

    def __init__(self, in_channels: int, out_channels: int, kernel: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, out_channels, kernel, padding=kernel // 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x)  # type: ignore[no-any-return]


class FeaturePyramid(nn.Module):
    """Lateral 1 x 1 convolutions, a top-down path of nearest upsampling, and a 3 x 3 convolution per level."""

    def __init__(self, in_channels: Sequence[int], out_channels: int) -> None:
        super().__init__()
        self.out_channels = out_channels
        self.lateral_convs = nn.ModuleList(ConvBlock(channels, out_channels, 1) for channels in in_channels)
        self.fpn_convs = nn.ModuleList(ConvBlock(out_channels, out_channels, 3) for _ in in_channels)

    def forward(self, maps: Sequence[Tensor], levels: int) -> list[Tensor]:
        """Turn one map (B, C_i, H_i, W_i) per stage, finest first, into the `levels` finest levels (B, C, H_i, W_i)."""
        lateral = [convolve(x) for convolve, x in zip(self.lateral_convs, maps, strict=True)]
        for level in range(len(lateral) - 1, 0, -1):
            size = lateral[level - 1].shape[2:]
            lateral[level - 1] = lateral[level - 1] + F.interpolate(lateral[level], size=size, mode="nearest")
        outputs = [convolve(x) for convolve, x in zip(self.fpn_convs, lateral[:levels], strict=False)]
        while len(outputs) < levels:
            outputs.append(outputs[-1][:, :, ::2, ::2])
        return outputs
