"""`perception engine`: compiled engines of this machine."""

from __future__ import annotations

import time
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

ENGINES = "auto, torch, torch-cuda, onnxruntime, onnxruntime-cuda, openvino or tensorrt"

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, no_args_is_help=True)

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
    fastest: Annotated[
        bool, typer.Option("--fastest", help="Time each part on every engine of this CPU; auto takes the fastest.")
    ] = False,
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
    if fastest and engine not in (None, "auto"):
        raise UserError(f"--fastest chooses for auto, and --engine {engine} leaves no choice")
    if (shapes == "from-log") != (log is not None):
        raise UserError("--shapes from-log and a LOG belong together: engine build car.yaml --shapes from-log LOG")
    say = partial(print, file=sys.stderr) if as_json else print
    settings = settings_of(engine or "auto", precision or "fp32", axes=_sizes(axis))
    if is_launch_file(target):
        if axis:
            raise UserError("--axis is of a single network; nodes of a launch file state their sizes in their settings")
        given = {name: value for name, value in (("engine", engine), ("precision", precision)) if value is not None}
        built = build_launch(target, given, say, log, fastest=fastest)
    elif log is not None:
        raise UserError("--shapes from-log needs a launch file: a log's sensors reach a network through its node")
    else:
        built = [build_network(target, settings, say, fastest=fastest)]
    if as_json:
        print(json.dumps([entry.as_json() for entry in built], indent=1))
        return
    for entry in built:
        print("\n".join(entry.lines()))
    if not built:
        print(f"{target}: no node of this graph has an engine")


@app.command("bench")
def bench(
    targets: Annotated[
        list[str], typer.Argument(metavar="NETWORK|FILE...", help="Networks, cards or weights; or one launch file.")
    ],
    engine: Annotated[list[str] | None, typer.Option(help=f"{ENGINES}; may be repeated.")] = None,
    precision: Annotated[list[str] | None, typer.Option(help="fp32, fp16, bf16, int8; may be repeated.")] = None,
    batch: Annotated[list[int] | None, typer.Option(min=1, help="Samples of a run; may be repeated.")] = None,
    axis: Axes = None,
    threads: Annotated[list[int] | None, typer.Option(help="Thread counts to compare.")] = None,
    repeats: Annotated[int, typer.Option(min=1, help="Runs of each engine.")] = 20,
) -> None:
    """Time networks on the engines of this machine: perception engine bench ddrnet p2at --batch 1 --batch 4.

    Prints each part's time, then the networks as a whole, those that no other beats marked. Of a launch file, it times
    the nodes and keeps the figures: launch warns where they cannot meet a deadline.
    """
    from perception.cli.engine_bench import bench_launch, bench_networks
    from perception.cli.engine_build import is_launch_file
    from perception.errors import UserError

    if any(is_launch_file(target) for target in targets):
        if len(targets) > 1 or engine or precision or batch or axis or threads:
            raise UserError("a launch file is measured alone, with the engines, sizes and threads that it states")
        bench_launch(Path(targets[0]), repeats, print)
    else:
        bench_networks(
            targets, engine or [], precision or ["fp32"], batch or [], threads or [1], _sizes(axis), repeats, print
        )


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
            f"{path.stem}: {measured.macs.share:.1%} of {measured.macs.total / 1e9:.2f} G multiply-adds and "
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
            f"agrees within {certificate['worst_over_tolerance']:.2g} of the tolerance{_task(certificate)}"
        )
    print(f"{sum(1 for _ in cache.entries())} engines in {cache.folder}")


@app.command("clear")
def clear() -> None:
    """Remove every engine from the cache."""
    from perception.engines.cache import EngineCache

    print(f"{EngineCache().clear()} engines removed")


def _task(certificate: Mapping[str, Any]) -> str:
    return "".join(f", {name} {share:.1%}" for name, share in (certificate.get("task") or {}).items())


def _sizes(axes: list[str] | None) -> dict[str, int]:
    from perception.errors import UserError

    sizes = {}
    for text in axes or []:
        name, equals, size = text.partition("=")
        if not equals or not size.isdigit():
            raise UserError(f"--axis {text}; expected NAME=SIZE, for example height=256")
        sizes[name] = int(size)
    return sizes
