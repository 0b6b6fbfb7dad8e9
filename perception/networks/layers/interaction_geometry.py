"""Where image and bird's-eye-view features of DeepInteraction++ meet: sampling positions for one frame.

Everything that depends on calibration and points alone is worked out here, once per frame and for all layers, so that
the encoder itself holds fixed arithmetic. The published code does the same per layer and per view. In tensors on a GPU;
compiled on a host (`ops.host_views`), where a chain of small tensors costs ten times as much.

Paper      Yang et al., "DeepInteraction++: Multi-Modality Interaction for Autonomous Driving", TPAMI 2025, section 3
Reference  fudan-zvg/DeepInteraction, projects/mmdet3d_plugin/models/{utils/encoder_utils.py (BEVWarp),
           necks/fusion_transformerv4.py (MMRI_I2P_Polar, MMRI_I2P)} (Apache-2.0)
Differs    range, image stride and radii come from the configuration; grids need not be square; batched over views
Shapes     B batch, V views, h x w cells of the image feature map, S_y x S_x cells of the bird's-eye view, R radii,
           P pillars that some camera sees, L most samples of one pillar, K samples in all

Kept on purpose: the points along a column's ray are radius * direction from the LiDAR origin, not from the camera; a
pixel without depth unprojects to the camera centre, so it reads the cell at the car; the place of a cell in a view is
the mean over all heights, those that the camera does not see included.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from perception.ops.depth_completion import complete_depth, sparse_depth
from perception.ops.host_views import cells_in_views, depth_maps, samples_of_pillars

MIN_DEPTH = 1e-5
HEIGHTS_PER_CELL = 10


@dataclass(frozen=True)
class GeometryConfig:
    """Sizes that the published code fixes, at its values."""

    point_range: tuple[float, float, float, float, float, float] = (-54.0, -54.0, -5.0, 54.0, 54.0, 3.0)
    bev: tuple[int, int] = (180, 180)  # S_y, S_x
    image_stride: int = 4
    radii: tuple[float, float, float] = (1.0, 61.0, 1.0)  # start, end, step, metres

    @property
    def num_radii(self) -> int:
        return int((self.radii[1] - self.radii[0]) / self.radii[2])


@dataclass(frozen=True)
class Pillars:
    """Points grouped by cell of the bird's-eye view."""

    points: Tensor
    """(N, M, 3 or more) metres, x, y, z first."""
    counts: Tensor
    """(N,) points that are given; the slots after them are not looked at."""
    cells: Tensor
    """(N,) int64, (sample * S_y + row) * S_x + column; no cell twice."""

    def to(self, device: torch.device) -> Pillars:
        """Return them in the memory of a device."""
        return Pillars(self.points.to(device), self.counts.to(device), self.cells.to(device))


@dataclass(frozen=True)
class ViewGeometry:
    """What follows from the calibration alone: it can be kept while the calibration stays."""

    polar_grid: Tensor
    """(B, V, R, w, 2) where the radii of each image column lie on the bird's-eye view, -1 to 1, x and y."""
    cell_grid: Tensor
    """(B, V, S_y, S_x, 2) where each cell lies in each view's (radius, column) map, -1 to 1, column and radius."""
    cell_seen: Tensor
    """(B, V, 1, S_y, S_x) 1 where some height of the cell is inside the image, else 0."""


@dataclass(frozen=True)
class FrameGeometry:
    """What follows from the points of a frame."""

    depth: Tensor
    """(B * V, h, w) completed depth, metres."""
    warp_grid: Tensor
    """(B, V, h, w, 2) where each image cell lies on the bird's-eye view, -1 to 1, x and y."""
    warp_inside: Tensor
    """(B, V, h, w) 1 where that place is inside the range, else 0."""
    sample_cells: Tensor
    """(K, 4) int64, the image cells around each sample, (view * h + row) * w + column."""
    sample_weights: Tensor
    """(K, 4) bilinear weights."""
    pillar_samples: Tensor
    """(P, L) int64, the samples of each pillar, K where there are fewer."""
    pillar_cells: Tensor
    """(P,) int64, the cell of each pillar, as in `Pillars`."""
    cell_pillar: Tensor
    """(B * S_y * S_x,) int64, the pillar of each cell, P where there is none."""


def apply_matrix(matrix: Tensor, points: Tensor) -> Tensor:
    """Apply (..., 4, 4) to points (..., 3), the fourth coordinate 1, and return the first three: (..., 3).

    Written out, since matrix products round differently from machine to machine, and the cell that a point falls into
    must not: in this order it is bit for bit what the published code computes on a CPU.
    """
    x, y, z = points.unbind(-1)
    rows = (matrix[..., row, :].unbind(-1) for row in range(3))
    return torch.stack([a * x + b * y + c * z + d for a, b, c, d in rows], -1)


def project(points: Tensor, image_from_lidar: Tensor, height: int, width: int) -> tuple[Tensor, Tensor, Tensor]:
    """Project points into every view of one sample.

    Args:
        points: (N, 3) metres.
        image_from_lidar: (V, 4, 4) to (u * depth, v * depth, depth, 1) pixels.
        height: of the images, pixels.
        width: of the images, pixels.

    Returns:
        (V, N, 2) u / width and v / height, (V, N) depth in metres, and (V, N) True in front and strictly inside.
    """
    projected = apply_matrix(image_from_lidar[:, None], points)
    depth = projected[..., 2]
    pixels = projected[..., :2] / depth.clamp(min=MIN_DEPTH)[..., None]
    relative = pixels / pixels.new_tensor([width, height])
    centred = (relative - 0.5) * 2.0
    seen = (depth > MIN_DEPTH) & (centred.abs() < 1.0).all(-1)
    return relative, depth, seen


def view_geometry(
    image_from_lidar: Tensor, lidar_from_camera: Tensor, image_size: tuple[int, int], config: GeometryConfig
) -> ViewGeometry:
    """Work out where columns and cells meet.

    Args:
        image_from_lidar: (B, V, 4, 4) float32, to (u * depth, v * depth, depth, 1) pixels.
        lidar_from_camera: (B, V, 4, 4) float32.
        image_size: height and width of the network's images, pixels.
        config: range, cells, stride and radii.
    """
    batch, views = image_from_lidar.shape[:2]
    projection, pose = image_from_lidar.flatten(0, 1), lidar_from_camera.flatten(0, 1)
    polar = _polar_grid(projection, pose, image_size, config)
    cell_grid, cell_seen = _cell_grid(projection, pose, image_size, config)
    return ViewGeometry(
        polar.reshape(batch, views, *polar.shape[1:]),
        cell_grid.reshape(batch, views, *config.bev, 2),
        cell_seen.reshape(batch, views, 1, *config.bev).to(polar.dtype),
    )


def _polar_grid(projection: Tensor, pose: Tensor, image_size: tuple[int, int], config: GeometryConfig) -> Tensor:
    stride, rows, columns = config.image_stride, *(side // config.image_stride for side in image_size)
    u = (torch.arange(columns, dtype=projection.dtype, device=projection.device) + 0.5) * stride
    ones = torch.ones_like(u)
    pixels = torch.stack([u, ones * (rows // 2 * stride), ones, ones])  # depth 1
    beyond = (torch.linalg.inv(projection) @ pixels)[:, :2]  # (V, 2, w) metres, LiDAR frame
    direction = beyond - pose[:, :2, 3:]
    direction = direction / direction.norm(dim=1, keepdim=True)
    start, end, step = config.radii
    radii = torch.arange(start, end, step, dtype=u.dtype, device=u.device)[: config.num_radii] + step / 2
    centres = radii[None, :, None, None] * direction.transpose(1, 2)[:, None]  # (V, R, w, 2)
    return _on_map(centres, config)


def _on_map(xy: Tensor, config: GeometryConfig) -> Tensor:
    """Metres to -1..1 over the bird's-eye view."""
    low, high = xy.new_tensor(config.point_range[:2]), xy.new_tensor(config.point_range[3:5])
    return ((xy - low) / (high - low) - 0.5) * 2.0


def _cell_grid(
    projection: Tensor, pose: Tensor, image_size: tuple[int, int], config: GeometryConfig
) -> tuple[Tensor, Tensor]:
    if projection.is_cuda:
        return cells_in_tensors(projection, pose, image_size, config)
    x, y, z = (axis.numpy() for axis in _cell_centres(projection, config))
    cameras, radii = pose[:, :2, 3].contiguous().numpy(), np.array(config.radii[:2], np.float32)
    places, sees = cells_in_views(x, y, z, _matrices(projection), cameras, image_size, radii)
    return torch.from_numpy(places), torch.from_numpy(sees)


def _cell_centres(like: Tensor, config: GeometryConfig) -> tuple[Tensor, Tensor, Tensor]:
    """Return x, y and z of the centres, metres."""

    def centres(count: int, low: float, high: float) -> Tensor:
        index = torch.arange(count, dtype=like.dtype, device=like.device) + 0.5
        return index / count * (high - low) + low

    x_min, y_min, z_min, x_max, y_max, z_max = config.point_range
    rows, columns = config.bev
    return centres(columns, x_min, x_max), centres(rows, y_min, y_max), centres(HEIGHTS_PER_CELL, z_min, z_max)


def cells_in_tensors(
    projection: Tensor, pose: Tensor, image_size: tuple[int, int], config: GeometryConfig
) -> tuple[Tensor, Tensor]:
    """Return where the column of each cell lies in each view, and which cells it sees, as `ViewGeometry` has them.

    Args:
        projection: (V, 4, 4) to (u * depth, v * depth, depth, 1) pixels.
        pose: (V, 4, 4) of the cameras in the LiDAR's frame.
        image_size: height and width of the network's images, pixels.
        config: range, cells and radii.
    """
    x_axis, y_axis, z_axis = _cell_centres(projection, config)
    y, x, z = torch.meshgrid(y_axis, x_axis, z_axis, indexing="ij")
    points = torch.stack([x, y, z], -1).reshape(-1, 3)
    (rows, columns), (start, end, _) = config.bev, config.radii
    grids, seen_cells = [], []
    for view in range(len(projection)):  # one at a time: ten heights of every cell are many points
        relative, _, seen = project(points, projection[view : view + 1], *image_size)
        column = (2.0 * relative[0, :, 0] - 1.0).reshape(rows, columns, -1).mean(-1)
        radius = (points[:, :2] - pose[view, :2, 3]).norm(dim=1).reshape(rows, columns, -1).mean(-1)
        radius = (2.0 * (radius - start) / (end - start) - 1.0).clamp(-1.0, 1.0)
        grids.append(torch.stack([column, radius], -1))
        seen_cells.append(seen.reshape(rows, columns, -1).any(-1))
    if not grids:
        return projection.new_zeros(0, rows, columns, 2), projection.new_zeros(0, rows, columns)
    return torch.stack(grids), torch.stack(seen_cells)


def frame_geometry(
    points: Sequence[Tensor],
    pillars: Pillars,
    image_from_lidar: Tensor,
    image_size: tuple[int, int],
    config: GeometryConfig,
) -> FrameGeometry:
    """Work out what the points of a frame connect.

    Args:
        points: per sample (N, 3 or more) metres, all points, those outside the range included.
        pillars: the points of all samples, grouped.
        image_from_lidar: (B, V, 4, 4) float32, to (u * depth, v * depth, depth, 1) pixels.
        image_size: height and width of the network's images, pixels.
        config: range, cells and stride.
    """
    height, width = (side // config.image_stride for side in image_size)
    batch, views = image_from_lidar.shape[:2]
    depth = torch.cat(
        [
            _dense_depth(cloud, projection, image_size, (height, width))
            for cloud, projection in zip(points, image_from_lidar, strict=True)
        ]
    )
    grid, inside = _warp_grid(depth, image_from_lidar.flatten(0, 1), image_size, config)
    return FrameGeometry(
        depth,
        grid.reshape(batch, views, height, width, 2),
        inside.reshape(batch, views, height, width),
        *_pillar_samples(pillars, image_from_lidar, image_size, config),
    )


def _matrices(projection: Tensor) -> NDArray[np.float32]:
    return projection.contiguous().numpy()


def _dense_depth(points: Tensor, projection: Tensor, image_size: tuple[int, int], size: tuple[int, int]) -> Tensor:
    if points.is_cuda:
        return complete_depth(depths_in_tensors(points, projection, image_size, size))
    return complete_depth(torch.from_numpy(depth_maps(points.numpy(), _matrices(projection), image_size, size)))


def depths_in_tensors(points: Tensor, projection: Tensor, image_size: tuple[int, int], size: tuple[int, int]) -> Tensor:
    """Write the depths of points (N, 3 or more) into a map of each view (V, 4, 4): (V, *size) metres, 0 for none."""
    relative, depth, seen = project(points[:, :3], projection, *image_size)
    # The published code turns pixels of the image into cells by this product, pixel / H * h
    cells = (relative * relative.new_tensor([size[1], size[0]])).nan_to_num(0.0, 0.0, 0.0)
    pixels = torch.where(seen[..., None], cells, cells.new_zeros(())).long().flip(-1)
    return sparse_depth(pixels, depth, seen, *size)


def _warp_grid(
    depth: Tensor, projection: Tensor, image_size: tuple[int, int], config: GeometryConfig
) -> tuple[Tensor, Tensor]:
    _, height, width = depth.shape
    v = torch.linspace(0, image_size[0] - 1, height, dtype=depth.dtype, device=depth.device)
    u = torch.linspace(0, image_size[1] - 1, width, dtype=depth.dtype, device=depth.device)
    rows, columns = torch.meshgrid(v, u, indexing="ij")
    pixels = torch.stack([columns * depth, rows * depth, depth], -1)  # (V, h, w, 3)
    xyz = apply_matrix(torch.linalg.inv(projection)[:, None, None], pixels)
    low, high = xyz.new_tensor(config.point_range[:3]), xyz.new_tensor(config.point_range[3:])
    inside = ((xyz > low) & (xyz < high)).all(-1)
    return _on_map(xyz[..., :2], config), inside.to(depth.dtype)


def _pillar_samples(
    pillars: Pillars, image_from_lidar: Tensor, image_size: tuple[int, int], config: GeometryConfig
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    batch, cells = len(image_from_lidar), config.bev[0] * config.bev[1]
    sampled = samples_in_tensors if pillars.points.is_cuda else _samples_on_host
    corners, weights, pillar = sampled(pillars, image_from_lidar, image_size, config)
    if not len(pillar):
        return _no_samples(batch * cells, weights)
    kept, row, per_pillar = torch.unique_consecutive(pillar, return_inverse=True, return_counts=True)
    first = per_pillar.cumsum(0) - per_pillar
    samples = torch.full((len(kept), int(per_pillar.max())), len(pillar), device=pillar.device)
    position = torch.arange(len(pillar), device=pillar.device)
    samples[row, position - first[row]] = position
    cell_pillar = torch.full((batch * cells,), len(kept), device=pillar.device)
    cell_pillar[pillars.cells[kept]] = torch.arange(len(kept), device=pillar.device)
    return corners, weights, samples, pillars.cells[kept], cell_pillar


def _samples_on_host(
    pillars: Pillars, image_from_lidar: Tensor, image_size: tuple[int, int], config: GeometryConfig
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the image cells around every sample (K, 4), their weights (K, 4), and the pillar of each, ascending."""
    size = (image_size[0] // config.image_stride, image_size[1] // config.image_stride)
    sample = pillars.cells // (config.bev[0] * config.bev[1])
    given = (pillars.points.numpy(), pillars.counts.numpy(), sample.numpy(), _matrices(image_from_lidar))
    corners, weights, found = (torch.from_numpy(x) for x in samples_of_pillars(*given, image_size, size))
    return corners, weights, torch.arange(len(found)).repeat_interleave(found)


def samples_in_tensors(
    pillars: Pillars, image_from_lidar: Tensor, image_size: tuple[int, int], config: GeometryConfig
) -> tuple[Tensor, Tensor, Tensor]:
    """Do the same where the tensors lie."""
    batch, views = image_from_lidar.shape[:2]
    count, slots = pillars.points.shape[:2]
    cells = config.bev[0] * config.bev[1]
    given = torch.arange(slots, device=pillars.counts.device) < pillars.counts[:, None]
    relative = pillars.points.new_zeros(count, slots, views, 2)
    seen = torch.zeros(count, slots, views, dtype=torch.bool, device=given.device)
    for sample in range(batch):
        own = torch.nonzero(pillars.cells // cells == sample)[:, 0]
        where, _, visible = project(pillars.points[own, :, :3].reshape(-1, 3), image_from_lidar[sample], *image_size)
        relative[own] = where.transpose(0, 1).reshape(-1, slots, views, 2)
        seen[own] = visible.T.reshape(-1, slots, views) & given[own][..., None]
    pillar, slot, view = seen.nonzero(as_tuple=True)
    corners, weights = _bilinear(relative[pillar, slot, view], image_size, config)
    image = pillars.cells[pillar] // cells * views + view
    height, width = (side // config.image_stride for side in image_size)
    return corners + image[:, None] * (height * width), weights, pillar


def _no_samples(cells: int, like: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """One sample of weight zero and one pillar that no cell reads, since engines take no empty arrays."""
    none = torch.zeros(1, 4, dtype=torch.int64, device=like.device)
    return (
        none,
        like.new_zeros(1, 4),
        none[:, :1],
        none[0, :1],
        torch.ones(cells, dtype=torch.int64, device=like.device),
    )


def _bilinear(relative: Tensor, image_size: tuple[int, int], config: GeometryConfig) -> tuple[Tensor, Tensor]:
    """Cells around positions (K, 2) given as 0 to 1 over the image, and their weights; nothing beyond the border."""
    height, width = (side // config.image_stride for side in image_size)
    x, y = (relative * relative.new_tensor([width, height]) - 0.5).unbind(-1)
    left, top = x.floor(), y.floor()
    cells, weights = [], []
    for row, row_weight in ((top, 1.0 - (y - top)), (top + 1.0, y - top)):
        for column, column_weight in ((left, 1.0 - (x - left)), (left + 1.0, x - left)):
            inside = (row >= 0) & (row < height) & (column >= 0) & (column < width)
            cells.append(row.clamp(0, height - 1).long() * width + column.clamp(0, width - 1).long())
            weights.append(row_weight * column_weight * inside)
    return torch.stack(cells, -1), torch.stack(weights, -1)
