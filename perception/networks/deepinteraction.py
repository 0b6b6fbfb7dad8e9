"""DeepInteraction++: 3D objects from surround cameras and a LiDAR.

Paper      Yang et al., "DeepInteraction++: Multi-Modality Interaction for Autonomous Driving", TPAMI 2025
Reference  fudan-zvg/DeepInteraction, projects/configs/nuscenes/Fusion_0075_plusplus.py, commit 97ae7c8 (Apache-2.0)
Differs    inference only; batched over views; what depends on points and calibration alone is worked out once per frame
           instead of in every layer; range, stride and grid come from the configuration; views may be left out, down
           to none
Shapes     B batch, V views, H x W pixels, h x w = H/4 x W/4 image cells, S_y x S_x cells of the bird's-eye view,
           C channels, P queries

Frames: the LiDAR frame of nuScenes, x right, y forward, z up. Points are x, y, z in metres, intensity 0 to 255 and time
lag in seconds, the key frame and 10 past sweeps moved into its frame; images are RGB, (value - mean) / deviation.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from perception.errors import ShapeError
from perception.geometry.boxes import Boxes
from perception.networks.layers.fpn import FeaturePyramid
from perception.networks.layers.interaction_decoder import BoxFields, Decoded, DecoderConfig, InteractionDecoder
from perception.networks.layers.interaction_encoder import InteractionConfig, InteractionEncoder
from perception.networks.layers.interaction_geometry import (
    GeometryConfig,
    Pillars,
    frame_geometry,
    view_geometry,
)
from perception.networks.layers.interaction_parts import (
    Sizes,
    bev_part,
    decoded_from,
    decoder_part,
    geometry_inputs,
    image_part,
    interaction_part,
    sparse_inputs,
    sparse_part,
)
from perception.networks.layers.second import Second, SecondConfig, SecondNeck
from perception.networks.layers.sparse_encoder import (
    SparseEncoder,
    SparseEncoderConfig,
    SparseTables,
    device_tables,
    sparse_tables,
)
from perception.networks.layers.swin import SwinConfig, SwinTransformer
from perception.networks.part import Part, RunPart
from perception.ops.device_voxels import device_voxels
from perception.ops.hard_voxels import HardVoxels, hard_voxels
from perception.ops.sparse_backend import SparseBackend
from perception.ops.sparse_conv import weight_from_spconv2

CLASSES = (
    "car",
    "truck",
    "construction_vehicle",
    "bus",
    "trailer",
    "barrier",
    "motorcycle",
    "bicycle",
    "pedestrian",
    "traffic_cone",
)
IMAGE_MEAN = (123.675, 116.28, 103.53)
IMAGE_DEVIATION = (58.395, 57.12, 57.375)
IMAGE_LEVELS = 2


@dataclass(frozen=True)
class DeepInteractionConfig:
    """`Fusion_0075_plusplus` by default."""

    image_size: tuple[int, int] = (448, 800)  # H, W
    point_range: tuple[float, float, float, float, float, float] = (-54.0, -54.0, -5.0, 54.0, 54.0, 3.0)
    voxel_size: tuple[float, float, float] = (0.075, 0.075, 0.2)
    points_per_voxel: int = 10
    max_voxels: int = 160_000
    pillar_size: tuple[float, float, float] = (0.6, 0.6, 8.0)
    points_per_pillar: int = 20
    max_pillars: int = 60_000
    keep_box_range: tuple[float, float, float, float, float, float] = (-61.2, -61.2, -10.0, 61.2, 61.2, 10.0)
    apart_m: tuple[float, ...] = ()
    """By class: of boxes whose centres lie nearer to each other on the ground, the surest stays; none by default."""
    radii: tuple[float, float, float] = (1.0, 61.0, 1.0)
    swin: SwinConfig = field(default_factory=SwinConfig)
    pyramid_channels: int = 256
    sparse: SparseEncoderConfig = field(default_factory=SparseEncoderConfig)
    second: SecondConfig = field(default_factory=SecondConfig)
    interaction: InteractionConfig = field(default_factory=InteractionConfig)
    decoder: DecoderConfig = field(default_factory=DecoderConfig)

    @property
    def geometry(self) -> GeometryConfig:
        _, rows, columns = self.sparse.out_grid
        return GeometryConfig(self.point_range, (rows, columns), self.decoder.image_stride, self.radii)


DEEPINTERACTION_PLUSPLUS = DeepInteractionConfig()
DEEPINTERACTION_COMPACT = DeepInteractionConfig(
    image_size=(128, 256),
    point_range=(-25.6, -51.2, -5.0, 25.6, 51.2, 3.0),
    voxel_size=(0.2, 0.2, 0.4),
    max_voxels=60_000,
    pillar_size=(0.8, 0.8, 8.0),
    max_pillars=10_000,
    keep_box_range=(-30.0, -60.0, -10.0, 30.0, 60.0, 10.0),
    apart_m=(0.0, 0.0, 0.0, 0.25, 0.4),
    radii=(1.0, 61.0, 3.0),
    swin=SwinConfig(embed_dims=24, depths=(2, 2, 2), num_heads=(1, 2, 4)),
    pyramid_channels=48,
    sparse=SparseEncoderConfig((21, 512, 256), 5, (16, 24, 32), ((1, 1, 1), (0, 1, 1)), out_channels=32),
    second=SecondConfig(64, (64, 96), (2, 2), neck_channels=(48, 48)),
    interaction=InteractionConfig(48, 48, 48, layers=1, heads=4, points=2, hidden=96, radii=20),
    decoder=DecoderConfig(
        48, 5, queries=100, layers=2, heads=4, hidden=128, field_channels=48, bins=5, every_cell_classes=(3, 4),
        origin=(-25.6, -51.2), cell=(0.8, 0.8),
    ),
)  # fmt: skip
"""For the demo and for training on the synthetic world, whose street is 50 m wide at most."""


@dataclass(frozen=True)
class Detections:
    """Boxes of one sample, strongest class of each query."""

    boxes: Tensor
    """(K, 9) x, y, z of the bottom centre, sizes along x, y, z, yaw in the convention of mmdet3d 0.x, velocity x, y."""
    scores: Tensor
    """(K,)."""
    labels: Tensor
    """(K,) int64, index into the classes."""

    def cpu(self) -> Detections:
        """Return them in the memory of the host."""
        return Detections(self.boxes.cpu(), self.scores.cpu(), self.labels.cpu())

    def upright_boxes(self) -> Boxes:
        """Return the boxes in our convention, in the LiDAR frame: geometric centre, l w h, yaw counter-clockwise.

        The first size of mmdet3d 0.x is the width, and its yaw turns clockwise from -y: a quarter turn off.
        """
        values = self.boxes.double().cpu().numpy()
        center = values[:, :3] + values[:, 5:6] * (0.0, 0.0, 0.5)
        yaw = -values[:, 6] - np.pi / 2
        return Boxes(center, values[:, [4, 3, 5]], np.arctan2(np.sin(yaw), np.cos(yaw)))


@dataclass(frozen=True)
class Lidar:
    """The points of a batch, made ready for the sparse encoder."""

    voxels: Tensor
    """(N, F) mean of each voxel's points, in the rows that `tables` expects."""
    tables: SparseTables
    pillars: Pillars


class DeepInteraction(nn.Module):
    """The network, under the names of the published checkpoint."""

    def __init__(self, config: DeepInteractionConfig) -> None:
        super().__init__()
        self.config = config
        self.img_backbone = SwinTransformer(config.swin)
        self.img_neck = FeaturePyramid(config.swin.out_channels, config.pyramid_channels)
        self.pts_middle_encoder = SparseEncoder(config.sparse)
        self.pts_backbone = Second(config.second)
        self.pts_neck = SecondNeck(config.second)
        self.imgpts_neck = InteractionEncoder(config.interaction)
        self.pts_bbox_head = InteractionDecoder(config.decoder)

    def from_published(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return a checkpoint's entries with the sparse kernels in our layout, that of spconv 1.x; 2.x has another.

        The two differ in shape for every layer of this network, so the shape tells which it is.
        """
        own = self.state_dict()

        def ours(name: str, value: Tensor) -> Tensor:
            if value.dim() != 5 or name not in own or value.shape == own[name].shape:
                return value
            return weight_from_spconv2(value)

        return {name: ours(name, value) for name, value in state.items()}

    def parts(self, batch: int = 1, views: int = 6) -> dict[str, Part]:
        """List what `detect` runs, for the configured image size and a fixed number of samples and views."""
        sizes = Sizes(batch, views, self.config.image_size, self.config.geometry)
        made = (
            image_part(self.img_backbone, self.img_neck, sizes),
            sparse_part(self.pts_middle_encoder, sizes),
            bev_part(self.pts_backbone, self.pts_neck, self.config.second, sizes),
            interaction_part(self.imgpts_neck, sizes),
            decoder_part(self.pts_bbox_head, sizes),
        )
        return {part.name: part for part in made}

    def detect(
        self,
        images: Tensor,
        clouds: Sequence[NDArray[np.float32]],
        image_from_lidar: Tensor,
        lidar_from_camera: Tensor,
        run: RunPart,
        views: int = 1,
        sparse: SparseBackend | None = None,
    ) -> list[Detections]:
        """Detect objects.

        Args:
            images: (B, V, 3, H, W) normalised; a camera that is missing is left out, down to none.
            clouds: per sample (N, F), points of the key frame and the past sweeps in the key frame's LiDAR frame; one
                without a point in range is allowed, and leaves the network to the images.
            image_from_lidar: (B, V, 4, 4) to (u * depth, v * depth, depth, 1) pixels of `images`.
            lidar_from_camera: (B, V, 4, 4).
            run: runs `parts`.
            views: the number of views that the parts were compiled for: missing ones are filled up with cameras that
                see nothing, to the same result. Parts that run in torch take any number.
            sparse: runs the sparse encoder in place of its part.

        Raises:
            ShapeError: arrays that do not fit each other or the configuration.
        """
        decoded = self.decoded(images, clouds, image_from_lidar, lidar_from_camera, run, views, sparse)
        return self.boxes(decoded)

    def boxes(self, decoded: Decoded) -> list[Detections]:
        """Return what was decoded as boxes, per sample."""
        return decode_boxes(decoded, self.pts_bbox_head, self.config.keep_box_range, self.config.apart_m)

    def decoded(
        self,
        images: Tensor,
        clouds: Sequence[NDArray[np.float32]],
        image_from_lidar: Tensor,
        lidar_from_camera: Tensor,
        run: RunPart,
        views: int = 1,
        sparse: SparseBackend | None = None,
    ) -> Decoded:
        """Return what the decoder says, before boxes are read: what the losses are of. As `detect`."""
        self._check(images, clouds, image_from_lidar, lidar_from_camera)
        images, image_from_lidar, lidar_from_camera = fill_views(images, image_from_lidar, lidar_from_camera, views)
        points = [torch.from_numpy(cloud).to(images.device) for cloud in clouds]
        prepared = lidar_on_device(points, self.config) if images.is_cuda and sparse is None else None
        pillars = (
            join_pillars(group_pillars(clouds, self.config), self.config) if prepared is None else prepared.pillars
        )
        size = (images.shape[3], images.shape[4])
        calibration = view_geometry(image_from_lidar, lidar_from_camera, size, self.config.geometry)
        frame = frame_geometry(points, pillars.to(images.device), image_from_lidar, size, self.config.geometry)
        image = run("image", {"images": images.flatten(0, 1)})
        bev = run("bev_backbone", {"bev": self._encoded(clouds, prepared, images.device, run, sparse)})
        fused = run("interaction", {**image, **bev, **geometry_inputs(calibration, frame)})
        return decoded_from(run("decoder", {**fused, "image_from_lidar": image_from_lidar}))

    def decoded_without_images(self, clouds: Sequence[NDArray[np.float32]], run: RunPart) -> Decoded:
        """Return what the decoder says where no camera sees anything, from the LiDAR branch alone, to learn from.

        See `InteractionDecoder.without_images`.

        Args:
            clouds: as for `detect`.
            run: runs `parts`, of which it is asked for the sparse encoder and the bird's-eye backbone.
        """
        device = next(self.parameters()).device
        points = [torch.from_numpy(cloud).to(device) for cloud in clouds]
        prepared = lidar_on_device(points, self.config) if device.type == "cuda" else None
        bev = run("bev_backbone", {"bev": self._encoded(clouds, prepared, device, run, None)})
        return self.pts_bbox_head.without_images(*self.imgpts_neck.without_images([bev["up0"], bev["up1"]]))

    def _encoded(
        self,
        clouds: Sequence[NDArray[np.float32]],
        prepared: Lidar | None,
        device: torch.device,
        run: RunPart,
        sparse: SparseBackend | None,
    ) -> Tensor:
        """Return the bird's-eye view of the points, (B, C, S_y, S_x)."""
        if prepared is not None:
            return run("sparse_encoder", sparse_inputs(prepared.voxels, prepared.tables))["bev"]
        features, coordinates = voxel_means(clouds, self.config)
        if sparse is not None:
            return self.pts_middle_encoder.encode(features.to(device), coordinates, len(clouds), sparse)
        tables = sparse_tables(coordinates, self.config.sparse, len(clouds))
        voxels, tables = features[tables.order].to(device), tables.to(device)
        return run("sparse_encoder", sparse_inputs(voxels, tables))["bev"]

    def _check(
        self, images: Tensor, clouds: Sequence[NDArray[np.float32]], image_from_lidar: Tensor, lidar_from_camera: Tensor
    ) -> None:
        batch, views = images.shape[:2]
        if len(clouds) != batch:
            raise ShapeError(f"{len(clouds)} clouds with images of {batch} samples; expected one cloud per sample")
        for cloud in clouds:
            if cloud.ndim != 2 or cloud.shape[1] != self.config.sparse.in_channels or cloud.dtype != np.float32:
                expected = f"float32 (N, {self.config.sparse.in_channels})"
                raise ShapeError(f"a cloud of {cloud.dtype} {cloud.shape}; expected {expected}")
        if images.shape[2:] != (3, *self.config.image_size):
            raise ShapeError(f"images of {tuple(images.shape[2:])}; expected {(3, *self.config.image_size)}")
        for name, given in (("image_from_lidar", image_from_lidar), ("lidar_from_camera", lidar_from_camera)):
            if given.shape != (batch, views, 4, 4):
                raise ShapeError(f"{name} of shape {tuple(given.shape)}; expected {(batch, views, 4, 4)}")


def fill_views(
    images: Tensor, image_from_lidar: Tensor, lidar_from_camera: Tensor, views: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Append cameras that see nothing until there are `views`: all that any point projects to is far off their image.

    Raises:
        ShapeError: there are more views already.
    """
    batch, given = images.shape[:2]
    missing = max(views, 1) - given
    if missing < 0 and views > 1:
        raise ShapeError(f"{given} views; the parts were compiled for {views}: leave some out, or compile for more")
    if missing <= 0:
        return images, image_from_lidar, lidar_from_camera
    blind = image_from_lidar.new_tensor([[0, 1, 0, -1e9], [0, 0, 1, -1e9], [1, 0, 0, 1e4], [0, 0, 0, 1]])
    pose = torch.eye(4, dtype=blind.dtype, device=blind.device)
    return (
        torch.cat([images, images.new_zeros(batch, missing, *images.shape[2:])], 1),
        torch.cat([image_from_lidar, blind.expand(batch, missing, 4, 4)], 1),
        torch.cat([lidar_from_camera, pose.expand(batch, missing, 4, 4)], 1),
    )


def prepare_lidar(clouds: Sequence[NDArray[np.float32]], config: DeepInteractionConfig) -> Lidar:
    """Group the points of every sample into voxels and pillars, and work out where the sparse convolutions read."""
    features, coordinates = voxel_means(clouds, config)
    tables = sparse_tables(coordinates, config.sparse, len(clouds))
    return Lidar(features[tables.order], tables, join_pillars(group_pillars(clouds, config), config))


def lidar_on_device(points: Sequence[Tensor], config: DeepInteractionConfig) -> Lidar:
    """Do what `prepare_lidar` does in tensors, where the points of each sample (N, F) lie."""
    voxels, pillars = (
        [device_voxels(cloud, config.point_range, size, slots, most) for cloud in points]
        for size, slots, most in (
            (config.voxel_size, config.points_per_voxel, config.max_voxels),
            (config.pillar_size, config.points_per_pillar, config.max_pillars),
        )
    )
    coordinates = torch.cat([F.pad(group.coordinates, (1, 0), value=b) for b, group in enumerate(voxels)])
    means = torch.cat([group.means() for group in voxels])
    if not len(means):  # as in `voxel_means`
        coordinates, means = coordinates.new_zeros(1, 4), means.new_zeros(1, config.sparse.in_channels)
    tables = device_tables(coordinates, config.sparse, len(points))
    rows, columns = config.geometry.bev
    cells = [
        (b * rows + group.coordinates[:, 1]) * columns + group.coordinates[:, 2] for b, group in enumerate(pillars)
    ]
    grouped, counts = torch.cat([group.points for group in pillars]), torch.cat([group.counts for group in pillars])
    return Lidar(means[tables.order], tables, Pillars(grouped, counts, torch.cat(cells)))


def voxel_means(
    clouds: Sequence[NDArray[np.float32]], config: DeepInteractionConfig
) -> tuple[Tensor, NDArray[np.int64]]:
    """Return the mean point of every occupied voxel, (N, F), and where it is, (N, 4) sample, z, y, x."""
    voxels = group_voxels(clouds, config)
    coordinates, features = with_sample(voxels), np.concatenate([group.means() for group in voxels])
    if not len(coordinates):  # engines take no empty arrays: one voxel of zeros, in the corner
        coordinates, features = np.zeros((1, 4), np.int64), np.zeros((1, config.sparse.in_channels), np.float32)
    return torch.from_numpy(features), coordinates


def group_voxels(clouds: Sequence[NDArray[np.float32]], config: DeepInteractionConfig) -> list[HardVoxels]:
    """Group the points of each sample by voxel."""
    size, most = config.voxel_size, config.max_voxels
    return [hard_voxels(cloud, config.point_range, size, config.points_per_voxel, most) for cloud in clouds]


def group_pillars(clouds: Sequence[NDArray[np.float32]], config: DeepInteractionConfig) -> list[HardVoxels]:
    """Group the points of each sample by cell of the bird's-eye view."""
    size, most = config.pillar_size, config.max_pillars
    return [hard_voxels(cloud, config.point_range, size, config.points_per_pillar, most) for cloud in clouds]


def with_sample(groups: Sequence[HardVoxels]) -> NDArray[np.int64]:
    """Coordinates of all samples, (N, 4) sample, z, y, x."""
    return np.concatenate([np.insert(group.coordinates, 0, sample, axis=1) for sample, group in enumerate(groups)])


def join_pillars(groups: Sequence[HardVoxels], config: DeepInteractionConfig) -> Pillars:
    """Put the pillars of all samples together."""
    rows, columns = config.geometry.bev
    sample, _, row, column = with_sample(groups).T
    return Pillars(
        torch.from_numpy(np.concatenate([group.points for group in groups])),
        torch.from_numpy(np.concatenate([group.counts for group in groups])),
        torch.from_numpy((sample * rows + row) * columns + column),
    )


def decode_boxes(
    decoded: Decoded, decoder: InteractionDecoder, keep: tuple[float, ...], apart_m: tuple[float, ...] = ()
) -> list[Detections]:
    """Read the boxes of the last layer, per sample; those with a centre outside `keep` (metres) are dropped.

    A query keeps the class that the heatmap gave it; its score is the product of the class probability and the heat.
    Classes of which every cell may begin a query (`every_cell_classes`) find one object twice: with `apart_m`, by
    class, of boxes of one class whose centres lie nearer to each other the surest stays, which is the circular
    suppression of the published code (with 0.175 m, and turned off there).
    """
    count = decoded.query_labels.shape[1]
    fields = BoxFields(*(values[..., -count:] for values in decoded.fields))
    boxes = torch.cat([decoder.boxes(fields), fields.vel.transpose(1, 2)], -1)  # (B, P, 9)
    own = torch.nn.functional.one_hot(decoded.query_labels, fields.heatmap.shape[1]).transpose(1, 2)
    scores, labels = (fields.heatmap.sigmoid() * decoded.query_scores * own).max(1)
    low, high = boxes.new_tensor(keep[:3]), boxes.new_tensor(keep[3:])
    inside = ((boxes[..., :3] >= low) & (boxes[..., :3] <= high)).all(-1)
    found = [Detections(boxes[b, i], scores[b, i], labels[b, i]) for b, i in enumerate(inside)]
    return [_apart(one, apart_m) for one in found] if any(apart_m) else found


def _apart(found: Detections, apart_m: tuple[float, ...]) -> Detections:
    """Leave out boxes of a class that lie nearer than it allows to a surer one that stays; the others keep their order.

    Raises:
        ShapeError: there is no distance for a class.
    """
    labels, order = found.labels.tolist(), torch.argsort(found.scores, descending=True, stable=True).tolist()
    if max(labels, default=0) >= len(apart_m):
        raise ShapeError(f"apart_m has {len(apart_m)} distances; expected one for each class")
    places = found.boxes[:, :2].cpu().numpy().astype(np.float64)
    kept: dict[int, list[int]] = {label: [] for label in labels}
    for k in order:
        others = places[kept[labels[k]]].reshape(-1, 2)
        if not (np.hypot(*(others - places[k]).T) < apart_m[labels[k]]).any():
            kept[labels[k]].append(k)
    stays = torch.tensor(sorted(k for of_class in kept.values() for k in of_class), device=found.boxes.device).long()
    return Detections(found.boxes[stays], found.scores[stays], found.labels[stays])
