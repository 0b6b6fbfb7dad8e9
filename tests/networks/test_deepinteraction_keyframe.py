"""The geometry of DeepInteraction++ on a real keyframe of nuScenes: labelled boxes, points and images agree."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from perception.networks.deepinteraction import DEEPINTERACTION_COMPACT, DeepInteraction, Detections
from perception.networks.layers.interaction_decoder import box_corners
from perception.networks.layers.interaction_geometry import (
    GeometryConfig,
    Pillars,
    frame_geometry,
    project,
    view_geometry,
)
from perception.networks.part import run_in_torch
from perception.networks.weights import fill
from perception.ops.hard_voxels import hard_voxels
from perception.ops.image import IMAGENET, decoded_jpeg, normalised

SIZE = (448, 800)


@dataclass(frozen=True)
class Keyframe:
    points: NDArray[np.float32]  # (N, 5) x, y, z, intensity, ring
    boxes: Tensor  # (69, 7) in the convention of mmdet3d 0.x
    counts: NDArray[np.int64]  # LiDAR points in each box, as labelled
    jpegs: list[bytes]

    lidar_from_camera: Tensor
    image_from_lidar: Tensor  # (1, 6, 4, 4) pixels of 448 x 800 images


@pytest.fixture(scope="module")
def keyframe(data_folder: Path) -> Keyframe:
    folder = data_folder / "nuscenes_keyframe"
    frame: dict[str, Any] = json.loads((folder / "info.json").read_text())["data_list"][0]
    cloud = np.fromfile(next(folder.glob("*LIDAR_TOP*.bin")), np.float32).reshape(-1, 5)
    labelled = np.array([instance["bbox_3d"] for instance in frame["instances"]])
    x, y, z, length, width, height, yaw = labelled.T
    boxes = np.stack([x, y, z - height / 2, width, length, height, -yaw - np.pi / 2], 1)
    resized = np.diag([SIZE[1] / 1600, SIZE[0] / 900, 1, 1])
    projections, poses, jpegs = [], [], []
    for camera in frame["images"].values():
        intrinsics = np.eye(4)
        intrinsics[:3, :3] = camera["cam2img"]
        projections.append(resized @ intrinsics @ np.array(camera["lidar2cam"]))
        poses.append(np.linalg.inv(camera["lidar2cam"]))
        jpegs.append((folder / camera["img_path"]).read_bytes())
    return Keyframe(
        cloud,
        torch.from_numpy(boxes).float(),
        np.array([instance["num_lidar_pts"] for instance in frame["instances"]]),
        jpegs,
        torch.from_numpy(np.stack(poses)).float()[None],
        torch.from_numpy(np.stack(projections)).float()[None],
    )


def test_the_boxes_hold_the_points_that_the_labels_count(keyframe: Keyframe) -> None:
    kept = torch.zeros(len(keyframe.boxes))
    boxes = Detections(torch.cat([keyframe.boxes, torch.zeros(69, 2)], 1), kept, kept.long()).upright_boxes()
    inside = boxes.contain(keyframe.points[:, :3]).sum(1)
    assert (np.abs(inside - keyframe.counts) <= 1).sum() >= 65  # as found independently, see the data's own notes


def test_every_camera_sees_some_thousand_points(keyframe: Keyframe) -> None:
    _, depth, seen = project(torch.from_numpy(keyframe.points[:, :3]), keyframe.image_from_lidar[0], *SIZE)
    counts = seen.sum(1)
    assert counts.min() >= 3000
    assert counts.max() <= 4900
    assert (depth[seen] > 0).all()


def test_points_of_a_box_lie_inside_the_rectangle_of_its_corners(keyframe: Keyframe) -> None:
    kept = torch.zeros(len(keyframe.boxes))
    boxes = Detections(torch.cat([keyframe.boxes, torch.zeros(69, 2)], 1), kept, kept.long()).upright_boxes()
    inside = torch.from_numpy(boxes.contain(keyframe.points[:, :3]))
    points = torch.from_numpy(keyframe.points[:, :3])
    checked = 0
    for box, corners in enumerate(box_corners(keyframe.boxes)):
        if not inside[box].any():
            continue
        where, depth, _ = project(torch.cat([corners, points[inside[box]]]), keyframe.image_from_lidar[0], *SIZE)
        for view in torch.nonzero(
            (depth > 0.5).all(1) & (where[:, :8] > 0).all((1, 2)) & (where[:, :8] < 1).all((1, 2))
        )[:, 0]:
            low, high = where[view, :8].amin(0), where[view, :8].amax(0)
            assert ((where[view, 8:] >= low - 1e-4) & (where[view, 8:] <= high + 1e-4)).all()
            checked += 1
    assert checked >= 40


def test_a_point_reads_the_cell_of_the_map_that_it_lies_in(keyframe: Keyframe) -> None:
    config = GeometryConfig()
    cloud = keyframe.points
    groups = hard_voxels(cloud, config.point_range, (0.6, 0.6, 8.0), 20, 60_000)
    rows, columns = torch.from_numpy(groups.coordinates[:, 1]), torch.from_numpy(groups.coordinates[:, 2])
    pillars = Pillars(torch.from_numpy(groups.points), torch.from_numpy(groups.counts), rows * 180 + columns)
    frame = frame_geometry([torch.from_numpy(cloud)], pillars, keyframe.image_from_lidar, SIZE, config)
    views = view_geometry(keyframe.image_from_lidar, keyframe.lidar_from_camera, SIZE, config)
    # Completion prefers what is near; where it kept a point's own depth, the pixel unprojects to that point
    where, depth, seen = project(torch.from_numpy(cloud[:, :3]), keyframe.image_from_lidar[0], *SIZE)
    assert ((frame.depth > 0).float().mean((1, 2)) > 0.5).all()  # most of each image has a depth
    view, point = seen.nonzero(as_tuple=True)
    row, column = (where[view, point, 1] * 112).long(), (where[view, point, 0] * 200).long()
    alike = (frame.depth[view, row, column] - depth[view, point]).abs() < 0.05
    lifted = frame.warp_grid[0, view, row, column] * 54
    error = (lifted - torch.from_numpy(cloud[:, :2])[point]).norm(dim=1)[alike]
    assert alike.sum() > 2000
    assert error.quantile(0.9) < 0.6  # a cell
    # Every pillar with a sample is near where the polar map puts its cell: the view sees the cell
    cells = frame.pillar_cells[(frame.pillar_samples < len(frame.sample_cells)).sum(1) >= 5]
    assert views.cell_seen[0, :, 0].flatten(1)[:, cells].amax(0).mean() > 0.95


def test_the_compact_network_runs_on_the_keyframe(keyframe: Keyframe) -> None:
    config = DEEPINTERACTION_COMPACT
    network = DeepInteraction(config).eval()
    fill(network)
    height, width = config.image_size
    pictures = [decoded_jpeg(jpeg, (height, width))[None] for jpeg in keyframe.jpegs]
    images = torch.nn.functional.interpolate(
        torch.cat([normalised(x, IMAGENET) for x in pictures]), (height, width), mode="bilinear", antialias=True
    )
    cloud = keyframe.points.copy()
    cloud[:, 4] = 0  # one sweep has no time lag
    projection = torch.diag(torch.tensor([width / SIZE[1], height / SIZE[0], 1, 1])) @ keyframe.image_from_lidar
    with torch.no_grad():
        found = network.detect(
            images[None], [cloud], projection, keyframe.lidar_from_camera, run_in_torch(network.parts())
        )
    assert len(found) == 1
    assert found[0].boxes.isfinite().all()
    assert len(found[0].boxes) > 0
