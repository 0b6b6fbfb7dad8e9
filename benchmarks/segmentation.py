"""`perception bench networks`, segmentation: each engine of this machine beside eager torch, in one run.

Eager torch is the same commit in inference mode, channels_last, with the same threads; medians of interleaved repeats.
Each row also says what the rest of the segmenter costs at that size: a JPEG of it decoded, fitted into the network's
input and normalised, and the mask labelled at the picture's own size.

Beside them, in the same turns, one product of matrices: what share of its multiply-adds a second torch and the fastest
engine reach says how much there is left to gain from a network that does little but convolutions.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import simplejpeg
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from perception.engines.agreement import relative_error
from perception.engines.engine import pinned
from perception.engines.export import export_onnx
from perception.engines.onnxruntime_engine import OnnxRuntimeEngine
from perception.engines.openvino_engine import OpenVinoEngine
from perception.errors import EngineError, NotInstalledError
from perception.networks.card import find_card
from perception.networks.load import load_network
from perception.networks.part import Part
from perception.ops.image import Letterbox, Normalization, decoded_jpeg

CARDS = (
    "ddrnet23_slim_cityscapes", "ddrnet23_cityscapes", "ddrnet39_cityscapes", "ddrnet_compact", "p2at_s_cityscapes",
    "p2at_m_cityscapes", "p2at_l_cityscapes", "p2at_compact",
)  # fmt: skip
SIZES = ((512, 1024), (1024, 2048))
PRODUCT = 2048
"""Rows and columns of the matrices."""
Run = Callable[[], Any]


@dataclass(frozen=True)
class Row:
    """One network at one size."""

    network: str
    height: int
    width: int
    threads: int
    giga_macs: float
    torch_ms: float
    engine_ms: dict[str, float]
    """By engine."""
    error: dict[str, float]
    """By engine: the largest difference to torch over the tolerance of its precision."""
    not_measured: dict[str, str] = field(default_factory=dict)
    """Why an engine is not among them."""
    before_ms: float = 0.0
    """A JPEG decoded at the size that the network wants, resized and normalised."""
    after_ms: float = 0.0
    """The logits to a mask at the picture's size."""
    product_ms: float = 0.0
    """A product of two float32 matrices, PRODUCT wide, on the same threads."""

    def line(self) -> str:
        name = f"{self.network:<26} {self.height} x {self.width}  {self.threads} threads  {self.giga_macs:7.2f} GMAC  "
        engines = [f"torch {self.torch_ms:8.1f} ms = {1e3 / self.torch_ms:6.2f}/s"]
        engines += [
            f"{engine} {ms:8.1f} ms = {1e3 / ms:6.2f}/s, {self.torch_ms / ms:.2f}x, error {self.error[engine]:.2g}"
            for engine, ms in self.engine_ms.items()
        ]
        engines += [f"{engine} not measured: {reason}" for engine, reason in self.not_measured.items()]
        return name + "  ".join(engines) + f"  {self._rest()}  {self._reached()}"

    def _fastest_ms(self) -> float:
        return min([self.torch_ms, *(ms for engine, ms in self.engine_ms.items() if "bf16" not in engine)])

    def _reached(self) -> str:
        product = PRODUCT**3 / self.product_ms / 1e6
        torch_share, best_share = (self.giga_macs / ms * 1e3 / product for ms in (self.torch_ms, self._fastest_ms()))
        return (
            f"matrix product {product:.0f} GMAC/s: torch at {torch_share:.0%}, the fastest in f32 at {best_share:.0%}"
        )

    def _rest(self) -> str:
        fastest = self._fastest_ms()
        share = (self.before_ms + self.after_ms) / (fastest + self.before_ms + self.after_ms)
        return f"before {self.before_ms:.1f} ms, after {self.after_ms:.1f} ms = {share:.0%} of the node"


def measure(card_name: str, size: tuple[int, int], threads: int, repeats: int) -> Row:
    """Measure one network on pictures of one size, on every engine that is installed."""
    card = find_card(card_name)
    network: Any = load_network(f"filled:{card.name}", nn.Module).network
    torch.set_num_threads(threads)
    axes = {"batch": 1, "height": size[0], "width": size[1]}
    picture = _picture(size)
    box = Letterbox.of(size, size)
    normalization = Normalization(card.image.mean, card.image.std)
    x = box.apply(decoded_jpeg(picture), normalization)
    with tempfile.TemporaryDirectory(prefix="pcnb-segmentation-") as folder:
        engines, refused = _engines(pinned(network.parts()["segment"], axes), Path(folder), threads)
    with torch.inference_mode():
        reference = network(x).numpy()
        error = {
            name: relative_error(np.asarray(engine.run({"image": x.numpy()})["logits"]), reference, "bf16" in name)
            for name, engine in engines.items()
        }
        macs = _multiply_adds(network, x)
        network = network.to(memory_format=torch.channels_last)
        wide = x.contiguous(memory_format=torch.channels_last)
        runs: dict[str, Run] = {"torch": lambda: network(wide)}
        for name, engine in engines.items():
            runs[name] = _bound(engine, x)
        runs["before"] = lambda: box.apply(decoded_jpeg(picture, box.inner_size), normalization)
        runs["after"] = lambda: box.segmented(reference[0], network.align_corners)
        matrix = torch.rand(PRODUCT, PRODUCT)
        runs["product"] = lambda: matrix @ matrix
        times = _medians(runs, repeats)
    return Row(
        card.name, *size, threads, macs / 1e9, times["torch"], {name: times[name] for name in engines}, error, refused,
        times["before"], times["after"], times["product"],
    )  # fmt: skip


def _engines(part: Part, folder: Path, threads: int) -> tuple[dict[str, Any], dict[str, str]]:
    """Return the engines by name, not passed through the gate since their error is reported, and what is not there."""
    graph = folder / "graph.onnx"
    export_onnx(part, graph)
    makers: dict[str, Callable[[], Any]] = {
        "onnxruntime": lambda: OnnxRuntimeEngine(part, graph, threads),
        "openvino": lambda: OpenVinoEngine(part, graph, threads),
        "openvino bf16": lambda: OpenVinoEngine(part, graph, threads, "bf16"),
    }
    found: dict[str, Any] = {}
    refused: dict[str, str] = {}
    for name, make in makers.items():
        try:
            found[name] = make()
        except (EngineError, NotInstalledError) as error:
            refused[name] = str(error)
    return found, refused


def _bound(engine: Any, x: Tensor) -> Run:
    inputs = {"image": x.numpy()}
    return lambda: engine.run(inputs)


def _multiply_adds(network: nn.Module, x: Tensor) -> float:
    with FlopCounterMode(display=False) as counter:
        network(x)
    return float(counter.get_total_flops()) / 2


def _picture(size: tuple[int, int]) -> bytes:
    """Return a JPEG with as much detail as a street has: smooth areas, edges and some noise."""
    random = np.random.default_rng(0)
    coarse = random.integers(0, 256, (size[0] // 32 + 1, size[1] // 32 + 1, 3)).astype(np.float32)
    blocks = np.repeat(np.repeat(coarse, 32, axis=0), 32, axis=1)[: size[0], : size[1]]
    noisy: NDArray[np.uint8] = np.clip(blocks + random.normal(0, 6, blocks.shape), 0, 255).astype(np.uint8)
    return bytes(simplejpeg.encode_jpeg(np.ascontiguousarray(noisy), quality=90, colorspace="RGB"))


def _medians(runs: Mapping[str, Run], repeats: int) -> dict[str, float]:
    """Run each once to warm up, then all in turn; return medians in ms."""
    for run in runs.values():
        run()
    times: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(repeats):
        for name, run in runs.items():
            start_s = time.perf_counter()
            run()
            times[name].append((time.perf_counter() - start_s) * 1e3)
    return {name: statistics.median(values) for name, values in times.items()}


__all__ = ["CARDS", "SIZES", "Row", "measure"]
