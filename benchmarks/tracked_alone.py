"""Is the list of all detectors better than that of the best? HOTA of each one's boxes tracked alone, and of all.

    perception simulate car.yaml --seed 501 --duration 20 --out drive.mcap
    perception launch car.yaml --replay drive.mcap --mode lockstep --record run.mcap
    python -m perception.benchmarks.tracked_alone run.mcap ...

The tracker is that of `car.yaml` with all its settings, `--settings KEY=VALUE` changes one; only whose boxes it gets
differs. Scores are those of `perception evaluate`: offline, within 50 m, objects that the LiDAR hits.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import Any

import yaml

from perception.errors import UserError
from perception.evaluation.deliveries import Delivered, offline
from perception.evaluation.message_scores import TaskScores, score
from perception.logs.log import Log
from perception.logs.open_log import open_log
from perception.messages import Detections3D, Message, TrackedObjects
from perception.runtime.inline_runner import run_inline
from perception.runtime.launch_file.files import find_launch_file
from perception.runtime.launch_file.load import load_launch
from perception.runtime.launch_file.replay import Replay

TRUTH, OBJECTS = "truth/objects", "tracker/objects"
SHOWN = ("HOTA", "DetA", "AssA", "mAP", "MOTA", "switches", "calibration_error")


def tracked(log: Log, detections: list[str], settings: dict[str, Any]) -> TaskScores:
    """Return the scores of the objects that the tracker makes of some detectors' boxes in a recording.

    Raises:
        UserError: the recording has no truth, or nothing came of these boxes.
    """
    tracker = {"node": "object_tracker", "settings": settings, "inputs": {"detections": detections}}
    graph = {
        "name": "tracked-alone", "rig": "from_log", "ego_motion": "ego",
        "nodes": {"log": {"node": "log_replay"}, "tracker": tracker}, "outputs": {"objects": {"topic": OBJECTS}},
    }  # fmt: skip
    found: list[Delivered] = []

    def take(topic: str, message: Message) -> None:
        if topic == OBJECTS:
            found.append(Delivered(message.keep(), message.header.t_sensor_ns))

    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "graph.yaml"
        file.write_text(yaml.safe_dump(graph))
        run_inline(load_launch(file, replay=Replay(log, "lockstep")), on_message=take)
    truth = [message.keep() for topic, message in log.messages(topics=[TRUTH]) if isinstance(message, TrackedObjects)]
    scores = score(offline(truth, found))
    if scores is None:
        raise UserError(
            f"{log.path}: nothing to score; expected the recording of a run on a simulated drive, with {TRUTH}"
        )
    return scores


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("logs", type=Path, nargs="+")
    parser.add_argument("--settings", nargs="*", default=[], metavar="KEY=VALUE", help="of the tracker")
    arguments = parser.parse_args()
    car = yaml.safe_load(find_launch_file(Path("car.yaml")).read_text())
    changed = {key: yaml.safe_load(value) for key, _, value in (text.partition("=") for text in arguments.settings)}
    settings = car["nodes"]["tracker"]["settings"] | changed
    for path in arguments.logs:
        log = open_log(path)
        detectors = [topic for topic, kind in log.topics().items() if issubclass(kind, Detections3D)]
        print(f"{path.name}\n{'':<28}" + "".join(f"  {name:>8}" for name in SHOWN) + "  AP by class")
        for chosen in [*([topic] for topic in detectors), detectors]:
            scores = tracked(log, chosen, settings)
            name = chosen[0] if len(chosen) == 1 else "all together"
            figures = "".join(f"  {scores.summary[key]:>{max(8, len(key))}.3f}" for key in SHOWN)
            classes = ", ".join(f"{kind} {table['AP']:.2f}" for kind, table in scores.by_class.items())
            print(f"  {name:<26}{figures}  {classes}", flush=True)


if __name__ == "__main__":
    main()
