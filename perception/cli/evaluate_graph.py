"""`perception evaluate FILE --replay LOG`, and `perception evaluate compare A B`."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from perception.cli.evaluate_results import AsJson, show

if TYPE_CHECKING:
    from perception.evaluation.deliveries import Delivered
    from perception.evaluation.html_report import FramePicture
    from perception.evaluation.run_report import OutputScores, RunReport
    from perception.evaluation.worst_frames import WorstFrame
    from perception.logs.log import Log
    from perception.messages import Message
    from perception.runtime.graph import Graph

WORST = 6


def graph(
    launch_file: Annotated[Path, typer.Argument(metavar="FILE", help="A path, or the name of a shipped launch file.")],
    replay: Annotated[
        list[Path],
        typer.Option(help="A recorded log with sensors, and truth on truth/...; several lie on one timeline."),
    ],
    truth: Annotated[Path | None, typer.Option(help="Take the truth from this log instead.")] = None,
    latency: Annotated[
        str, typer.Option(help="For streaming scores: measured (this run's stages), from-log (LOG's own), or MS.")
    ] = "measured",
    out: Annotated[Path | None, typer.Option(help="Write report.html and report.json into this folder.")] = None,
    sets: Annotated[list[str] | None, typer.Option("--set", help="KEY.KEY=VALUE in place of the file's.")] = None,
    duration: Annotated[float | None, typer.Option(min=0.1, help="Seconds of the log.")] = None,
    as_json: AsJson = False,
) -> None:
    """Replay LOG through the graph of FILE in lockstep and score every output that has a truth.

    For example: perception evaluate car.yaml --replay drive.mcap --out report/
    """
    from perception.logs.open_log import open_log, open_logs
    from perception.runtime.launch_file.files import find_launch_file
    from perception.runtime.launch_file.load import load_launch
    from perception.runtime.launch_file.replay import Replay

    milliseconds = _latency(latency)
    log = open_logs(replay)
    truth_log = log if truth is None else open_log(truth)
    built = load_launch(find_launch_file(launch_file), sets=sets or [], replay=Replay(log, "lockstep"))
    outputs = _run(built, log if latency == "from-log" else None, milliseconds, duration)
    truths = _truth(truth_log, duration)
    report, worst = _report(built, ", ".join(map(str, replay)), str(launch_file), latency, outputs, truths)
    document = report.document()
    if out is not None:
        from perception.cli.evaluate_pictures import pictures_of

        _write(out, document, pictures_of(worst, log, built.rig))
    if as_json:
        print(json.dumps(document, indent=1))
        return
    show({topic: _short(scores) for topic, scores in document["outputs"].items()}, as_json=False)
    for name in report.untrained:
        print(f"untrained weights: the scores of {name} mean nothing")
    if out is not None:
        print(f"report: {out / 'report.html'}")


def _latency(text: str) -> float | None:
    from perception.errors import UserError

    if text in ("measured", "from-log"):
        return None
    try:
        value = float(text.removesuffix("ms"))
    except ValueError:
        value = -1.0
    if not 0 <= value < 1e6:
        raise UserError(f"--latency {text}: expected measured, from-log, or milliseconds such as 80")
    return value


def _run(
    built: Graph, recorded: Log | None, milliseconds: float | None, duration: float | None
) -> dict[str, list[Delivered]]:
    """Run the graph and return its outputs by published name."""
    from perception.evaluation.deliveries import Delivered
    from perception.runtime.inline_runner import run_inline

    names = {output.topic: output.publish_as for output in built.outputs}
    from_log = {} if recorded is None else _recorded_latency(recorded, names)
    found: dict[str, list[Delivered]] = defaultdict(list)

    def take(topic: str, message: Message) -> None:
        if topic not in names:
            return
        took_ns = _took_ns(message) if milliseconds is None else round(milliseconds * 1e6)
        took_ns = from_log.get(names[topic], took_ns)
        found[names[topic]].append(Delivered(message.keep(), message.header.t_sensor_ns + took_ns))

    run_inline(built, on_message=take, duration_ns=None if duration is None else round(duration * 1e9))
    return dict(found)


def _took_ns(message: Message) -> int:
    """Return what the stages of a message's way took, one after the other, waiting left out."""
    stages: dict[str, int] = {}
    for span in message.timing.spans:
        if not span.stage.startswith("wait"):
            stages[span.stage] = max(stages.get(span.stage, 0), span.duration_ns)
    return sum(stages.values())


def _recorded_latency(log: Log, names: Mapping[str, str]) -> dict[str, int]:
    """Return the median time from reception to publication of each output that the log holds."""
    from perception.errors import UserError

    wanted = {topic: name for pair in names.items() for topic, name in ((pair[0], pair[1]), (pair[1], pair[1]))}
    times: dict[str, list[int]] = defaultdict(list)
    for topic, message in log.messages(topics=list(wanted)):
        timing = message.timing
        if timing.t_received_ns and timing.t_published_ns >= timing.t_received_ns:
            times[wanted[topic]].append(timing.t_published_ns - timing.t_received_ns)
    if not times:
        raise UserError(
            f"{log.path}: holds none of the outputs {', '.join(names.values())}, so no latency; give --latency MS"
        )
    return {name: sorted(values)[len(values) // 2] for name, values in times.items()}


def _truth(log: Log, duration: float | None) -> dict[str, list[Message]]:
    from perception.errors import UserError

    topics = [topic for topic in log.topics() if topic.startswith("truth/")]
    if not topics:
        raise UserError(f"{log.path}: holds no truth/... topics; record a simulated drive, or give --truth LOG")
    wanted = [topic for topic in topics if topic.rpartition("/")[2] in ("objects", "mask", "skeleton", "action")]
    start = log.span().start_ns
    until = None if duration is None else start + round(duration * 1e9)
    found: dict[str, list[Message]] = defaultdict(list)
    for topic, message in log.messages(until_ns=until, topics=wanted):
        found[topic].append(message.keep())
    return dict(found)


def _report(
    built: Graph,
    log: str,
    launch: str,
    latency: str,
    outputs: Mapping[str, Sequence[Delivered]],
    truths: Mapping[str, Sequence[Message]],
) -> tuple[RunReport, dict[str, list[WorstFrame]]]:
    from perception.evaluation.run_report import RunReport, score_output
    from perception.evaluation.worst_frames import worst_frames

    frames = None if built.rig is None else built.rig.frames
    scored: dict[str, OutputScores] = {}
    worst: dict[str, list[WorstFrame]] = {}
    for topic, delivered in outputs.items():
        truth_topic = _truth_of(topic, delivered[0].message, truths)
        if truth_topic is None:
            continue
        found = score_output(truth_topic, truths[truth_topic], delivered, frames)
        if found is not None:
            scored[topic] = found
            worst[topic] = worst_frames(truths[truth_topic], delivered, WORST)
    untrained = [t for t, d in outputs.items() if any(not m.trained for m in d[-1].message.header.models)]
    stages = _stage_medians(outputs)
    return RunReport(log, launch, latency, scored, stages, tuple(untrained)), worst


def _truth_of(topic: str, message: Message, truths: Mapping[str, Sequence[Message]]) -> str | None:
    """Return the truth topic of an output: of its kind and, for masks, of its camera."""
    from perception.messages import Detections3D, Pose3D, Recognition, SegmentationMask, TrackedObjects

    if isinstance(message, Detections3D | TrackedObjects):
        wanted = "truth/objects"
    elif isinstance(message, SegmentationMask):
        wanted = f"truth/{message.header.frame_id.removesuffix('_optical')}/mask"
    elif isinstance(message, Pose3D):
        wanted = "truth/skeleton"
    elif isinstance(message, Recognition):
        wanted = "truth/action"
    else:
        return None
    return wanted if wanted in truths else None


def _stage_medians(outputs: Mapping[str, Sequence[Delivered]]) -> dict[str, float]:
    times: dict[str, list[int]] = defaultdict(list)
    for delivered in outputs.values():
        for output in delivered:
            for span in output.message.timing.spans:
                times[span.stage].append(span.duration_ns)
    return {stage: sorted(values)[len(values) // 2] / 1e6 for stage, values in times.items()}


def _write(folder: Path, document: Mapping[str, Any], worst: Mapping[str, Sequence[FramePicture]]) -> None:
    from perception.errors import UserError
    from perception.evaluation.html_report import html_report

    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "report.json").write_text(json.dumps(document, indent=1))
        (folder / "report.html").write_text(html_report(document, worst))
    except OSError as error:
        raise UserError(f"{folder}: cannot be written: {error.strerror}") from None


def _short(scores: Mapping[str, Any]) -> dict[str, Any]:
    live = scores["streaming"]
    figures = {
        name: f"{_figure(value)}  streaming {_figure(None if live is None else live['summary'].get(name))}"
        for name, value in scores["offline"]["summary"].items()
    }
    return {"instants": scores["offline"]["frames"], **figures}


def _figure(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"


def compare(
    a: Annotated[Path, typer.Argument(help="Report to compare with: a folder, or its report.json.")],
    b: Annotated[Path, typer.Argument(help="Report to judge.")],
    max_drop: Annotated[
        float | None,
        typer.Option(min=0, help="End with 1 where a headline figure surely falls by more than this, or is lost."),
    ] = None,
    require: Annotated[
        list[str] | None,
        typer.Option(help="End with 1 unless B has this, such as objects:mAP>=0.5 or objects:latency_ms.p99<=100."),
    ] = None,
    as_json: AsJson = False,
) -> int:
    """Compare two reports, with 95 % intervals over scenes: perception evaluate compare a/ b/ --max-drop 0.01."""
    from dataclasses import asdict

    from perception.evaluation.compare import compare as compared
    from perception.evaluation.compare import regressions, unmet
    from perception.evaluation.run_report import read_report

    before, after = read_report(a), read_report(b)
    found = compared(before, after)
    failed = [] if max_drop is None else regressions(before, found, max_drop)
    failed += [why for requirement in require or () if (why := unmet(after, requirement))]
    outputs = {topic: asdict(one) for topic, one in found.items()}
    if as_json:
        show({"outputs": outputs, "failed": failed, "passed": not failed}, as_json=True)
        return 1 if failed else 0
    show(outputs, as_json=False)
    print("\n".join([*(f"failed: {why}" for why in failed)] or ["passed"]))
    return 1 if failed else 0
