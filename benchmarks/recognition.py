"""`perception bench networks`, events: whole clips on ONNX Runtime beside eager torch, and a stream of images.

Eager torch is in inference mode, convolutions channels_last, with the same threads. Medians of interleaved repeats. A
stream embeds each image once: a new one costs its stem and the clip that ends with it.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from perception.engines.cache import EngineCache
from perception.engines.choose import EngineSettings, compile_parts
from perception.engines.engine import run_on
from perception.networks.estf import ESTF
from perception.networks.estf_stream import ClipStream
from perception.networks.load import load_network
from perception.networks.part import RunPart, run_in_torch

CARDS = ("estf_hardvs", "estf_compact")


@dataclass(frozen=True)
class Row:
    """One recogniser."""

    network: str
    images: int
    side: int
    threads: int
    torch_ms: float
    """A whole clip."""
    onnx_ms: float
    """A whole clip."""
    stream_ms: float
    """A new image of a stream on ONNX Runtime, with the clip that ends with it."""

    def line(self) -> str:
        return (
            f"{self.network:<26} clip of {self.images} images {self.side} x {self.side}  {self.threads} threads  torch "
            f"{self.torch_ms:8.1f} ms  onnxruntime {self.onnx_ms:8.1f} ms  {self.torch_ms / self.onnx_ms:5.2f}x  a new "
            f"image of a stream {self.stream_ms:7.1f} ms, 1/{self.onnx_ms / self.stream_ms:.1f} of the clip"
        )


def measure(card: str, threads: int, repeats: int) -> Row:
    """Measure one card."""
    torch.set_num_threads(threads)
    network = load_network(f"filled:{card}", ESTF).network
    length, side = network.config.clip_len, network.config.image_size
    images = 30 * torch.randn(length, 3, side, side, generator=torch.Generator().manual_seed(0))
    clip = images.transpose(0, 1).unsqueeze(0)
    with tempfile.TemporaryDirectory(prefix="pcnb-engines-") as folder, torch.inference_mode():
        whole = _engine(network, threads, length, Path(folder))
        stream = ClipStream(network, _engine(network, threads, 1, Path(folder)), stride=1)
        for image in images:
            stream.add(image)

        def one_more_image() -> None:
            stream.add(images[0])
            stream.logits()

        eager = run_in_torch(network.to(memory_format=torch.channels_last).parts())  # type: ignore[call-overload]
        torch_ms, onnx_ms, stream_ms = _medians(
            (lambda: network.recognise(clip, eager), lambda: network.recognise(clip, whole), one_more_image), repeats
        )
    return Row(card, length, side, threads, torch_ms, onnx_ms, stream_ms)


def _engine(network: ESTF, threads: int, images: int, folder: Path) -> RunPart:
    axes: Mapping[str, int] = {"images": images, "clips": 1}
    return run_on(
        compile_parts(network.parts(), EngineSettings("onnxruntime", "fp32", threads, axes), EngineCache(folder))
    )


def _medians(functions: tuple[Callable[[], object], ...], repeats: int) -> list[float]:
    """Run each once to warm up, then all in turn; return medians in ms."""
    for function in functions:
        function()
    times: list[list[float]] = [[] for _ in functions]
    for _ in range(repeats):
        for place, function in enumerate(functions):
            start_s = time.perf_counter()
            function()
            times[place].append((time.perf_counter() - start_s) * 1e3)
    return [statistics.median(values) for values in times]


__all__ = ["CARDS", "Row", "measure"]
