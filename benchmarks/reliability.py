"""What are the scores of detectors worth? Fits `reliability` of the object tracker on drives with truth.

    perception simulate car.yaml --seed 900000 --duration 20 --out drive.mcap
    perception launch car.yaml --replay drive.mcap --mode lockstep --record run.mcap
    python -m perception.benchmarks.reliability run.mcap ...

For each detector, probability = 1 / (1 + exp(-(slope * log-odds of the score + offset))): the most likely slope and
offset given which of its boxes are right (`perception.evaluation.reliability`). A box is right if a true object of its
class that the LiDAR hits, and that no box of a higher score has taken, lies within 2 m. And the confusion: how often
which class is called what, of boxes that have a place of their own and a score above 0.3, each with the nearest true
object of its family of classes within 2 m; one more of each kind is counted, since what was not seen is not impossible.
Fit on seeds of validation (docs/training.md).
"""

from __future__ import annotations

import argparse
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from perception.errors import UserError
from perception.evaluation.breakdown import MATCH_M, matched
from perception.evaluation.detection_nuscenes import SceneBoxes
from perception.evaluation.message_scores import RANGE_M, object_boxes
from perception.evaluation.reliability import fit_reliability
from perception.logs.open_log import open_log
from perception.messages import Detections3D, TrackedObjects
from perception.ops.boxes_bev import surest_apart
from perception.tracking.classes import FAMILIES
from perception.tracking.tracks import odds

TRUTH = "truth/objects"
MEANT = 0.3
"""Boxes of a lower score do not count in the confusion."""
OVERLAP = 0.2
"""The tracker's: of two boxes that share more, it takes the surer one."""


@dataclass
class Said:
    """What one detector said.

    Attributes:
        score, right: of its boxes, by instant.
        called: how often (true class, class that it said).
    """

    score: list[NDArray[np.float64]] = field(default_factory=list)
    right: list[NDArray[np.bool_]] = field(default_factory=list)
    called: Counter[tuple[str, str]] = field(default_factory=Counter)

    def add(self, truth: SceneBoxes, found: SceneBoxes) -> None:
        """Add the boxes of one instant."""
        near = found.range_m < RANGE_M
        self.score.append(found.score[near])
        self.right.append(matched(truth, found)[near] >= 0)
        ground = np.column_stack((found.center_m[:, :2], found.size_lwh_m[:, :2], found.yaw_rad))
        for index in np.flatnonzero(near & (found.score > MEANT) & surest_apart(ground, found.score, OVERLAP)):
            name = str(found.name[index])
            family = np.array([FAMILIES.get(true, true) == FAMILIES.get(name, name) for true in truth.name], np.bool_)
            apart = np.linalg.norm(truth.center_m[:, :2] - found.center_m[index, :2], axis=1)
            apart[~family] = np.inf
            if len(apart) and apart.min() < MATCH_M:
                self.called[str(truth.name[apart.argmin()]), name] += 1

    def confusion(self) -> dict[str, dict[str, float]]:
        """Return true class -> said class -> how often, of the classes of a family of several."""
        shares: dict[str, dict[str, float]] = {}
        names = sorted({name for pair in self.called for name in pair})
        for true in names:
            others = [name for name in names if FAMILIES.get(name, name) == FAMILIES.get(true, true)]
            if len(others) > 1:
                count = sum(self.called[true, name] for name in others) + len(others)
                shares[true] = {name: (self.called[true, name] + 1) / count for name in others}
        return shares


def add_log(log: Path, said: dict[str, Said]) -> None:
    """Add what each detector of a recording said.

    Raises:
        UserError: the recording has no truth.
    """
    messages = list(open_log(log).messages())
    truth = {m.header.t_sensor_ns: object_boxes(m, seen_only=True) for topic, m in messages if topic == TRUTH
             and isinstance(m, TrackedObjects)}  # fmt: skip
    if not truth:
        raise UserError(f"{log}: holds no {TRUTH}; expected the recording of a run on a simulated drive")
    for _, message in messages:
        stamp = message.header.t_sensor_ns
        if isinstance(message, Detections3D) and message.header.models and stamp in truth:
            said[message.header.models[0].card].add(truth[stamp], object_boxes(message))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("logs", type=Path, nargs="+")
    said: dict[str, Said] = defaultdict(Said)
    for log in parser.parse_args().logs:
        add_log(log, said)
    print("reliability:")
    for name, each in sorted(said.items()):
        score, right = np.concatenate(each.score), np.concatenate(each.right)
        slope, offset = fit_reliability(odds(score), right)
        print(f'  "{name}": # {len(score)} boxes, {right.mean():.0%} right')
        print(f"    slope: {slope:.2f}\n    offset: {offset:.2f}\n    confusion:")
        for true, shares in each.confusion().items():
            print(f"      {true}: {{{', '.join(f'{name}: {share:.2f}' for name, share in shares.items())}}}")


if __name__ == "__main__":
    main()
