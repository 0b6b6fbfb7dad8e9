"""Parity cases of DSVT: the published configuration to ours, and what the network computes to the case's names."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from perception.networks.dsvt import DSVT, DSVTConfig, StageConfig
from perception.networks.layers.bev_backbone import BevBackboneConfig
from perception.networks.layers.boxes import Boxes3D
from perception.networks.layers.center_head import CenterHeadConfig, suppress
from perception.networks.layers.transfusion_head import TransFusionConfig, TransFusionHead
from perception.networks.parity.case import ParityCase
from perception.networks.part import Part, RunPart

OPENPCDET_NMS_IOU = (0.75, 0.6, 0.55)


def build(case: ParityCase) -> DSVT:
    """Make the network of the case's configuration."""
    return DSVT(_config(case)).eval()


def parts(case: ParityCase, network: nn.Module) -> Mapping[str, Part]:
    """List what `outputs` runs."""
    assert isinstance(network, DSVT)
    return network.parts()


def outputs(case: ParityCase, network: nn.Module, run: RunPart) -> dict[str, NDArray[Any]]:
    """Run the case's points and give every stage that cases hold."""
    assert isinstance(network, DSVT)
    found: dict[str, NDArray[Any]] = {}

    def watch(name: str, value: Tensor) -> None:
        kind = np.int32 if value.dtype in (torch.int64, torch.int32) else np.float32
        found[f"out_{name}"] = value.numpy().astype(kind)

    points = torch.from_numpy(case.inputs["in_points"])
    batch = int(case.inputs["in_batch_size"])
    voxels = network.voxels(points)
    if len(voxels.coords):
        place = network.stage_inputs(voxels.coords, 0).places[1]
        embeddings: Any = network.backbone_3d.input_layer.posembed_layers
        watch("pos_embed_s0_b0_shift1", embeddings[0][0][1](place))
    maps = {name: value.clone() for name, value in network.maps(points, batch, run, watch).items()}
    head = network.dense_head
    if isinstance(head, TransFusionHead):
        numbers = head.decoded(maps, run)
        watch("head_dense_heatmap", maps["dense_heatmap"])
        for name, value in numbers.items():
            watch(name if name == "query_labels" else f"head_{name}", value)
        _store(found, "out", head.boxes_of(numbers, network.cells))
        return found
    for name in head.maps:
        watch(f"head_{name}", maps[name])
    raw = network.raw_boxes(maps)
    config = network.config.center_head
    own = tuple(case.config["model"]["DENSE_HEAD"]["POST_PROCESSING"]["NMS_CONFIG"]["NMS_THRESH"])
    _store(found, "out", [suppress(boxes, config, nms_iou=own, turned=True) for boxes in raw])
    _store(found, "out_pcdet", [suppress(boxes, config, nms_iou=OPENPCDET_NMS_IOU) for boxes in raw])
    return found


def _store(found: dict[str, NDArray[Any]], prefix: str, samples: list[Boxes3D]) -> None:
    columns = [
        torch.cat(
            (boxes.center, boxes.size, boxes.yaw.unsqueeze(1), *([] if boxes.velocity is None else [boxes.velocity])),
            dim=1,
        )
        for boxes in samples
    ]
    found[f"{prefix}_boxes"] = torch.cat(columns).numpy()
    found[f"{prefix}_scores"] = torch.cat([boxes.score for boxes in samples]).numpy()
    found[f"{prefix}_labels"] = (torch.cat([boxes.label for boxes in samples]) + 1).numpy().astype(np.int32)
    found[f"{prefix}_num"] = np.array([len(boxes) for boxes in samples], np.int32)


def _config(case: ParityCase) -> DSVTConfig:
    config, model = case.config, case.config["model"]
    layer, backbone, bev = model["BACKBONE_3D"]["INPUT_LAYER"], model["BACKBONE_3D"], model["BACKBONE_2D"]
    channels = backbone["d_model"][0]
    return DSVTConfig(
        minimum_m=tuple(config["point_cloud_range"][:3]),
        voxel_m=tuple(config["voxel_size"]),
        grid=tuple(config["grid_size_xyz"]),
        point_features=config["num_point_features"],
        test_z=model["VFE"]["NAME"] == "DynPillarVFE3D",
        channels=channels,
        heads=backbone["nhead"][0],
        hidden=backbone["dim_feedforward"][0],
        stages=_stages(layer),
        backbone=BevBackboneConfig(
            in_channels=channels,
            layers=tuple(bev["LAYER_NUMS"]),
            strides=tuple(bev["LAYER_STRIDES"]),
            channels=tuple(bev["NUM_FILTERS"]),
            up_strides=tuple(bev["UPSAMPLE_STRIDES"]),
            up_channels=tuple(bev["NUM_UPSAMPLE_FILTERS"]),
        ),
        head="center" if model["DENSE_HEAD"]["NAME"] == "CenterHead" else "transfusion",
        center_head=_center_head(model["DENSE_HEAD"], sum(bev["NUM_UPSAMPLE_FILTERS"]), len(config["class_names"])),
        transfusion_head=_transfusion_head(
            model["DENSE_HEAD"], sum(bev["NUM_UPSAMPLE_FILTERS"]), len(config["class_names"])
        ),
    )


def _stages(layer: Mapping[str, Any]) -> tuple[StageConfig, ...]:
    found = []
    for number, (window, (set_size, blocks)) in enumerate(zip(layer["window_shape"], layer["set_info"], strict=True)):
        factor = layer["hybrid_factor"]
        second = tuple(side * by for side, by in zip(window, factor, strict=True))
        pools = layer["downsample_stride"]
        found.append(
            StageConfig(
                windows=(tuple(window), second),
                shift=tuple(layer["shifts_list"][number][1]),
                set_size=set_size,
                blocks=blocks,
                pool_z=pools[number][2] if number < len(pools) else 1,
            )
        )
    return tuple(found)


def _center_head(head: Mapping[str, Any], in_channels: int, classes: int) -> CenterHeadConfig:
    if head["NAME"] != "CenterHead":
        return CenterHeadConfig()
    post = head["POST_PROCESSING"]
    nms = post["NMS_CONFIG"]
    return CenterHeadConfig(
        in_channels=in_channels,
        shared_channels=head["SHARED_CONV_CHANNEL"],
        num_classes=classes,
        score_min=post["SCORE_THRESH"],
        center_limit_m=tuple(post["POST_CENTER_LIMIT_RANGE"]),
        most_boxes=post["MAX_OBJ_PER_SAMPLE"],
        iou_power=tuple(post["IOU_RECTIFIER"]),
        nms_iou=OPENPCDET_NMS_IOU,
        nms_before=nms["NMS_PRE_MAXSIZE"][0],
        nms_after=nms["NMS_POST_MAXSIZE"][0],
        velocity="vel" in head["SEPARATE_HEAD_CFG"]["HEAD_DICT"],
    )


def _transfusion_head(head: Mapping[str, Any], in_channels: int, classes: int) -> TransFusionConfig:
    if head["NAME"] == "CenterHead":
        return TransFusionConfig()
    post = head["POST_PROCESSING"]
    return TransFusionConfig(
        in_channels=in_channels,
        channels=head["HIDDEN_CHANNEL"],
        num_classes=classes,
        proposals=head["NUM_PROPOSALS"],
        heads=head["NUM_HEADS"],
        hidden=head["FFN_CHANNEL"],
        iou_power=post["IOU_RECTIFIER"][0],
        center_limit_m=tuple(post["POST_CENTER_RANGE"]),
        score_min=post["SCORE_THRESH"],
    )
