"""From a weights address to a network that is ready to run.

loaded = load_network(config.weights, DDRNet, launch_folder)
engines = compile_parts(loaded.network.parts(), settings, say=...)
"""

from __future__ import annotations

import dataclasses
import importlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

from pydantic import TypeAdapter, ValidationError
from torch import nn

from perception.errors import WeightsError, did_you_mean
from perception.networks.address import card_in, file_sha256, find_weights, parse_address
from perception.networks.card import Card, find_card
from perception.networks.weights import fill, load_strictly, read_weights

N = TypeVar("N", bound=nn.Module)

NETWORKS = {
    "ddrnet": "perception.networks.ddrnet:DDRNet:DDRNetConfig",
    "p2at": "perception.networks.p2at:P2AT:P2ATConfig",
    "dsvt": "perception.networks.dsvt:DSVT:DSVTConfig",
    "flatformer": "perception.networks.flatformer:FlatFormer:FlatFormerConfig",
    "deepinteraction": "perception.networks.deepinteraction:DeepInteraction:DeepInteractionConfig",
    "egoposeformer": "perception.networks.egoposeformer:EgoPoseFormer:EgoPoseFormerConfig",
    "estf": "perception.networks.estf:ESTF:ESTFConfig",
}
"""Network -> "module:class:configuration class", imported when a card asks for it."""

SYNTHETIC = "trained in the synthetic world: not for real roads"
"""What is said of weights that `perception train` made."""


@dataclass(frozen=True)
class LoadedNetwork(Generic[N]):
    """A network with its weights, in evaluation mode, and what they are."""

    network: N
    card: Card
    untrained: bool
    """The weights are filled by name: they have learned nothing, and every output must say so."""
    sha256: str
    """Of the weights file; empty where the weights are filled."""
    notes: tuple[str, ...] = ()
    """What a user should know of these weights, for the status."""

    @property
    def model_id(self) -> str:
        """What message headers carry."""
        return f"{self.card.name} (untrained)" if self.untrained else f"{self.card.name} sha256:{self.sha256[:12]}"


def load_network(address: str, expected: type[N], launch_folder: Path | None = None) -> LoadedNetwork[N]:
    """Build the network that the weights' card describes and load them.

    Args:
        address: bundled:NAME, sha256:DIGEST, PATH.safetensors or filled:CARD.
        expected: the class that the node can drive.
        launch_folder: where relative paths begin; the working folder if None.

    Raises:
        WeightsError: no such weights, of another network, damaged, or not fitting their card.
    """
    parsed = parse_address(address)
    if parsed.kind == "filled":
        card = find_card(parsed.value, launch_folder)
        network = build_network(card, expected)
        fill(network, card.prefix)
        return LoadedNetwork(_ready(network), card, untrained=True, sha256="")
    path = find_weights(parsed, launch_folder)
    state, metadata = read_weights(path)
    card = card_in(metadata, path)
    network = build_network(card, expected)
    load_strictly(network, state, source=str(path))
    untrained = bool(metadata.get("untrained"))
    notes = (SYNTHETIC,) if "trained" in metadata else ()
    return LoadedNetwork(_ready(network), card, untrained=untrained, sha256=file_sha256(path), notes=notes)


def build_network(card: Card, expected: type[N]) -> N:
    """Return the network of a card, weights still to be loaded.

    Raises:
        WeightsError: the card is of another network, or its configuration is not one.
    """
    module_name, network_name, config_name = NETWORKS[card.network].split(":")
    module = importlib.import_module(module_name)
    network_class = getattr(module, network_name)
    if not issubclass(network_class, expected):
        raise WeightsError(f"card '{card.name}' is of the network {card.network}; this node runs {expected.__name__}")
    network = network_class(_configuration(getattr(module, config_name), card))
    assert isinstance(network, expected)
    return network


def _ready(network: N) -> N:
    return network.eval().requires_grad_(False)


def _configuration(config_class: type[Any], card: Card) -> Any:
    fields = {field.name for field in dataclasses.fields(config_class)}
    for key in card.configuration:
        if key not in fields:
            hint = did_you_mean(key, fields)
            raise WeightsError(f"card '{card.name}': {card.network} has no setting '{key}' in its configuration.{hint}")
    try:
        return TypeAdapter(config_class).validate_python(card.configuration)
    except ValidationError as error:
        faults = "; ".join(f"{'.'.join(map(str, fault['loc']))}: {fault['msg']}" for fault in error.errors())
        raise WeightsError(f"card '{card.name}': configuration: {faults}") from error
