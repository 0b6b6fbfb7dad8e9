"""INT8 by explicit quantisation: Q/DQ pairs around convolutions and matrix products, as TensorRT 11 demands.

Symmetric, activations per tensor and weights per output channel, biases in float32: what TensorRT fuses. The ranges are
the largest magnitudes on the samples, so the samples decide the accuracy; the parity gate has the last word.
"""

from __future__ import annotations

import logging
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from perception.engines.onnx_precision import Sample
from perception.errors import EngineError

QUANTIZED = ("Conv", "MatMul", "Gemm")


def quantized(path: Path, samples: Sequence[Sample]) -> None:
    """Rewrite the float32 graph at `path` with Q/DQ pairs.

    Raises:
        EngineError: ONNX Runtime's quantiser refuses the graph.
    """
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self.samples: Iterator[Sample] = iter(samples)

        def get_next(self) -> Any:
            return next(self.samples, None)

    root = logging.getLogger()
    level = root.level
    root.setLevel(logging.ERROR)  # it recommends preprocessing that the exporter has done
    try:
        with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            made = Path(folder) / path.name
            quantize_static(
                path,
                made,
                Reader(),
                quant_format=QuantFormat.QDQ,
                activation_type=QuantType.QInt8,
                weight_type=QuantType.QInt8,
                per_channel=True,
                op_types_to_quantize=list(QUANTIZED),
                extra_options={
                    "ActivationSymmetric": True,
                    "WeightSymmetric": True,
                    "QuantizeBias": False,
                    "OpTypesToExcludeOutputQuantization": list(QUANTIZED),
                },
            )
            path.write_bytes(made.read_bytes())
    except Exception as error:  # its errors share no base class
        raise EngineError(f"{path}: cannot be quantised: {error}") from error
    finally:
        root.setLevel(level)
