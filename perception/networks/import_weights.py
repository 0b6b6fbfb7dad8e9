"""Turn a published checkpoint into a weights file: safetensors, with its card and where it came from."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

from torch import Tensor, nn

from perception.errors import WeightsError, did_you_mean
from perception.networks.address import file_sha256, user_cache
from perception.networks.card import Card, find_card, shipped_cards
from perception.networks.checkpoint import read_checkpoint
from perception.networks.load import NETWORKS, build_network
from perception.networks.weights import load_strictly, save_weights

_TRAINING_ONLY = ("loss.", "criterion.", "loss_fn.")
"""Beginnings of entries that a training wrapper adds around the network."""


@runtime_checkable
class ReadsOtherLayouts(Protocol):
    """A network whose checkpoints come in several layouts."""

    def from_published(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the entries in the network's own layout."""


@dataclass(frozen=True)
class Imported:
    """What was made of a checkpoint."""

    path: Path
    card: Card
    entries: int
    dropped: Mapping[str, tuple[int, ...]]
    """Published name -> shape of what the checkpoint holds and this network does not use."""

    @property
    def address(self) -> str:
        """The address for a launch file."""
        return f"sha256:{file_sha256(self.path)}"


def import_weights(checkpoint: Path, network: str, out: Path | None = None) -> Imported:
    """Read a checkpoint, fit it to a card, and write the weights file.

    Args:
        checkpoint: a published file.
        network: the name of a card, or of a network: then the one shipped card that fits is taken.
        out: the file to write; by default it goes into the user's cache, where its address finds it.

    Raises:
        WeightsError: the checkpoint cannot be read safely, or does not fit; the text lists names and shapes.
    """
    cards = _cards(network)
    state = read_checkpoint(checkpoint)
    card, fitted, dropped = _best_fit(cards, state, checkpoint)
    digest = file_sha256(checkpoint)
    out = out or user_cache() / "weights" / f"{card.name}-{digest[:12]}.safetensors"
    metadata = {
        "card": card.model_dump(mode="json"),
        "made_from": {"file": checkpoint.name, "sha256": digest, "dropped": sorted(dropped)},
    }
    save_weights(out, fitted, metadata)
    return Imported(out, card, len(fitted), dropped)


def fit(state: Mapping[str, Tensor], card: Card, source: str) -> tuple[dict[str, Tensor], dict[str, tuple[int, ...]]]:
    """Return the entries under the network's own names, and what was dropped: published name -> shape.

    Raises:
        WeightsError: entries are missing, of another shape, or unknown.
    """
    network = build_network(card, nn.Module)
    own = network.state_dict()
    prefix = _prefix(state, own, card.prefix)
    dropped: dict[str, tuple[int, ...]] = {}
    fitted: dict[str, Tensor] = {}
    for name, value in state.items():
        inner = name.removeprefix(prefix)
        foreign = not name.startswith(prefix) or name.startswith(_TRAINING_ONLY)
        if inner not in own and (foreign or inner.startswith(card.dropped or "\0")):
            dropped[name] = tuple(value.shape)
        else:
            fitted[inner] = value
    for name, value in own.items():
        if name not in fitted and not value.is_floating_point():
            fitted[name] = value  # counters and index tables that older code did not store
    if isinstance(network, ReadsOtherLayouts):
        fitted = network.from_published(fitted)
    load_strictly(network, fitted, source)
    return fitted, dropped


def _cards(network: str) -> list[Card]:
    shipped = shipped_cards()
    if network in shipped or network.endswith((".yaml", ".yml")):
        return [find_card(network)]
    cards = [card for card in map(find_card, shipped) if card.network == network]
    if not cards:
        known = [*NETWORKS, *shipped]
        raise WeightsError(f"no network or card '{network}'; known: {', '.join(known)}.{did_you_mean(network, known)}")
    return cards


def _best_fit(
    cards: list[Card], state: Mapping[str, Tensor], checkpoint: Path
) -> tuple[Card, dict[str, Tensor], dict[str, tuple[int, ...]]]:
    fits, refusals = [], []
    for card in cards:
        try:
            fits.append((card, *fit(state, card, f"{checkpoint} as {card.name}")))
        except WeightsError as error:
            refusals.append(str(error))
    if not fits:
        raise WeightsError(
            "\n".join([f"{checkpoint}: fits no card of this network:", *refusals][-len(refusals) or 1 :])
        )
    if len(fits) > 1:
        names = ", ".join(card.name for card, *_ in fits)
        raise WeightsError(f"{checkpoint}: fits several cards ({names}); name one: --network {fits[0][0].name}")
    return fits[0]


def _prefix(state: Mapping[str, Tensor], own: Iterable[str], published: str) -> str:
    """Return what stands before the names in this file: the candidate under which most entries are found."""
    names = list(own)
    found = {name[: -len(names[0])] for name in state if name == names[0] or name.endswith(f".{names[0]}")}
    candidates = [published, "", *sorted(found, key=len)]
    return max(candidates, key=lambda prefix: sum(prefix + name in state for name in names))
