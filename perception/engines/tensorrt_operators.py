"""What TensorRT's ONNX parser reads, and whether a graph asks for more.

The table (`tensorrt_operators.json`) is of the parser of TensorRT 10.1, the oldest that this project builds for; its
source is named there. Operators that it marks as restricted have further limits, which only the parser itself knows.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import onnx
from onnx import TensorProto, helper

TABLE = Path(__file__).with_name("tensorrt_operators.json")
_TYPES = {
    TensorProto.FLOAT: "FP32", TensorProto.FLOAT16: "FP16", TensorProto.BFLOAT16: "BF16", TensorProto.INT64: "INT64",
    TensorProto.INT32: "INT32", TensorProto.BOOL: "BOOL", TensorProto.UINT8: "UINT8", TensorProto.INT8: "INT8",
    TensorProto.DOUBLE: "DOUBLE",
}  # fmt: skip
_DATA_INPUT = {"Where": 1}
"""The input whose type the table means, where that is not the first."""
_BY_OUTPUT = {"ConstantOfShape", "Constant", "Range", "EyeLike", "RandomUniform"}
_ANY_TYPE = {"Cast", "Shape", "Size"}
"""The parser takes what these are given; the table names the types of their results."""


@dataclass(frozen=True)
class OperatorTable:
    """Operators and types of one parser."""

    version: str
    opsets: tuple[int, int]
    operators: Mapping[str, tuple[str, ...]]
    restricted: frozenset[str]


@cache
def operator_table() -> OperatorTable:
    """Read the table."""
    stored = json.loads(TABLE.read_text())
    operators = {name: tuple(types) for name, types in stored["operators"].items()}
    low, high = stored["opset"]
    return OperatorTable(stored["tensorrt"], (low, high), operators, frozenset(stored["restricted"]))


def unsupported(model: onnx.ModelProto) -> list[str]:
    """Return, a line each, what the parser does not read in this graph; empty where it reads all of it."""
    table = operator_table()
    types = value_types(model)
    found: dict[str, None] = {}
    for opset in model.opset_import:
        if opset.domain in ("", "ai.onnx") and not table.opsets[0] <= opset.version <= table.opsets[1]:
            found[f"opset {opset.version}; the parser reads {table.opsets[0]} to {table.opsets[1]}"] = None
    for node in model.graph.node:
        if node.domain not in ("", "ai.onnx") or node.op_type not in table.operators:
            found[f"operator {node.domain + '.' if node.domain else ''}{node.op_type}"] = None
            continue
        kind = _TYPES.get(types.get(_deciding_value(node), 0), "")
        known = table.operators[node.op_type]
        if kind and kind not in known and node.op_type not in _ANY_TYPE:
            found[f"operator {node.op_type} of {kind}; the parser reads {', '.join(known)}"] = None
    return list(found)


def rewritten(model: onnx.ModelProto) -> bool:
    """Say with other operators, in place, what the parser lacks and others say as well; whether anything was changed.

    Clip of integers becomes Max and Min, Equal of booleans becomes Not of Xor.
    """
    types, nodes, changed = value_types(model), list[onnx.NodeProto](), False
    for node in model.graph.node:
        kind = types.get(_deciding_value(node), 0)
        if node.op_type == "Clip" and kind in (TensorProto.INT64, TensorProto.INT32):
            bounds = [(name, limit) for name, limit in zip(("Max", "Min"), node.input[1:], strict=False) if limit]
            value = node.input[0]
            for place, (name, limit) in enumerate(bounds):
                result = node.output[0] if place == len(bounds) - 1 else f"{node.output[0]}__bounded"
                nodes.append(helper.make_node(name, [value, limit], [result], name=f"{node.name}_{name}"))
                value = result
        elif node.op_type == "Equal" and kind == TensorProto.BOOL:
            differs = f"{node.output[0]}__differs"
            nodes.append(helper.make_node("Xor", list(node.input), [differs], name=f"{node.name}_Xor"))
            nodes.append(helper.make_node("Not", [differs], list(node.output), name=f"{node.name}_Not"))
        else:
            nodes.append(node)
            continue
        changed = True
    if changed:
        del model.graph.node[:]
        model.graph.node.extend(nodes)
    return changed


def _deciding_value(node: onnx.NodeProto) -> str:
    if node.op_type in _BY_OUTPUT or not node.input:
        return str(node.output[0])
    return str(node.input[_DATA_INPUT.get(node.op_type, 0)])


def value_types(model: onnx.ModelProto) -> dict[str, int]:
    """Return the element type of each value of a graph, where it can be worked out."""
    graph = onnx.shape_inference.infer_shapes(model).graph
    values = (*graph.input, *graph.output, *graph.value_info)
    types = {value.name: value.type.tensor_type.elem_type for value in values}
    return types | {tensor.name: tensor.data_type for tensor in graph.initializer}
