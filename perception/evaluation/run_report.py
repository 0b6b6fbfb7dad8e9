"""What an evaluation of a graph found: scores of each output offline and streaming, in scenes, with latencies."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from perception.errors import UserError
from perception.evaluation.deliveries import Delivered, offline, streaming
from perception.evaluation.message_scores import TaskScores, score
from perception.geometry.frames import FrameTree
from perception.messages import Message

SCENE_NS = 5_000_000_000
"""A log is cut into scenes of five seconds, over which confidence intervals are drawn."""
FORMAT = "perception.evaluation/1"


@dataclass(frozen=True)
class OutputScores:
    """One output of the graph.

    Attributes:
        truth: the topic it was scored against.
        offline: with the output of every instant, however late it came.
        streaming: with the newest output that was there at each instant.
        scenes: the headline of `offline` in each scene.
        latency_ms: median and 99th percentile of what the output took.
    """

    truth: str
    offline: TaskScores
    streaming: TaskScores | None
    scenes: list[float]
    latency_ms: dict[str, float]


@dataclass(frozen=True)
class RunReport:
    """A whole evaluation.

    Attributes:
        log: what was replayed.
        launch: the launch file.
        latency: the model behind the streaming scores, for people.
        outputs: by topic.
        stages_ms: median time by stage of the way, in this run.
        untrained: networks whose outputs mean nothing.
    """

    log: str
    launch: str
    latency: str
    outputs: dict[str, OutputScores]
    stages_ms: dict[str, float] = field(default_factory=dict)
    untrained: tuple[str, ...] = ()

    def document(self) -> dict[str, Any]:
        """Return the report as plain JSON values; NaN is null."""
        return {"format": FORMAT, **_plain(asdict(self))}


def score_output(
    topic_of_truth: str, truth: Sequence[Message], outputs: Sequence[Delivered], frames: FrameTree | None
) -> OutputScores | None:
    """Score one output against one truth, None where its type has no score or no instant is shared."""
    pairs = offline(truth, outputs)
    whole = score(pairs, frames, details=True) if pairs else None
    if whole is None:
        return None
    start = pairs[0].truth.header.t_sensor_ns
    by_scene: dict[int, list[Any]] = {}
    for pair in pairs:
        by_scene.setdefault((pair.truth.header.t_sensor_ns - start) // SCENE_NS, []).append(pair)
    scenes = [headline(found) for found in (score(part, frames) for part in by_scene.values()) if found is not None]
    live = streaming(truth, outputs)
    took = sorted((output.available_ns - output.t_ns) / 1e6 for output in outputs)
    latency = {"p50": took[len(took) // 2], "p99": took[min(len(took) - 1, int(len(took) * 0.99))]}
    return OutputScores(topic_of_truth, whole, score(live, frames) if live else None, scenes, latency)


def headline(scores: TaskScores) -> float:
    """Return the figure by which a task is compared."""
    return next(iter(scores.summary.values()))


def headline_name(scores: Mapping[str, Any]) -> str:
    """Return the name of that figure, of a report's document."""
    return str(next(iter(scores["summary"])))


def read_report(path: Path) -> dict[str, Any]:
    """Read a report's JSON, of a file or of the folder that holds report.json.

    Raises:
        UserError: it is missing or is none.
    """
    file = path / "report.json" if path.is_dir() else path
    try:
        document = json.loads(file.read_text())
    except OSError as error:
        raise UserError(f"{file}: cannot be read: {error.strerror}") from None
    except ValueError as error:
        raise UserError(f"{file}: is not JSON: {error}") from None
    if not isinstance(document, dict) or document.get("format") != FORMAT:
        raise UserError(f"{file}: is no report of `perception evaluate FILE --replay LOG --out DIR`")
    return document


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


__all__ = ["FORMAT", "OutputScores", "RunReport", "headline_name", "read_report", "score_output"]
