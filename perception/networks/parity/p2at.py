"""Parity cases of P2AT: the published configuration to ours, and the network's outputs to the case's names."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from perception.errors import CaseError, did_you_mean
from perception.networks.layers.resnet import RESNETS
from perception.networks.p2at import P2AT, P2ATConfig, enlarged_logits
from perception.networks.parity.case import ParityCase
from perception.networks.part import Part, RunPart
from perception.ops.image import IMAGENET, normalised


def build(case: ParityCase) -> P2AT:
    """Make the network of the case's configuration."""
    return P2AT(_config(case)).eval()


def parts(case: ParityCase, network: nn.Module) -> Mapping[str, Part]:
    """List what `outputs` runs."""
    assert isinstance(network, P2AT)
    return network.parts()


def outputs(case: ParityCase, network: nn.Module, run: RunPart) -> dict[str, NDArray[Any]]:
    """Run the case's tensor, or the images where it has only those; the mask is taken at the size of the image."""
    if "in_x" in case.inputs:
        image = torch.from_numpy(case.inputs["in_x"])
    else:  # the Cityscapes loader gives BGR, the CamVid loader RGB; the case says which
        bgr = "BGR" in str(case.notes["inputs"].get("in_image"))
        image = normalised(case.inputs["in_image"][..., :: -1 if bgr else 1], IMAGENET)
    logits = run("segment", {"image": image})["logits"]
    final = enlarged_logits(logits, (image.shape[2], image.shape[3]))
    return {
        "out_final_seg_head": logits.numpy(),
        "out_final_sub": final.numpy(),
        "out_pred": final.argmax(1).numpy().astype(np.uint8),
    }


def _config(case: ParityCase) -> P2ATConfig:
    config = case.config
    backbone, attention, kernels = config["backbone"], config["ssa"], config["decoder_kernels"]
    if backbone not in RESNETS:
        hint = did_you_mean(backbone, RESNETS)
        raise CaseError(f"{case.path}: backbone '{backbone}'; expected one of {', '.join(RESNETS)}.{hint}")
    return P2ATConfig(
        encoder=RESNETS[backbone],
        num_classes=config["num_classes"],
        dim=config["dim"],
        attention_layers=attention["num_layers"],
        num_heads=attention["num_heads"],
        key_dim=attention["key_dim"],
        value_ratio=attention["attn_ratio"],
        mlp_ratio=attention["mlp_ratio"],
        decoder_kernels=(kernels["P1"], kernels["P2"], kernels["P3"]),
        decoder_expand=config["decoder_expand"],
        context_kernel=config["gce_kernel"],
        position_length=config["pos_embed_initial_shape"],
        auxiliary_heads=any(".aux_seg_head1." in f".{name}" for name, _ in case.notes["params"]),
    )
