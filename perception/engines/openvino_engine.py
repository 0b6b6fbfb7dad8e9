"""The OpenVINO engine (extra `cpu-fast`): a part exported to ONNX, on a CPU, in float32 or bfloat16.

OpenVINO takes bfloat16 by itself where the processor has it: float32 is forced here unless bfloat16 is asked for.
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import onnx
import onnxscript

from perception.engines.agreement import certificate, confirm_agreement
from perception.engines.cache import EngineCache, Say
from perception.engines.engine import check_inputs
from perception.engines.export import OPSET, export_onnx
from perception.engines.identity import part_identity
from perception.errors import EngineError, NotInstalledError
from perception.messages.array import Array, host
from perception.networks.part import Part

_GRAPH = "graph.onnx"
_TYPES = {"fp32": "f32", "bf16": "bf16"}


class OpenVinoEngine:
    """Runs one ONNX graph in OpenVINO on a CPU. Outputs are views of its memory, valid until its next run."""

    def __init__(self, part: Part, graph: Path, threads: int | None = None, precision: str = "fp32") -> None:
        """Load `graph`, which was exported from `part`.

        Raises:
            EngineError: OpenVINO cannot load it, or this processor does not have the precision.
            NotInstalledError: OpenVINO is not installed.
        """
        if precision not in _TYPES:
            raise EngineError(f"openvino at '{precision}'; expected one of {', '.join(_TYPES)}")
        openvino = _openvino()
        properties = {"INFERENCE_PRECISION_HINT": _TYPES[precision], "PERFORMANCE_HINT": "LATENCY", "NUM_STREAMS": 1}
        if threads is not None:
            properties["INFERENCE_NUM_THREADS"] = threads
        try:
            core = openvino.Core()
            model = core.compile_model(core.read_model(graph), "CPU", properties)
            runs = str(model.get_property("INFERENCE_PRECISION_HINT").to_string())
            self._request = model.create_infer_request()
        except Exception as error:  # its errors are RuntimeErrors of its own
            raise EngineError(f"{graph}: OpenVINO cannot load this graph: {error}") from error
        if runs != _TYPES[precision]:
            raise EngineError(f"this processor has no {precision}: OpenVINO would run {runs} instead")
        self.inputs, self.outputs = part.inputs, part.outputs
        self.name = f"openvino {openvino.get_version().partition('-')[0]} cpu {precision}"
        self._part_name = part.name
        self._used = {name for port in model.inputs for name in port.names}

    def run(self, inputs: Mapping[str, Array]) -> Mapping[str, Array]:
        """Run the graph; see `Engine.run`."""
        check_inputs(self.inputs, inputs)
        feeds = {name: host(inputs[name]) for name in inputs if name in self._used}
        try:
            values: Any = self._request.infer(feeds, share_inputs=True, share_outputs=True)
        except Exception as error:  # its errors are RuntimeErrors of its own
            raise EngineError(f"part '{self._part_name}' failed in OpenVINO: {error}") from error
        return {name: values[name] for name in self.outputs}


def build_openvino(
    part: Part, cache: EngineCache, say: Say, threads: int | None = None, precision: str = "fp32"
) -> OpenVinoEngine:
    """Return the engine of `part`: from the cache, or exported, compared with the reference and stored there.

    Raises:
        EngineError: the part cannot be exported, or the engine disagrees with the torch reference.
        NotInstalledError: OpenVINO is not installed.
    """
    version = str(_openvino().get_version())

    def build(folder: Path) -> Mapping[str, object]:
        export_onnx(part, folder / _GRAPH)
        engine = OpenVinoEngine(part, folder / _GRAPH, threads, precision)
        return certificate(confirm_agreement(engine, part, half=precision != "fp32"))

    versions = {
        "openvino": version, "onnx": onnx.__version__, "onnxscript": onnxscript.__version__, "opset": str(OPSET),
    }  # fmt: skip
    entry = cache.get_or_build(part_identity(part, "openvino", precision, versions), build, say)
    return OpenVinoEngine(part, entry.folder / _GRAPH, threads, precision)


def is_installed() -> bool:
    """True where OpenVINO can be imported; it is not imported to find out."""
    return importlib.util.find_spec("openvino") is not None


def _openvino() -> Any:
    if not is_installed():
        raise NotInstalledError("OpenVINO is not installed: pip install -c constraints.txt '.[cpu-fast]'")
    return importlib.import_module("openvino")


__all__ = ["OpenVinoEngine", "build_openvino", "is_installed"]
