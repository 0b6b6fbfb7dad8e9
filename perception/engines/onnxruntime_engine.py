"""The ONNX Runtime engine: a part exported to ONNX, on a CPU."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import onnx
import onnxruntime
import onnxscript

from perception.engines.agreement import certificate, confirm_agreement
from perception.engines.cache import EngineCache, Say
from perception.engines.engine import check_inputs
from perception.engines.export import OPSET, export_onnx
from perception.engines.identity import part_identity
from perception.errors import EngineError
from perception.messages.array import Array, host
from perception.networks.part import Part

_GRAPH = "graph.onnx"


class OnnxRuntimeEngine:
    """Runs one ONNX graph on a CPU in float32."""

    def __init__(self, part: Part, graph: Path, threads: int | None = None) -> None:
        """Load `graph`, which was exported from `part`.

        Raises:
            EngineError: ONNX Runtime cannot load it.
        """
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        if threads is not None:
            options.intra_op_num_threads = threads
        # Spinning threads of one node would take the cores from the next node's.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        try:
            self._session = onnxruntime.InferenceSession(str(graph), options, providers=["CPUExecutionProvider"])
        except Exception as error:  # its errors share no base class
            raise EngineError(f"{graph}: ONNX Runtime cannot load this graph: {error}") from error
        self.inputs, self.outputs = part.inputs, part.outputs
        self.name = f"onnxruntime {onnxruntime.__version__} cpu fp32"
        self._part_name = part.name
        self._used = {value.name for value in self._session.get_inputs()}

    def run(self, inputs: Mapping[str, Array]) -> Mapping[str, Array]:
        """Run the graph; see `Engine.run`."""
        check_inputs(self.inputs, inputs)
        feeds = {name: host(inputs[name]) for name in self._used}
        try:
            values = self._session.run(list(self.outputs), feeds)
        except Exception as error:  # its errors share no base class
            raise EngineError(f"part '{self._part_name}' failed in ONNX Runtime: {error}") from error
        return dict(zip(self.outputs, values, strict=True))


def build_onnxruntime(part: Part, cache: EngineCache, say: Say, threads: int | None = None) -> OnnxRuntimeEngine:
    """Return the engine of `part`: from the cache, or exported, compared with the reference and stored there.

    Raises:
        EngineError: the part cannot be exported, or the engine disagrees with the torch reference.
    """

    def build(folder: Path) -> Mapping[str, object]:
        export_onnx(part, folder / _GRAPH)
        return certificate(confirm_agreement(OnnxRuntimeEngine(part, folder / _GRAPH, threads), part))

    versions = {
        "onnxruntime": onnxruntime.__version__,
        "onnx": onnx.__version__,
        "onnxscript": onnxscript.__version__,
        "opset": str(OPSET),
    }
    made_of = part_identity(part, "onnxruntime", "fp32", versions)
    entry = cache.get_or_build(made_of, build, say)
    return OnnxRuntimeEngine(part, entry.folder / _GRAPH, threads)
