"""Sizes that a log brings become the limits of engines; whoever compiles for a node may be somebody else."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from perception.engines.cache import EngineCache
from perception.engines.choose import EngineSettings, compile_part, compile_parts
from perception.engines.compiled_by import compiled_by
from perception.engines.engine import Engine, described, part_samples, pinned
from perception.engines.log_samples import SampleKeeper, store_samples, with_stored_samples
from perception.engines.log_shapes import ShapeWatch, store_limits, stored_limits
from perception.engines.torch_engine import TorchEngine
from perception.errors import EngineError, ShapeError
from perception.networks.part import Axis, Part, TensorSpec

VOXELS = Axis("voxels", 1, 10_000, 400_000)
TORCH, ONNX = EngineSettings("torch"), EngineSettings("onnxruntime")


class Doubled(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return 2 * x


@pytest.fixture
def part() -> Part:
    spec = {"x": TensorSpec("float32", (VOXELS, 2))}
    return Part("double", Doubled(), spec, {"y": TensorSpec("float32", (VOXELS, 2))}, lambda: (torch.ones(3, 2),))


def watched(part: Part, *sizes: int) -> ShapeWatch:
    watch = ShapeWatch(TorchEngine(part), part)
    for size in sizes:
        watch.run({"x": np.ones((size, 2), np.float32)})
    return watch


def test_the_median_and_half_more_than_the_largest_become_the_profile(part: Part, tmp_path: Path) -> None:
    limits = watched(part, 100, 120, 300).limits()
    assert limits == {"voxels": Axis("voxels", 1, 120, 450)}
    cache = EngineCache(tmp_path)
    store_limits(cache.folder, part, limits, "drive.mcap")
    engine = compile_part(part, TORCH, cache)
    assert described(engine.inputs["x"]) == "float32 (voxels 1..450, 2)"
    with pytest.raises(ShapeError, match="451"):
        engine.run({"x": np.ones((451, 2), np.float32)})
    store_limits(cache.folder, part, {}, "")
    assert described(compile_part(part, TORCH, cache).inputs["x"]) == "float32 (voxels 1..400000, 2)"


def test_the_example_still_fits_and_the_networks_limits_hold(part: Part) -> None:
    assert watched(part, 1).limits() == {"voxels": Axis("voxels", 1, 1, 3)}
    assert watched(part, 399_999).limits()["voxels"].maximum == 400_000


DAMAGED = [
    b"", b"{", b"[]", b'{"axes": {"rows": [1, 2, 3]}}', b'{"axes": {"voxels": [5, 4, 9]}}',
    b'{"axes": {"voxels": [1, 2, 500000]}}',
]  # fmt: skip


@pytest.mark.parametrize("content", DAMAGED)
def test_a_damaged_file_of_sizes_is_ignored(part: Part, tmp_path: Path, content: bytes) -> None:
    store_limits(tmp_path, part, {"voxels": Axis("voxels", 1, 2, 3)}, "x")
    (file,) = (tmp_path / ".shapes").iterdir()
    assert stored_limits(tmp_path, part) == {"voxels": Axis("voxels", 1, 2, 3)}
    file.write_bytes(content)
    assert stored_limits(tmp_path, part) == {}


def test_samples_lie_evenly_over_a_log_however_long_it_is() -> None:
    keeper = SampleKeeper(most=4)
    for number in range(100):
        keeper.show({"x": np.full(1, number)})
    assert [int(sample["x"][0]) for sample in keeper.kept] == [0, 32, 64, 96]
    small = SampleKeeper(most_bytes=24)
    for number in range(5):
        small.show({"x": np.full(1, number)})
    assert [int(sample["x"][0]) for sample in small.kept] == [0, 2, 4]


def test_the_inputs_of_a_log_are_what_an_engine_is_judged_by(part: Part, tmp_path: Path) -> None:
    cache, keeper = EngineCache(tmp_path), SampleKeeper()
    assert [tuple(sample[0].shape) for sample in part_samples(part)] == [(3, 2), (1, 2)]
    compile_part(part, ONNX, cache)
    for size in (5, 9):
        keeper.show({"x": np.full((size, 2), size, np.float32)})
    store_samples(cache.folder, part, keeper)
    kept = with_stored_samples(cache.folder, part)
    assert [tuple(sample[0].shape) for sample in part_samples(kept)] == [(5, 2), (9, 2)]
    assert [sample[0].shape[0] for sample in part_samples(pinned(kept, {"voxels": 9}))] == [9]
    compile_part(part, ONNX, cache)
    compile_part(part, ONNX, cache)
    assert sorted(entry.manifest["made_of"].get("samples", "") for entry in cache.entries()) == ["", kept.samples_hash]
    (file,) = (cache.folder / ".samples").iterdir()
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(EngineError, match="is damaged; build with --shapes from-log LOG again"):
        part_samples(kept)
    store_samples(cache.folder, part, None)
    assert with_stored_samples(cache.folder, part) is part


def test_somebody_else_may_compile_what_a_node_asks_for(part: Part) -> None:
    asked: list[tuple[list[str], EngineSettings]] = []

    def compiler(parts: object, settings: EngineSettings) -> dict[str, Engine]:
        assert isinstance(parts, dict)
        asked.append((list(parts), settings))
        return {"double": watched(part)}

    with compiled_by(compiler):
        engines = compile_parts({"double": part}, TORCH)
    assert asked == [(["double"], TORCH)]
    assert isinstance(engines["double"], ShapeWatch)
    assert isinstance(compile_parts({"double": part}, TORCH)["double"], TorchEngine)


def test_who_compiles_may_call_what_it_stands_in_for(part: Part) -> None:
    def compiler(parts: Mapping[str, Part], settings: EngineSettings) -> dict[str, Engine]:
        return {name: ShapeWatch(compile_part(one, settings), one) for name, one in parts.items()}

    with compiled_by(compiler):
        assert isinstance(compile_part(part, TORCH), ShapeWatch)
