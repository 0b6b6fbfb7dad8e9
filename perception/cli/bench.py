"""`perception bench`."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, no_args_is_help=True)


@app.callback()
def bench() -> None:
    """Measure speed beside peers, in one run: medians of interleaved rounds, and ratios."""


@app.command()
def runtime(
    rounds: Annotated[int, typer.Option(min=1, help="Interleaved rounds.")] = 5,
    seconds: Annotated[float, typer.Option(min=0.5, help="Of each size, in each round.")] = 2.0,
    only: Annotated[list[str] | None, typer.Option(help="Only this system; may be repeated.")] = None,
    hops_only: Annotated[bool, typer.Option("--hops-only", help="Leave out age, idle and memory.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, at the end.")] = False,
) -> None:
    """Three hops between processes beside dora-rs, zenoh, pyzmq and Ray: perception bench runtime --rounds 5.

    Then the age behind a slow stage, the cost of an idle graph of ten nodes, and memory over 10,000 messages. Peers
    need pip install .[bench]; a missing one prints "not measured".
    """
    from perception.benchmarks import runtime as bench
    from perception.errors import UserError, did_you_mean

    systems = tuple(only or bench.SYSTEMS)
    for system in systems:
        if system not in bench.SYSTEMS:
            raise UserError(
                f"--only {system}: expected {', '.join(bench.SYSTEMS)}.{did_you_mean(system, bench.SYSTEMS)}"
            )
    say = (lambda _: None) if as_json else print
    about = bench.machine()
    say(f"{about['cpu']}, {about['cores']} cores, Python {about['python']}, load {about['load']:.1f}")
    results = bench.measure(rounds, seconds, systems, say)
    for line in bench.table(results):
        say(line)
    more: dict[str, dict[str, float]] = {}
    if not hops_only:
        more = {
            "behind a stage of 20 ms at 100 Hz, keep: latest": bench.slow_stage(),
            "idle graph of ten nodes in 3 processes": bench.idle_cores(3),
            "idle graph of ten nodes in 10 processes": bench.idle_cores(10),
            "memory over 10,000 messages a topic": bench.memory_growth(),
        }
        for name, values in more.items():
            say(f"{name}: {', '.join(f'{key} {value:.2f}' for key, value in values.items())}")
    if as_json:
        document = {"machine": about, "hops": {name: asdict(result) for name, result in results.items()}, **more}
        print(json.dumps(document, indent=1))


@app.command()
def networks(
    only: Annotated[list[str] | None, typer.Option(help="Only this model card; may be repeated.")] = None,
    threads: Annotated[list[int] | None, typer.Option(help="Threads; by default one, and all.")] = None,
    points: Annotated[list[int] | None, typer.Option(help="Points of a sweep, for LiDAR networks.")] = None,
    size: Annotated[list[str] | None, typer.Option(help="HEIGHTxWIDTH of a picture, for image networks.")] = None,
    repeats: Annotated[int, typer.Option(min=1, help="Repeats of each; the median counts.")] = 7,
    by_part: Annotated[bool, typer.Option("--by-part", help="Also each part of a LiDAR network.")] = False,
    within_gib: Annotated[
        float | None, typer.Option(min=0.1, help="Fusion networks alone, in a process with no more memory than this.")
    ] = None,
    torch_only: Annotated[
        bool, typer.Option("--torch-only", help="Fusion networks without ONNX Runtime, whose graphs take minutes.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, at the end.")] = False,
) -> None:
    """Each network on each engine beside eager torch: perception bench networks --only ddrnet_compact.

    Only where named: dsvt_voxel_waymo, dsvt_nuscenes, and deepinteraction_compact and deepinteraction_nuscenes, which
    are measured stage by stage, time and memory, beside the loops of the published code; or, with --within-gib, ours
    alone in a process of its own, float32 and bfloat16.
    """
    import os

    from perception.benchmarks import networks as lidar
    from perception.benchmarks import recognition, segmentation
    from perception.benchmarks.runtime import machine
    from perception.errors import UserError, did_you_mean

    known = (*lidar.LIDAR_CARDS, *lidar.MORE_LIDAR_CARDS, *segmentation.CARDS, *lidar.FUSION_CARDS, *recognition.CARDS)
    chosen = tuple(only or (*lidar.LIDAR_CARDS, *segmentation.CARDS, *recognition.CARDS))
    for card in chosen:
        if card not in known:
            raise UserError(f"--only {card}: expected one of {', '.join(known)}.{did_you_mean(card, known)}")
    if (within_gib or torch_only) and not set(chosen) <= set(lidar.FUSION_CARDS):
        cards = " --only ".join(lidar.FUSION_CARDS)
        raise UserError(f"--within-gib and --torch-only are for fusion networks: --only {cards}")
    sizes = [_size(text) for text in size] if size else list(segmentation.SIZES)
    about = machine()
    if not as_json:
        print(f"{about['cpu']}, {about['cores']} cores, Python {about['python']}, load {about['load']:.1f}")
    rows: list[lidar.Row | lidar.FusionRow | lidar.AloneRow | segmentation.Row | recognition.Row] = []
    for card in chosen:
        for count in threads or sorted({1, os.cpu_count() or 1}):
            measured: Iterable[lidar.Row | lidar.FusionRow | lidar.AloneRow | segmentation.Row | recognition.Row]
            if within_gib:
                measured = lidar.alone_rows(card, count, points or [], within_gib)
            elif card in segmentation.CARDS:
                measured = (segmentation.measure(card, picture, count, repeats) for picture in sizes)
            elif card in recognition.CARDS:
                measured = [recognition.measure(card, count, repeats)]
            else:
                measured = lidar.rows(card, count, repeats, points or [], torch_only=torch_only)
            for row in measured:
                rows.append(row)
                if not as_json:
                    print(row.line(), flush=True)
                if by_part and not as_json and isinstance(row, lidar.Row):
                    print("\n".join(row.part_lines()), flush=True)
    if as_json:
        print(json.dumps({"machine": about, "rows": [asdict(row) for row in rows]}, indent=1))


@app.command()
def outputs(
    repeats: Annotated[int, typer.Option(min=10, help="Repeats of each; medians count.")] = 200,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, at the end.")] = False,
) -> None:
    """Encode and send; fuser, tracker and publisher, at 200 and 1,000 objects: perception bench outputs."""
    from perception.benchmarks import outputs as bench
    from perception.benchmarks.runtime import machine

    about = machine()
    if not as_json:
        print(f"{about['cpu']}, {about['cores']} cores, Python {about['python']}, load {about['load']:.1f}")
    rows = bench.measure(repeats)
    if as_json:
        print(json.dumps({"machine": about, "rows": [asdict(row) for row in rows]}, indent=1))
        return
    for row in rows:
        print(row.line())


@app.command()
def events(
    files: Annotated[list[Path] | None, typer.Argument(help="Recordings; by default dense ones are made.")] = None,
    rounds: Annotated[int, typer.Option(min=1, help="Interleaved rounds; the best of each counts.")] = 5,
    expelliarmus: Annotated[
        Path | None, typer.Option(help="Python of an environment with expelliarmus (GPL, no dependency).")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, at the end.")] = False,
) -> None:
    """Decode event recordings beside expelliarmus: perception bench events X.raw --expelliarmus VENV/bin/python.

    Million events a second, of one core. Without the peer's environment it prints "not measured".
    """
    import tempfile

    from perception.benchmarks import events as bench
    from perception.benchmarks.runtime import machine
    from perception.errors import UserError

    for file in (*(files or ()), *([expelliarmus] if expelliarmus else ())):
        if not file.is_file():
            raise UserError(f"{file}: there is no such file")
    about = machine()
    if not as_json:
        print(f"{about['cpu']}, {about['cores']} cores, Python {about['python']}, load {about['load']:.1f}")
    with tempfile.TemporaryDirectory(prefix="pcnb-events-") as folder:
        rows = bench.measure(files or bench.synthetic(Path(folder)), rounds, expelliarmus)
    if as_json:
        print(json.dumps({"machine": about, "rows": [asdict(row) for row in rows]}, indent=1))
    else:
        print("\n".join(row.line() for row in rows))


def _size(text: str) -> tuple[int, int]:
    from perception.errors import UserError

    height, _, width = text.partition("x")
    if not (height.isdecimal() and width.isdecimal() and min(int(height), int(width)) >= 8):
        raise UserError(f"--size {text}: expected HEIGHTxWIDTH in pixels, such as 512x1024")
    return int(height), int(width)


@app.command()
def logs(
    seconds: Annotated[float, typer.Option(min=0.5, help="Of the made-up drive.")] = 10.0,
    repeats: Annotated[int, typer.Option(min=1, help="Repeats of each; the median counts.")] = 5,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Read a recording beside the mcap library alone, and lockstep's own cost: perception bench logs."""
    from perception.benchmarks import logs as bench
    from perception.benchmarks.runtime import machine

    about, rows = machine(), bench.reading(seconds, repeats)
    overhead = bench.lockstep_overhead_us(5000, repeats)
    between = bench.lockstep_on_processes_us(5000, min(repeats, 3))
    if as_json:
        rows_plain = [asdict(row) for row in rows]
        lockstep = {"inline": overhead, "ray": between}
        print(json.dumps({"machine": about, "reading": rows_plain, "lockstep_us_per_message": lockstep}, indent=1))
        return
    print(f"{about['cpu']}, {about['cores']} cores, Python {about['python']}, load {about['load']:.1f}")
    for row in rows:
        print(row.line())
    print(f"lockstep, inline: {overhead:.0f} us for each message that a node takes, beyond its own work")
    print(f"lockstep, --runner ray: {between:.0f} us from one message to the next through three processes")
