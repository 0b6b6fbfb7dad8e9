"""Parity cases of EgoPoseFormer: pose, heatmap pre-training and projection, to outputs under the case's names."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from perception.errors import CaseError
from perception.networks.egoposeformer import EgoPoseFormer, EgoPoseFormerConfig, HeatmapNetwork
from perception.networks.layers.resnet import RESNETS, ResNetConfig
from perception.networks.parity.case import ParityCase
from perception.networks.part import Part, RunPart
from perception.ops.joint_projection import unrealego_projection
from perception.ops.procrustes import similarity_aligned


class _Checkpoint(nn.Module):
    """The network as published checkpoints hold it: Lightning puts it below `model`."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model


def build(case: ParityCase) -> nn.Module:
    """Make the network that the case's configuration names; nothing for a projection."""
    kind = case.config["class"]
    if kind == "unrealego_proj":
        return nn.Module()
    if kind == "EgoPoseFormer":
        network: nn.Module = EgoPoseFormer(_pose_config(case))
    elif kind == "EgoPoseFormerHeatmap":
        network = HeatmapNetwork(_heatmap_config(case))
    else:
        raise CaseError(f"{case.path}: class '{kind}'; expected EgoPoseFormer, EgoPoseFormerHeatmap or unrealego_proj")
    below_model = not case.notes.get("strip_prefix") and str(case.notes["params"][0][0]).startswith("model.")
    return (_Checkpoint(network) if below_model else network).eval()


def parts(case: ParityCase, network: nn.Module) -> Mapping[str, Part]:
    """List what `outputs` runs."""
    inner = _unwrapped(network)
    return inner.parts() if isinstance(inner, EgoPoseFormer | HeatmapNetwork) else {}


def outputs(case: ParityCase, network: nn.Module, run: RunPart) -> dict[str, NDArray[Any]]:
    """Run the case, and measure against its truth where it has one."""
    inner = _unwrapped(network)
    if isinstance(inner, EgoPoseFormer):
        return _poses(case, inner, run)
    if isinstance(inner, HeatmapNetwork):
        return _heatmaps(case, run)
    return _projections(case)


def _unwrapped(network: nn.Module) -> nn.Module:
    return network.model if isinstance(network, _Checkpoint) else network


def _poses(case: ParityCase, network: EgoPoseFormer, run: RunPart) -> dict[str, NDArray[Any]]:
    image, references = (torch.from_numpy(case.inputs[name]) for name in ("in_img", "in_origin_3d"))
    poses, anchors, in_view = network.estimate(image, references, unrealego_projection, run)
    found = {
        "out_proposal": poses[:, 0].numpy(),
        **{f"out_pred{layer}": poses[:, layer + 1].numpy() for layer in range(poses.shape[1] - 1)},
        "out_anchors_2d": anchors.numpy(),
        "out_anchors_valid": in_view.numpy().astype(np.int32),
    }
    truth = case.inputs.get("in_gt_pose")
    if truth is not None:
        to_mm = float(case.config.get("to_mm", 10.0))
        for name, pose in (("final", poses[:, -1]), ("proposal", poses[:, 0])):
            aligned = [similarity_aligned(*pair) for pair in zip(pose.numpy(), truth, strict=True)]
            found[f"out_{name}_mpjpe"] = _joint_error(pose.numpy(), truth) * to_mm
            found[f"out_{name}_pa_mpjpe"] = _joint_error(np.stack(aligned), truth) * to_mm
    return found


def _joint_error(poses: NDArray[Any], truth: NDArray[Any]) -> NDArray[Any]:
    error: NDArray[Any] = np.linalg.norm(poses - truth, axis=2).mean(axis=1)
    return error


def _heatmaps(case: ParityCase, run: RunPart) -> dict[str, NDArray[Any]]:
    image = torch.from_numpy(case.inputs["in_img"])
    maps = run("heatmaps", {"image": image.flatten(0, 1)})["heatmaps"]
    heatmaps = maps.reshape(*image.shape[:2], *maps.shape[1:]).numpy()
    found = {"out_heatmap": heatmaps}
    truth = case.inputs.get("in_heatmap_gt")
    if truth is not None:
        error = np.abs(heatmaps - truth)
        found["out_l1_error"] = error.sum(axis=(1, 2, 3, 4))
        found["out_pos_l1_error"] = np.where(truth > 0, error, 0).sum(axis=(1, 2, 3, 4))
    return found


def _projections(case: ParityCase) -> dict[str, NDArray[Any]]:
    """Project each pair of inputs `in_local_X`, `in_origin_X`."""
    found: dict[str, NDArray[Any]] = {}
    for name in case.inputs:
        if name.startswith("in_local_"):
            key = name.removeprefix("in_local_")
            joints, references = (torch.from_numpy(case.inputs[f"in_{part}_{key}"]) for part in ("local", "origin"))
            anchors, in_view = unrealego_projection(joints, references)
            found[f"out_anchor_{key}"] = anchors.numpy()
            found[f"out_valid_{key}"] = in_view.numpy().astype(np.int32)
    return found


def _pose_config(case: ParityCase) -> EgoPoseFormerConfig:
    config = case.config
    transformer, neck = config["transformer_cfg"], config["encoder_cfg"]["neck_cfg"]
    if config["camera_model"] != "unrealego":
        raise CaseError(f"{case.path}: camera_model '{config['camera_model']}'; published is only unrealego")
    return EgoPoseFormerConfig(
        resnet=_resnet(case),
        out_stride=config["feat_down_stride"],
        neck_channels=neck["out_channels"],
        num_views=config["num_views"],
        num_joints=config["num_joints"],
        image_size=tuple(config["image_size"]),
        dim=config["embed_dims"],
        num_heads=transformer["cross_attn_cfg"]["num_heads"],
        spatial_heads=transformer["spatial_attn_cfg"]["num_heads"],
        ffn_dim=transformer["ffn_cfg"]["feedforward_dims"],
        ffn_layers=transformer["ffn_cfg"]["num_fcs"],
        num_layers=config["num_former_layers"],
        proposal_dim=config["mlp_dims"],
        proposal_layers=config["num_mlp_layers"],
        regression_layers=config["num_pred_mlp_layers"],
        coordinate_range=(tuple(config["coor_norm_min"]), tuple(config["coor_norm_max"]))
        if config["norm_mlp_pred"]
        else None,
    )


def _heatmap_config(case: ParityCase) -> EgoPoseFormerConfig:
    encoder = case.config["encoder_cfg"]
    rows, columns = case.inputs["in_img"].shape[-2:]
    return EgoPoseFormerConfig(
        resnet=_resnet(case),
        out_stride=encoder["resnet_cfg"]["out_stride"],
        neck_channels=encoder["neck_cfg"]["out_channels"],
        image_size=(rows, columns),
        num_heatmaps=case.config["num_heatmap"],
    )


def _resnet(case: ParityCase) -> ResNetConfig:
    name = case.config["encoder_cfg"]["resnet_cfg"]["model_name"]
    if name not in RESNETS:
        raise CaseError(f"{case.path}: model_name '{name}'; expected one of {', '.join(RESNETS)}")
    return RESNETS[name]
