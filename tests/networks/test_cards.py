"""Cards, addresses and `load_network`: what a launch file names, found, checked and built."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from pydantic import BaseModel, ValidationError
from torch import nn

from perception.errors import WeightsError
from perception.networks import address as address_module
from perception.networks.address import Address, WeightsAddress, card_of, file_sha256, find_weights, parse_address
from perception.networks.card import Card, card_from, find_card, shipped_cards
from perception.networks.ddrnet import DDRNET_COMPACT, DDRNet
from perception.networks.load import build_network, load_network
from perception.networks.p2at import P2AT
from perception.networks.weights import save_weights

DIGEST = "0123456789abcdef" * 4


@pytest.fixture(autouse=True)
def folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Path]:
    """The four places that are searched, empty, in their order."""
    places = {name: tmp_path / name for name in ("launch", "named", "cache/weights", "package")}
    for place in places.values():
        place.mkdir(parents=True)
    monkeypatch.setenv("PERCEPTION_WEIGHTS", str(places["named"]))
    monkeypatch.setenv("PERCEPTION_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(address_module, "BUNDLED", places["package"])
    return places


def write_weights(path: Path, *, value: float = 0.0, card: str = "ddrnet_compact") -> Path:
    described = find_card(card)
    network = build_network(described, nn.Module)
    state = {name: torch.full_like(tensor, value) for name, tensor in network.state_dict().items()}
    save_weights(path, state, {"card": described.model_dump(mode="json")})
    return path


@pytest.mark.parametrize("name", sorted(shipped_cards()))
def test_a_shipped_card_describes_a_network_that_can_be_built(name: str) -> None:
    card = find_card(name)
    assert card.name == name
    with torch.device("meta"):
        network = build_network(card, nn.Module)
    classes = getattr(network.config, "num_classes", len(card.classes))
    assert classes == len(card.classes)
    assert len(set(card.class_names)) == len(card.classes)


@pytest.mark.parametrize("name", [name for name in shipped_cards() if name.endswith("_compact")])
def test_a_compact_card_has_at_most_its_share_of_parameters(name: str) -> None:
    with torch.device("meta"):
        network = build_network(find_card(name), nn.Module)
    most = 6_000_000 if name.startswith("deepinteraction") else 3_000_000
    assert sum(parameter.numel() for parameter in network.parameters()) <= most


def test_cards_and_addresses_need_no_torch() -> None:
    code = "import sys, perception.networks.address, perception.networks.card as c; c.find_card('ddrnet_compact'); "
    result = subprocess.run(
        [sys.executable, "-c", code + "print('torch' in sys.modules)"], capture_output=True, check=True
    )
    assert result.stdout.strip() == b"False"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("bundled:ddrnet", Address("bundled", "ddrnet")),
        (f"sha256:{DIGEST}", Address("sha256", DIGEST)),
        ("sub/a.safetensors", Address("path", "sub/a.safetensors")),
        ("filled:ddrnet_compact", Address("filled", "ddrnet_compact")),
    ],
)
def test_the_four_forms_of_an_address(text: str, expected: Address) -> None:
    assert parse_address(text) == expected
    assert str(expected) == text


@pytest.mark.parametrize("text", ["", "bundled:", "sha256:xyz", "sha256:0123", "weights.pth", "filed:ddrnet", "a:b"])
def test_anything_else_is_refused_where_the_launch_file_is_read(text: str) -> None:
    class Settings(BaseModel):
        weights: WeightsAddress

    with pytest.raises(WeightsError, match="expected bundled:NAME"):
        parse_address(text)
    with pytest.raises(ValidationError, match="expected bundled:NAME"):
        Settings(weights=text)


def test_folders_are_searched_in_their_order(folders: dict[str, Path]) -> None:
    names = list(folders)
    for name in reversed(names):
        (folders[name] / "car.safetensors").write_bytes(name.encode())
        assert find_weights(parse_address("bundled:car"), folders["launch"]).parent == folders[name]
        assert find_weights(parse_address("car.safetensors"), folders["launch"]).parent == folders[name]


def test_a_hash_finds_the_file_of_any_name(folders: dict[str, Path]) -> None:
    path = write_weights(folders["cache/weights"] / "whatever.safetensors")
    digest = file_sha256(path)
    assert find_weights(parse_address(f"sha256:{digest}")) == path
    assert find_weights(parse_address(f"sha256:{digest[:12]}")) == path
    with pytest.raises(WeightsError):
        find_weights(parse_address(f"sha256:{DIGEST}"))


def test_missing_weights_print_the_command_that_imports_them(folders: dict[str, Path]) -> None:
    with pytest.raises(WeightsError) as raised:
        load_network("bundled:nowhere", DDRNet, folders["launch"])
    assert "perception weights import CHECKPOINT --network" in str(raised.value)
    assert str(folders["named"]) in str(raised.value)


def test_filled_weights_say_that_they_are_untrained() -> None:
    loaded = load_network("filled:ddrnet_compact", DDRNet)
    assert loaded.untrained
    assert loaded.model_id == "ddrnet_compact (untrained)"
    assert not loaded.network.training


def test_a_weights_file_brings_its_card(folders: dict[str, Path]) -> None:
    path = write_weights(folders["launch"] / "car.safetensors", value=0.25)
    loaded = load_network("car.safetensors", DDRNet, folders["launch"])
    assert not loaded.untrained
    assert loaded.card == find_card("ddrnet_compact") == card_of("car.safetensors", folders["launch"])
    assert loaded.model_id == f"ddrnet_compact sha256:{file_sha256(path)[:12]}"
    assert float(loaded.network.state_dict()["final_layer.conv2.bias"][0]) == 0.25


def test_weights_of_another_network_are_refused(folders: dict[str, Path]) -> None:
    with pytest.raises(WeightsError, match="network ddrnet; this node runs P2AT"):
        load_network("filled:ddrnet_compact", P2AT)
    card = find_card("ddrnet_compact").model_dump(mode="json")
    save_weights(folders["launch"] / "a.safetensors", {"x": torch.zeros(1)}, {"card": card})
    with pytest.raises(WeightsError, match="missing"):
        load_network("a.safetensors", DDRNet, folders["launch"])


def test_a_file_without_a_card_is_refused(folders: dict[str, Path]) -> None:
    save_weights(folders["launch"] / "a.safetensors", {"x": torch.zeros(1)})
    with pytest.raises(WeightsError, match="no model card"):
        load_network("a.safetensors", DDRNet, folders["launch"])
    with pytest.raises(WeightsError, match="no model card"):
        card_of("a.safetensors", folders["launch"])


def test_an_own_card_file_is_found_beside_the_launch_file(folders: dict[str, Path]) -> None:
    data = find_card("ddrnet_compact").model_dump(mode="json") | {"name": "mine"}
    (folders["launch"] / "mine.yaml").write_text(yaml.safe_dump(data))
    assert load_network("filled:mine.yaml", DDRNet, folders["launch"]).card.name == "mine"


def test_every_fault_of_a_card_is_listed() -> None:
    data = find_card("ddrnet_compact").model_dump(mode="json")
    data["netwrok"] = data.pop("network")
    data["input"]["size"] = [256]
    with pytest.raises(WeightsError) as raised:
        card_from(data, "mine.yaml")
    for expected in ("mine.yaml", "network", "netwrok", "input.image.size"):
        assert expected in str(raised.value)


def test_a_key_that_stands_twice_is_a_fault(tmp_path: Path) -> None:
    text = shipped_cards()["ddrnet_compact"].read_text()
    (tmp_path / "card.yaml").write_text(text + "licence: another\n")
    with pytest.raises(WeightsError, match="'licence' stands twice"):
        find_card("card.yaml", tmp_path)


@pytest.mark.parametrize(
    ("configuration", "says"), [({"plane": 16}, "Did you mean 'planes'"), ({"planes": "wide"}, "planes")]
)
def test_a_wrong_configuration_is_refused(configuration: dict[str, object], says: str) -> None:
    card = find_card("ddrnet_compact").model_copy(update={"configuration": configuration})
    with pytest.raises(WeightsError, match=says):
        build_network(card, DDRNet)


def test_an_unknown_card_names_the_nearest() -> None:
    with pytest.raises(WeightsError, match="Did you mean 'ddrnet_compact'"):
        find_card("ddrnet_compac")


def test_the_compact_card_is_the_compact_configuration() -> None:
    card: Card = find_card("ddrnet_compact")
    config = build_network(card, DDRNet).config
    assert (config.planes, config.pool_planes) == (DDRNET_COMPACT.planes, DDRNET_COMPACT.pool_planes)
