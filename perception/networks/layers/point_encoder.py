"""Points of a voxel to its features: two linear layers, each with a maximum over the voxel (dynamic VFE).

Paper      Zhou et al., "End-to-End Multi-View Fusion for 3D Object Detection in LiDAR Point Clouds", CoRL 2019
Reference  Haiyang-W/DSVT, pcdet/models/backbones_3d/vfe/dynamic_pillar_vfe.py (Apache-2.0)
Differs    the second layer acts on [point, maximum of its voxel]. The product with the maximum is the same for all
           points of a voxel, and ReLU keeps the order, so both are done once per voxel, after the second maximum: the
           same function at half the products
Shapes     N points, F features of a point, V voxels, C channels of the first layer, D of the second
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from perception.networks.part import Axis, Part, RunPart, TensorSpec
from perception.ops.dynamic_voxels import voxel_max

EPS = 1e-3
POINTS, VOXELS = Axis("points", 1, 120_000, 2_000_000), Axis("voxels", 1, 10_000, 400_000)


class PointLayer(nn.Module):
    """A linear layer without bias, a norm and ReLU."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.linear = nn.Linear(in_channels, out_channels, bias=False)
        self.norm = nn.BatchNorm1d(out_channels, eps=EPS)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.norm(self.linear(x)))

    def folded(self) -> tuple[Tensor, Tensor]:
        """Return weight and bias of the linear layer with the norm in it, as in evaluation."""
        norm = self.norm
        assert norm.running_mean is not None
        assert norm.running_var is not None
        scale = norm.weight * torch.rsqrt(norm.running_var + norm.eps)
        return self.linear.weight * scale[:, None], norm.bias - norm.running_mean * scale


class PointsPart(nn.Module):
    """The exportable part on points."""

    def __init__(self, first: PointLayer, second: PointLayer) -> None:
        super().__init__()
        self.first, self.second = first, second

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Map (N, F) to the first layer's output, (N, C), and its share in the second one's, (N, D)."""
        own = self.first(x)
        weight, _ = self.second.folded()
        return own, F.linear(own, weight[:, : own.shape[1]])


class VoxelsPart(nn.Module):
    """The exportable part on the maxima of both, by voxel."""

    def __init__(self, second: PointLayer) -> None:
        super().__init__()
        self.second = second

    def forward(self, own: Tensor, shared: Tensor) -> Tensor:
        """Map (V, C) and (V, D) to the voxels' features, (V, D)."""
        weight, bias = self.second.folded()
        return F.relu(shared + F.linear(own, weight[:, own.shape[1] :], bias))


class PointEncoder(nn.Module):
    """Both layers, under the name that a checkpoint gives to their list."""

    def __init__(self, point_features: int, first: int, second: int, name: str) -> None:
        super().__init__()
        self.add_module(name, nn.ModuleList([PointLayer(point_features + 6, first), PointLayer(2 * first, second)]))
        self.name = name

    @property
    def layers(self) -> tuple[PointLayer, PointLayer]:
        first, second = self.get_submodule(self.name).children()
        assert isinstance(first, PointLayer)
        assert isinstance(second, PointLayer)
        return first, second

    def forward(self, x: Tensor, voxel: Tensor, count: int) -> Tensor:
        """Map points (N, F) in the voxels `voxel` (N,) to (V, D), layer by layer, which training needs."""
        first, second = self.layers
        x = first(x)
        x = torch.cat((x, voxel_max(x, voxel, count)[voxel]), dim=1)
        return voxel_max(second(x), voxel, count)

    def encoded(self, x: Tensor, voxel: Tensor, count: int, run: RunPart) -> Tensor:
        """Do the same by the parts `points` and `voxels`."""
        of_points = run("points", {"x": x})
        own, shared = (voxel_max(of_points[name], voxel, count) for name in ("own", "shared"))
        return run("voxels", {"own": own, "shared": shared})["features"]

    def parts(self) -> dict[str, Part]:
        """Return the parts `points` and `voxels`."""
        first, second = self.layers
        features, c, d = first.linear.in_features, first.linear.out_features, second.linear.out_features

        def example(*widths: int) -> tuple[Tensor, ...]:
            generator = torch.Generator().manual_seed(5)
            return tuple(torch.randn(400, width, generator=generator) for width in widths)

        return {
            "points": Part(
                "points", PointsPart(first, second).eval(), {"x": TensorSpec("float32", (POINTS, features))},
                {"own": TensorSpec("float32", (POINTS, c)), "shared": TensorSpec("float32", (POINTS, d))},
                lambda: example(features),
            ),
            "voxels": Part(
                "voxels", VoxelsPart(second).eval(),
                {"own": TensorSpec("float32", (VOXELS, c)), "shared": TensorSpec("float32", (VOXELS, d))},
                {"features": TensorSpec("float32", (VOXELS, d))},
                lambda: example(c, d),
            ),
        }  # fmt: skip


__all__ = ["PointEncoder", "PointLayer"]
