"""`perception engine` and `perception weights`: thin commands over functions that are tested elsewhere."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from perception.cli.main import main
from perception.networks.ddrnet import DDRNET_COMPACT, DDRNet


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PERCEPTION_CACHE", str(tmp_path / "cache"))


def run(*arguments: str) -> int:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert isinstance(ended.value.code, int)
    return ended.value.code


def test_an_engine_is_built_listed_measured_and_cleared(capsys: pytest.CaptureFixture[str]) -> None:
    sizes = ["--axis", "batch=1", "--axis", "height=64", "--axis", "width=64"]
    assert run("engine", "build", "filled:ddrnet_compact", *sizes) == 0
    assert capsys.readouterr().out.splitlines()[-1].startswith("segment: onnxruntime ")
    assert run("engine", "list") == 0
    assert "DDRNet.segment" in capsys.readouterr().out
    assert run("engine", "bench", "filled:ddrnet_compact", *sizes, "--repeats", "1") == 0
    printed = capsys.readouterr().out
    assert "building" not in printed  # the cached engine served
    assert printed.count(" ms") == 4
    assert run("engine", "clear") == 0
    assert capsys.readouterr().out == "1 engines removed\n"


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["engine", "build", "filled:nothing"], "no card 'nothing'"),
        (["engine", "build", "filled:ddrnet_compact", "--engine", "tensort"], "no engine 'tensort'"),
        (["engine", "build", "filled:ddrnet_compact", "--axis", "height"], "expected NAME=SIZE"),
        (["weights", "import", "missing.pth", "--network", "ddrnet"], "cannot be read"),
        (["weights", "import", "missing.pth", "--network", "ddrnt"], "Did you mean 'ddrnet'"),
    ],
)
def test_bad_input_is_one_clear_line_and_exit_code_2(
    arguments: list[str], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(*arguments) == 2
    assert says in capsys.readouterr().err


def test_an_imported_checkpoint_prints_its_address(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    state = {f"model.{name}": value for name, value in DDRNet(DDRNET_COMPACT).state_dict().items()}
    torch.save(state | {"loss.criterion.weight": torch.ones(19)}, tmp_path / "best.pth")
    assert run("weights", "import", str(tmp_path / "best.pth"), "--network", "ddrnet") == 0
    lines = capsys.readouterr().out.splitlines()
    assert "not used: loss.criterion.weight (19,)" in lines
    assert lines[-1].startswith("weights: sha256:")
