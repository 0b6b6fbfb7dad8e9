"""Frames per second of every DDRNet and P2AT on a GPU: half precision, channels_last, CUDA graphs.

    python -m benchmarks.gpu_segmentation                                       # all variants at 1024 x 2048
    python -m benchmarks.gpu_segmentation --device cpu --height 64 --width 128  # smoke test, no GPU

Needs torch, numpy and safetensors, and nothing else of this project's dependencies. Weights are filled by name. The
filled encoder of P2AT grows from block to block until its gates, which multiply maps, leave the range of fp16, so what
its residual blocks add is scaled down. Before a network is timed, its logits are compared with float32 (TF32 off) on
the same device; a row whose logits are outside the tolerance, or not finite, says so: its speed is not to be quoted.

Rows per network and precision: `logits` is the network alone, as it is deployed here (the published 102 frames per
second of DDRNet-23-slim are of a network that enlarges its logits inside; `mask` does that, to full size, and takes the
class of each pixel). Batch normalisation is folded into the convolution before it, as in the published timing.
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from perception.networks.ddrnet import DDRNET_23, DDRNET_23_SLIM, DDRNET_39, DDRNET_COMPACT, DDRNet
from perception.networks.fold import folded
from perception.networks.p2at import P2AT, P2AT_COMPACT, P2AT_L, P2AT_M, P2AT_S
from perception.networks.weights import fill

NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "DDRNet-23-slim": lambda: DDRNet(DDRNET_23_SLIM),
    "DDRNet-23": lambda: DDRNet(DDRNET_23),
    "DDRNet-39": lambda: DDRNet(DDRNET_39),
    "DDRNet compact": lambda: DDRNet(DDRNET_COMPACT),
    "P2AT-S": lambda: P2AT(P2AT_S),
    "P2AT-M": lambda: P2AT(P2AT_M),
    "P2AT-L": lambda: P2AT(P2AT_L),
    "P2AT compact": lambda: P2AT(P2AT_COMPACT),
}
RESIDUAL_SCALE = 0.2
PRECISIONS = {"fp16": torch.float16, "bf16": torch.bfloat16, "fp32": torch.float32}


@dataclass(frozen=True)
class Row:
    """One network at one precision."""

    network: str
    precision: str
    what: str
    height: int
    width: int
    batch: int
    logits_error: float
    """Largest difference to float32 over the tolerance for half precision; up to 1 passes."""
    pixels_agree: float
    """Share of the pixels of the logits that have the class of float32."""
    median_ms: float
    p90_ms: float

    @property
    def fps(self) -> float:
        return self.batch * 1e3 / self.median_ms

    def line(self) -> str:
        verdict = "" if self.logits_error <= 1 else "  OUTSIDE THE TOLERANCE"
        return (
            f"{self.network:<15} {self.precision} {self.what:<7} {self.batch} x {self.height} x {self.width}  "
            f"{self.median_ms:8.3f} ms (p90 {self.p90_ms:8.3f})  {self.fps:7.1f} frames/s  "
            f"error {self.logits_error:.2f} of the tolerance, {self.pixels_agree:.2%} of the classes equal{verdict}"
        )


class WithMask(nn.Module):
    """The network, its logits enlarged to the picture's size, and the class of each pixel."""

    def __init__(self, network: nn.Module, align_corners: bool) -> None:
        super().__init__()
        self.network, self.align_corners = network, align_corners

    def forward(self, image: Tensor) -> Tensor:
        """Map (B, 3, H, W) to classes (B, H, W) uint8."""
        size = (image.shape[2], image.shape[3])
        logits = F.interpolate(self.network(image), size, mode="bilinear", align_corners=self.align_corners)
        return logits.argmax(1).to(torch.uint8)


def measure(name: str, precisions: Sequence[str], device: torch.device, image: Tensor, rounds: int) -> list[Row]:
    """Measure one network on `image` (B, 3, H, W), float32 on the device, at each precision."""
    network: Any = NETWORKS[name]()
    fill(network)
    network = network.eval().requires_grad_(False).to(device)
    tame(network)
    with torch.inference_mode():
        reference = network(image).float()
    align_corners, (batch, _, height, width) = network.align_corners, image.shape
    rows: list[Row] = []
    for precision in precisions:
        compiled: Any = folded(network)
        compiled = compiled.to(device, PRECISIONS[precision], memory_format=torch.channels_last)
        x = image.to(PRECISIONS[precision]).contiguous(memory_format=torch.channels_last)
        with torch.inference_mode():
            logits = compiled(x).float()
            error, agree = relative_error(logits, reference), pixels_that_agree(logits, reference)
            for what, module in (("logits", compiled), ("mask", WithMask(compiled, align_corners))):
                times = timed(graphed(module, x), device, rounds)
                p90 = sorted(times)[int(0.9 * (len(times) - 1))]
                median = statistics.median(times)
                rows.append(Row(name, precision, what, height, width, batch, error, agree, median, p90))
    return rows


def tame(network: Any) -> None:
    """Scale down what each residual block adds in P2AT's encoder, as training does: see the module's text."""
    if isinstance(network, P2AT):
        stages: Any = (network.layer1, network.layer2, network.layer3, network.layer4)
        for stage in stages:
            for block in stage:
                last = block.bn3 if hasattr(block, "bn3") else block.bn2
                last.weight.mul_(RESIDUAL_SCALE)


def relative_error(logits: Tensor, reference: Tensor) -> float:
    """Return the largest error over the tolerance of the parity cases below float32; infinite where not finite."""
    if not bool(torch.isfinite(logits).all()):
        return float("inf")
    bound = 0.02 * (reference.abs() + reference.std()) + 1e-6
    return float(((logits - reference).abs() / bound).max())


def pixels_that_agree(logits: Tensor, reference: Tensor) -> float:
    """Return the share of the pixels with the same strongest class."""
    return float((logits.argmax(1) == reference.argmax(1)).float().mean())


def graphed(module: nn.Module, x: Tensor) -> Callable[[], object]:
    """Return what runs the module on `x`: a CUDA graph's replay on a GPU, the module itself elsewhere."""
    if x.device.type != "cuda":
        return lambda: module(x)
    stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):  # cuDNN chooses its algorithms here; a capture must not
            module(x)
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        output = module(x)  # held: a captured graph writes into its memory at every replay

    def replay(output: Tensor = output) -> Tensor:
        graph.replay()
        return output

    return replay


def timed(run: Callable[[], object], device: torch.device, rounds: int) -> list[float]:
    """Return milliseconds of each of `rounds` runs, after three that do not count."""
    for _ in range(3):
        run()
    if device.type != "cuda":
        return [_wall_ms(run) for _ in range(rounds)]
    marks = [torch.cuda.Event(enable_timing=True) for _ in range(rounds + 1)]  # type: ignore[no-untyped-call]
    torch.cuda.synchronize()
    marks[0].record()
    for mark in marks[1:]:
        run()
        mark.record()
    torch.cuda.synchronize()
    return [before.elapsed_time(after) for before, after in itertools.pairwise(marks)]


def _wall_ms(run: Callable[[], object]) -> float:
    start_s = time.perf_counter()
    run()
    return (time.perf_counter() - start_s) * 1e3


def main(arguments: Sequence[str] | None = None) -> list[Row]:
    """Measure what the command line says, print it, and return the rows."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--height", type=int, default=1024)
    parser.add_argument("--width", type=int, default=2048)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=100)
    parser.add_argument("--precision", nargs="*", choices=list(PRECISIONS), default=["fp16"])
    parser.add_argument("--only", nargs="*", choices=list(NETWORKS), default=list(NETWORKS), metavar="NETWORK")
    parser.add_argument("--json", type=Path, help="also write the rows to this file")
    given = parser.parse_args(arguments)
    device = torch.device(given.device)
    about = torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"
    print(f"{about}, torch {torch.__version__}, CUDA {torch.version.cuda}")
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    torch.backends.cudnn.benchmark = True
    random = torch.Generator().manual_seed(0)
    image = torch.randn(given.batch, 3, given.height, given.width, generator=random).to(device)
    rows: list[Row] = []
    for name in given.only:
        try:
            found = measure(name, given.precision, device, image, given.rounds)
        except RuntimeError as error:  # one network that does not fit says so, the others go on
            print(f"{name:<15} not measured: {str(error).splitlines()[0]}", flush=True)
            continue
        rows += found
        for row in found:
            print(row.line(), flush=True)
        if device.type == "cuda":
            torch.cuda.empty_cache()
    if given.json:
        document = {"device": about, "torch": torch.__version__, "rows": [asdict(row) for row in rows]}
        given.json.write_text(json.dumps(document, indent=1))
    return rows


if __name__ == "__main__":
    main()
