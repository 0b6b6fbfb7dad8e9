"""The weights that come with the package: whole, of this code's recipes, and able to see."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from perception.networks.address import BUNDLED, file_sha256
from perception.networks.card import find_card
from perception.networks.load import SYNTHETIC, load_network
from perception.networks.weights import read_weights
from perception.training import file
from perception.training.pictures import street_pictures
from perception.training.segmentation import SegmentationTask
from perception.training.tasks import TASKS, training_of
from perception.training.world import Samples, world_rig

NAMES = {path.stem: path for path in sorted(BUNDLED.glob("*.safetensors"))}


@pytest.mark.parametrize("name", NAMES)
def test_a_bundled_file_loads_strictly_and_says_what_it_is(name: str) -> None:
    loaded = load_network(f"bundled:{name}", nn.Module)
    assert loaded.card == find_card(name)
    assert not loaded.untrained
    assert loaded.notes == (SYNTHETIC,)
    assert loaded.model_id == f"{name} sha256:{file_sha256(NAMES[name])[:12]}"
    assert NAMES[name].stat().st_size < (12.2e6 if name.startswith("deepinteraction") else 6.2e6)
    state, _ = read_weights(NAMES[name])
    assert all(value.dtype == torch.float16 for value in state.values() if value.is_floating_point())


@pytest.mark.parametrize("network", TASKS)
def test_a_bundled_file_was_made_by_the_recipe_that_the_code_holds(network: str) -> None:
    recipe, _ = training_of(network)
    if recipe.card not in NAMES:
        pytest.skip(f"no bundled weights of {recipe.card} yet")
    _, metadata = read_weights(NAMES[recipe.card])
    trained = metadata["trained"]
    assert trained["command"] == f"perception train {network} --world simulated_car"
    assert trained["recipe"] == recipe.told()
    assert {"perception", "torch", "numpy", "python"} <= set(trained["versions"])
    assert trained["metrics"]


@pytest.mark.parametrize("network", TASKS)
def test_what_a_bundled_file_holds_gives_its_bytes_when_written_again(
    network: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe, _ = training_of(network)
    loaded = load_network(f"bundled:{recipe.card}", nn.Module)
    _, metadata = read_weights(NAMES[recipe.card])
    trained = metadata["trained"]
    monkeypatch.setattr(file, "versions", lambda: trained["versions"])  # those that made it, whatever runs here
    provenance = {key: trained[key] for key in ("command", "world", "world_version")}
    again = tmp_path / "again.safetensors"
    file.write_trained(again, loaded.network, loaded.card, recipe, trained["metrics"], provenance)
    assert file_sha256(again) == file_sha256(NAMES[recipe.card])


@pytest.mark.parametrize("network", ["dsvt", "flatformer", "deepinteraction"])
def test_boxes_of_detectors_have_the_place_and_the_size_of_what_they_hold(network: str) -> None:
    recipe, make_task = training_of(network)
    task = make_task(recipe, "simulated_car", torch.device("cpu"))
    task.network.load_state_dict(load_network(f"bundled:{recipe.card}", nn.Module).network.state_dict())
    task.network.eval()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(f"{type(task).__module__}.VALIDATED", 3)
        metrics = task.evaluate()
    assert metrics["mATE"] < 0.25, metrics
    assert metrics["mASE"] < 0.2, metrics  # that of boxes 7 % too small each way


@pytest.mark.parametrize("name", ["ddrnet_compact", "p2at_compact"])
def test_segmentation_sees_a_street_that_it_never_saw(name: str, tmp_path: Path) -> None:
    if name not in NAMES:
        pytest.skip(f"no bundled weights of {name} yet")
    recipe, _ = training_of(find_card(name).network)
    samples = Samples(world_rig("simulated_car"), "street", street_pictures, tmp_path)
    task = SegmentationTask(
        load_network(f"bundled:{name}", nn.Module).network, recipe, samples, [], torch.device("cpu"),
        validation_worlds=1,
    )  # fmt: skip
    metrics = task.evaluate()
    assert metrics["classes"] >= 10
    assert metrics["mIoU"] > 0.5  # one class everywhere, the best that knows nothing, reaches less than 0.05
