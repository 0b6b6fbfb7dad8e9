"""Swin transformer: windowed self attention over an image pyramid.

Paper      Liu et al., "Swin Transformer: Hierarchical Vision Transformer using Shifted Windows", ICCV 2021
Reference  open-mmlab/mmdetection v2.14, mmdet/models/backbones/swin.py, as carried by fudan-zvg/DeepInteraction
           (Apache-2.0)
Differs    inference only (no stochastic depth, no checkpointing); the patch merging orders channels c * 4 + pixel, as
           that reference and its checkpoints do, not pixel * C + c as the original code
Shapes     B images, C channels, H x W pixels, N = window * window positions of a window, h heads
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from perception.ops.blocks import HOST_ROWS, in_blocks
from perception.ops.host_attention import Biases, PlacedRows, attended_in_sequences
from perception.ops.host_norms import normed_on_host
from perception.ops.host_products import linear_on_host, product_type
from perception.ops.host_sampling import may_round_otherwise

ROWS = 4096
"""Positions that a feed-forward network works on at a time where it learns: another number sums in another order."""


@dataclass(frozen=True)
class SwinConfig:
    """Swin-T by default."""

    embed_dims: int = 96
    depths: tuple[int, ...] = (2, 2, 6, 2)
    num_heads: tuple[int, ...] = (3, 6, 12, 24)
    window: int = 7
    mlp_ratio: int = 4

    @property
    def out_channels(self) -> tuple[int, ...]:
        return tuple(self.embed_dims << stage for stage in range(len(self.depths)))


def relative_position_index(window: int) -> Tensor:
    """Row of the bias table for each pair of positions of a window, (N, N) int64."""
    position = torch.arange(window)
    row, column = (axis.reshape(-1) for axis in torch.meshgrid(position, position, indexing="ij"))
    rows = row[:, None] - row[None, :] + window - 1
    columns = column[:, None] - column[None, :] + window - 1
    return rows * (2 * window - 1) + columns


class WindowAttention(nn.Module):
    """Multi-head self attention inside each window, with a learnt bias per relative position."""

    relative_position_index: Tensor

    def __init__(self, channels: int, heads: int, window: int) -> None:
        super().__init__()
        self.heads = heads
        self.relative_position_bias_table = nn.Parameter(torch.zeros((2 * window - 1) ** 2, heads))
        self.register_buffer("relative_position_index", relative_position_index(window))
        self.qkv = nn.Linear(channels, 3 * channels)
        self.proj = nn.Linear(channels, channels)

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """Attend within windows: x (B, windows, N, C), mask (windows, N, N) added to the logits."""
        batch, windows, size, channels = x.shape
        qkv = self.qkv(x).reshape(batch, windows, size, 3, self.heads, channels // self.heads)
        query, key, value = qkv.permute(3, 0, 1, 4, 2, 5).unbind(0)  # (B, windows, h, N, C/h)
        logits = (query * (channels // self.heads) ** -0.5) @ key.transpose(-2, -1)
        bias = self._bias()
        logits = logits + (bias if mask is None else bias + mask[:, None])
        attended = logits.softmax(-1) @ value
        return self.proj(attended.transpose(2, 3).reshape(x.shape))  # type: ignore[no-any-return]

    def biases(self, windows: WindowRows) -> Biases:
        """Return what is added to the logits of each sort of window."""
        return Biases(self._bias().transpose(1, 2) + windows.masks[:, None], windows.sorts)  # masks are symmetric

    def attend_rows(self, rows: Tensor, windows: WindowRows, biases: Biases) -> Tensor:
        """Attend on a host: rows (N, C) of the positions of a map, (N, C)."""
        there = PlacedRows(linear_on_host(self.qkv, rows), windows.places)
        found = attended_in_sequences(there, there, self.heads, biases, self.qkv.bias)  # of zeros comes the bias
        return linear_on_host(self.proj, found)

    def _bias(self) -> Tensor:
        """Return the bias of each pair of positions, (h, N, N)."""
        size = len(self.relative_position_index)
        bias = self.relative_position_bias_table[self.relative_position_index.reshape(-1)]
        return bias.reshape(size, size, self.heads).permute(2, 0, 1)


class WindowRows(NamedTuple):
    """Where the positions of each window stand in the map before padding and shift."""

    places: NDArray[np.int64]
    """(windows, N) row of each, -1 for padding."""
    masks: Tensor
    """(4, N, N), by the sort of window: within, of the last column, of the last row, of both."""
    sorts: NDArray[np.int64]
    """(windows,)."""


class ShiftedWindowAttention(nn.Module):
    """Pad to whole windows, shift, attend within windows, and undo both. Padding is zeros and is not masked."""

    def __init__(self, channels: int, heads: int, window: int, shift: int) -> None:
        super().__init__()
        self.window, self.shift = window, shift
        self.w_msa = WindowAttention(channels, heads, window)

    def forward(self, x: Tensor) -> Tensor:
        """Attend: (B, H, W, C) to (B, H, W, C)."""
        _, height, width, _ = x.shape
        x = F.pad(x, (0, 0, 0, -width % self.window, 0, -height % self.window))
        rows, columns = x.shape[1], x.shape[2]
        mask = None
        if self.shift:
            x = torch.roll(x, (-self.shift, -self.shift), (1, 2))
            mask = _mask(rows, columns, self.window, self.shift, x)
        x = _from_windows(self.w_msa(_in_windows(x, self.window), mask), rows, columns)
        if self.shift:
            x = torch.roll(x, (self.shift, self.shift), (1, 2))
        return x[:, :height, :width]

    def on_host(self, height: int, width: int) -> Callable[[Tensor], Tensor]:
        """Return what does the same for the rows (H * W, C) of one map, where they lie."""
        windows = _window_rows(height, width, self.window, self.shift)
        biases = self.w_msa.biases(windows)
        return lambda rows: self.w_msa.attend_rows(rows, windows, biases)


@lru_cache(maxsize=32)
def _window_rows(height: int, width: int, window: int, shift: int) -> WindowRows:
    """Return where the positions of a map of this size stand in its windows."""
    row = torch.arange(height * width).reshape(1, height, width, 1)
    row = F.pad(row, (0, 0, 0, -width % window, 0, -height % window), value=-1)
    rows, columns = row.shape[1], row.shape[2]
    across, size = columns // window, window**2
    places = _in_windows(torch.roll(row, (-shift, -shift), (1, 2)), window)[0, :, :, 0]
    sort = np.zeros((rows // window, across), np.int64)
    sort[:, -1] += 1
    sort[-1] += 2
    if not shift:
        return WindowRows(places.numpy(), torch.zeros(4, size, size), sort.reshape(-1))
    mask = _mask(rows, columns, window, shift, torch.zeros(0))
    return WindowRows(places.numpy(), mask[[0, across - 1, len(mask) - across, -1]], sort.reshape(-1))


def _in_windows(x: Tensor, size: int) -> Tensor:
    batch, rows, columns, channels = x.shape
    x = x.reshape(batch, rows // size, size, columns // size, size, channels).transpose(2, 3)
    return x.reshape(batch, -1, size * size, channels)


def _from_windows(windows: Tensor, rows: int, columns: int) -> Tensor:
    size, channels = math.isqrt(windows.shape[2]), windows.shape[-1]
    x = windows.reshape(-1, rows // size, columns // size, size, size, channels).transpose(2, 3)
    return x.reshape(-1, rows, columns, channels)


def _mask(rows: int, columns: int, window: int, shift: int, like: Tensor) -> Tensor:
    """-100 between positions that only the cyclic shift made neighbours, (windows, N, N)."""

    def band(length: int) -> Tensor:
        position = torch.arange(length, device=like.device)
        return (position >= length - window).to(like.dtype) + (position >= length - shift).to(like.dtype)

    region = _in_windows((3 * band(rows)[:, None] + band(columns)[None, :])[None, :, :, None], window)[0, :, :, 0]
    return (region[:, None, :] != region[:, :, None]).to(like.dtype) * -100.0


class FeedForward(nn.Module):
    """Two linear layers with an activation between and the input added (mmcv's names)."""

    def __init__(self, channels: int, hidden: int, activation: nn.Module) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Sequential(nn.Linear(channels, hidden), activation), nn.Linear(hidden, channels))

    def forward(self, x: Tensor) -> Tensor:
        return in_blocks(lambda rows: rows + self.layers(rows), [x.flatten(0, -2)], ROWS).reshape(x.shape)

    def on_host(self, rows: Tensor) -> Tensor:
        """Return what is added to rows (N, C) on a host."""
        layers: Any = self.layers
        (first, activation), second = layers
        cut = isinstance(activation, nn.ReLU)
        hidden = linear_on_host(first, rows, relu=cut)
        return linear_on_host(second, hidden if cut else activation(hidden))


class SwinBlock(nn.Module):
    """Window attention and a feed-forward network, both with pre-norm and a residual."""

    def __init__(self, channels: int, heads: int, window: int, shift: int, mlp_ratio: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(channels)
        self.attn = ShiftedWindowAttention(channels, heads, window, shift)
        self.norm2 = nn.LayerNorm(channels)
        self.ffn = FeedForward(channels, mlp_ratio * channels, nn.GELU())

    def forward(self, x: Tensor) -> Tensor:
        if may_round_otherwise(x):
            return self._on_host(x)
        x = x + self.attn(self.norm1(x))
        return x + self.ffn.layers(self.norm2(x))  # type: ignore[no-any-return]

    def _on_host(self, x: Tensor) -> Tensor:
        """Do the same map by map, and feed forward block by block in place: what is made on the way stays small.

        The sums stay float32 where products are of less.
        """
        out, attend = torch.empty(x.shape, dtype=torch.float32), self.attn.on_host(x.shape[1], x.shape[2])
        small = product_type()
        for own, found in zip(x.flatten(1, 2), out.flatten(1, 2), strict=True):
            attended = attend(normed_on_host(self.norm1, own, dtype=small))
            for rows, met, total in zip(*(torch.split(y, HOST_ROWS) for y in (own, attended, found)), strict=True):
                total.add_(self.ffn.on_host(normed_on_host(self.norm2, rows, met, total, small)))
        return out


class PatchMerging(nn.Module):
    """Halve the resolution: four pixels side by side become one of twice the channels."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(4 * channels)
        self.reduction = nn.Linear(4 * channels, 2 * channels, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Merge (B, H, W, C) to (B, H/2, W/2, 2C); odd sizes are padded at the bottom and the right."""
        x = F.pad(x, (0, 0, 0, x.shape[2] % 2, 0, x.shape[1] % 2))
        batch, height, width, channels = x.shape
        x = x.reshape(batch, height // 2, 2, width // 2, 2, channels)
        shape = (batch, height // 2, width // 2, 4 * channels)
        if may_round_otherwise(x):  # pixel by pixel, in the order of memory: a copy of rows
            scale, shift, weight = (
                y.reshape(-1, channels, 4).transpose(1, 2).flatten(1)
                for y in (self.norm.weight, self.norm.bias, self.reduction.weight)
            )
            rows = x.permute(0, 1, 3, 2, 4, 5).reshape(shape)
            return F.linear(F.layer_norm(rows, shape[3:], scale[0], shift[0], self.norm.eps), weight)
        return self.reduction(self.norm(x.permute(0, 1, 3, 5, 2, 4).reshape(shape)))  # type: ignore[no-any-return]


class SwinStage(nn.Module):
    """Blocks of one resolution (every second one shifted) and, but for the last stage, the merging after them."""

    def __init__(self, config: SwinConfig, stage: int) -> None:
        super().__init__()
        channels, heads = config.out_channels[stage], config.num_heads[stage]
        self.blocks = nn.ModuleList(
            SwinBlock(channels, heads, config.window, config.window // 2 * (index % 2), config.mlp_ratio)
            for index in range(config.depths[stage])
        )
        self.downsample = PatchMerging(channels) if stage + 1 < len(config.depths) else None

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return the stage's own map and the input of the next stage."""
        for block in self.blocks:
            x = block(x)
        return x, x if self.downsample is None else self.downsample(x)


class PatchEmbed(nn.Module):
    """Cut the image into patches of 4 x 4 pixels and embed each."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.projection = nn.Conv2d(3, channels, 4, stride=4)
        self.norm = nn.LayerNorm(channels)

    def forward(self, images: Tensor) -> Tensor:
        images = F.pad(images, (0, -images.shape[3] % 4, 0, -images.shape[2] % 4))
        return self.norm(self.projection(images).permute(0, 2, 3, 1))  # type: ignore[no-any-return]


class SwinTransformer(nn.Module):
    """Swin backbone with a norm on each stage's output."""

    def __init__(self, config: SwinConfig) -> None:
        super().__init__()
        self.patch_embed = PatchEmbed(config.embed_dims)
        self.stages = nn.ModuleList(SwinStage(config, stage) for stage in range(len(config.depths)))
        for stage, channels in enumerate(config.out_channels):
            self.add_module(f"norm{stage}", nn.LayerNorm(channels))

    def forward(self, images: Tensor) -> list[Tensor]:
        """Turn images (B, 3, H, W) into one map per stage, (B, C << i, H / (4 << i), W / (4 << i))."""
        x = self.patch_embed(images)
        maps = []
        for index, stage in enumerate(self.stages):
            own, x = stage(x)
            maps.append(self.get_submodule(f"norm{index}")(own).permute(0, 3, 1, 2))
        return maps
