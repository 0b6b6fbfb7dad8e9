"""Weights: filled by name, loaded strictly, stored as safetensors."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from perception.errors import WeightsError
from perception.networks.weights import fill, filled_array, filled_state, load_strictly, read_weights, save_weights

DATA = os.environ.get("PERCEPTION_DATA")


@pytest.mark.skipif(DATA is None, reason="PERCEPTION_DATA is not set: the recorder's filling is not here")
@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("conv.weight", (8, 4, 3, 3)),
        ("bn.weight", (16,)),
        ("bn.bias", (16,)),
        ("bn.running_mean", (16,)),
        ("bn.running_var", (16,)),
        ("bn.num_batches_tracked", ()),
        ("layer_scale.gamma", (5,)),
        ("model.scale", ()),
        ("weight", ()),
        ("position_embedding", (1, 7, 3)),
    ],
)
def test_a_filled_array_equals_the_one_of_the_recorder_of_the_cases(name: str, shape: tuple[int, ...]) -> None:
    spec = importlib.util.spec_from_file_location("fill", Path(DATA or ".") / "golden" / "fill.py")
    assert spec is not None
    assert spec.loader is not None
    recorder = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(recorder)
    expected = recorder.fill_array(name, shape)
    ours = filled_array(name, shape)
    assert ours.dtype == expected.dtype
    np.testing.assert_array_equal(ours, expected)


def test_a_known_name_holds_known_numbers() -> None:
    first = filled_array("conv1.0.weight", (2, 3, 3, 3)).reshape(-1)[:3]  # printed by golden/fill.py
    expected = np.array([-0.2353304773569107, -0.07901647686958313, 0.22321803867816925], np.float32)
    np.testing.assert_array_equal(first, expected)


def test_overrides_come_after_filling_and_kept_entries_are_left_out() -> None:
    shapes = {"a.weight": (3,), "b.bias": (2,), "index": (4,)}
    state = filled_state(shapes, keep=["index"], overrides={"a.weight": {"mul": 2.0}, "b.bias": {"add": -1.0}})
    assert list(state) == ["a.weight", "b.bias"]
    np.testing.assert_array_equal(state["a.weight"], 2 * filled_array("a.weight", (3,)))
    np.testing.assert_array_equal(state["b.bias"], filled_array("b.bias", (2,)) - 1)
    assert state["a.weight"].dtype == torch.float32


@pytest.mark.parametrize("overrides", [{"c.bias": {"add": 1.0}}, {"a.bias": {"div": 2.0}}])
def test_an_override_of_nothing_or_of_another_kind_is_refused(overrides: dict[str, dict[str, float]]) -> None:
    with pytest.raises(WeightsError, match="override"):
        filled_state({"a.bias": (2,)}, overrides=overrides)


def test_loading_names_what_is_missing_unexpected_and_misshapen() -> None:
    first = nn.Linear(2, 3)
    network = nn.Sequential(first, nn.Linear(3, 1))
    state = {
        "0.weight": torch.zeros(3, 2),
        "0.bias": torch.zeros(4),
        "1.weight": torch.zeros(1, 3),
        "extra": torch.zeros(1),
    }
    before = first.weight.detach().clone()
    with pytest.raises(WeightsError) as raised:
        load_strictly(network, state, source="car.safetensors")
    text = str(raised.value)
    assert text.startswith("car.safetensors: not the weights of this Sequential")
    assert "1 missing (1.bias)" in text
    assert "1 unexpected (extra)" in text
    assert "0.bias (4,), expected (3,)" in text
    torch.testing.assert_close(first.weight, before)  # nothing was loaded


def test_filling_a_network_leaves_its_tables_and_counters_alone() -> None:
    network = nn.BatchNorm1d(4)
    network.register_buffer("table", torch.arange(3))
    fill(network, prefix="model.")
    np.testing.assert_array_equal(network.weight.detach(), filled_array("model.weight", (4,)))
    torch.testing.assert_close(network.get_buffer("table"), torch.arange(3))
    assert int(network.get_buffer("num_batches_tracked")) == 0


def test_weights_and_metadata_survive_the_file(tmp_path: Path) -> None:
    state = {"a": torch.arange(6.0).reshape(2, 3).t(), "b": torch.tensor(3), "c": torch.ones(2, dtype=torch.float16)}
    path = tmp_path / "deep" / "weights.safetensors"
    save_weights(path, state, {"seed": 3, "classes": ["car", "road"]})
    read, metadata = read_weights(path)
    assert metadata == {"seed": 3, "classes": ["car", "road"]}
    assert read.keys() == state.keys()
    for name, value in state.items():
        torch.testing.assert_close(read[name], value)
    assert [file.name for file in path.parent.iterdir()] == ["weights.safetensors"]


@pytest.mark.parametrize("content", [None, b"", b"\x80\x04 a pickle", b"\xff" * 100])
def test_a_missing_or_damaged_file_is_one_clear_error(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "weights.safetensors"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(WeightsError, match="not a safetensors file"):
        read_weights(path)


def test_equal_content_gives_equal_bytes(tmp_path: Path) -> None:
    # The order of metadata differs from call to call in the library: six keys have 720 orders.
    metadata = {key: [key, 1.5] for key in ("card", "trained", "made_from", "a", "é", "c")}
    files = [tmp_path / f"{number}.safetensors" for number in range(4)]
    for file in files:
        save_weights(file, {"x": torch.arange(3.0), "n": torch.tensor(7)}, metadata)
    assert len({file.read_bytes() for file in files}) == 1
    state, read = read_weights(files[0])
    assert read == metadata
    assert torch.equal(state["x"], torch.arange(3.0))
