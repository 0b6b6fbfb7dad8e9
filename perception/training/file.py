"""The file that a training writes: float16 safetensors with the card, and where the weights came from."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from perception.errors import PerceptionError
from perception.networks.card import Card
from perception.networks.load import build_network
from perception.networks.weights import load_strictly, save_weights
from perception.training.recipe import Recipe
from perception.version import __version__


def rounded(state: Mapping[str, Tensor], name: str) -> dict[str, Tensor]:
    """Return the weights as float16 holds them, in their own width; whole numbers stay.

    Raises:
        PerceptionError: one is too large for float16.
    """
    found = {key: _half(value).to(value.dtype) for key, value in state.items()}
    for key, value in found.items():
        if not bool(torch.isfinite(value).all()):
            raise PerceptionError(f"training {name}: '{key}' is beyond float16's range, so it cannot be stored")
    return found


def write_trained(
    out: Path,
    network: nn.Module,
    card: Card,
    recipe: Recipe,
    metrics: Mapping[str, float],
    provenance: Mapping[str, object],
) -> None:
    """Write what the card's configuration uses of a trained network.

    Raises:
        PerceptionError: the file would be larger than the recipe allows.
        WeightsError: the network does not hold what the card needs, or the file cannot be written.
    """
    deployed = build_network(card, nn.Module)
    trained = network.state_dict()
    state = {name: _half(trained[name].detach().cpu()) for name in deployed.state_dict() if name in trained}
    load_strictly(deployed, state, f"what was trained for {card.name}")
    size_mb = sum(value.numel() * value.element_size() for value in state.values()) / 1e6
    if size_mb > recipe.limit_mb:
        raise PerceptionError(f"{out}: {size_mb:.1f} MB of weights; the recipe allows {recipe.limit_mb:g}")
    trained_by = {
        **provenance,
        "recipe": recipe.told(),
        "metrics": dict(metrics),
        "versions": versions(),
    }
    save_weights(out, state, {"card": card.model_dump(mode="json"), "trained": trained_by})


def versions() -> dict[str, str]:
    """Return those of which a training's last bits are functions."""
    return {
        "perception": __version__,
        "torch": torch.__version__,
        "numpy": np.__version__,
        "python": platform.python_version(),
    }


def _half(value: Tensor) -> Tensor:
    return value.half() if value.is_floating_point() else value


__all__ = ["rounded", "versions", "write_trained"]
