"""Faults of launch, rig and calibration files: a stable code each, and all of them at once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from perception.errors import LaunchFileError

CODES: Mapping[str, str] = MappingProxyType(
    {
        # the file itself
        "file-missing": "A file that is named cannot be read.",
        "not-yaml": "The file is not YAML, or a value is none that YAML's safe subset has.",
        "duplicate-key": "A key stands twice in one mapping; YAML would silently take the last.",
        "file-too-large": "The file is larger or deeper than a hand-written file, or uses aliases.",
        "unknown-key": "A key that nothing reads; it would be ignored in silence.",
        "missing-key": "A key that must be there is not.",
        "wrong-type": "A value has another type or range than the key wants.",
        "bad-name": "The name of the launch, a node or a process cannot be used for locks, topics and files.",
        # the graph
        "unknown-node": "`node:` names no shipped node, module or file.",
        "not-a-node": "`node:` names something that is no perception Node.",
        "unknown-input": "A node has no such input.",
        "unknown-output": "A node has no such output.",
        "source-settings": "The settings of a source do not fit the rig, such as a sensor that it does not have.",
        "input-missing": "An input of a node is not connected.",
        "dangling-topic": "An input reads a topic that no node publishes.",
        "topic-type": "An input reads a topic of another message type.",
        "topic-twice": "Two outputs publish one topic.",
        "output-dangling": "An output for planners names a topic that no node publishes.",
        "output-twice": "Two outputs for planners have one name, or a pattern gives several topics one name.",
        "node-cycle": "Nodes feed each other in a circle.",
        "join-reference": "The reference of a join must be exactly one topic.",
        "join-latest": "An input of a join is `keep: latest`; a join keeps a history and drops whole sets.",
        "unpaced-branches": "Two `latest` branches of one source meet in a join, unpaced: their instants differ.",
        "paced-by": "`paced_by` names no node that reads this source.",
        "process-hosts": "Nodes of one process are placed on two hosts.",
        "endpoint": "The endpoint is no address that results can be published on.",
        "endpoint-open": "The endpoint can be reached from other machines, without CURVE keys.",
        "output-late": "`on_late` without a deadline, or with a node that gives out nothing of the same type.",
        "rig-interface": "Several hosts need `network: rig_interface` and an address each, private or link-local.",
        "health-sensor": "`health:` names a sensor that the rig does not have, or that nothing publishes.",
        # time
        "deadline-too-short": "An output's deadline is shorter than the joins' waits and the stage times on its path.",
        "join-deadline": "A join waits shorter than the stages to one of its members take: it would always miss it.",
        "stage-too-slow": "An input that keeps all gets more messages than its node's stage time allows.",
        "tolerance-too-wide": "A join's tolerance reaches the next instant of an input: sets could mix two instants.",
        "tolerance-too-tight": "A join skips sets unless stamps are nearer than the rates of its inputs guarantee.",
        "join-history": "A join forgets sooner than its slowest input's period plus its deadline.",
        "clocks": "Inputs of a join are stamped by clocks that nothing ties to each other.",
        "no-ego-motion": "`ego_motion` names a topic that no node publishes, or not an Odometry.",
        "lost-too-soon": "A sensor would count as lost between two of its messages.",
        "memory": "Queues, histories and pools could need more memory than this machine has.",
        # the rig
        "rig-missing": "The rig's folder is not there.",
        "sensor-twice": "Two sensors have one name.",
        "transform-name": "A transform's key does not say its direction.",
        "rotation": "A rotation is not of length one, or not orthonormal.",
        "rotation-mirrored": "A rotation is mirrored: an axis points the wrong way.",
        "frame-loop": "The frames form a loop.",
        "frame-orphan": "A frame does not hang on base_link.",
        "frame-parents": "A frame has two parents.",
        "sensor-no-frame": "A sensor's frame has no place on the rig.",
        "sensor-below-road": "A sensor is below the road.",
        "sensor-far": "A sensor is farther from base_link than any car is long: metres and millimetres mixed up?",
        "sensor-same-place": "Two sensors are at the same place with the same direction: a copied line?",
        "lidar-upside-down": "A LiDAR's z axis points down.",
        "lidar-numbers": "A LiDAR's range or field of view cannot be.",
        "camera-direction": "A camera looks into the sky or at the road below it.",
        "camera-rolled": "A camera's picture lies on its side or stands on its head.",
        "camera-calibration": "A camera has no calibration.",
        "calibration-of-another": "A calibration is of another camera: serial numbers differ, or two share one file.",
        "intrinsics-size": "Intrinsics do not fit the size of the pictures.",
        "intrinsics-center": "The principal point lies outside the picture, or far from its middle: another size?",
        "intrinsics-focal": "The focal lengths cannot be: no lens has that view, or pixels are far from square.",
        "coefficients": "The number of distortion coefficients is not the model's.",
        "distortion-folds": "The distortion folds the picture: its corners have no ray.",
        "serial-twice": "Two sensors have one serial number: a copied line?",
        "exposure": "An exposure is longer than the time between two pictures.",
        "frustum-misses-lidar": "A camera that colours LiDAR points sees none of the LiDAR's field of view.",
        # models
        "weights": "Weights or card are not found, or cannot be read.",
        "card-network": "The card is of a network that this node does not drive.",
        "card-sensor": "The sensor does not give what the card needs.",
        "card-range": "The card's range reaches farther than the sensor does.",
        "card-height": "The ground of this rig lies outside the heights of the card's range.",
        "card-image": "The input size is none that the network can take.",
        "classes": "Classes that are joined share no identity.",
    }
)
"""Every kind of fault by its stable code."""


@dataclass(frozen=True, order=True)
class Fault:
    """One fault."""

    file: str
    line: int
    code: str
    what: str
    expected: str
    hint: str = ""

    def __str__(self) -> str:
        return f"{self.file}:{self.line}: {self.code}: {self.what}; expected {self.expected}.{self.hint}"


class Faults:
    """Collects faults; every one once."""

    def __init__(self) -> None:
        self._found: dict[Fault, None] = {}

    def add(self, code: str, file: Path | str, line: int, what: str, expected: str, hint: str = "") -> None:
        """Report a fault; `hint` is what `did_you_mean` gives."""
        assert code in CODES, code
        self._found[Fault(str(file), line, code, what, expected, hint)] = None

    def __len__(self) -> int:
        return len(self._found)

    def __bool__(self) -> bool:
        return bool(self._found)

    def all(self) -> list[Fault]:
        """Return the faults by file and line."""
        return sorted(self._found)

    def documents(self) -> list[dict[str, Any]]:
        """Return the faults for `--json`."""
        return [asdict(fault) for fault in self.all()]

    def raise_if_any(self) -> None:
        """Raise a LaunchFileError with all faults, a line each."""
        if self._found:
            raise LaunchFileError("\n".join(["the launch file has faults:", *map(str, self.all())]))


__all__ = ["CODES", "Fault", "Faults"]
