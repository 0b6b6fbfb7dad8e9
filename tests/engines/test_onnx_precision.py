"""Mixed precision and INT8 in ONNX graphs, and the operators that TensorRT reads."""

from __future__ import annotations

import json
import os
import warnings
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator
from torch import Tensor, nn

from perception.engines.export import EngineWarning, export_onnx
from perception.engines.onnx_precision import narrowed
from perception.engines.onnx_quantization import quantized
from perception.engines.tensorrt_operators import operator_table, rewritten, unsupported
from perception.errors import EngineError
from perception.networks.part import Part, TensorSpec

TABLE = Path(os.environ.get("PERCEPTION_DATA", "../shared")) / "tensorrt_api/operators_10.1.json"


def model_of(
    nodes: list[onnx.NodeProto], weights: dict[str, NDArray[Any]], kind: int = TensorProto.FLOAT
) -> onnx.ModelProto:
    """Return a graph from x (2, 4, 8, 8) to y."""
    graph = helper.make_graph(
        nodes,
        "graph",
        [helper.make_tensor_value_info("x", kind, (2, 4, 8, 8))],
        [helper.make_tensor_value_info("y", kind, (2, 4, 8, 8))],
        [numpy_helper.from_array(array, name) for name, array in weights.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def run(model: onnx.ModelProto, x: NDArray[Any]) -> NDArray[Any]:
    onnx.checker.check_model(model, full_check=True)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return session.run(["y"], {"x": x})[0]  # type: ignore[no-any-return]


def in_its_own_types(model: onnx.ModelProto, x: NDArray[Any]) -> NDArray[Any]:
    """Run node by node in the type that the file says; ONNX Runtime on a CPU computes float16 in float32."""
    results: Any = ReferenceEvaluator(model).run(None, {"x": x})
    return np.asarray(results[0])


def gated() -> onnx.ModelProto:
    """A gate as in P2AT: two convolutions, their product, a convolution behind it and a norm that brings it back."""
    random = np.random.default_rng(0)
    kernel = random.standard_normal((4, 4, 1, 1)).astype(np.float32)
    one, zero = np.ones(4, np.float32), np.zeros(4, np.float32)
    nodes = [
        helper.make_node("Conv", ["x", "k"], ["a"], name="first"),
        helper.make_node("Relu", ["a"], ["b"], name="relu"),
        helper.make_node("Mul", ["a", "b"], ["gate"], name="gate"),
        helper.make_node("Conv", ["gate", "k"], ["c"], name="behind"),
        helper.make_node("BatchNormalization", ["c", "one", "zero", "zero", "wide"], ["d"], name="norm"),
        helper.make_node("Conv", ["d", "k"], ["y"], name="last"),
    ]
    wide = np.full(4, 1e10, np.float32)
    return model_of(nodes, {"k": kernel, "one": one, "zero": zero, "wide": wide})


def image(scale: float) -> NDArray[np.float32]:
    return (scale * np.random.default_rng(1).standard_normal((2, 4, 8, 8))).astype(np.float32)


def test_a_gate_that_overflows_float16_keeps_float32_and_the_rest_does_not() -> None:
    model, x = gated(), image(300)
    assert np.abs(run(model, x)).max() < 100
    narrow, wide = narrowed(model, [{"x": x}], "fp16")
    assert wide == ["gate", "behind", "norm"]
    np.testing.assert_allclose(run(narrow, x), run(model, x), rtol=0.02, atol=0.02)
    np.testing.assert_allclose(in_its_own_types(narrow, x), run(model, x), rtol=0.02, atol=0.02)
    blind, _ = narrowed(model, [{"x": image(1)}], "fp16")  # the samples showed no large value
    with np.errstate(all="ignore"):
        assert not np.isfinite(in_its_own_types(blind, x)).all()


def test_bfloat16_has_the_range_of_float32() -> None:
    narrow, wide = narrowed(gated(), [{"x": image(300)}], "bf16")
    assert wide == []
    types = {tensor.data_type for tensor in narrow.graph.initializer if tensor.name.endswith("__bf16")}
    assert types == {TensorProto.BFLOAT16}
    exact = {tensor.name: numpy_helper.to_array(tensor) for tensor in gated().graph.initializer}["k"]
    (stored,) = (tensor for tensor in narrow.graph.initializer if tensor.name == "k__bf16")
    bits = np.frombuffer(stored.raw_data, np.uint16).astype(np.uint32) << 16
    expected = torch.from_numpy(exact.copy()).bfloat16().float().numpy().reshape(-1)  # torch rounds the same way
    np.testing.assert_array_equal(bits.view(np.float32), expected)


def test_softmax_sums_and_projections_stay_in_float32() -> None:
    random = np.random.default_rng(0)
    weight = random.standard_normal((8, 8)).astype(np.float32)
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["q"], name="layer"),  # by a weight
        helper.make_node("MatMul", ["q", "q"], ["scores"], name="attention"),
        helper.make_node("Softmax", ["scores"], ["share"], name="softmax"),
        helper.make_node("MatMul", ["share", "q"], ["seen"], name="read"),
        helper.make_node("MatMul", ["x", "x"], ["projected"], name="projection"),  # data by data
        helper.make_node("Add", ["seen", "projected"], ["y"], name="sum"),
    ]
    narrow, _ = narrowed(model_of(nodes, {"w": weight}), [{"x": image(1)}], "fp16")
    small = {
        node.name
        for node in narrow.graph.node
        if node.op_type != "Cast" and any(name.endswith("__fp16") for name in node.output)
    }
    assert small == {"layer", "attention", "read"}
    np.testing.assert_allclose(
        run(narrow, image(1)), run(model_of(nodes, {"w": weight}), image(1)), rtol=0.02, atol=0.05
    )


def test_a_value_is_cast_once_and_outputs_keep_their_type() -> None:
    weight = np.eye(8, dtype=np.float32)
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["a"]),
        helper.make_node("MatMul", ["x", "w"], ["b"]),
        helper.make_node("Add", ["a", "b"], ["y"]),
    ]
    narrow, _ = narrowed(model_of(nodes, {"w": weight}), [{"x": image(1)}], "fp16")
    assert Counter(node.op_type for node in narrow.graph.node)["Cast"] == 2  # x in, y out
    assert narrow.graph.output[0].type.tensor_type.elem_type == TensorProto.FLOAT
    assert [tensor.name for tensor in narrow.graph.initializer] == ["w__fp16"]


def test_a_graph_with_branches_is_refused() -> None:
    branch = helper.make_graph([], "branch", [], [helper.make_tensor_value_info("x", TensorProto.FLOAT, None)])
    nodes = [helper.make_node("If", ["c"], ["y"], then_branch=branch, else_branch=branch)]
    with pytest.raises(EngineError, match="If or Loop"):
        narrowed(model_of(nodes, {"c": np.array(True)}), [], "fp16")


def test_int8_puts_pairs_around_products_only(tmp_path: Path) -> None:
    path = tmp_path / "graph.onnx"
    onnx.save(gated(), path)
    quantized(path, [{"x": image(1)}])
    model = onnx.load(path)
    counts = Counter(node.op_type for node in model.graph.node)
    assert (counts["Conv"], counts["QuantizeLinear"]) == (3, 3)  # one pair in front of each convolution
    scales = [tensor for tensor in model.graph.initializer if tensor.name == "k_scale"]
    assert numpy_helper.to_array(scales[0]).shape == (4,)  # per output channel
    points = [numpy_helper.to_array(tensor) for tensor in model.graph.initializer if "zero_point" in tensor.name]
    assert all((point == 0).all() for point in points)  # symmetric, as TensorRT demands
    assert unsupported(model) == []


@pytest.mark.skipif(not TABLE.is_file(), reason="the published operator table is not here")
def test_the_operator_table_is_the_published_one() -> None:
    published = json.loads(TABLE.read_text())
    table = operator_table()
    assert table.version == published["tensorrt"]
    supported = {name for name, entry in published["operators"].items() if entry["supported"]}
    assert table.operators.keys() == supported
    for name in supported:
        stated = [kind.replace("INF64", "INT64") for kind in published["operators"][name]["types"] if kind]
        assert list(table.operators[name]) == stated


def test_unknown_operators_types_and_opsets_are_named() -> None:
    assert unsupported(gated()) == []
    unique = model_of([helper.make_node("Unique", ["x"], ["y"])], {})
    assert unsupported(unique) == ["operator Unique"]
    double = model_of([helper.make_node("Conv", ["x", "k"], ["y"])], {"k": np.ones((4, 4, 1, 1))}, TensorProto.DOUBLE)
    assert unsupported(double) == ["operator Conv of DOUBLE; the parser reads FP32, FP16, BF16"]
    new = gated()
    new.opset_import[0].version = 23
    assert unsupported(new) == ["opset 23; the parser reads 9 to 20"]


def test_what_the_parser_lacks_is_said_with_other_operators() -> None:
    x = np.arange(512, dtype=np.int64).reshape(2, 4, 8, 8)
    bounds = {"low": np.array(7), "high": np.array(300)}
    clip = model_of([helper.make_node("Clip", ["x", "low", "high"], ["y"])], bounds, TensorProto.INT64)
    expected = run(clip, x)
    assert unsupported(clip)
    assert rewritten(clip)
    assert unsupported(clip) == []
    np.testing.assert_array_equal(run(clip, x), expected)
    equal = model_of([helper.make_node("Equal", ["x", "yes"], ["y"])], {"yes": np.array(True)}, TensorProto.BOOL)
    mask = x % 3 == 0
    expected = run(equal, mask)
    assert rewritten(equal)
    assert unsupported(equal) == []
    np.testing.assert_array_equal(run(equal, mask), expected)
    assert not rewritten(gated())


def test_a_part_that_tensorrt_cannot_read_is_said_at_its_export(tmp_path: Path) -> None:
    """Warnings are errors in tests, so this checks every graph of the seven networks that any test exports."""

    class Bits(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x & 3

    spec = {"x": TensorSpec("int64", (4,))}
    part = Part("bits", Bits(), spec, {"y": TensorSpec("int64", (4,))}, lambda: (torch.arange(4),))
    with pytest.warns(
        EngineWarning, match=r"part 'bits': the ONNX parser of TensorRT 10\.1 does not read .*BitwiseAnd"
    ):
        export_onnx(part, tmp_path / "graph.onnx")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(EngineWarning):
            export_onnx(part, tmp_path / "graph.onnx")
