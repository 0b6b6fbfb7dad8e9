"""Parity cases of DeepInteraction++: each stage alone, and the whole.

A stage case lists the parameters of its stage and holds the stage's inputs; which stage it is follows from the inputs.
Inner results that a case stores as slices without saying so (`subsample`) are left out.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from perception.errors import CaseError
from perception.networks.deepinteraction import (
    DeepInteraction,
    DeepInteractionConfig,
    decode_boxes,
    group_pillars,
    group_voxels,
    join_pillars,
    prepare_lidar,
    with_sample,
)
from perception.networks.layers.fpn import FeaturePyramid
from perception.networks.layers.interaction_decoder import DecoderConfig
from perception.networks.layers.interaction_encoder import InteractionConfig
from perception.networks.layers.interaction_geometry import (
    FrameGeometry,
    ViewGeometry,
    frame_geometry,
    view_geometry,
)
from perception.networks.layers.interaction_parts import (
    FIELD_OUTPUTS,
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
from perception.networks.layers.sparse_encoder import SparseEncoderConfig
from perception.networks.layers.swin import SwinConfig, SwinTransformer
from perception.networks.parity.case import ParityCase
from perception.networks.part import Part, RunPart, TensorSpec

IMAGE_STAGE, LIDAR_STAGE, FUSION_STAGE, HEAD_STAGE, WHOLE = "image", "lidar", "fusion", "head", "whole"
CHILDREN = {
    IMAGE_STAGE: ("img_backbone", "img_neck"),
    LIDAR_STAGE: ("pts_middle_encoder", "pts_backbone", "pts_neck"),
    FUSION_STAGE: ("imgpts_neck",),
    HEAD_STAGE: ("pts_bbox_head",),
}
PYRAMID_LEVELS = 5


def stage_of(case: ParityCase) -> str:
    """Tell which stage a case holds, by its inputs.

    Raises:
        CaseError: the inputs are of no stage.
    """
    names = case.inputs
    if "in_bev_lidar" in names:
        return HEAD_STAGE
    if "in_img_l0" in names:
        return FUSION_STAGE
    if "in_img" in names:
        return WHOLE if "in_points_0" in names else IMAGE_STAGE
    if "in_points_0" in names:
        return LIDAR_STAGE
    raise CaseError(f"{case.path}: inputs {sorted(names)} are of no stage of DeepInteraction++")


def read_config(case: ParityCase) -> DeepInteractionConfig:
    """Read the published configuration of a case.

    Raises:
        CaseError: a setting that this network does not have.
    """
    model = case.config["model"]
    _refuse_unknown(case, model)
    voxels, pillars, head = model["pts_voxel_layer"], model["pts_pillar_layer"], model["pts_bbox_head"]
    coder, swin, middle = head["bbox_coder"], model["img_backbone"], model["pts_middle_encoder"]
    second, neck, fusion = model["pts_backbone"], model["pts_neck"], model["imgpts_neck"]
    grid = middle["sparse_shape"]
    stages = middle["encoder_channels"]
    return DeepInteractionConfig(
        image_size=_image_size(case),
        point_range=tuple(voxels["point_cloud_range"]),
        voxel_size=tuple(voxels["voxel_size"]),
        points_per_voxel=voxels["max_num_points"],
        max_voxels=voxels["max_voxels"][1],
        pillar_size=tuple(pillars["voxel_size"]),
        points_per_pillar=pillars["max_num_points"],
        max_pillars=pillars["max_voxels"][1],
        keep_box_range=tuple(coder["post_center_range"]),
        swin=SwinConfig(
            swin["embed_dims"], tuple(swin["depths"]), tuple(swin["num_heads"]), swin["window_size"], swin["mlp_ratio"]
        ),
        pyramid_channels=model["img_neck"]["out_channels"],
        sparse=SparseEncoderConfig(
            (grid[0], grid[1], grid[2]),
            middle["in_channels"],
            tuple(stage[0] for stage in stages),
            tuple(_padding(stage[-1]) for stage in middle["encoder_paddings"][:-1]),
            middle["output_channels"],
        ),
        second=SecondConfig(
            second["in_channels"],
            tuple(second["out_channels"]),
            tuple(second["layer_nums"]),
            tuple(second["layer_strides"]),
            tuple(neck["out_channels"]),
            tuple(neck["upsample_strides"]),
        ),
        interaction=InteractionConfig(
            fusion["in_channels_img"], fusion["in_channels_pts"], fusion["hidden_channel"], fusion["num_layers"]
        ),
        decoder=DecoderConfig(
            channels=head["hidden_channel"],
            classes=head["num_classes"],
            queries=head["num_proposals"],
            layers=head["num_mmpi"],
            heads=head["num_heads"],
            hidden=head["ffn_channel"],
            origin=tuple(coder["pc_range"]),
            cell=tuple(size * coder["out_size_factor"] for size in coder["voxel_size"]),
            image_stride=head["out_size_factor_img"],
            fields={name: width for name, (width, _) in head["common_heads"].items()},
        ),
    )


def _refuse_unknown(case: ParityCase, model: Mapping[str, Any]) -> None:
    metas = case.config.get("img_metas") or {}
    expected = {"pcd_rotation": "identity", "pcd_scale_factor": 1.0, "pcd_trans": [0, 0, 0], "flips": False}
    for name, value in expected.items():
        if metas.get(name, value) != value:
            raise CaseError(f"{case.path}: img_metas.{name} is {metas[name]}; expected {value}: no augmentation here")
    blocks, neck = model["pts_middle_encoder"].get("block_type"), model["imgpts_neck"]["type"]
    if (blocks, neck) != ("basicblock", "FusionTransformerv4"):
        raise CaseError(f"{case.path}: expected basicblock and FusionTransformerv4, the parts of Fusion_0075_plusplus")


def _padding(value: Any) -> tuple[int, int, int]:
    return (value[0], value[1], value[2]) if isinstance(value, list) else (value, value, value)


def _image_size(case: ParityCase) -> tuple[int, int]:
    if "in_img" in case.inputs:
        height, width = case.inputs["in_img"].shape[-2:]
    elif "in_input_shape" in case.inputs:
        height, width = case.inputs["in_input_shape"]
    else:
        return DeepInteractionConfig.image_size
    return int(height), int(width)


def build(case: ParityCase) -> nn.Module:
    """Make the network of the case, and leave the case's stage of it."""
    network, stage = DeepInteraction(read_config(case)), stage_of(case)
    for name in [name for name, _ in network.named_children()]:
        if stage != WHOLE and name not in CHILDREN[stage]:
            delattr(network, name)
    return network.eval()


class ImageStages(nn.Module):
    """The image branch with every stage and level."""

    def __init__(self, backbone: SwinTransformer, neck: FeaturePyramid) -> None:
        super().__init__()
        self.backbone, self.neck = backbone, neck

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        maps = self.backbone(images)
        return (*maps, *self.neck(maps, PYRAMID_LEVELS))


class BevStages(nn.Module):
    """The bird's-eye-view backbone with every stage."""

    def __init__(self, backbone: Second, neck: SecondNeck) -> None:
        super().__init__()
        self.backbone, self.neck = backbone, neck

    def forward(self, bev: Tensor) -> tuple[Tensor, ...]:
        maps = self.backbone(bev)
        joined, upsampled = self.neck(maps)
        return (*maps, joined, *upsampled)


def parts(case: ParityCase, network: nn.Module) -> Mapping[str, Part]:
    """List the parts that the case's stage runs, for the case's sizes."""
    assert isinstance(network, DeepInteraction)
    stage, sizes = stage_of(case), _sizes(case, network.config)
    if stage == WHOLE:
        return network.parts(sizes.batch, sizes.views)
    if stage == HEAD_STAGE:
        made = [decoder_part(network.pts_bbox_head, sizes)]
    elif stage == FUSION_STAGE:
        made = [interaction_part(network.imgpts_neck, sizes)]
    elif stage == IMAGE_STAGE:
        made = [_with_inner(image_part(network.img_backbone, network.img_neck, sizes), ImageStages, IMAGE_OUTPUTS)]
    else:
        bev = bev_part(network.pts_backbone, network.pts_neck, network.config.second, sizes)
        made = [sparse_part(network.pts_middle_encoder, sizes), _with_inner(bev, BevStages, BEV_OUTPUTS)]
    return {part.name: part for part in made}


IMAGE_OUTPUTS = ("swin0", "swin1", "swin2", "swin3", "fpn0", "fpn1", "fpn2", "fpn3", "fpn4")
BEV_OUTPUTS = ("second0", "second1", "neck0", "neck1", "neck2")


def _with_inner(part: Part, wrap: Callable[..., nn.Module], names: tuple[str, ...]) -> Part:
    """Return a part that also yields the inner maps that a stage case compares."""
    module = wrap(part.module.backbone, part.module.neck).eval()
    with torch.no_grad():
        maps = module(*part.example())
    outputs = {name: TensorSpec("float32", tuple(x.shape)) for name, x in zip(names, maps, strict=True)}
    return replace(part, module=module, outputs=outputs)


def _sizes(case: ParityCase, config: DeepInteractionConfig) -> Sizes:
    inputs, batch, views = case.inputs, 1, 1
    if "in_lidar2img" in inputs:
        batch, views = inputs["in_lidar2img"].shape[:2]
    elif "in_img" in inputs:
        batch, views = inputs["in_img"].shape[:2]
    else:
        batch = len(_clouds(case))
    return Sizes(batch, views, config.image_size, config.geometry)


def outputs(case: ParityCase, network: nn.Module, run: RunPart) -> dict[str, NDArray[Any]]:
    """Run the case's stage."""
    assert isinstance(network, DeepInteraction)
    stages = {IMAGE_STAGE: _image, LIDAR_STAGE: _lidar, FUSION_STAGE: _fusion, HEAD_STAGE: _head, WHOLE: _whole}
    results = stages[stage_of(case)](case, network, run)
    return {f"out_{name}": array.numpy() if isinstance(array, Tensor) else array for name, array in results.items()}


Results = dict[str, Tensor | NDArray[Any]]


def _image(case: ParityCase, _network: DeepInteraction, run: RunPart) -> Results:
    return dict(run("image", {"images": _tensor(case, "in_img").flatten(0, 1)}))


def _lidar(case: ParityCase, network: DeepInteraction, run: RunPart) -> Results:
    lidar = prepare_lidar(_clouds(case), network.config)
    bev = run("sparse_encoder", sparse_inputs(lidar.voxels, lidar.tables))["bev"].clone()
    return {**_groups(case, network.config), **run("bev_backbone", {"bev": bev})}


def _groups(case: ParityCase, config: DeepInteractionConfig) -> Results:
    clouds = _clouds(case)
    voxels, pillars = group_voxels(clouds, config), group_pillars(clouds, config)
    pillar_points = np.concatenate([group.points for group in pillars])
    return {
        "voxel_coords": with_sample(voxels).astype(np.int32),
        "voxel_num_points": np.concatenate([group.counts for group in voxels]).astype(np.int32),
        "voxel_features": np.concatenate([group.means() for group in voxels]),
        "pillar_coords": with_sample(pillars).astype(np.int32),
        "pillar_num_points": np.concatenate([group.counts for group in pillars]).astype(np.int32),
        "pillar_first_point": pillar_points[:, 0],
        "pillar_last_slot": pillar_points[:, -1],
    }


def _geometry(case: ParityCase, config: DeepInteractionConfig) -> tuple[ViewGeometry, FrameGeometry]:
    image_from_lidar, clouds = _tensor(case, "in_lidar2img"), _clouds(case)
    views = view_geometry(image_from_lidar, _tensor(case, "in_cam2lidar"), config.image_size, config.geometry)
    pillars = join_pillars(group_pillars(clouds, config), config)
    points = [torch.from_numpy(cloud) for cloud in clouds]
    return views, frame_geometry(points, pillars, image_from_lidar, config.image_size, config.geometry)


def _fusion(case: ParityCase, network: DeepInteraction, run: RunPart) -> Results:
    views, frame = _geometry(case, network.config)
    features = {
        "image0": _tensor(case, "in_img_l0"),
        "image1": _tensor(case, "in_img_l1"),
        "up0": _tensor(case, "in_up0"),
        "up1": _tensor(case, "in_up1"),
    }
    fused = run("interaction", {**features, **geometry_inputs(views, frame)})
    last = network.config.interaction.layers - 1
    return {
        "depth_filled": frame.depth,
        f"img_block{last}": fused["image"],
        f"pts_block{last}": fused["fused"],
        "shared_conv_pts": fused["lidar"],
    }


def _head(case: ParityCase, network: DeepInteraction, run: RunPart) -> Results:
    inputs = {
        "image": _tensor(case, "in_img_feat"),
        "lidar": _tensor(case, "in_bev_lidar"),
        "fused": _tensor(case, "in_bev_fused"),
        "image_from_lidar": _tensor(case, "in_lidar2img"),
    }
    return _predictions(network, run("decoder", inputs))


def _predictions(network: DeepInteraction, decoded: Mapping[str, Tensor]) -> Results:
    first = decode_boxes(decoded_from(decoded), network.pts_bbox_head, network.config.keep_box_range)[0]
    return {
        "heatmap_lidar": decoded["heatmap_lidar"],
        "heatmap_fused": decoded["heatmap_fused"],
        "query_labels": decoded["query_labels"].int(),
        "query_pos": decoded["query_pos"],
        **{name: decoded[name] for name in FIELD_OUTPUTS},
        "pred_query_heatmap_score": decoded["query_scores"],
        "on_mask": decoded["on_mask"].int(),
        "boxes": first.boxes,
        "scores": first.scores,
        "labels": first.labels.int(),
    }


def _whole(case: ParityCase, network: DeepInteraction, run: RunPart) -> Results:
    lidar = prepare_lidar(_clouds(case), network.config)
    views, frame = _geometry(case, network.config)
    image = run("image", {"images": _tensor(case, "in_img").flatten(0, 1)})
    middle = run("sparse_encoder", sparse_inputs(lidar.voxels, lidar.tables))
    bev = run("bev_backbone", middle)
    fused = run("interaction", {**image, **bev, **geometry_inputs(views, frame)})
    decoded = run("decoder", {**fused, "image_from_lidar": _tensor(case, "in_lidar2img")})
    return {
        **_predictions(network, decoded),
        "depth_filled": frame.depth,
        "fpn0": image["image0"],
        "pts_neck1": bev["up0"],
        "pts_neck2": bev["up1"],
        "img_feat": fused["image"],
        "bev_lidar": fused["lidar"],
        "bev_fused": fused["fused"],
    }


def _tensor(case: ParityCase, name: str) -> Tensor:
    if name not in case.inputs:
        raise CaseError(f"{case.path}: no array '{name}'; the case's other inputs need it")
    return torch.from_numpy(case.inputs[name].astype(np.float32))


def _clouds(case: ParityCase) -> list[NDArray[np.float32]]:
    names = sorted((name for name in case.inputs if name.startswith("in_points_")), key=lambda name: int(name[10:]))
    return [case.inputs[name] for name in names]
