"""`perception engine`: compiled engines of this machine."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from perception.networks.part import Part

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, no_args_is_help=True)

Weights = Annotated[str, typer.Argument(help="A weights address, for example filled:ddrnet_compact or a .safetensors.")]
Axes = Annotated[
    list[str] | None, typer.Option("--axis", help="Fix a free axis, for example --axis batch=1 --axis height=256.")
]


@app.callback()
def _engine() -> None:
    """Engines: parts of networks, compiled for this machine, kept once they agreed with the reference."""


@app.command("build")
def build(
    weights: Weights,
    engine: Annotated[str, typer.Option(help="auto, torch, onnxruntime or openvino.")] = "auto",
    axis: Axes = None,
) -> None:
    """Export, check and store every part of a network, for example: perception engine build filled:ddrnet_compact."""
    from perception.engines.choose import compile_part, settings_of

    settings = settings_of(engine, axes=_sizes(axis))
    for name, part in _parts(weights).items():
        print(f"{name}: {compile_part(part, settings, say=print).name}")


@app.command("bench")
def bench(
    weights: Weights,
    axis: Axes = None,
    threads: Annotated[list[int] | None, typer.Option(help="Thread counts to compare.")] = None,
    repeats: Annotated[int, typer.Option(min=1, help="Runs of each engine.")] = 20,
) -> None:
    """Time every part of a network on each engine of this machine, side by side."""
    from perception.engines.bench import bench_part
    from perception.engines.choose import settings_of

    variants = [
        settings_of(name, threads=count, axes=_sizes(axis))
        for count in threads or [1]
        for name in ("torch", "onnxruntime")
    ]
    print(f"{'part':<16} {'engine':<36} {'threads':>7} {'median':>11} {'p90':>11}")
    for part in _parts(weights).values():
        for timing in bench_part(part, variants, repeats, say=print):
            measured = f"{timing.median_ms:>8.2f} ms {timing.p90_ms:>8.2f} ms" if not timing.error else timing.error
            print(f"{timing.part:<16} {timing.engine:<36} {timing.threads:>7} {measured}")


@app.command("coverage")
def coverage(
    cases: Annotated[list[Path], typer.Argument(help="Parity cases, or folders of them: the input that is run.")],
) -> None:
    """Print the share of multiply-adds and of time inside exported parts, for example: coverage tests/golden."""
    from perception.engines.coverage import measure_coverage
    from perception.networks.parity.case import read_case
    from perception.networks.parity.verify import find_cases

    for path in find_cases(cases):
        measured = measure_coverage(read_case(path))
        print(
            f"{path.stem}: {measured.mac_share:.1%} of {measured.total_macs / 1e9:.2f} G multiply-adds and "
            f"{measured.time_share:.1%} of {measured.total_s * 1e3:.0f} ms inside exported parts"
        )


@app.command("list")
def list_() -> None:
    """List the engines in the cache."""
    from perception.engines.cache import EngineCache

    cache = EngineCache()
    for entry in cache.entries():
        made_of, certificate = entry.manifest["made_of"], entry.manifest["certificate"]
        used = time.strftime("%Y-%m-%d %H:%M", time.localtime(entry.used_s))
        print(
            f"{entry.folder.name[:12]}  {made_of['network']}.{made_of['part']:<12} {made_of['engine']} "
            f"{made_of['precision']}  {entry.size_bytes / 1e6:.1f} MB  used {used}  "
            f"agrees within {certificate['worst_over_tolerance']:.2g} of the tolerance"
        )
    print(f"{sum(1 for _ in cache.entries())} engines in {cache.folder}")


@app.command("clear")
def clear() -> None:
    """Remove every engine from the cache."""
    from perception.engines.cache import EngineCache

    print(f"{EngineCache().clear()} engines removed")


def _parts(weights: str) -> Mapping[str, Part]:
    from torch import nn

    from perception.errors import EngineError
    from perception.networks.load import load_network

    network = load_network(weights, nn.Module).network
    parts: Callable[[], Mapping[str, Part]] | None = getattr(network, "parts", None)
    if parts is None:
        raise EngineError(f"{type(network).__name__} lists no exportable parts")
    return parts()


def _sizes(axes: list[str] | None) -> dict[str, int]:
    from perception.errors import UserError

    sizes = {}
    for text in axes or []:
        name, equals, size = text.partition("=")
        if not equals or not size.isdigit():
            raise UserError(f"--axis {text}; expected NAME=SIZE, for example height=256")
        sizes[name] = int(size)
    return sizes
