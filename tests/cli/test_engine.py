"""`perception engine` and `perception weights`: thin commands over functions that are tested elsewhere."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from perception.cli.main import main
from perception.networks.ddrnet import DDRNET_COMPACT, DDRNet
from perception.runtime.latency_budget import keep_measured_ms, late_outputs, measured_ms
from perception.runtime.launch_file.load import load_launch


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
    printed = capsys.readouterr().out
    assert "ddrnet_compact.segment: onnxruntime " in printed
    assert "100.0% of" in printed  # of the multiply-adds are inside
    assert "outside, in Python: letterbox" in printed
    assert run("engine", "list") == 0
    assert "DDRNet.segment" in capsys.readouterr().out
    assert run("engine", "bench", "filled:ddrnet_compact", *sizes, "--repeats", "1") == 0
    printed = capsys.readouterr().out
    assert "building" not in printed  # the cached engine served
    assert printed.count(" ms") == 4 + 2  # median and p90 of two engines, and each as a choice
    assert printed.count("\n* ddrnet_compact") == 1  # one of them is beaten
    assert run("engine", "clear") == 0
    assert capsys.readouterr().out == "1 engines removed\n"


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["engine", "build", "filled:nothing"], "no card 'nothing'"),
        (["engine", "build", "ddrne"], "Did you mean 'ddrnet'?"),
        (["engine", "build", "ddrnet", "--precision", "int4"], "no precision 'int4'; expected fp32, fp16, bf16, int8"),
        (["engine", "build", "ddrnet", "--engine", "tensorrt"], "TensorRT is not installed: pip install tensorrt"),
        (["engine", "build", "ddrnet", "--shapes", "log"], "expected auto, or from-log LOG"),
        (["engine", "build", "ddrnet", "x.mcap", "--shapes", "from-log"], "needs a launch file"),
        (["engine", "build", "car.yaml", "--shapes", "from-log"], "belong together"),
        (["engine", "build", "ddrnet", "--fastest", "--engine", "torch"], "--engine torch leaves no choice"),
        (["engine", "build", "car.yaml", "--axis", "batch=1"], "--axis is of a single network"),
        (["engine", "bench", "car.yaml", "--precision", "fp16"], "a launch file is measured alone"),
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


LAUNCH = """
name: one
rig: simulated_car
nodes:
  sensors: {node: simulator, settings: {seed: 1}}
  segmenter:
    node: image_segmenter
    settings: {weights: "filled:ddrnet_compact", input_size: [64, 64], engine: torch}
    inputs: {image: [cam_front/image]}
outputs:
  mask: {topic: segmenter/cam_front/mask, deadline_ms: 1000}
"""


def test_engines_of_a_launch_file_are_built_with_its_settings_unless_others_are_given(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "one.yaml"
    file.write_text(LAUNCH)
    assert run("engine", "build", str(file), "--json") == 0
    (built,) = json.loads(capsys.readouterr().out)
    assert built["name"] == "segmenter"
    assert built["engines"]["segment"].startswith("torch ")
    assert built["mac_share"] >= 0.95
    assert 0 < built["time_share"] <= 1


def test_a_deadline_that_the_measured_nodes_cannot_meet_is_told_before_the_start(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "one.yaml"
    file.write_text(LAUNCH)
    assert run("engine", "bench", str(file), "--repeats", "1") == 0
    assert "segmenter" in capsys.readouterr().out
    graph = load_launch(file)
    assert measured_ms(graph).keys() == {"segmenter"}
    keep_measured_ms(graph.node("segmenter"), 1200.0)
    (line,) = late_outputs(graph, measured_ms(graph))
    assert line.startswith("output 'mask' has 1000 ms, but on this machine segmenter 1200 ms were measured")
    keep_measured_ms(graph.node("segmenter"), 900.0)
    assert late_outputs(graph, measured_ms(graph)) == []
    file.write_text(LAUNCH.replace("[64, 64]", "[64, 128]"))
    assert measured_ms(load_launch(file)) == {}  # other settings, other figures
