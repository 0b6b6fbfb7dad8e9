"""The torch-CUDA engine's logic, on a CPU: a double captures and replays, as CUDA graphs do."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from perception.engines import cuda_engine
from perception.engines.cuda_engine import CudaEngine, RecurringShapes
from perception.engines.engine import kept, run_on
from perception.engines.mixed_precision import MixedModule, wide_calls
from perception.engines.tensor_array import OnHost, TensorArray, device_tensor
from perception.errors import EngineError, ShapeError
from perception.messages.array import DeviceArray, host
from perception.networks.part import Axis, Part, TensorSpec

ROWS = Axis("rows", 1, 4, 64)


class Doubled(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.runs = 0

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        self.runs += 1
        return 2 * x, x.argmax(0)


def part_of(module: nn.Module, rows: int | Axis = ROWS) -> Part:
    return Part(
        "doubled",
        module,
        {"x": TensorSpec("float32", (rows, 3))},
        {"y": TensorSpec("float32", (rows, 3)), "best": TensorSpec("int64", (3,))},
        lambda: (torch.ones(4, 3),),
    )


class FakeGraphs:
    """Captures by running once; a replay runs again and writes into the same outputs."""

    def __init__(self) -> None:
        self.captures = self.replays = 0

    def __call__(self, function: Callable[[], tuple[Tensor, ...]]) -> Any:
        self.captures += 1
        graphs, outputs = self, function()

        class Replay:
            def __init__(self) -> None:
                self.outputs = outputs

            def __call__(self) -> None:
                graphs.replays += 1
                for target, value in zip(outputs, function(), strict=True):
                    target.copy_(value)

        return Replay()


def engine_of(part: Part, graphs: Any = None) -> tuple[CudaEngine, Any]:
    graphs = graphs or FakeGraphs()
    return CudaEngine(part, device="cpu", capture=graphs), graphs


def rows(count: int, start: float = 0) -> dict[str, Any]:
    return {"x": np.arange(start, start + 3 * count, dtype=np.float32).reshape(count, 3)}


def test_fixed_shapes_are_captured_at_once_and_replayed_with_new_inputs() -> None:
    engine, graphs = engine_of(part_of(Doubled(), rows=4))
    for start in (0, 5, -7):
        np.testing.assert_array_equal(kept(engine.run(rows(4, start)))["y"], 2 * rows(4, start)["x"])
    assert (graphs.captures, graphs.replays) == (1, 3)


def test_a_free_shape_is_captured_once_it_came_back() -> None:
    engine, graphs = engine_of(part_of(Doubled()))
    for _ in range(4):
        for count in (2, 5):
            np.testing.assert_array_equal(kept(engine.run(rows(count, 1)))["y"], 2 * rows(count, 1)["x"])
    assert (graphs.captures, graphs.replays) == (2, 4)  # each shape: two eager runs, then captured and replayed
    for count in range(10, 40):
        engine.run(rows(count))
    assert graphs.captures == 2  # the shapes of sweeps do not come back


def test_the_least_recently_used_graph_goes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cuda_engine, "RUNS_BEFORE_CAPTURE", 0)
    monkeypatch.setattr(cuda_engine, "MAX_GRAPHS", 2)
    engine, graphs = engine_of(part_of(Doubled()))
    for count in (1, 2, 1, 3, 1):
        engine.run(rows(count))
    assert graphs.captures == 3  # 1, 2 and 3; 2 went for 3
    engine.run(rows(2))
    assert graphs.captures == 4


def test_shapes_are_forgotten_in_the_end() -> None:
    recurring = RecurringShapes(runs_before=1, most=1)
    assert not recurring.recurs(((1,),))
    assert recurring.recurs(((1,),))
    for size in range(2, 40):
        assert not recurring.recurs(((size,),))
    assert not recurring.recurs(((1,),))


def test_outputs_belong_to_the_engine_until_its_next_run() -> None:
    engine, _ = engine_of(part_of(Doubled(), rows=4))
    first = engine.run(rows(4))
    copied = kept(first)
    engine.run(rows(4, 100))
    np.testing.assert_array_equal(copied["y"], 2 * rows(4)["x"])
    assert host(first["y"])[0, 0] == 200  # overwritten, as stated


def test_what_cannot_be_captured_runs_eagerly_and_that_is_said() -> None:
    def refuse(function: Callable[[], tuple[Tensor, ...]]) -> Any:
        raise RuntimeError("operation not permitted when stream is capturing\nmore")

    engine, _ = engine_of(part_of(Doubled(), rows=4), refuse)
    for start in (0, 9):
        np.testing.assert_array_equal(kept(engine.run(rows(4, start)))["y"], 2 * rows(4, start)["x"])
    (note,) = engine.notes
    assert note == "part 'doubled' runs without a CUDA graph: operation not permitted when stream is capturing"


def test_a_device_input_is_read_where_it_lies_after_its_producer() -> None:
    class Late:
        """An array whose values are there once somebody waited."""

        def __init__(self) -> None:
            self.values = np.zeros((4, 3), np.float32)
            self.shape: tuple[int, ...] = self.values.shape
            self.dtype = self.values.dtype

        def wait(self, stream: Any = None) -> None:
            self.values[:] = rows(4)["x"]

        def to_host(self) -> Any:
            raise AssertionError("copied to the host")

        def __dlpack__(self, **kwargs: Any) -> Any:
            return self.values.__dlpack__(**kwargs)

        def __dlpack_device__(self) -> tuple[int, int]:
            kind, index = self.values.__dlpack_device__()
            return int(kind), index

    for part in (part_of(Doubled()), part_of(Doubled(), rows=4)):
        engine, _ = engine_of(part)
        late: DeviceArray = Late()
        np.testing.assert_array_equal(kept(engine.run({"x": late}))["y"], 2 * rows(4)["x"])


def test_a_shape_outside_the_profile_never_builds_anything() -> None:
    engine, graphs = engine_of(part_of(Doubled(), rows=4))
    with pytest.raises(ShapeError):
        engine.run(rows(5))
    assert graphs.captures == 0


def test_a_failing_run_is_an_engine_error_and_the_reference_stays_as_it_was() -> None:
    class Fails(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(3, 3)

        def forward(self, x: Tensor) -> Tensor:
            raise RuntimeError("CUDA error: an illegal memory access")

    module = Fails()
    engine, _ = engine_of(part_of(module))
    with pytest.raises(EngineError, match=r"part 'doubled' failed on torch .* cpu fp32: CUDA error"):
        engine.run(rows(4))
    assert module.linear.weight.requires_grad


def test_an_unknown_precision_or_a_missing_gpu_is_an_engine_error() -> None:
    with pytest.raises(EngineError, match="expected fp32, fp16, bf16"):
        CudaEngine(part_of(Doubled()), "int8", device="cpu")
    if not torch.cuda.is_available():
        with pytest.raises(EngineError, match="sees no CUDA device"):
            CudaEngine(part_of(Doubled()))


def test_outputs_are_copied_to_the_host_only_when_asked_for() -> None:
    class Counted(TensorArray):
        copies = 0

        def to_host(self) -> Any:
            Counted.copies += 1
            return super().to_host()

    outputs = OnHost({"a": Counted(torch.ones(2)), "b": Counted(torch.zeros(2))})
    assert torch.equal(outputs["a"], torch.ones(2))
    assert torch.equal(outputs["a"], torch.ones(2))
    assert (Counted.copies, len(outputs), list(outputs)) == (1, 2, ["a", "b"])
    assert torch.equal(device_tensor(Counted(torch.ones(2)), torch.device("cpu")), torch.ones(2))
    assert Counted.copies == 1


def test_parts_run_on_it_as_on_every_engine() -> None:
    engine, _ = engine_of(part_of(Doubled()))
    found = run_on({"doubled": engine})("doubled", {"x": torch.from_numpy(rows(4)["x"])})
    assert torch.equal(found["y"], 2 * torch.from_numpy(rows(4)["x"]))
    assert found["best"].tolist() == [3, 3, 3]


class Gated(nn.Module):
    """A product that leaves float16, and a norm behind it that brings the values back, as in P2AT."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(2, 4, 1)
        self.behind = nn.Conv2d(4, 4, 1)
        self.norm = nn.BatchNorm2d(4)

    def forward(self, x: Tensor) -> Tensor:
        y = self.first(x)
        y = y * y
        y = self.norm(self.behind(y))
        out: Tensor = y.relu() + 1
        return out


@pytest.mark.parametrize("size", [1.0, 400.0])
def test_what_overflows_float16_stays_in_float32_and_nothing_else(size: float) -> None:
    torch.manual_seed(0)
    module = Gated().eval()
    module.norm.running_var.fill_(size**4)  # type: ignore[union-attr]  # what training would have found
    x = size * torch.randn(1, 2, 8, 8)
    wide = wide_calls(module, [(x,)], torch.float16)
    with torch.inference_mode():
        expected = module(x)
        got = MixedModule(Gated().eval(), torch.float16, wide)
        got.module.load_state_dict(module.state_dict())
        torch.testing.assert_close(got(x).float(), expected, rtol=0.01, atol=0.01)
        if size > 1:
            bare = MixedModule(module, torch.float16)(x)
            assert not bare.isfinite().all()
    assert wide == (frozenset() if size == 1 else frozenset({2, 3, 4}))  # the product, the convolution, the norm
    assert wide_calls(Gated().eval(), [(x,)], torch.bfloat16) == frozenset()
