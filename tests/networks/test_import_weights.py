"""`perception weights import`: published layouts come in, and what a pickle wants to run does not run."""

from __future__ import annotations

import argparse
import os
import pickle
import subprocess
import sys
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from perception.errors import WeightsError
from perception.networks.card import find_card
from perception.networks.checkpoint import read_checkpoint
from perception.networks.ddrnet import DDRNET_COMPACT, DDRNet
from perception.networks.import_weights import import_weights
from perception.networks.load import load_network
from perception.networks.p2at import P2AT, P2AT_COMPACT
from perception.networks.weights import fill


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PERCEPTION_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture(scope="module")
def published() -> dict[str, Tensor]:
    """The state of a training wrapper around the compact DDRNet: a prefix, an auxiliary head, a loss buffer."""
    network = DDRNet(DDRNET_COMPACT)  # with the auxiliary head
    fill(network, "model.")
    state = {f"model.{name}": value for name, value in network.state_dict().items()}
    return state | {"loss.criterion.weight": torch.ones(19)}


@pytest.mark.parametrize("wrapper", ["", "state_dict", "model_state"])
@pytest.mark.parametrize("outer", ["", "module."])
def test_a_checkpoint_of_training_code_becomes_a_weights_file(
    published: dict[str, Tensor], tmp_path: Path, wrapper: str, outer: str
) -> None:
    state = OrderedDict((outer + name, value) for name, value in published.items())
    path = tmp_path / "best_val.pth"
    torch.save({wrapper: state, "epoch": 3} if wrapper else state, path)
    imported = import_weights(path, "ddrnet_compact")
    assert f"{outer}loss.criterion.weight" in imported.dropped
    assert imported.dropped[f"{outer}model.seghead_extra.conv2.bias"] == (19,)
    loaded = load_network(imported.address, DDRNet)
    assert not loaded.untrained
    assert loaded.card == find_card("ddrnet_compact")
    torch.testing.assert_close(loaded.network.state_dict()["conv1.0.weight"], published["model.conv1.0.weight"])


@pytest.mark.parametrize("prefix", ["model.", "module.model.", ""])
def test_a_checkpoint_of_p2at_with_its_two_training_heads_is_imported(tmp_path: Path, prefix: str) -> None:
    network = P2AT(P2AT_COMPACT)  # with the auxiliary heads
    fill(network)
    state = {prefix + name: value for name, value in network.state_dict().items()}
    torch.save({"epoch": 7, "state_dict": {**state, "criterion.weight": torch.ones(19)}}, tmp_path / "best.pth")
    imported = import_weights(tmp_path / "best.pth", "p2at")
    assert imported.card.name == "p2at_compact"
    assert f"{prefix}aux_seg_head2.conv2.bias" in imported.dropped
    loaded = load_network(imported.address, P2AT)
    torch.testing.assert_close(loaded.network.conv1_x.weight, network.conv1_x.weight.detach())


def test_a_network_name_finds_the_one_card_that_fits(published: dict[str, Tensor], tmp_path: Path) -> None:
    torch.save(published, tmp_path / "checkpoint.pth")
    assert import_weights(tmp_path / "checkpoint.pth", "ddrnet").card.name == "ddrnet_compact"


def test_what_does_not_fit_is_listed_by_name_and_shape(published: dict[str, Tensor], tmp_path: Path) -> None:
    state = dict(published)
    del state["model.layer1.0.conv1.weight"]
    state["model.conv1.0.bias"] = torch.zeros(7)
    state["model.surprise"] = torch.zeros(2)
    torch.save(state, tmp_path / "checkpoint.pth")
    with pytest.raises(WeightsError) as raised:
        import_weights(tmp_path / "checkpoint.pth", "ddrnet_compact")
    assert "missing (layer1.0.conv1.weight)" in str(raised.value)
    assert "unexpected (surprise)" in str(raised.value)
    assert "conv1.0.bias (7,), expected (16,)" in str(raised.value)


class Callback:
    """An object of the training framework, as Lightning and mmcv leave them in their files."""

    def __init__(self) -> None:
        self.best = {"monitor": "mIoU"}


def test_objects_of_other_packages_become_placeholders(published: dict[str, Tensor], tmp_path: Path) -> None:
    path = tmp_path / "lightning.ckpt"
    extras = {"callbacks": [Callback()], "hyper_parameters": argparse.Namespace(lr=0.1), "where": Path("/data")}
    transposed = {
        "model.tied": torch.arange(6.0).reshape(2, 3).t(),
        "model.p": torch.nn.Parameter(torch.ones(2).half()),
    }
    torch.save({**extras, "state_dict": {**published, **transposed}}, path)
    with pytest.raises(pickle.UnpicklingError):
        torch.load(path, weights_only=True)
    state = read_checkpoint(path)
    assert state.keys() == published.keys() | transposed.keys()
    for name, value in [*published.items(), *transposed.items()]:
        torch.testing.assert_close(state[name], value.detach())


class Runs:
    """A payload: unpickling it calls `function`."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.call = (function, arguments)

    def __reduce__(self) -> Any:
        return self.call


@pytest.mark.parametrize(
    "payload",
    [
        lambda marker: Runs(os.system, f"touch {marker}"),
        lambda marker: Runs(subprocess.call, ["touch", marker]),
        lambda marker: Runs(eval, f"open({marker!r}, 'w')"),
        lambda marker: Runs(exec, f"open({marker!r}, 'w')"),
        lambda marker: Runs(open, marker, "w"),
        lambda marker: Runs(__import__, "this"),
        lambda marker: Runs(getattr, "", "join"),
        lambda marker: Runs(sys.setrecursionlimit, 50),
    ],
    ids=["os.system", "subprocess", "eval", "exec", "open", "import", "getattr", "sys"],
)
@pytest.mark.parametrize("beside_weights", [True, False])
def test_a_malicious_pickle_is_refused_and_does_nothing(payload: Any, beside_weights: bool, tmp_path: Path) -> None:
    marker = tmp_path / "was_run"
    bad = payload(str(marker))
    limit = sys.getrecursionlimit()
    torch.save({"state_dict": {"a": torch.ones(1)}, "extra": bad} if beside_weights else bad, tmp_path / "bad.pth")
    with pytest.raises(WeightsError, match=r"refused: it asks to use"):
        read_checkpoint(tmp_path / "bad.pth")
    assert not marker.exists()
    assert sys.getrecursionlimit() == limit


def test_a_payload_of_a_third_package_is_not_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module = tmp_path / "evil_package.py"
    module.write_text("from pathlib import Path\nPath(__file__).with_name('was_imported').touch()\ndef f(): pass\n")
    monkeypatch.syspath_prepend(tmp_path)
    data = pickle.dumps({"state_dict": {}}, protocol=2)[:-1] + b"cevil_package\nf\n)R0."  # calls evil_package.f()
    with zipfile.ZipFile(tmp_path / "bad.pth", "w") as archive:
        archive.writestr("archive/data.pkl", data)
    with pytest.raises(WeightsError):
        read_checkpoint(tmp_path / "bad.pth")
    assert not (tmp_path / "was_imported").exists()
    assert "evil_package" not in sys.modules


def test_a_tensor_that_reaches_outside_its_storage_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.pth"
    torch.save({"state_dict": {"a": torch.ones(4)}, "object": Callback()}, path)
    with zipfile.ZipFile(path) as archive:
        entries = {info.filename: archive.read(info) for info in archive.infolist()}
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in entries.items():
            # (4,) is written as K\x04\x85: claim 200 elements
            archive.writestr(name, data.replace(b"K\x04\x85", b"K\xc8\x85") if name.endswith("data.pkl") else data)
    with pytest.raises(WeightsError, match="outside its storage"):
        read_checkpoint(path)


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 cut", b"\x80\x02}q\x00.", b"{}"])
def test_a_file_that_is_no_checkpoint_is_one_clear_error(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "checkpoint.pth").write_bytes(content)
    with pytest.raises(WeightsError, match=r"checkpoint\.pth"):
        read_checkpoint(tmp_path / "checkpoint.pth")


def test_a_missing_file_is_one_clear_error(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="cannot be read"):
        read_checkpoint(tmp_path / "missing.pth")
