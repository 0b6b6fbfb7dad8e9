"""Mixed precision in an ONNX graph: what gains from a small type gets it, what would lose by it keeps float32.

Engines with strong typing (TensorRT 11) and those that choose no type themselves (ONNX Runtime) compute each node in
the type that the file says. This pass decides node by node:

- convolutions and matrix products run in the small type, unless all of their inputs are float32 data (a projection of
  points is no layer); plain element-wise steps run in it where all of their inputs do;
- sums, norms, softmax, exponentials and everything about positions (grid sampling, sines) stay in float32, as in
  torch's autocast;
- so does every node that met a value on the samples beyond an eighth of the small type's range, whatever it computes:
  the gates of P2AT multiply two feature maps, and float16 ends at 65504. bfloat16 has float32's range
  (TensorRT's parser takes it in convolutions below opset 22, although ONNX allows it there only since).
- steps that only move values (reshape, transpose, concat, gather ...) take the type that they find.

Inputs and outputs of the graph keep their types.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal, TypeAlias

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from perception.errors import EngineError

HalfType: TypeAlias = Literal["fp16", "bf16"]
Sample: TypeAlias = Mapping[str, NDArray[Any]]

_TYPES = {"fp16": TensorProto.FLOAT16, "bf16": TensorProto.BFLOAT16}
_LIMITS = {"fp16": 65504.0 / 8, "bf16": 3.0e38}
_PRODUCTS = {"Conv", "ConvTranspose", "MatMul", "Gemm"}
_FOLLOWING = {
    "Add", "Sub", "Mul", "Neg", "Relu", "LeakyRelu", "PRelu", "HardSwish", "HardSigmoid", "Sigmoid", "Tanh", "Gelu",
    "Erf", "Clip", "Min", "Max", "Where", "MaxPool", "AveragePool", "BatchNormalization",
}  # fmt: skip
_MOVING = {
    "Reshape", "Transpose", "Concat", "Slice", "Split", "Gather", "GatherElements", "GatherND", "Squeeze", "Unsqueeze",
    "Expand", "Flatten", "Identity", "Pad", "Tile", "DepthToSpace", "SpaceToDepth",
}  # fmt: skip


def narrowed(model: onnx.ModelProto, samples: Sequence[Sample], half: HalfType) -> tuple[onnx.ModelProto, list[str]]:
    """Return the graph in mixed precision, and the nodes that keep float32 for the size of their values.

    Args:
        model: a float32 graph without subgraphs, as `export_onnx` writes it.
        samples: inputs that show the ranges inside.
        half: the small type.

    Raises:
        EngineError: the graph has subgraphs, or cannot be run on the samples.
    """
    if any(attribute.HasField("g") for node in model.graph.node for attribute in node.attribute):
        raise EngineError("a graph with If or Loop inside cannot be brought into mixed precision")
    floats = float_tensors(model)
    ranges = value_ranges(model, samples, floats)
    limit = _LIMITS[half]
    large = {
        index
        for index, node in enumerate(model.graph.node)
        if any(ranges.get(name, 0.0) > limit for name in (*node.input, *node.output))
    }
    result = _Narrowing(model, floats, large, half).graph()
    return result, [model.graph.node[index].name for index in sorted(large)]


def float_tensors(model: onnx.ModelProto) -> set[str]:
    """Return the names of all float32 values of a graph.

    Raises:
        EngineError: the type of some value cannot be worked out.
    """
    try:
        inferred = onnx.shape_inference.infer_shapes(model, strict_mode=False)
    except (ValueError, RuntimeError) as error:
        raise EngineError(f"the types of a graph cannot be worked out: {error}") from error
    graph = inferred.graph
    typed = {value.name: value.type.tensor_type.elem_type for value in (*graph.input, *graph.output, *graph.value_info)}
    typed |= {tensor.name: tensor.data_type for tensor in graph.initializer}
    if unknown := [name for node in graph.node for name in node.output if name and name not in typed]:
        raise EngineError(f"the type of '{unknown[0]}' in a graph cannot be worked out")
    return {name for name, kind in typed.items() if kind == TensorProto.FLOAT}


def value_ranges(model: onnx.ModelProto, samples: Sequence[Sample], names: Iterable[str]) -> dict[str, float]:
    """Return the largest finite magnitude of each value on the samples.

    Raises:
        EngineError: the graph cannot be run.
    """
    found = {tensor.name: _largest(numpy_helper.to_array(tensor)) for tensor in model.graph.initializer}
    made = {name for node in model.graph.node for name in node.output}
    wanted = [name for name in names if name in made]
    watched = onnx.ModelProto()
    watched.CopyFrom(model)
    known = {value.name for value in watched.graph.output}
    watched.graph.output.extend(
        helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in wanted if name not in known
    )
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL  # no value is fused away
    try:
        session = onnxruntime.InferenceSession(watched.SerializeToString(), options, providers=["CPUExecutionProvider"])
        used = {value.name for value in session.get_inputs()}
        for sample in samples:
            values = session.run(wanted, {name: array for name, array in sample.items() if name in used})
            for name, value in zip(wanted, values, strict=True):
                found[name] = max(found.get(name, 0.0), _largest(value))
            for name in used:
                found[name] = max(found.get(name, 0.0), _largest(sample[name]))
    except Exception as error:  # its errors share no base class
        raise EngineError(f"a graph cannot be run to find the ranges inside: {error}") from error
    return found


class _Narrowing:
    """Writes the new graph: a value `x` exists as `x` in float32, as `x__fp16` in the small type, or as both."""

    def __init__(self, model: onnx.ModelProto, floats: set[str], large: set[int], half: HalfType) -> None:
        self.model, self.floats, self.large, self.half = model, floats, large, half
        self.weights = {tensor.name: tensor for tensor in model.graph.initializer}
        made_of_nothing = (name for node in model.graph.node if node.op_type == "Constant" for name in node.output)
        self.constants = {*self.weights, *made_of_nothing}
        self.small: set[str] = set()  # values whose producer works in the small type
        self.made: set[str] = set()  # names that exist in the new graph
        self.nodes: list[onnx.NodeProto] = []
        self.initializers: list[onnx.TensorProto] = []

    def graph(self) -> onnx.ModelProto:
        """Return the new model."""
        source = self.model.graph
        self.made |= {value.name for value in source.input} | set(self.weights)
        for index, node in enumerate(source.node):
            self._add(node, index)
        for output in source.output:
            if output.name in self.floats:
                self._as(output.name, small=False)
        used = {name for node in self.nodes for name in node.input} | {value.name for value in source.output}
        result = onnx.ModelProto()
        result.CopyFrom(self.model)
        del result.graph.node[:], result.graph.initializer[:], result.graph.value_info[:]
        result.graph.node.extend(self.nodes)
        result.graph.initializer.extend(tensor for tensor in source.initializer if tensor.name in used)
        result.graph.initializer.extend(self.initializers)
        return result

    def _add(self, node: onnx.NodeProto, index: int) -> None:
        small = self._runs_small(node, index)
        new = onnx.NodeProto()
        new.CopyFrom(node)
        for place, name in enumerate(node.input):
            if name in self.floats:
                new.input[place] = self._as(name, small)
        for place, name in enumerate(node.output):
            if name in self.floats and small:
                new.output[place] = self._small_name(name)
                self.small.add(name)
            self.made.add(new.output[place])
        self.nodes.append(new)

    def _runs_small(self, node: onnx.NodeProto, index: int) -> bool:
        values = [name for name in node.output if name]
        if index in self.large or node.domain not in ("", "ai.onnx") or not all(name in self.floats for name in values):
            return False
        data = [name for name in node.input if name in self.floats and name not in self.constants]
        if node.op_type in _PRODUCTS:
            return len(data) < sum(name in self.floats for name in node.input) or any(
                name in self.small for name in data
            )
        follows = node.op_type in _FOLLOWING or node.op_type in _MOVING
        return follows and bool(data) and all(name in self.small for name in data)

    def _as(self, name: str, small: bool) -> str:
        """Return the name under which a value exists in the wanted type, cast where it does not exist yet."""
        wanted = self._small_name(name) if small else name
        if wanted not in self.made:
            self.made.add(wanted)
            if small and name in self.weights:
                self.initializers.append(_cast_weight(self.weights[name], wanted, self.half))
            else:
                have = name if small else self._small_name(name)
                kind = _TYPES[self.half] if small else TensorProto.FLOAT
                self.nodes.append(helper.make_node("Cast", [have], [wanted], name=f"{wanted}__cast", to=kind))
        return wanted

    def _small_name(self, name: str) -> str:
        return f"{name}__{self.half}"


def _cast_weight(tensor: onnx.TensorProto, name: str, half: HalfType) -> onnx.TensorProto:
    values = numpy_helper.to_array(tensor)
    if half == "fp16":
        with np.errstate(over="ignore", under="ignore"):  # -inf of a mask stays what it is
            return numpy_helper.from_array(values.astype(np.float16), name)
    bits = values.astype(np.float32).view(np.uint32)
    rounded = ((bits.astype(np.uint64) + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(
        np.uint16
    )  # to nearest, ties to even
    return helper.make_tensor(name, TensorProto.BFLOAT16, tensor.dims, rounded.tobytes(), raw=True)


def _largest(values: NDArray[Any]) -> float:
    if values.dtype.kind != "f" or not values.size:
        return 0.0
    finite = np.abs(values[np.isfinite(values)])
    return float(finite.max()) if finite.size else 0.0
