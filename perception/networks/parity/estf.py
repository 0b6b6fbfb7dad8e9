"""Parity cases of ESTF: event streams, stored event images or clips to the network's outputs under the case's names."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from perception.errors import CaseError
from perception.networks.estf import ESTF, ESTFConfig, clip_indices, normalised
from perception.networks.parity.case import ParityCase
from perception.networks.part import Part, RunPart
from perception.ops.event_frames import window_images
from perception.ops.events import Events

_FILES_PER_INDEX = 5
"""HARDVS opens file 5 i for image i of a recording."""
_TABLE_LENGTH = 60


def build(case: ParityCase) -> nn.Module:
    """Make the network of the case's configuration; nothing where the case only draws events."""
    return nn.Module() if "in_t_us" in case.inputs else ESTF(_config(case)).eval()


def parts(case: ParityCase, network: nn.Module) -> Mapping[str, Part]:
    """List what `outputs` runs."""
    return network.parts() if isinstance(network, ESTF) else {}


def outputs(case: ParityCase, network: nn.Module, run: RunPart) -> dict[str, NDArray[Any]]:
    """Run the case, from wherever in the published pipeline its inputs stand."""
    if not isinstance(network, ESTF):
        return {"out_frames_bgr": _drawn(case)}
    if "in_frames_bgr" in case.inputs:
        return _of_recording(case, network, run)
    clips = normalised(torch.from_numpy(case.inputs["in_frames_rgb"])).transpose(1, 2)
    return _scores(case, network, clips, run)


def _drawn(case: ParityCase) -> NDArray[np.uint8]:
    """Draw the window of each exposure but the last, which the published loop leaves out; channels blue, green, red."""
    inputs = case.inputs
    height, width = (int(side) for side in inputs["in_height_width"])
    events = Events.of(inputs["in_t_us"] * 1000, inputs["in_x"], inputs["in_y"], inputs["in_p"])
    windows_ns = [(int(begin) * 1000, int(end) * 1000) for begin, end in inputs["in_exposures_us"][:-1]]
    drawn = window_images(events, windows_ns, height, width)
    images = [image[..., ::-1] for image in drawn]
    return np.stack(images) if images else np.zeros((0, height, width, 3), np.uint8)


def _of_recording(case: ParityCase, network: ESTF, run: RunPart) -> dict[str, NDArray[Any]]:
    """Sample the clip of a stored recording, and run it."""
    length, total = network.config.clip_len, int(case.inputs["in_total_frames"].reshape(-1)[0])
    indices = clip_indices(total, length)
    frames = case.inputs["in_frames_bgr"]
    if max(indices) >= len(frames):
        raise CaseError(f"{case.path}: {len(frames)} images, but in_total_frames says {total}")
    clip = normalised(torch.from_numpy(np.ascontiguousarray(frames[indices][..., ::-1]))).transpose(0, 1).unsqueeze(0)
    table = [clip_indices(count, length) for count in range(1, _TABLE_LENGTH + 1)]
    return {
        "out_frame_inds": np.array(indices, np.int64) * _FILES_PER_INDEX,
        "out_sample_table": np.array(table, np.int64),
        "out_imgs_sub": clip[0].numpy(),
        **_scores(case, network, clip, run),
    }


def _scores(case: ParityCase, network: ESTF, clips: Tensor, run: RunPart) -> dict[str, NDArray[Any]]:
    features, logits = network.recognise(clips, run)
    scores = logits.softmax(1) if case.config.get("test_cfg", {}).get("average_clips") == "prob" else logits
    return {
        "out_backbone": features.numpy(),
        "out_cls_score": scores.numpy(),
        "out_prob": logits.softmax(1).numpy(),
        "out_top5": scores.argsort(dim=1, descending=True, stable=True)[:, :5].numpy(),
    }


def _config(case: ParityCase) -> ESTFConfig:
    backbone, head = case.config["backbone"], case.config["cls_head"]
    length, *sides = case.config.get("resize", (backbone["clip_len"], 240, 240))
    if length != backbone["clip_len"] or len(set(sides)) != 1 or not backbone.get("batchNorm", True):
        raise CaseError(f"{case.path}: resize {length}, {sides} with clip_len {backbone['clip_len']}: not an ESTF")
    return ESTFConfig(
        num_classes=head["num_classes"],
        clip_len=backbone["clip_len"],
        image_size=sides[0],
        dim=backbone["dim"],
        num_heads=backbone["num_heads"],
        mlp_ratio=backbone["mlp_ratio"],
        qkv_bias=backbone["qkv_bias"],
        layer_scale=bool(backbone["init_values"]),
        hidden=(head["in_channels"], head["in_channels"]),
    )
