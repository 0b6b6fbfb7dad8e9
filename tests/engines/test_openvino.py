"""OpenVINO gives what torch gives, at every size of the profile; where it is missing, the error says how to get it."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from perception.engines import openvino_engine
from perception.engines.agreement import relative_error
from perception.engines.cache import EngineCache
from perception.engines.choose import EngineSettings, compile_part
from perception.engines.engine import Engine
from perception.errors import EngineError, NotInstalledError, ShapeError
from perception.networks.load import load_network
from perception.networks.part import Part, TensorSpec

installed = pytest.mark.skipif(importlib.util.find_spec("openvino") is None, reason="needs the extra cpu-fast")


def part_of(card: str) -> Part:
    network = load_network(f"filled:{card}", nn.Module).network
    return network.parts()["segment"]  # type: ignore[no-any-return, operator]


@pytest.fixture(scope="module", params=["ddrnet_compact", "p2at_compact"])
def compiled(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Part, Engine]:
    part = part_of(request.param)
    return part, compile_part(part, EngineSettings("openvino", threads=1), EngineCache(tmp_path_factory.mktemp("ov")))


@pytest.fixture
def small_part() -> Part:
    torch.manual_seed(0)
    spec = TensorSpec("float32", (1, 3, 16, 16))
    outputs = {"y": TensorSpec("float32", (1, 4, 16, 16))}
    return Part(
        "small", nn.Conv2d(3, 4, 3, padding=1).eval(), {"x": spec}, outputs, lambda: (torch.rand(1, 3, 16, 16),)
    )


@installed
@pytest.mark.parametrize("size", [(1, 64, 96), (2, 67, 93), (3, 136, 72)])
def test_a_dynamic_engine_equals_torch_at_odd_sizes_and_batches(
    compiled: tuple[Part, Engine], size: tuple[int, int, int]
) -> None:
    part, engine = compiled
    batch, height, width = size
    image = torch.rand(batch, 3, height, width, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        expected = part.module(image).numpy()
    assert relative_error(np.asarray(engine.run({"image": image.numpy()})["logits"]), expected) < 1
    assert engine.name.startswith("openvino 20")
    assert engine.name.endswith("cpu fp32")


@installed
def test_a_shape_outside_the_profile_is_refused(compiled: tuple[Part, Engine]) -> None:
    with pytest.raises(ShapeError, match=r"batch 1\.\.8"):
        compiled[1].run({"image": np.zeros((9, 3, 64, 64), np.float32)})


@installed
def test_a_precision_that_the_processor_lacks_is_an_error_and_never_another_precision(
    small_part: Part, tmp_path: Path
) -> None:
    try:
        engine = compile_part(small_part, EngineSettings("openvino", "bf16", 1), EngineCache(tmp_path))
    except EngineError as error:
        assert "no bf16" in str(error) or "times the tolerance" in str(error)  # noqa: PT017 - depends on the machine
    else:
        assert engine.name.endswith("bf16")


def test_without_openvino_the_error_holds_the_command(
    small_part: Part, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(openvino_engine, "is_installed", lambda: False)
    with pytest.raises(NotInstalledError, match=r"pip install .*cpu-fast"):
        compile_part(small_part, EngineSettings("openvino"), EngineCache(tmp_path))
