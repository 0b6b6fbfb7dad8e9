"""`perception engine`: compiled engines of this machine."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from perception.networks.part import Part

ENGINES = "auto, torch, torch-cuda, onnxruntime, onnxruntime-cuda, openvino or tensorrt"

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
    target: Annotated[
        str, typer.Argument(metavar="NETWORK|FILE", help="A network, model card or weights address, or a launch file.")
    ],
    log: Annotated[Path | None, typer.Argument(help="The log, with --shapes from-log.")] = None,
    engine: Annotated[str | None, typer.Option(help=f"{ENGINES}.")] = None,
    precision: Annotated[str | None, typer.Option(help="fp32, fp16, bf16 or int8.")] = None,
    shapes: Annotated[
        str, typer.Option(help="auto: the network's own limits. from-log LOG: what a log brings.")
    ] = "auto",
    axis: Axes = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON; progress goes to standard error.")] = False,
) -> None:
    """Export, check and store every part, for example: perception engine build ddrnet --precision fp16.

    Of a launch file, those of every node: perception engine build car.yaml --shapes from-log drive.mcap. Prints the
    share of multiply-adds and of time inside the exported parts, and what stays in Python.
    """
    import json
    import sys

    from perception.cli.engine_build import build_launch, build_network, is_launch_file
    from perception.engines.choose import settings_of
    from perception.errors import UserError

    if shapes not in ("auto", "from-log"):
        raise UserError(f"--shapes {shapes}; expected auto, or from-log LOG")
    if (shapes == "from-log") != (log is not None):
        raise UserError("--shapes from-log and a LOG belong together: engine build car.yaml --shapes from-log LOG")
    say = partial(print, file=sys.stderr) if as_json else print
    settings = settings_of(engine or "auto", precision or "fp32", axes=_sizes(axis))
    if is_launch_file(target):
        if axis:
            raise UserError("--axis is of a single network; nodes of a launch file state their sizes in their settings")
        given = {name: value for name, value in (("engine", engine), ("precision", precision)) if value is not None}
        built = build_launch(target, given, say, log)
    elif log is not None:
        raise UserError("--shapes from-log needs a launch file: a log's sensors reach a network through its node")
    else:
        built = [build_network(target, settings, say)]
    if as_json:
        print(json.dumps([entry.as_json() for entry in built], indent=1))
        return
    for entry in built:
        print("\n".join(entry.lines()))
    if not built:
        print(f"{target}: no node of this graph has an engine")


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

    from perception.cli.engine_build import weights_address
    from perception.errors import EngineError
    from perception.networks.load import load_network

    network = load_network(weights_address(weights), nn.Module).network
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
