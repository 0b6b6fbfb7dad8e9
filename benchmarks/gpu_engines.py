"""Check and time the engines of a GPU: every network's parts on torch-CUDA, and on ONNX Runtime's CUDA provider.

    python -m benchmarks.gpu_engines            # compact and one full-size variant of each network, a few minutes
    python -m benchmarks.gpu_engines --only ddrnet_compact --only p2at_compact
    python -m benchmarks.gpu_engines --cases tests/golden   # and the parity cases, in fp32 and fp16

The reference is each part in torch on the CPU, in float32. A line a part and engine: the largest error over the
tolerance of the parity cases (up to 1 agrees; below fp32 the class `half`), the median time of a run with inputs on the
host until its outputs are complete on the device, and until they are on the host. Exit code 1 if one does not agree.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils.dlpack import from_dlpack

from benchmarks.networks import simulated_cloud
from perception.engines.agreement import relative_error
from perception.engines.cuda_engine import CudaEngine
from perception.engines.engine import Engine, axis_names, kept, pinned
from perception.engines.identity import gpu_name
from perception.engines.tensor_array import TensorArray
from perception.engines.torch_engine import TorchEngine
from perception.errors import EngineError, PerceptionError
from perception.networks.load import load_network
from perception.networks.part import Part, run_in_torch

COMPACT = (
    "ddrnet_compact", "p2at_compact", "dsvt_compact", "flatformer_compact", "deepinteraction_compact",
    "egoposeformer_compact", "estf_compact",
)  # fmt: skip
FULL = (
    "ddrnet23_slim_cityscapes", "p2at_s_cityscapes", "dsvt_pillar_waymo", "flatformer_waymo_1f",
    "deepinteraction_nuscenes", "egoposeformer_unrealego", "estf_hardvs",
)  # fmt: skip
VARIANTS = (("fp32", False), ("fp32", True), ("fp16", False), ("fp16", True), ("bf16", True))
POINTS = 60_000

Inputs = Mapping[str, NDArray[Any]]


@dataclass
class Row:
    """One part on one engine."""

    what: str
    engine: str
    error: float = float("nan")
    device_ms: float = float("nan")
    host_ms: float = float("nan")
    note: str = ""

    def line(self) -> str:
        verdict = "agrees " if self.error <= 1 else "DIFFERS" if self.error > 1 else "FAILED "
        times = f"{self.device_ms:9.3f} {self.host_ms:9.3f}" if self.device_ms == self.device_ms else f"{'':19}"
        return f"{verdict} {self.what:<44} {self.engine:<18} {self.error:9.3g} {times}  {self.note}"


def measure_card(card: str, repeats: int) -> Iterator[Row]:
    """Check and time every part of one network."""
    network: Any = load_network(f"filled:{card}", nn.Module).network
    recorded = _recorded(network) if hasattr(network, "detect") and card.startswith(("dsvt", "flatformer")) else {}
    for name, part in network.parts().items():
        if card in FULL and {"height", "width"} <= axis_names(part):
            part = pinned(part, {"batch": 1, "height": 512, "width": 1024})  # noqa: PLW2901
        example = dict(zip(part.inputs, (tensor.numpy() for tensor in part.example()), strict=True))
        for text, inputs in (("", recorded[name]),) if name in recorded else (("", example),):
            yield from measure_part(f"{card}.{name}{text}", part, inputs, repeats)


def measure_part(what: str, part: Part, inputs: Inputs, repeats: int) -> Iterator[Row]:
    """Check and time one part on one input: the reference first, then every engine."""
    reference = TorchEngine(part)
    start_s = time.perf_counter()
    expected = kept(reference.run(inputs))
    sizes = max(inputs.items(), key=lambda item: item[1].size)
    yield Row(
        what, "torch cpu", 0.0, note=f"{(time.perf_counter() - start_s) * 1e3:.0f} ms; {sizes[0]} {sizes[1].shape}"
    )
    other = {name: array[..., ::-1].copy() if array.dtype.kind == "f" else array for name, array in inputs.items()}
    expected_other = kept(reference.run(other))
    for precision, graphs in VARIANTS:
        label = f"torch-cuda {precision}{' graph' if graphs else ''}"
        yield _row(what, label, partial(CudaEngine, part, precision, graphs=graphs), precision != "fp32",
                   (inputs, expected), (other, expected_other), repeats)  # fmt: skip
    if "CUDAExecutionProvider" in _providers():
        with tempfile.TemporaryDirectory() as folder:
            yield _row(what, "onnxruntime-cuda", lambda: _exported(part, Path(folder)), False,
                       (inputs, expected), (other, expected_other), repeats)  # fmt: skip


def _row(
    what: str,
    label: str,
    build: Callable[[], Engine],
    half: bool,
    case: tuple[Inputs, Inputs],
    other: tuple[Inputs, Inputs],
    repeats: int,
) -> Row:
    row = Row(what, label)
    try:
        engine = build()
        # In turn, so that a graph which kept an input or an output of an earlier run is seen.
        errors = [_error(engine, *pair, half) for pair in (case, other, case, other, case)]
        row.error, output = max(errors)
        row.device_ms, row.host_ms = _times(engine, case[0], repeats)
        wide = len(getattr(getattr(engine, "_module", None), "wide", ()))
        row.note = "; ".join(
            [f"worst: {output}", *getattr(engine, "notes", []), *([f"{wide} calls kept in fp32"] * (wide > 0))]
        )
        row.note += f"; {torch.cuda.max_memory_allocated() / 1e9:.1f} GB"
    except Exception as error:  # noqa: BLE001 (the next engine is still of interest)
        row.note = f"{type(error).__name__}: {str(error).strip().splitlines()[0][:200] if str(error).strip() else ''}"
    finally:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    return row


def _error(engine: Engine, inputs: Inputs, expected: Inputs, half: bool) -> tuple[float, str]:
    got = kept(engine.run(inputs))
    return max((relative_error(got[name], array, half), name) for name, array in expected.items())


def _times(engine: Engine, inputs: Inputs, repeats: int) -> tuple[float, float]:
    device, host = [], []
    for round_ in range(repeats + 3):
        torch.cuda.synchronize()
        start_s = time.perf_counter()
        outputs = engine.run(inputs)
        torch.cuda.synchronize()
        middle_s = time.perf_counter()
        kept(outputs)
        if round_ >= 3:
            device.append((middle_s - start_s) * 1e3)
            host.append((time.perf_counter() - start_s) * 1e3)
    return statistics.median(device), statistics.median(host)


def check_streams() -> Iterator[Row]:
    """An input that another stream is still writing is waited for on the device; the caller's stream is used."""
    cuda: Any = torch.cuda
    network: Any = load_network("filled:ddrnet_compact", nn.Module).network
    part = pinned(network.parts()["segment"], {"batch": 1, "height": 256, "width": 512})
    x = torch.rand(1, 3, 256, 512)
    expected = kept(TorchEngine(part).run({"image": x.numpy()}))
    for graphs in (False, True):
        engine, producer, consumer = CudaEngine(part, graphs=graphs), cuda.Stream(), cuda.Stream()
        engine.run({"image": x.numpy()})
        cuda.synchronize()
        late, event = torch.zeros(1, 3, 256, 512, device="cuda"), cuda.Event()
        cuda.synchronize()
        with cuda.stream(producer):
            cuda._sleep(200_000_000)  # about 0.1 s
            late.copy_(x.to("cuda", non_blocking=True))
            event.record()
        with cuda.stream(consumer):
            start_s = time.perf_counter()
            outputs = engine.run({"image": TensorArray(late, event)})
            enqueued_ms = (time.perf_counter() - start_s) * 1e3
        got = kept(outputs)
        error = relative_error(got["logits"], expected["logits"])
        logits: Any = outputs["logits"]
        shared = from_dlpack(logits).data_ptr() == logits.tensor.data_ptr()
        note = f"run returned after {enqueued_ms:.2f} ms of a wait of about 100; DLPack shares memory: {shared}"
        yield Row("an input that another stream writes", f"torch-cuda{' graph' if graphs else ''}", error, note=note)


def check_cases(cases: list[Path]) -> Iterator[Row]:
    """Run parity cases on the GPU."""
    from perception.networks.parity.case import read_case
    from perception.networks.parity.verify import find_cases, verify_case

    for path in find_cases(cases):
        for precision in ("fp32", "fp16"):
            row = Row(f"case {path.parent.name}/{path.stem}", f"torch-cuda {precision}")
            try:
                half = precision != "fp32"
                verdict, _ = verify_case(read_case(path), partial(_runner, precision), half)
                row.note = verdict.error
                if verdict.worst is not None:
                    failed = [found.name for found in verdict.rows if found.required and not found.passed]
                    row.error = verdict.worst.worst if verdict.passed else max(verdict.worst.worst, 1.001)
                    row.note = f"failed: {', '.join(failed)}" if failed else f"worst: {verdict.worst.name}"
            except PerceptionError as error:
                row.note = str(error).splitlines()[0][:200]
            torch.cuda.empty_cache()
            yield row


def _runner(precision: str, parts: Mapping[str, Part]) -> Any:
    from perception.engines.engine import run_on

    engines: dict[str, Engine] = {}

    def run(name: str, inputs: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        if name not in engines:
            engines[name] = CudaEngine(parts[name], precision)
        return run_on(engines)(name, inputs)

    return run


def _recorded(network: Any) -> dict[str, Inputs]:
    """Return what a sweep of a simulated LiDAR brings to each part of a LiDAR network."""
    found: dict[str, Inputs] = {}
    bare = run_in_torch(network.parts())

    def run(name: str, inputs: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        found[name] = {key: tensor.numpy().copy() for key, tensor in inputs.items()}
        return bare(name, inputs)

    with torch.inference_mode():
        network.detect(torch.from_numpy(simulated_cloud(POINTS)), run)
    return found


def _exported(part: Part, folder: Path) -> Engine:
    from perception.engines.export import export_onnx
    from perception.engines.onnxruntime_engine import OnnxRuntimeEngine

    export_onnx(part, folder / "graph.onnx")
    return OnnxRuntimeEngine(part, folder / "graph.onnx", device="cuda")


def _providers() -> list[str]:
    try:
        import onnxruntime
    except ImportError:
        return []
    return list(onnxruntime.get_available_providers())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", action="append", help="only this model card; may be repeated")
    parser.add_argument("--cases", action="append", type=Path, default=[], help="parity cases, or folders of them")
    parser.add_argument("--repeats", type=int, default=20)
    arguments = parser.parse_args()
    if not torch.cuda.is_available():
        sys.exit(f"torch {torch.__version__} sees no CUDA device here")
    print(f"{gpu_name()}, torch {torch.__version__}, numpy {np.__version__}, ONNX Runtime providers: {_providers()}")
    print(f"{'':7} {'part':<44} {'engine':<18} {'err/tol':>9} {'device ms':>9} {'host ms':>9}")
    rows: list[Row] = []

    def report(found: Iterator[Row]) -> None:
        for row in found:
            rows.append(row)
            print(row.line(), flush=True)

    report(check_streams())
    for card in arguments.only or (*COMPACT, *FULL):
        try:
            report(measure_card(card, arguments.repeats))
        except (PerceptionError, EngineError, RuntimeError, ImportError) as error:
            report(iter([Row(card, "", note=f"{type(error).__name__}: {error}"[:300])]))
    if arguments.cases:
        report(check_cases(arguments.cases))
    bad = [row for row in rows if not row.error <= 1]
    print(f"{len(rows) - len(bad)} agree, {len(bad)} do not")
    sys.exit(1 if bad else 0)


if __name__ == "__main__":
    main()
