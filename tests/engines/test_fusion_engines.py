"""DeepInteraction++ in bfloat16 on a CPU is judged by the boxes that the whole network finds."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from perception.engines import fusion_engines
from perception.engines.choose import EngineSettings
from perception.engines.engine import Engine
from perception.engines.fusion_engines import IN_BFLOAT16, bfloat16_engines, compile_fusion, mixed_runner
from perception.engines.task_agreement import TaskFigure, found_boxes
from perception.engines.torch_engine import TorchEngine
from perception.errors import EngineError
from perception.networks.deepinteraction import DEEPINTERACTION_COMPACT, DeepInteraction, Detections
from perception.networks.parity.case import read_case
from perception.networks.parity.verify import verify_case
from perception.networks.part import run_in_torch
from perception.networks.weights import fill

IN_BF16 = EngineSettings("torch", "bf16", 1)


@pytest.fixture(scope="module")
def network() -> DeepInteraction:
    network = DeepInteraction(replace(DEEPINTERACTION_COMPACT, image_size=(64, 96))).eval()
    fill(network)
    return network


def test_the_published_boxes_are_found_with_image_branch_and_interaction_in_bfloat16(golden_folder: Path) -> None:
    case = read_case(golden_folder / "deepinteraction" / "end_to_end.json")
    verdict, _ = verify_case(case, lambda parts: mixed_runner(bfloat16_engines(parts), run_in_torch(parts)), half=True)
    (boxes,) = (row for row in verdict.rows if row.name == "out_boxes (set)")
    assert boxes.passed
    assert boxes.worst > 1e-3  # in float32 it is a hundredth of that


def test_image_branch_and_interaction_alone_run_in_bfloat16_where_the_boxes_stay(
    network: DeepInteraction, monkeypatch: pytest.MonkeyPatch
) -> None:
    judged: list[Detections] = []

    def all_found(*found: Detections) -> TaskFigure:
        judged.extend(found)
        return TaskFigure("boxes", 0.98, 0.98)

    monkeypatch.setattr(fusion_engines, "found_boxes", all_found)
    engines = compile_fusion(network, 2, IN_BF16)
    small, full = judged
    assert not torch.equal(small.scores, full.scores)
    assert {name for name, engine in engines.items() if engine.name.endswith("bf16")} == set(IN_BFLOAT16)
    assert set(engines) == set(network.parts())


def test_where_boxes_are_lost_auto_says_so_and_a_named_engine_raises(
    network: DeepInteraction, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = DeepInteraction(network.config).eval()  # with random weights
    torch.manual_seed(0)
    for weight in other.parameters():
        torch.nn.init.normal_(weight, std=0.05)
    wrong = {name: TorchEngine(other.parts(views=2)[name], "bf16") for name in IN_BFLOAT16}
    monkeypatch.setattr(fusion_engines, "bfloat16_engines", lambda parts: wrong)
    with pytest.raises(EngineError, match=r"bfloat16 finds .* of the boxes of float32, expected at least 98%"):
        compile_fusion(network, 2, IN_BF16)
    asked: list[EngineSettings] = []

    def compiled(parts: object, settings: EngineSettings, *_: object) -> dict[str, Engine]:
        asked.append(settings)
        return {}

    monkeypatch.setattr(fusion_engines, "compile_parts", compiled)
    monkeypatch.setattr(fusion_engines, "MULTIPLIES_BFLOAT16", True)
    said: list[str] = []
    assert compile_fusion(network, 2, replace(IN_BF16, engine="auto"), say=said.append) == {}
    assert {settings.precision for settings in asked} == {"fp32"}
    assert said[0].endswith("the network runs in float32")


def test_a_processor_without_bfloat16_stays_in_float32_unless_torch_is_named(
    network: DeepInteraction, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fusion_engines, "MULTIPLIES_BFLOAT16", False)
    monkeypatch.setattr(fusion_engines, "compile_parts", lambda parts, *_: {})
    said: list[str] = []
    assert compile_fusion(network, 2, replace(IN_BF16, engine="auto"), say=said.append) == {}
    assert said == ["this processor does not multiply in bfloat16, which would be slower: the network runs in float32"]
    monkeypatch.setattr(fusion_engines, "found_boxes", lambda *_: TaskFigure("boxes", 1.0, 0.98))
    assert set(compile_fusion(network, 2, IN_BF16, say=said.append)) == set(IN_BFLOAT16)
    assert len(said) == 1


def test_boxes_count_as_found_by_place_label_and_score() -> None:
    boxes = torch.tensor(
        [[10.0, 0, 0, 2, 4, 1.5, 0, 0, 0], [-20.0, 5, 0, 1, 1, 2, 1, 0, 0], [0.0, 30, 0, 2, 4, 2, 3, 0, 0]]
    )
    expected = Detections(boxes, torch.tensor([0.9, 0.5, 0.3]), torch.tensor([0, 1, 0]))
    again = Detections(boxes[[2, 0, 1]], expected.scores[[2, 0, 1]], expected.labels[[2, 0, 1]])
    assert found_boxes(again, expected).share == 1
    aside, turned = boxes.clone(), boxes.clone()
    aside[0, 0] += 0.5  # allowed are 0.1 m and 2 % of 10 m
    turned[2, 6] -= 2 * torch.pi
    assert found_boxes(Detections(aside, expected.scores, expected.labels), expected).share == pytest.approx(2 / 3)
    assert found_boxes(Detections(turned, expected.scores, expected.labels), expected).share == 1
    assert found_boxes(Detections(boxes, expected.scores - 0.03, expected.labels), expected).share == 0
    assert found_boxes(Detections(boxes, expected.scores, 1 - expected.labels), expected).share == 0
    none = Detections(boxes[:0], expected.scores[:0], expected.labels[:0])
    assert not found_boxes(none, expected).passed
