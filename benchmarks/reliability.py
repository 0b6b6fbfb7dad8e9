"""What are the scores of detectors worth? Fits `reliability` of the object tracker on drives with truth.

    perception simulate car.yaml --seed 900000 --duration 20 --out drive.mcap
    perception launch car.yaml --replay drive.mcap --mode lockstep --record run.mcap
    python -m perception.benchmarks.reliability run.mcap ...

For each detector, probability = 1 / (1 + exp(-(slope * log-odds of the score + offset))): the most likely slope and
offset given which of its boxes are right (`perception.evaluation.reliability`). A box is right if a true object of its
class that the LiDAR hits, and that no box of a higher score has taken, lies within 2 m. Fit on seeds of validation
(docs/training.md).
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from perception.errors import UserError
from perception.evaluation.breakdown import matched
from perception.evaluation.message_scores import RANGE_M, object_boxes
from perception.evaluation.reliability import fit_reliability
from perception.logs.open_log import open_log
from perception.messages import Detections3D, TrackedObjects
from perception.tracking.tracks import odds

TRUTH = "truth/objects"
Pairs = dict[str, list[tuple[NDArray[np.float64], NDArray[np.bool_]]]]


def pairs_of(log: Path, pairs: Pairs) -> None:
    """Add (score, right) of each detector's boxes in a recording.

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
        if not isinstance(message, Detections3D) or not message.header.models or stamp not in truth:
            continue
        found = object_boxes(message)
        near = np.linalg.norm(found.center_m[:, :2], axis=1) < RANGE_M
        pairs[message.header.models[0].card].append((found.score[near], matched(truth[stamp], found)[near] >= 0))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("logs", type=Path, nargs="+")
    pairs: Pairs = defaultdict(list)
    for log in parser.parse_args().logs:
        pairs_of(log, pairs)
    print("reliability:")
    for name, each in sorted(pairs.items()):
        score, right = (np.concatenate(column) for column in zip(*each, strict=True))
        slope, offset = fit_reliability(odds(score), right)
        print(
            f'  "{name}": {{slope: {slope:.2f}, offset: {offset:.2f}}} # {len(score)} boxes, {right.mean():.0%} right'
        )


if __name__ == "__main__":
    main()
