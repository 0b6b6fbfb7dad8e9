"""`perception launch`."""

from __future__ import annotations

import json
import signal
import tempfile
import threading
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from perception.cli.recording import (
    Last,
    MaxBytes,
    SplitBytes,
    SplitSeconds,
    end_of,
    files_written,
    remove_empty,
    writer_of,
)

if TYPE_CHECKING:
    from perception.cli.live_view import View
    from perception.cli.recording import Writer
    from perception.logs.log import Log
    from perception.runtime.graph import Graph
    from perception.runtime.launch_file.replay import Replay
    from perception.runtime.launcher import Runner
    from perception.runtime.replay_request import ReplayRequest

Seconds = Annotated[float, typer.Option(min=0)]


def launch(
    launch_file: Annotated[
        Path | None,
        typer.Argument(metavar="FILE", help="A path, or the name of a shipped launch file; none if LOG holds one."),
    ] = None,
    replay: Annotated[
        list[Path] | None,
        typer.Option(help="Read the sensors from a recorded log; several lie on one timeline, whatever their formats."),
    ] = None,
    mode: Annotated[
        str, typer.Option(help="realtime: at the log's pace. lockstep: lossless, equal bytes at every run.")
    ] = "realtime",
    runner: Annotated[
        str | None,
        typer.Option(help="Of a lockstep replay. inline: one loop in this process. ray: processes, with equal bytes."),
    ] = None,
    rate: Annotated[float, typer.Option(min=0.001, help="Speed of a realtime replay.")] = 1.0,
    from_s: Annotated[float | None, typer.Option("--from", help="Start so many seconds into the log.")] = None,
    until_s: Annotated[float | None, typer.Option("--until", help="End so many seconds into the log.")] = None,
    loop: Annotated[bool, typer.Option("--loop", help="Begin again at the log's end.")] = False,
    remap: Annotated[list[str] | None, typer.Option(help="LOG_TOPIC=TOPIC; may be repeated.")] = None,
    use_recorded: Annotated[
        list[str] | None,
        typer.Option(help="Take this topic or output from the log although a node makes it; may be repeated."),
    ] = None,
    assume_rate: Annotated[float, typer.Option(min=0.01, help="Rate in Hz of sensors whose log has no times.")] = 10.0,
    duration: Annotated[float | None, typer.Option(min=0.1, help="Seconds from the first source message.")] = None,
    record: Annotated[Path | None, typer.Option(help="Record every topic to this MCAP file.")] = None,
    max_bytes: MaxBytes = None,
    split_bytes: SplitBytes = None,
    split_s: SplitSeconds = None,
    last: Last = None,
    with_weights: Annotated[
        bool, typer.Option("--with-weights", help="Record the weights, too, and not only their hashes.")
    ] = False,
    sets: Annotated[list[str] | None, typer.Option("--set", help="KEY.KEY=VALUE in place of the file's.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Check, print the resolved file, start nothing.")] = False,
    plain: Annotated[bool, typer.Option("--plain", help="Plain lines, also in a terminal.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the summary as JSON, and nothing else.")] = False,
) -> int:
    """Start the graph of FILE and run until its sources end or Ctrl-C, for example: perception launch car.yaml.

    A recorded log takes the place of the sources: perception launch replay.yaml --replay drive.mcap --mode lockstep.
    Exit code 1 where a required output had no message.
    """
    from perception.errors import UserError

    if mode not in ("realtime", "lockstep"):
        raise UserError(f"--mode {mode}: expected realtime or lockstep")
    if runner not in (None, "inline", "ray"):
        raise UserError(f"--runner {runner}: expected inline or ray")
    if runner is not None and mode != "lockstep":
        raise UserError("--runner is of --mode lockstep: everything else runs as processes")
    if not replay and (loop or mode == "lockstep" or from_s is not None or until_s is not None):
        raise UserError("--mode lockstep, --from, --until and --loop are of a replay: give --replay LOG")
    if record is None and (with_weights or any(value is not None for value in (max_bytes, split_bytes, split_s, last))):
        raise UserError(
            "--max-bytes, --split-bytes, --split-seconds, --last and --with-weights are of a recording: "
            "give --record OUT"
        )

    def writer(path: Path, attachments: Mapping[str, bytes]) -> Writer:
        return writer_of(path, attachments, split_bytes=split_bytes, split_s=split_s, last=last)

    with tempfile.TemporaryDirectory(prefix="perception-launch-") as folder:
        log = _open(replay or [], assume_rate)
        file, notes = _launch_file(launch_file, log, Path(folder))
        given = _replay(log, mode, rate=rate, from_s=from_s, until_s=until_s, loop=loop, remap=remap or [],
                        use_recorded=use_recorded or [], assume_rate=assume_rate)  # fmt: skip
        return _run(
            file, given, sets or [], duration=duration, record=record, dry_run=dry_run, plain=plain, as_json=as_json,
            runner="ray" if runner == "ray" else "inline", make_writer=writer, max_bytes=max_bytes, notes=notes,
            with_weights=with_weights,
        )  # fmt: skip


def _open(replay: list[Path], assume_rate: float) -> Log | None:
    from perception.logs.open_log import open_logs

    return open_logs(replay, assume_rate_hz=assume_rate) if replay else None


def _launch_file(given: Path | None, log: Log | None, folder: Path) -> tuple[Path, list[str]]:
    from perception.errors import UserError
    from perception.runtime.launch_file.files import find_launch_file
    from perception.runtime.replayed_files import recorded_launch

    if given is not None:
        return find_launch_file(given), []
    stored = None if log is None else recorded_launch(log, folder)
    if stored is None:
        where = "" if log is None else f"; {log.path} holds none"
        raise UserError(f"no launch file is given{where}. Expected one, such as: perception launch car.yaml")
    return stored.file, stored.notes


def _replay(
    log: Log | None,
    mode: str,
    *,
    rate: float,
    from_s: float | None,
    until_s: float | None,
    loop: bool,
    remap: list[str],
    use_recorded: list[str],
    assume_rate: float,
) -> Replay | None:
    from perception.errors import UserError, did_you_mean
    from perception.runtime.launch_file.replay import Replay

    if log is None:
        if remap or use_recorded:
            raise UserError("--remap and --use-recorded are of a replay: give --replay LOG")
        return None
    topics = log.topics()
    pairs: dict[str, str] = {}
    for pair in remap:
        old, equals, new = pair.partition("=")
        if not (old and equals and new):
            raise UserError(f"--remap {pair}: expected LOG_TOPIC=TOPIC")
        if old not in topics:
            raise UserError(f"--remap {pair}: the log has no topic '{old}'.{did_you_mean(old, topics)}")
        pairs[old] = new
    start_ns = log.span().start_ns
    kind: Literal["realtime", "lockstep"] = "lockstep" if mode == "lockstep" else "realtime"
    return Replay(
        log, kind, rate, None if from_s is None else start_ns + round(from_s * 1e9),
        None if until_s is None else start_ns + round(until_s * 1e9), loop, pairs, frozenset(use_recorded), assume_rate,
    )  # fmt: skip


def _run(
    file: Path,
    replay: Replay | None,
    sets: list[str],
    *,
    duration: float | None,
    record: Path | None,
    dry_run: bool,
    plain: bool,
    as_json: bool,
    runner: Runner,
    make_writer: Callable[[Path, Mapping[str, bytes]], Writer],
    max_bytes: int | None,
    notes: list[str],
    with_weights: bool,
) -> int:
    from perception.cli.live_view import summary_document, summary_lines, view
    from perception.runtime.launch_file.load import load_launch
    from perception.runtime.launcher import run_graph
    from perception.runtime.recorded_files import attachments_of
    from perception.runtime.recorder import Recorder

    graph = load_launch(file, sets=sets, replay=replay)
    if dry_run:
        print(graph.launch_text, end="")
        return 0
    shown = view(plain or as_json)
    say = (lambda _: None) if as_json else shown.line
    for line in (*_introduction(file, graph, replay), *(f"  log: {note}" for note in notes), *_budget(graph)):
        say(line)
    files = attachments_of(graph)
    kept = attachments_of(graph, with_weights=True) if with_weights else files
    writer = None if record is None else make_writer(record, kept)
    recorder = None if writer is None else Recorder(writer, max_bytes, lossless=graph.mode == "lockstep")
    commands: deque[ReplayRequest] = deque()
    ended = False
    try:
        with stopped_by_signals() as stop, _keys(graph, shown, commands):
            summary = run_graph(
                graph, duration_s=duration, stop=stop, on_line=say,
                on_status=(lambda _: None) if as_json else shown.status, recorder=recorder, runner=runner,
                commands=commands, files=files,
            )  # fmt: skip
        ended = True
    finally:
        shown.close()
        if writer is not None and recorder is not None:
            end_of(writer)
            recorder.close()
            if not ended:
                remove_empty(writer)
    if writer is not None and recorder is not None:
        summary.recording = f"{record}{files_written(writer)}"
        summary.recording_dropped = (recorder.dropped + summary.missed).total()
        if recorder.stopped:
            say(f"the recording ended early: {recorder.stopped}")
    print(json.dumps(summary_document(summary), indent=1) if as_json else "\n".join(summary_lines(summary)), flush=True)
    return summary.exit_code()


@contextmanager
def _keys(graph: Graph, shown: View, commands: deque[ReplayRequest]) -> Iterator[None]:
    """Let keys control a realtime replay that is shown in a terminal."""
    from perception.cli.live_view import LiveTable
    from perception.cli.replay_keys import HELP, replay_keys

    if graph.mode != "realtime" or not isinstance(shown, LiveTable):
        yield
        return
    with replay_keys(commands) as are_read:
        if are_read:
            shown.line(f"  {HELP}")
        yield


def _budget(graph: Graph) -> Iterator[str]:
    """Warn of outputs that what was measured on this machine cannot bring in time."""
    from perception.runtime.latency_budget import late_outputs, measured_ms

    if graph.mode != "lockstep":
        yield from (f"warning: {line}" for line in late_outputs(graph, measured_ms(graph)))


def _introduction(file: Path, graph: Graph, replay: Replay | None) -> Iterator[str]:
    yield f"{graph.name}: {file}, {len(graph.nodes)} nodes in {len(graph.processes())} processes"
    for node in graph.nodes:
        if node.own_code:
            yield f"  own code: node '{node.name}' is {node.target}"
    if replay is not None:
        from perception.runtime.launch_file.replay import missing_topics
        from perception.runtime.recorded_files import other_weights

        yield f"  replaying {', '.join(map(str, replay.log.paths))} ({replay.log.FORMAT}), {graph.mode}"
        for note in replay.log.notes:
            yield f"  log: {note}"
        if missing := missing_topics(graph, replay):
            yield f"  warning: the log has no {', '.join(missing)}: the graph runs as if these were unplugged"
        yield from (f"  warning: {line}" for line in other_weights(graph, replay.log.attachments()))
    yield f"  results: {graph.endpoint} ({', '.join(output.publish_as for output in graph.outputs) or 'no outputs'})"


@contextmanager
def stopped_by_signals() -> Iterator[threading.Event]:
    """Turn Ctrl-C and SIGTERM into an orderly end."""
    stop = threading.Event()
    before = {number: signal.signal(number, lambda *_: stop.set()) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
