"""`perception weights import`: published layouts come in, and what a pickle wants to run does not run."""

from __future__ import annotations

import argparse
import io
import os
import pickle
import resource
import subprocess
import sys
import tarfile
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


def archive_of(path: Path, pickled: bytes, compression: int = zipfile.ZIP_STORED) -> Path:
    """Write a torch archive around a pickle made by hand."""
    with zipfile.ZipFile(path, "w", compression) as archive:
        archive.writestr("archive/data.pkl", pickled)
        archive.writestr("archive/version", "3\n")
    return path


@pytest.mark.parametrize(
    ("program", "module"),
    [
        (b"cos\nsystem\n", "os.system"),
        (b"cposix\nsystem\n", "posix.system"),
        (b"c__builtin__\neval\n", "eval"),  # as Python 2 names it
        (b"cbuiltins\ngetattr\n", "getattr"),
        (b"cimportlib\nimport_module\n", "importlib"),
        (b"cpickle\nloads\n", "pickle.loads"),
        (b"crunpy\nrun_path\n", "runpy"),
        (b"ccommands\ngetoutput\n", "subprocess"),  # Python 2's name of it
        (b"\x8c\x02os\x8c\x06system\x93", "os.system"),  # STACK_GLOBAL
    ],
)
def test_ways_to_name_a_function_are_all_refused(program: bytes, module: str, tmp_path: Path) -> None:
    marker = tmp_path / "was_run"
    path = archive_of(tmp_path / "bad.pth", b"\x80\x04" + program + b"(S'touch " + str(marker).encode() + b"'\ntR.")
    with pytest.raises(WeightsError, match=r"refused: it asks to use"):
        read_checkpoint(path)
    assert not marker.exists()


def test_instances_build_and_newobj_run_nothing(tmp_path: Path) -> None:
    """INST, OBJ, NEWOBJ_EX and BUILD on classes of the standard library and of other packages."""
    marker = tmp_path / "was_run"
    text = f"touch {marker}".encode()
    for number, program in enumerate(
        (
            b"(S'" + text + b"'\nios\nsystem\n.",
            b"(cos\nsystem\nS'" + text + b"'\no.",
            b"csubprocess\nPopen\n(S'" + text + b"'\nt\x81.",
            b"\x80\x04csubprocess\nPopen\n(S'" + text + b"'\nt}\x92.",
            b"csome_package\nThing\n)R}S'__class__'\ncos\nsystem\nsb.",
        )
    ):
        with pytest.raises(WeightsError, match="refused"):
            read_checkpoint(archive_of(tmp_path / f"bad{number}.pth", program))
    assert not marker.exists()


def test_a_pickle_inside_a_pickle_stays_bytes(tmp_path: Path) -> None:
    marker = tmp_path / "was_run"
    inner = pickle.dumps(Runs(os.system, f"touch {marker}"))
    torch.save({"state_dict": {"a": torch.ones(1)}, "blob": inner, "object": Callback()}, tmp_path / "nested.pth")
    assert read_checkpoint(tmp_path / "nested.pth").keys() == {"a"}
    assert not marker.exists()


@pytest.mark.parametrize("old_format", [True, False])
def test_both_of_torchs_formats_refuse_a_payload(old_format: bool, tmp_path: Path) -> None:
    marker = tmp_path / "was_run"
    content = {"state_dict": {"a": torch.ones(1)}, "extra": Runs(os.system, f"touch {marker}")}
    torch.save(content, tmp_path / "bad.pth", _use_new_zipfile_serialization=not old_format)
    with pytest.raises(WeightsError):
        read_checkpoint(tmp_path / "bad.pth")
    assert not marker.exists()


def test_plain_weights_in_the_format_before_torch_1_6_are_read(tmp_path: Path) -> None:
    torch.save({"state_dict": {"a": torch.arange(3.0)}}, tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    torch.testing.assert_close(read_checkpoint(tmp_path / "old.pth")["a"], torch.arange(3.0))


def test_a_tar_of_the_first_torch_versions_is_one_clear_error(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "ancient.pth", "w") as archive:
        info = tarfile.TarInfo("storages")
        data = pickle.dumps(Runs(os.system, f"touch {tmp_path / 'was_run'}"))
        info.size = len(data)
        archive.addfile(info, io.BytesIO(data))
    with pytest.raises(WeightsError, match=r"ancient\.pth"):
        read_checkpoint(tmp_path / "ancient.pth")
    assert not (tmp_path / "was_run").exists()


def test_archives_that_unpack_to_more_than_they_are_are_refused_before_they_are_unpacked(tmp_path: Path) -> None:
    zeros = b"\x80\x02" + b"N0" * 5_000_000 + b"}."
    packed = archive_of(tmp_path / "bomb.pth", zeros, zipfile.ZIP_DEFLATED)
    assert packed.stat().st_size < 100_000
    with pytest.raises(WeightsError, match=r"refused: 'archive/data.pkl' is compressed"):
        read_checkpoint(packed)


@pytest.mark.parametrize(
    "pickled",
    [
        b"\x80\x02}r\xff\xff\xff\x7f.",  # memo entry number 2 ** 31
        b"\x80\x05\x96\x00\x00\x00\x00\x00\x01\x00\x00.",  # a bytearray of 2 ** 40
        b"\x80\x04\x8e\x00\x00\x00\x00\x00\x01\x00\x00.",  # bytes of 2 ** 40
        b"\x80\x02}" + b"2" * 100_000 + b".",
        b"\x80\x02" + b"(" * 100_000 + b".",
    ],
    ids=["memo", "bytearray", "bytes", "duplicates", "marks"],
)
def test_a_pickle_that_reserves_memory_for_nothing_is_refused(pickled: bytes, tmp_path: Path) -> None:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(WeightsError):
        read_checkpoint(archive_of(tmp_path / "bad.pth", pickled))
    grown_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert grown_kib < 200_000


def test_a_tensor_that_repeats_its_storage_without_end_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "expanded.pth"
    torch.save({"state_dict": {"a": torch.ones(1).expand(1000)}, "object": Callback()}, path)
    with pytest.raises(WeightsError, match="out of a storage of 4 bytes"):
        read_checkpoint(path)


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 cut", b"\x80\x02}q\x00.", b"{}"])
def test_a_file_that_is_no_checkpoint_is_one_clear_error(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "checkpoint.pth").write_bytes(content)
    with pytest.raises(WeightsError, match=r"checkpoint\.pth"):
        read_checkpoint(tmp_path / "checkpoint.pth")


def test_a_missing_file_is_one_clear_error(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="cannot be read"):
        read_checkpoint(tmp_path / "missing.pth")
