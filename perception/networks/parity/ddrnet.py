"""Parity cases of DDRNet: the published configuration to ours, and the network's outputs to the case's names."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from perception.errors import CaseError
from perception.networks.ddrnet import DDRNet, DDRNetConfig, enlarged_logits
from perception.networks.parity.case import ParityCase
from perception.networks.part import Part, RunPart
from perception.ops.image import IMAGENET, normalised

_FIXED = {"block": "BasicBlock", "bn_eps": 1e-5, "align_corners": False, "dappm_pool_count_include_pad": True}
"""What no published variant changes, and our network therefore does not configure."""


def build(case: ParityCase) -> DDRNet:
    """Make the network of the case's configuration."""
    return DDRNet(_config(case)).eval()


def parts(case: ParityCase, network: nn.Module) -> Mapping[str, Part]:
    """List what `outputs` runs."""
    assert isinstance(network, DDRNet)
    return network.parts()


def outputs(case: ParityCase, network: nn.Module, run: RunPart) -> dict[str, NDArray[Any]]:
    """Run the case's tensor, or the image where it has only that; the mask is taken at the size of the image."""
    if "in_x" in case.inputs:
        image = torch.from_numpy(case.inputs["in_x"])
    else:
        image = normalised(case.inputs["in_image"][..., ::-1], IMAGENET)
    logits = run("segment", {"image": image})["logits"]
    enlarged = enlarged_logits(logits, (image.shape[2], image.shape[3]))
    return {"out_logits": logits.numpy(), "out_pred": enlarged.argmax(1).numpy().astype(np.uint8)}


def _config(case: ParityCase) -> DDRNetConfig:
    config = case.config
    for key, value in _FIXED.items():
        if config.get(key, value) != value:
            raise CaseError(f"{case.path}: {key} is {config[key]}; every published DDRNet has {value}")
    if config["highres_planes"] != 2 * config["planes"]:
        raise CaseError(
            f"{case.path}: highres_planes {config['highres_planes']}; the branches add up only at twice "
            f"the planes ({2 * config['planes']})"
        )
    first, second, third, fourth = config["layers"]
    names = [f".{name}" for name, _ in case.notes["params"]]
    rounds = 2 if any(".layer3_2." in name for name in names) else 1
    return DDRNetConfig(
        num_classes=config["num_classes"],
        depths=(first, second, third, fourth),
        rounds=rounds,
        detail_depths=(2, 2) if rounds == 1 else (third // rounds, fourth),
        planes=config["planes"],
        pool_planes=config["spp_planes"],
        head_planes=config["head_planes"],
        auxiliary_head=any(".seghead_extra." in name for name in names),  # a deployed checkpoint has none
    )
