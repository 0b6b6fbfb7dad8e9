"""The TensorRT engine against a double of the library that records, refuses and computes (no GPU is needed)."""

from __future__ import annotations

import ast
import importlib
import inspect
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from perception.engines.cache import EngineCache
from perception.engines.engine import kept
from perception.engines.export import export_onnx
from perception.engines.torch_engine import TorchEngine
from perception.errors import EngineError, ShapeError
from perception.networks.part import Axis, Part, TensorSpec
from tests.engines import tensorrt_double as trt

if TYPE_CHECKING:
    from perception.engines.tensorrt_engine import TensorRtEngine

STUB = Path(os.environ.get("PERCEPTION_DATA", "../shared")) / "tensorrt_api/tensorrt/__init__.pyi"
ROWS = Axis("rows", 2, 4, 8)


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("exported") / "graph.onnx"
    torch.manual_seed(3)
    export_onnx(part_of(Smoothed().eval()), path)
    return path


@pytest.fixture(autouse=True)
def tensorrt(monkeypatch: pytest.MonkeyPatch, exported: Path) -> Any:
    """Put the double in the library's place; the part is exported once for all tests."""
    monkeypatch.setitem(sys.modules, "tensorrt", trt)
    engine = importlib.import_module("perception.engines.tensorrt_engine")
    monkeypatch.setattr(engine, "export_onnx", lambda part, path: shutil.copy(exported, path))
    trt.calls.clear()
    trt.fail.clear()
    yield
    for name in ("perception.engines.tensorrt_engine", "perception.engines.tensorrt_build"):
        sys.modules.pop(name, None)


class Smoothed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv1d(1, 3, 3, padding=1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        y = self.conv(x[:, None])
        return y, y.sum((1, 2)).argmax(0, keepdim=True)


def part_of(module: nn.Module, rows: int | Axis = ROWS) -> Part:
    return Part(
        "smoothed",
        module,
        {"x": TensorSpec("float32", (rows, 5))},
        {"y": TensorSpec("float32", (rows, 3, 5)), "best": TensorSpec("int64", (1,))},
        lambda: (torch.rand(4, 5, generator=torch.Generator().manual_seed(1)),),
    )


@pytest.fixture
def part() -> Part:
    torch.manual_seed(3)
    return part_of(Smoothed().eval())


class FakeGraphs:
    """Captures by running; a replay runs again."""

    def __init__(self) -> None:
        self.captures = self.replays = 0

    def __call__(self, function: Callable[[], tuple[Tensor, ...]]) -> Any:
        self.captures += 1
        graphs = self

        class Replay:
            outputs: tuple[Tensor, ...] = ()

            def __call__(self) -> None:
                graphs.replays += 1
                function()

        return Replay()


def built(
    part: Part, folder: Path, precision: Any = "fp32", graphs: FakeGraphs | None = None, **more: Any
) -> TensorRtEngine:
    from perception.engines.tensorrt_engine import build_tensorrt

    say = more.pop("say", lambda text: None)
    return build_tensorrt(
        part, precision, EngineCache(folder), say, device="cpu", capture=graphs or FakeGraphs(), **more
    )


def rows(count: int) -> dict[str, Any]:
    return {"x": np.random.default_rng(count).random((count, 5), np.float32)}


@pytest.mark.parametrize("version", ["11.4.0", "10.13.2"])
def test_an_engine_is_built_checked_stored_and_run(
    part: Part, tmp_path: Path, version: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trt, "__version__", version)
    said: list[str] = []
    engine = built(part, tmp_path, say=said.append)
    assert engine.name == f"tensorrt {version} cpu fp32"
    for count in (8, 2, 2, 2, 4):
        expected = TorchEngine(part).run(rows(count))
        got = kept(engine.run(rows(count)))
        np.testing.assert_allclose(got["y"], np.asarray(expected["y"]), rtol=1e-5, atol=1e-6)
        np.testing.assert_array_equal(got["best"], np.asarray(expected["best"]))
    assert "TensorRT: Building Engine 50 %" in said
    assert "TensorRT: a tactic was skipped" in said
    assert "clear_flag TF32" in trt.calls
    (entry,) = EngineCache(tmp_path).entries()
    assert sorted(file.name for file in entry.folder.iterdir()) == ["engine.plan", "manifest.json"]
    assert entry.manifest["made_of"]["versions"]["tensorrt"] == version
    trt.calls.clear()
    built(part, tmp_path)
    assert "build_serialized_network" not in trt.calls  # the second start takes it from the cache


def test_buffers_are_bound_once_and_a_shape_that_stays_becomes_a_graph(part: Part, tmp_path: Path) -> None:
    graphs = FakeGraphs()
    engine = built(part, tmp_path, graphs=graphs)
    trt.calls.clear()
    graphs.captures = graphs.replays = 0
    for count in (3, 3, 3, 5, 3):
        engine.run(rows(count))
    assert not [call for call in trt.calls if call.startswith("set_tensor_address")]
    assert [call for call in trt.calls if call.startswith("set_input_shape")] == [
        "set_input_shape x (3, 5)", "set_input_shape x (5, 5)", "set_input_shape x (3, 5)",
    ]  # fmt: skip
    assert (graphs.captures, graphs.replays) == (1, 2)


def test_an_engine_file_that_was_touched_is_never_loaded(part: Part, tmp_path: Path) -> None:
    built(part, tmp_path)
    (entry,) = EngineCache(tmp_path).entries()
    plan = entry.folder / "engine.plan"
    plan.write_bytes(plan.read_bytes()[:-1] + b"x")
    trt.calls.clear()
    said: list[str] = []
    built(part, tmp_path, say=said.append)
    assert "damaged" in said[0]
    assert trt.calls.index("build_serialized_network") < trt.calls.index("deserialize_cuda_engine")


def test_other_versions_shapes_precisions_and_settings_are_other_engines(
    part: Part, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from perception.engines.tensorrt_build import BuildSettings, Profile

    built(part, tmp_path)
    built(part, tmp_path, profiles={"x": Profile((2, 5), (4, 5), (6, 5))})
    built(part, tmp_path, settings=BuildSettings(compatibility="ampere_plus"))
    built(part, tmp_path, precision="fp16")
    monkeypatch.setattr(trt, "__version__", "11.5.0")
    built(part, tmp_path)
    assert len(list(EngineCache(tmp_path).entries())) == 5


def test_timings_of_one_build_serve_the_next_and_a_damaged_file_of_them_does_no_harm(
    part: Part, tmp_path: Path
) -> None:
    built(part, tmp_path)
    (timings,) = (tmp_path / "engines" / ".timings").iterdir()
    assert b"conv" in timings.read_bytes()
    timings.write_bytes(b"\0damaged")
    built(part, tmp_path, precision="fp16")
    assert b"conv" in timings.read_bytes()


@pytest.mark.parametrize(
    ("call", "says"),
    [
        ("parse_from_file", "cannot read this graph: Unique 'node_7': no importer is registered for it"),
        ("build_serialized_network", "cannot build this engine: could not find any implementation for node_7"),
        ("execute_async_v3", "part 'smoothed' failed in TensorRT"),
    ],
)
def test_what_tensorrt_refuses_is_an_engine_error_with_its_reason(
    part: Part, tmp_path: Path, call: str, says: str
) -> None:
    trt.fail.add(call)
    with pytest.raises(EngineError, match=says):
        built(part, tmp_path)
    assert list(EngineCache(tmp_path).entries()) == []


def test_a_profile_out_of_order_and_a_shape_outside_it_are_refused(part: Part, tmp_path: Path) -> None:
    from perception.engines.tensorrt_build import Profile

    with pytest.raises(EngineError, match="expected minimum <= optimum <= maximum"):
        built(part, tmp_path, profiles={"x": Profile((4, 5), (3, 5), (8, 5))})
    with pytest.raises(ShapeError):
        built(part, tmp_path).run(rows(9))


def test_an_engine_of_another_part_is_not_taken(part: Part, tmp_path: Path) -> None:
    from perception.engines.tensorrt_engine import TensorRtEngine

    built(part, tmp_path)
    (entry,) = EngineCache(tmp_path).entries()
    plan = (entry.folder / "engine.plan").read_bytes()
    other = Part("other", part.module, part.inputs, {"z": part.outputs["y"]}, part.example)
    with pytest.raises(EngineError, match="an engine with best, x, y; part 'other' has x, z"):
        TensorRtEngine(other, plan, device="cpu")
    wrong = Part("wrong", part.module, part.inputs, {**part.outputs, "best": TensorSpec("int32", (1,))}, part.example)
    with pytest.raises(EngineError, match="'best' of the engine is not the int32"):
        TensorRtEngine(wrong, plan, device="cpu")


@pytest.mark.parametrize("precision", ["fp16", "int8"])
def test_below_float32_the_graph_itself_says_so(part: Part, tmp_path: Path, precision: str) -> None:
    engine = built(part, tmp_path, precision=precision)
    assert engine.name.endswith(precision)
    inputs = {"x": part.example()[0].numpy()}
    expected = np.asarray(TorchEngine(part).run(inputs)["y"])
    difference = np.abs(kept(engine.run(inputs))["y"] - expected).max()
    assert 0 < difference < 0.02


@pytest.mark.skipif(not STUB.is_file(), reason="the published signatures of TensorRT are not here")
def test_the_double_offers_only_what_the_library_has() -> None:
    """Every method of the double exists, with the same parameters; so do the names that the engine uses."""
    published = {node.name: node for node in ast.parse(STUB.read_text()).body if isinstance(node, ast.ClassDef)}
    for double in trt.PUBLIC:
        methods: dict[str, list[list[str]]] = {}
        for node in published[double.__name__].body:
            if isinstance(node, ast.FunctionDef):
                methods.setdefault(node.name, []).append([argument.arg for argument in node.args.args])
        for name, function in inspect.getmembers(double, inspect.isfunction):
            if not name.startswith("_"):
                assert list(inspect.signature(function).parameters) in methods[name], f"{double.__name__}.{name}"


def test_the_double_refuses_wrong_order_and_unknown_names(part: Part, tmp_path: Path) -> None:
    builder = trt.Builder(trt.ILogger())
    with pytest.raises(trt.WrongOrderError, match="before the file was parsed"):
        builder.build_serialized_network(builder.create_network(), builder.create_builder_config())
    with pytest.raises(AttributeError):
        builder.create_builder_config().max_workspace_size = 1  # type: ignore[attr-defined]
    built(part, tmp_path)
    (entry,) = EngineCache(tmp_path).entries()
    engine = trt.Runtime(trt.ILogger()).deserialize_cuda_engine((entry.folder / "engine.plan").read_bytes())
    assert engine is not None
    context = engine.create_execution_context()
    with pytest.raises(trt.WrongOrderError, match="before all inputs have a shape"):
        context.execute_async_v3(0)
    context.set_input_shape("x", (2, 5))
    with pytest.raises(trt.WrongOrderError, match="before every tensor has an address"):
        context.execute_async_v3(0)
