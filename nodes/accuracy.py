"""Score what networks say against the truth, while the graph runs; the screen shows how good they are just now.

in:  masks, detections, objects, skeletons, recognitions, of one or several nodes;
     true_masks, true_objects, true_skeletons, true_actions, the simulator's `truth/...`.
out: none. The figures are notes of the node's status: in the table of `perception launch`, in `perception top` and in
     the summary of a run. They are those of `perception evaluate`, over the last seconds.
"""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Iterable, Mapping
from typing import Annotated, Self

import numpy as np
from pydantic import Field

from perception.evaluation.assignment import best_assignment
from perception.evaluation.deliveries import Delivered, offline
from perception.evaluation.message_scores import score
from perception.geometry.frames import FrameTree
from perception.messages import Detections3D, Message, Pose3D, Recognition, SegmentationMask, TrackedObjects
from perception.runtime.node import Node, NodeConfig, NodeSetup, On

SECOND_NS = 1_000_000_000


class AccuracyConfig(NodeConfig):
    """Settings of the node."""

    window_s: Annotated[float, Field(gt=0)] = 20.0
    """Of sensor time, over which figures are taken."""
    every_s: Annotated[float, Field(gt=0)] = 2.0
    """Of sensor time from one figure to the next."""


class Accuracy(Node):
    """Keeps what was said and what was true, and compares the two now and then."""

    Config = AccuracyConfig
    masks = On[SegmentationMask](batch=True, optional=True)
    detections = On[Detections3D](batch=True, optional=True)
    objects = On[TrackedObjects](batch=True, optional=True)
    skeletons = On[Pose3D](batch=True, optional=True)
    recognitions = On[Recognition](batch=True, optional=True)
    true_masks = On[SegmentationMask](keep="all", bound=64, optional=True)
    true_objects = On[TrackedObjects](keep="all", bound=64, optional=True)
    true_skeletons = On[Pose3D](keep="all", bound=64, optional=True)
    true_actions = On[Recognition](keep="all", bound=64, optional=True)

    @classmethod
    def create(cls, config: AccuracyConfig, setup: NodeSetup) -> Self:
        return cls(config, None if setup.rig is None else setup.rig.frames)

    def __init__(self, config: AccuracyConfig | None = None, frames: FrameTree | None = None) -> None:
        self.settings = config or AccuracyConfig()
        super().__init__(self.settings)
        self.frames = frames
        self.reset("start")

    def warm_up(self) -> None:
        best_assignment(np.zeros((1, 1)))  # loads what would hold the process up at its first objects

    def reset(self, reason: str) -> None:
        self._true: dict[str, deque[Message]] = defaultdict(deque)
        self._said: dict[str, deque[Message]] = defaultdict(deque)
        self._next_ns: dict[str, int] = {}
        self._lines: dict[str, str] = {}
        self.notes = ()

    def on_true_masks(self, truth: SegmentationMask) -> None:
        self._keep(self._true[f"mask of {truth.header.frame_id}"], truth)

    def on_true_objects(self, truth: TrackedObjects) -> None:
        self._keep(self._true["objects"], truth)

    def on_true_skeletons(self, truth: Pose3D) -> None:
        self._keep(self._true["skeleton"], truth)

    def on_true_actions(self, truth: Recognition) -> None:
        self._keep(self._true["action"], truth)

    def on_masks(self, masks: Mapping[str, SegmentationMask]) -> None:
        for name, mask in masks.items():
            self._compare(name, mask, f"mask of {mask.header.frame_id}")

    def on_detections(self, detections: Mapping[str, Detections3D]) -> None:
        self._compare_all(detections.items(), "objects")

    def on_objects(self, objects: Mapping[str, TrackedObjects]) -> None:
        self._compare_all(objects.items(), "objects")

    def on_skeletons(self, skeletons: Mapping[str, Pose3D]) -> None:
        self._compare_all(skeletons.items(), "skeleton")

    def on_recognitions(self, recognitions: Mapping[str, Recognition]) -> None:
        self._compare_all(recognitions.items(), "action")

    def _compare_all(self, said: Iterable[tuple[str, Message]], truth: str) -> None:
        for name, message in said:
            self._compare(name, message, truth)

    def _compare(self, name: str, message: Message, truth: str) -> None:
        """Keep an output; when its time has come, score all of that name that are still kept."""
        said, now_ns = self._said[name], message.header.t_sensor_ns
        self._keep(said, message)
        if now_ns < self._next_ns.setdefault(name, now_ns + round(self.settings.every_s * SECOND_NS)):
            return
        self._next_ns[name] = now_ns + round(self.settings.every_s * SECOND_NS)
        pairs = offline(list(self._true[truth]), [Delivered(one, one.header.t_sensor_ns) for one in said])
        scores = score(pairs, self.frames)
        if scores is None or not scores.summary:
            return
        figure = "HOTA" if "HOTA" in scores.summary else next(iter(scores.summary))
        value = scores.summary[figure]
        self._lines[name] = f"{name}: {figure} {value:.3f} over {scores.frames} instants"
        self.notes = tuple(self._lines.values())

    def _keep(self, kept: deque[Message], message: Message) -> None:
        kept.append(message.keep())
        oldest_ns = message.header.t_sensor_ns - round(self.settings.window_s * SECOND_NS)
        while kept[0].header.t_sensor_ns < oldest_ns:
            kept.popleft()
