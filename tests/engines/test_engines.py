"""Engines: what goes in and out, who owns it, the cache, and the gate that catches a wrong engine."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from perception.engines import bench, fastest, onnxruntime_engine
from perception.engines.agreement import confirm_agreement, relative_error
from perception.engines.cache import EngineCache
from perception.engines.choose import EngineSettings, compile_part, compile_parts, runner
from perception.engines.engine import check_inputs, kept, pinned, run_on
from perception.engines.export import export_onnx
from perception.engines.fake_engine import FakeEngine
from perception.engines.torch_engine import TorchEngine
from perception.errors import EngineError, ShapeError, UserError
from perception.networks.part import Axis, Part, TensorSpec, run_in_torch

ROWS = Axis("rows", 2, 4, 16)
ONNX = EngineSettings("onnxruntime")


class Scaled(nn.Module):
    """A small part with two inputs of one free axis: y = pool(conv(x)) + offset, and the row with the largest sum."""

    def __init__(self, count_padding: bool = True) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 2, 3, padding=1)
        self.count_padding = count_padding

    def forward(self, x: Tensor, offset: Tensor) -> tuple[Tensor, Tensor]:
        y = (
            F.avg_pool2d(self.conv(x[:, None]), 3, 1, 1, count_include_pad=self.count_padding)
            + offset[:, None, None, None]
        )
        return y, y.sum((1, 2, 3)).argmax(0, keepdim=True)


@pytest.fixture
def part() -> Part:
    torch.manual_seed(0)
    return part_of(Scaled().eval())


def part_of(module: nn.Module) -> Part:
    return Part(
        name="scaled",
        module=module,
        inputs={"x": TensorSpec("float32", (ROWS, 6, 5)), "offset": TensorSpec("float32", (ROWS,))},
        outputs={"y": TensorSpec("float32", (ROWS, 2, 6, 5)), "best": TensorSpec("int64", (1,))},
        example=lambda: (torch.rand(4, 6, 5, generator=torch.Generator().manual_seed(1)), torch.arange(4.0)),
    )


@pytest.fixture
def cache(tmp_path: Path) -> EngineCache:
    return EngineCache(tmp_path)


def sample(rows: int) -> dict[str, NDArray[Any]]:
    random = np.random.default_rng(rows)
    return {"x": random.random((rows, 6, 5), np.float32), "offset": random.random(rows, np.float32)}


@pytest.mark.parametrize("rows", [2, 4, 16])
def test_onnx_runtime_equals_torch_at_every_size_of_the_profile(part: Part, cache: EngineCache, rows: int) -> None:
    engine = compile_part(part, ONNX, cache)
    expected, got = TorchEngine(part).run(sample(rows)), engine.run(sample(rows))
    assert list(got) == ["y", "best"]
    np.testing.assert_allclose(np.asarray(got["y"]), np.asarray(expected["y"]), rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(np.asarray(got["best"]), np.asarray(expected["best"]))
    assert engine.name.startswith("onnxruntime ")


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ({"x": np.zeros((17, 6, 5), np.float32), "offset": np.zeros(17, np.float32)}, "rows 2..16"),
        ({"x": np.zeros((4, 6, 4), np.float32)}, "takes float32"),
        ({"x": np.zeros((4, 6, 5), np.float64)}, "float64"),
        ({"offset": np.zeros(3, np.float32)}, "has 3 rows, input 'x' has 4"),
        ({"extra": np.zeros(1)}, "expected offset, x"),
    ],
)
@pytest.mark.parametrize("name", ["torch", "fake"])
def test_an_input_outside_the_profile_is_a_shape_error(
    part: Part, name: str, change: dict[str, NDArray[Any]], what: str
) -> None:
    engine = TorchEngine(part) if name == "torch" else FakeEngine(part.inputs, part.outputs, lambda inputs: {})
    with pytest.raises(ShapeError, match=what.replace(".", r"\.")):
        engine.run(sample(4) | change)


def test_torch_below_float32_answers_in_the_promised_type_in_memory_that_it_keeps(part: Part) -> None:
    module = nn.Conv2d(1, 2, 3, padding=1).eval()
    convolved = replace(
        part, module=nn.Sequential(nn.Unflatten(0, (-1, 1)), module), inputs={"x": part.inputs["x"]},
        outputs={"y": part.outputs["y"]}, example=lambda: (torch.rand(4, 6, 5),),
    )  # fmt: skip
    engine = TorchEngine(convolved, "bf16")
    for rows in (4, 4, 2):
        given = {"x": sample(rows)["x"]}
        with torch.inference_mode():
            expected = module(torch.from_numpy(given["x"])[:, None]).numpy()
        got = np.asarray(engine.run(given)["y"])
        assert got.dtype == np.float32
        np.testing.assert_allclose(got, expected, atol=2e-2)
    first, second = (np.asarray(engine.run({"x": sample(4)["x"]})["y"]) for _ in range(2))
    assert np.shares_memory(first, second)


def test_onnx_runtime_writes_into_its_own_buffers_once_it_knows_the_shapes(part: Part, cache: EngineCache) -> None:
    engine = compile_part(part, ONNX, cache)
    engine.run(sample(4))
    engine.run(sample(2))
    second = engine.run(sample(4))
    copied = kept(second)
    third = engine.run({**sample(4), "offset": np.full(4, 9, np.float32)})
    assert np.shares_memory(np.asarray(second["y"]), np.asarray(third["y"]))
    moved = 9 - sample(4)["offset"][:, None, None, None]
    np.testing.assert_allclose(np.asarray(third["y"]), copied["y"] + moved, rtol=1e-5)
    smaller = kept(engine.run(sample(2)))
    np.testing.assert_allclose(smaller["y"], kept(TorchEngine(part).run(sample(2)))["y"], rtol=1e-5, atol=1e-6)


def test_read_only_and_strided_inputs_are_taken(part: Part, cache: EngineCache) -> None:
    inputs = sample(4)
    frozen = {"x": inputs["x"].copy(), "offset": np.repeat(inputs["offset"], 2)[::2]}
    for array in frozen.values():
        array.flags.writeable = False
    for engine in (TorchEngine(part), compile_part(part, ONNX, cache)):
        np.testing.assert_array_equal(kept(engine.run(frozen))["y"], kept(engine.run(inputs))["y"])


def test_a_second_start_takes_the_engine_from_the_cache(
    part: Part, cache: EngineCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    compile_part(part, ONNX, cache, said.append)
    monkeypatch.setattr(onnxruntime_engine, "export_onnx", lambda *_: pytest.fail("it was exported again"))
    compile_part(part, ONNX, cache, said.append)
    assert said == ["building scaled for onnxruntime"]
    (entry,) = cache.entries()
    assert entry.manifest["certificate"]["worst_over_tolerance"] <= 1
    assert entry.manifest["made_of"]["inputs"]["offset"] == "float32 (rows 2..16)"


@pytest.mark.parametrize("damage", ["flip", "cut", "remove", "manifest"])
def test_a_damaged_engine_is_built_again_and_that_is_said(part: Part, cache: EngineCache, damage: str) -> None:
    compile_part(part, ONNX, cache)
    (entry,) = cache.entries()
    graph = entry.folder / "graph.onnx"
    data = bytearray(graph.read_bytes())
    if damage == "flip":
        data[len(data) // 2] ^= 1
        graph.write_bytes(data)
    elif damage == "cut":
        graph.write_bytes(data[:-1])
    elif damage == "remove":
        graph.unlink()
    else:
        (entry.folder / "manifest.json").write_text("{")
    said: list[str] = []
    engine = compile_part(part, ONNX, cache, said.append)
    assert "damaged" in said[0]
    assert said[1] == "building scaled for onnxruntime"
    assert relative_error(kept(engine.run(sample(4)))["y"], kept(TorchEngine(part).run(sample(4)))["y"]) <= 1


def test_other_weights_settings_sizes_and_versions_have_another_key(
    part: Part, cache: EngineCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    compile_part(part, ONNX, cache)
    assert isinstance(part.module, Scaled)
    with torch.no_grad():
        part.module.conv.bias.add_(1)  # type: ignore[union-attr]
    compile_part(part, ONNX, cache)
    part.module.count_padding = False
    compile_part(part, ONNX, cache)
    compile_part(part, EngineSettings("onnxruntime", axes={"rows": 4}), cache)
    monkeypatch.setattr(onnxruntime, "__version__", "0.0.1")
    compile_part(part, ONNX, cache)
    assert len(list(cache.entries())) == 5


def test_the_cache_forgets_the_least_recently_used_beyond_its_limit(part: Part, tmp_path: Path) -> None:
    cache = EngineCache(tmp_path, limit_bytes=1)
    for size in (3, 4):
        compile_part(part, EngineSettings("onnxruntime", axes={"rows": size}), cache)
    (entry,) = cache.entries()
    assert entry.manifest["made_of"]["inputs"]["offset"] == "float32 (4)"
    assert cache.clear() == 1
    assert list(cache.entries()) == []


def test_of_two_builders_of_one_engine_the_first_serves_both(tmp_path: Path) -> None:
    both_build = threading.Barrier(2)

    def build(folder: Path) -> Mapping[str, Any]:
        (folder / "graph.onnx").write_text("the same")
        both_build.wait(timeout=30)
        return {}

    with ThreadPoolExecutor(2) as threads:
        made = [threads.submit(EngineCache(tmp_path).get_or_build, {"part": "x"}, build, print) for _ in range(2)]
        entries = [future.result() for future in made]
    assert entries[0].folder == entries[1].folder
    assert [path.name for path in EngineCache(tmp_path).folder.iterdir()] == [entries[0].folder.name]


PROGRAM = """
import sys, time
from pathlib import Path
from perception.engines.cache import EngineCache
def build(folder):
    (folder / "graph.onnx").write_bytes(b"the same" * 1000)
    time.sleep(0.2)
    return {}
entry = EngineCache(Path(sys.argv[1])).get_or_build({"part": "x"}, build, lambda text: None)
print(len((entry.folder / "graph.onnx").read_bytes()))
"""


def test_several_processes_build_one_engine_at_once_and_one_that_was_killed_leaves_nothing_for_long(
    tmp_path: Path,
) -> None:
    left = tmp_path / "engines" / ".building-killed"
    left.mkdir(parents=True)
    os.utime(left, (0, 0))
    command = [sys.executable, "-c", PROGRAM, str(tmp_path)]
    started = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    assert [process.communicate(timeout=120)[0] for process in started] == ["8000\n"] * 3
    (entry,) = EngineCache(tmp_path).entries()
    assert [path.name for path in (tmp_path / "engines").iterdir()] == [entry.folder.name]


def test_a_build_that_fails_leaves_nothing_behind(part: Part, cache: EngineCache) -> None:
    def build(folder: Path) -> Mapping[str, Any]:
        (folder / "graph.onnx").write_bytes(b"half")
        raise EngineError("no")

    with pytest.raises(EngineError):
        cache.get_or_build({"part": "x"}, build, lambda text: None)
    assert list(cache.folder.iterdir()) == []


class Faulty(nn.Module):
    """The part with one seeded fault."""

    def __init__(self, right: Scaled, fault: str) -> None:
        super().__init__()
        self.right, self.fault = right, fault

    def forward(self, x: Tensor, offset: Tensor) -> tuple[Tensor, Tensor]:
        if self.fault == "overflow":
            y, best = self.right(x, offset)
            return (y * 1e6).half().float() / 1e6, best
        if self.fault == "swapped channels":
            y, best = self.right(x, offset)
            return y.flip(1), best
        self.right.count_padding = False
        y, best = self.right(x, offset)
        self.right.count_padding = True
        return y, best


@pytest.mark.parametrize("fault", ["padding of the pool", "swapped channels", "overflow"])
@pytest.mark.parametrize("half", [False, True])
def test_the_gate_catches_a_seeded_fault(part: Part, fault: str, half: bool) -> None:
    assert isinstance(part.module, Scaled)
    wrong = TorchEngine(part_of(Faulty(part.module, fault)))
    with pytest.raises(EngineError, match=r"disagrees with the torch reference in part 'scaled': output 'y'"):
        confirm_agreement(wrong, part, half)
    assert confirm_agreement(TorchEngine(part), part, half).worst == 0


def test_auto_falls_back_to_torch_and_says_why_but_a_named_engine_raises(
    part: Part, cache: EngineCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    def export_another(wrong: Part, path: Path) -> None:
        export_onnx(part_of(Faulty(Scaled(), "swapped channels").eval()), path)

    monkeypatch.setattr(onnxruntime_engine, "export_onnx", export_another)
    with pytest.raises(EngineError, match="disagrees"):
        compile_part(part, ONNX, cache)
    said: list[str] = []
    engine = compile_part(part, EngineSettings("auto"), cache, said.append)
    assert engine.name.startswith("torch ")
    assert "part 'scaled' does not run on onnxruntime in fp32: onnxruntime" in said[-2]
    assert said[-1] == "part 'scaled' runs on torch, the slow reference"
    assert list(cache.entries()) == []


def test_auto_takes_the_engine_that_was_measured_to_be_the_fastest_until_something_changes(
    part: Part, cache: EngineCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    auto, said = EngineSettings(threads=1), list[str]()
    assert compile_part(part, auto, cache).name.startswith("onnxruntime ")
    slow = {"onnxruntime": 3.0, "openvino": 2.0, "torch": 1.0}
    monkeypatch.setattr(bench, "_elapsed_ms", lambda engine, inputs, threads: slow[engine.name.split()[0]])
    bench.find_fastest(part, auto, cache=cache, say=said.append)
    assert said[-1].startswith("part 'scaled': onnxruntime 3.00 ms, ")
    assert said[-1].endswith("torch 1.00 ms: auto takes torch")
    assert compile_part(part, auto, cache).name.startswith("torch ")
    assert compile_part(part, ONNX, cache).name.startswith("onnxruntime ")  # a name is a name
    assert compile_part(part, EngineSettings(threads=2), cache).name.startswith("onnxruntime ")  # not measured
    monkeypatch.setattr(fastest, "cpu_name", lambda: "another processor")
    assert compile_part(part, auto, cache).name.startswith("onnxruntime ")


def test_the_fastest_engine_is_left_out_where_it_is_not_there_any_more(part: Part, cache: EngineCache) -> None:
    said: list[str] = []
    fastest.store_fastest(cache.folder, part, EngineSettings(), "tensorrt", "measured elsewhere")
    assert compile_part(part, EngineSettings(), cache, said.append).name.startswith("onnxruntime ")
    assert said[0].startswith("part 'scaled' does not run on tensorrt in fp32: TensorRT is not installed")
    (file,) = (cache.folder / ".fastest").iterdir()
    file.write_text('{"engine": "auto"}')
    assert fastest.stored_fastest(cache.folder, part, EngineSettings()) is None


def test_a_fake_engine_spoils_what_was_not_kept(part: Part) -> None:
    engine = FakeEngine(part.inputs, part.outputs, lambda inputs: {"y": np.ones((4, 2, 6, 5)), "best": np.zeros(1)})
    first = engine.run(sample(4))
    copy = kept(first)
    engine._function = lambda inputs: {"y": np.full((4, 2, 6, 5), 7), "best": np.ones(1)}
    engine.run(sample(4))
    assert (np.asarray(first["y"]) == 7).all()
    assert (copy["y"] == 1).all()
    assert engine.runs == 2


def test_parts_run_on_engines_as_in_torch(part: Part, cache: EngineCache) -> None:
    run = run_on(compile_parts({"scaled": part}, ONNX, cache))
    inputs = {name: torch.from_numpy(array) for name, array in sample(4).items()}
    with torch.no_grad():
        expected = run_in_torch({"scaled": part})("scaled", inputs)
    torch.testing.assert_close(dict(run("scaled", inputs)), dict(expected))


def test_a_pinned_part_takes_only_that_size(part: Part) -> None:
    fixed = pinned(part, {"rows": 3})
    check_inputs(fixed.inputs, sample(3))
    assert [tuple(tensor.shape) for tensor in fixed.example()] == [(3, 6, 5), (3,)]
    with pytest.raises(ShapeError):
        check_inputs(fixed.inputs, sample(4))
    for axes in ({"rows": 99}, {"columns": 3}):
        with pytest.raises(EngineError, match=r"rows 2\.\.16"):
            pinned(part, axes)


def test_an_unknown_engine_or_precision_is_the_users_error() -> None:
    with pytest.raises(UserError, match="Did you mean 'onnxruntime'"):
        runner("onnxrunner")
    with pytest.raises(UserError, match="fp32, fp16, bf16"):
        runner("torch", "int4")


def test_a_part_that_cannot_be_exported_is_an_engine_error(cache: EngineCache) -> None:
    class Branches(nn.Module):
        def forward(self, x: Tensor, offset: Tensor) -> tuple[Tensor, Tensor]:
            return (x[:, None] if float(x.sum()) > 3 else -x[:, None]), offset.argmax(0, keepdim=True)

    with pytest.raises(EngineError, match="cannot be exported"):
        compile_part(part_of(Branches()), ONNX, cache)


def test_the_manifest_states_what_the_engine_was_made_of(part: Part, cache: EngineCache) -> None:
    compile_part(part, ONNX, cache)
    (entry,) = cache.entries()
    stated = json.loads((entry.folder / "manifest.json").read_text())["made_of"]
    assert stated.keys() >= {"weights", "graph", "inputs", "precision", "versions", "device"}
    assert stated["versions"].keys() >= {"torch", "onnxruntime", "onnx"}
