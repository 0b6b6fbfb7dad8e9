"""Parity cases of FlatFormer: the published configuration to ours, and what is computed to the names of the case."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from perception.networks.flatformer import FlatFormer, FlatFormerConfig, RawBoxes
from perception.networks.parity.case import ParityCase
from perception.networks.part import Part, RunPart
from perception.ops.flat_windows import ORDERS


def build(case: ParityCase) -> FlatFormer:
    """Make the network of the case's configuration."""
    return FlatFormer(_config(case)).eval()


def parts(case: ParityCase, network: nn.Module) -> Mapping[str, Part]:
    """List what `outputs` runs."""
    assert isinstance(network, FlatFormer)
    return network.parts()


def outputs(case: ParityCase, network: nn.Module, run: RunPart) -> dict[str, NDArray[Any]]:
    """Run the case's points and give every stage that cases hold."""
    assert isinstance(network, FlatFormer)
    found: dict[str, NDArray[Any]] = {}

    def watch(name: str, value: Tensor) -> None:
        kind = np.int32 if value.dtype in (torch.int64, torch.int32) else np.float32
        found[f"out_{name}"] = value.numpy().astype(kind)

    points, batch = torch.from_numpy(case.inputs["in_points"]), int(case.inputs["in_batch_size"])
    inner = _Inner(network)
    maps = {name: value.clone() for name, value in network.maps(points, batch, run, watch).items()}
    inner.remove()
    for name in network.bbox_head.maps:
        watch(f"head_{name}", maps[name])
    _mappings(network, points, watch)
    for name, value in inner.found.items():
        watch(name, value)
    _store(found, network.raw_boxes(maps))
    return found


class _Inner:
    """Takes what lies inside the exported parts as it passes; an engine computes it, too, but does not give it."""

    def __init__(self, network: FlatFormer) -> None:
        self.found: dict[str, Tensor] = {}
        first: Any = network.middle_encoder.block_list[0]
        self._hooks = [
            first.block[0].register_forward_hook(self._take_layer),
            network.backbone.register_forward_hook(self._take_stages),
        ]

    def _take_layer(self, module: nn.Module, given: Any, slots: Tensor) -> None:
        self.found["layer0"] = slots.flatten(0, 1)

    def _take_stages(self, module: nn.Module, given: Any, maps: list[Tensor]) -> None:
        self.found |= {f"second{number}": value for number, value in enumerate(maps)}

    def remove(self) -> None:
        for hook in self._hooks:
            hook.remove()


def _mappings(network: FlatFormer, points: Tensor, watch: Callable[[str, Tensor], None]) -> None:
    orders, grouped = network.flattened(network.pillars(points).coords)
    for name, order in zip(ORDERS, orders, strict=True):
        watch(f"map_{name}", order)
    watch("map_flat2win", grouped.padded)
    watch("map_win2flat", grouped.first)


def _store(found: dict[str, NDArray[Any]], samples: list[RawBoxes]) -> None:
    rows = []
    for boxes in samples:
        bottom = boxes.center - boxes.center.new_tensor((0, 0, 0.5)) * boxes.size
        rows.append(torch.cat((bottom, boxes.size, boxes.yaw.unsqueeze(1), boxes.velocity), dim=1))
    found["out_boxes"] = torch.cat(rows).numpy()
    found["out_scores"] = torch.cat([boxes.score for boxes in samples]).numpy()
    found["out_labels"] = torch.cat([boxes.label for boxes in samples]).numpy().astype(np.int32)
    found["out_num"] = np.array([len(boxes.score) for boxes in samples], np.int32)


def _config(case: ParityCase) -> FlatFormerConfig:
    config = case.config
    middle, head, test = config["middle_encoder"], config["bbox_head"], config["test_cfg"]
    limits = config["voxel_layer"]["point_cloud_range"]
    window = tuple(middle["window_shape"][:2])
    encoder = config["voxel_encoder"]
    return FlatFormerConfig(
        minimum_m=tuple(limits[:3]),
        maximum_m=tuple(limits[3:]),
        grid=tuple(middle["sparse_shape"][:2]),
        point_features=encoder["in_channels"],
        vfe_channels=tuple(encoder["feat_channels"]),
        heads=middle["num_heads"],
        blocks=middle["num_blocks"],
        window=window,
        shift=tuple(side // 2 for side in window),
        group=middle["group_size"],
        bev_channels=tuple(config["backbone"]["out_channels"]),
        bev_layers=tuple(config["backbone"]["layer_nums"]),
        neck_channels=tuple(config["neck"]["out_channels"]),
        head_channels=head["share_conv_channel"],
        num_classes=sum(task["num_class"] for task in head["tasks"]),
        score_min=head["bbox_coder"]["score_threshold"],
        most_cells=head["bbox_coder"]["max_num"],
        coder_limit_m=tuple(head["bbox_coder"]["post_center_range"]),
        center_limit_m=tuple(test["post_center_limit_range"]),
        iou_power=test["iou_pow"],
        nms_iou=tuple(test["nms_thr"]),
        nms_before=tuple(test["pre_max_size"]),
        nms_after=tuple(test["post_max_size"]),
        published_faults=True,
    )
