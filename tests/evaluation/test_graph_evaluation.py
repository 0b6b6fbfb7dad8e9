"""A graph on perfect perception scores perfectly; delays, misses and drops cost what they should."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from msgspec.structs import replace

from perception.cli.main import main
from perception.errors import UserError
from perception.evaluation.compare import compare, regressions, unmet
from perception.evaluation.deliveries import Delivered, offline, streaming
from perception.evaluation.message_scores import score
from perception.geometry.transforms import Transform
from perception.logs.mcap_writer import McapWriter
from perception.messages import (
    FusedObject,
    Header,
    ObjectClass,
    Pose3D,
    Recognition,
    SegmentationMask,
    Skeleton,
    TrackedObjects,
)
from perception.messages.codec import encode

TENTH_NS = 100_000_000
START_NS = 1_700_000_000_000_000_000


def objects(place: int, *cars: tuple[int, float, float], speed_mps: float = 0.0, score: float = 1.0) -> TrackedObjects:
    """Cars (id, x, y) in base_link at the place-th tenth of a second of a vehicle that drives straight on."""
    header = Header(frame_id="base_link", t_sensor_ns=START_NS + place * TENTH_NS, seq=place)
    return TrackedObjects(
        header=header,
        odom_from_base_link=(speed_mps * place / 10, 0.0, 0.0, 0.0, 0.0, 0.0, 1.0),
        objects=tuple(
            FusedObject(
                id=identity, existence_probability=score, classes=(ObjectClass("car", 1.0),), center_m=(x, y, 0.8),
                rotation_xyzw=(0.0, 0.0, 0.0, 1.0), size_lwh_m=(4.5, 1.8, 1.5), velocity_mps=(0.0, 0.0, 0.0),
                num_points=20,
            )
            for identity, x, y in cars
        ),
    )  # fmt: skip


def delivered(messages: Sequence[TrackedObjects], late_ns: int = 0) -> list[Delivered]:
    return [Delivered(message, message.header.t_sensor_ns + late_ns) for message in messages]


def test_perfect_objects_score_one_in_every_figure() -> None:
    truth = [objects(k, (1, 10.0, 0.0), (2, 20.0, 4.0)) for k in range(20)]
    scores = score(offline(truth, delivered(truth)))
    assert scores is not None
    assert scores.task == "tracking"
    assert [scores.summary[name] for name in ("mAP", "HOTA", "MOTA")] == pytest.approx([1.0, 1.0, 1.0])
    assert scores.summary["calibration_error"] == 0.0


def test_a_late_output_costs_nothing_offline_and_its_way_in_streaming() -> None:
    # A car comes closer by 1 m a tenth of a second: three tenths late it is 3 m off, beyond the 2 m of a match.
    truth = [objects(k, (1, 40.0 - k, 0.0)) for k in range(20)]
    on_time, late = delivered(truth), delivered(truth, late_ns=3 * TENTH_NS)
    assert score(offline(truth, late)).summary["mAP"] == pytest.approx(1.0)  # type: ignore[union-attr]
    live = score(streaming(truth, late))
    assert live is not None
    assert live.summary["MOTA"] < 0
    assert live.summary["mAP"] < 0.5  # at 4 m alone it still matches
    assert score(streaming(truth, on_time)).summary["mAP"] == pytest.approx(1.0)  # type: ignore[union-attr]


def test_a_stale_output_is_moved_by_the_vehicle_s_own_motion() -> None:
    # The vehicle drives at 10 m/s past a parked car: what is three tenths old is right once it is moved by 3 m.
    truth = [objects(k, (1, 40.0 - k, 0.0), speed_mps=10.0) for k in range(20)]
    live = score(streaming(truth, delivered(truth, late_ns=3 * TENTH_NS)))
    assert live is not None
    # Only the three instants before the first delivery are missed.
    assert live.summary["MOTA"] == pytest.approx(1 - 3 / 20)


def test_instants_that_a_slow_output_never_saw_are_not_missed_but_failed_ones_are() -> None:
    truth = [objects(k, (1, 10.0, 0.0)) for k in range(20)]
    every_other = delivered(truth[::2])
    assert len(offline(truth, every_other)) == 10
    with_a_gap = [output for output in delivered(truth) if output.t_ns != truth[7].header.t_sensor_ns]
    pairs = offline(truth, with_a_gap)
    assert len(pairs) == 20
    assert pairs[7].output is None


def test_objects_without_a_point_on_them_and_beyond_the_range_do_not_count() -> None:
    truth = [objects(k, (1, 10.0, 0.0), (2, 60.0, 0.0)) for k in range(5)]
    answers = [objects(k, (1, 10.0, 0.0)) for k in range(5)]
    scores = score(offline(truth, delivered(answers)))
    assert scores is not None
    assert scores.summary["mAP"] == pytest.approx(1.0)
    assert scores.summary["MOTA"] == 1.0


def test_a_class_of_which_all_objects_are_beyond_the_range_has_no_part_in_the_mean() -> None:
    bus = replace(objects(0, (2, 60.0, 0.0)).objects[0], classes=(ObjectClass("bus", 1.0),))
    truth = [objects(k, (1, 10.0, 0.0)) for k in range(3)]
    truth = [replace(message, objects=(*message.objects, bus)) for message in truth]
    scores = score(offline(truth, delivered(truth)))
    assert scores is not None
    assert scores.summary["mAP"] == pytest.approx(1.0)
    assert list(scores.by_class) == ["car"]


def test_boxes_are_told_apart_by_distance_and_by_what_can_be_seen_of_them() -> None:
    # A near car that is found, 19.5 m away and reported at 20.5 m; two far ones of which one is missed; one invention.
    truth = [objects(k, (1, 19.5, 0.0), (2, 30.0, 5.0), (3, 40.0, 5.0)) for k in range(10)]
    seen = {1: 1.0, 2: 0.7, 3: 0.3}
    truth = [replace(m, objects=tuple(replace(thing, visibility=seen[thing.id]) for thing in m.objects)) for m in truth]
    answers = [objects(k, (7, 20.5, 0.0), (8, 30.0, 5.0), (9, 30.0, -9.0), score=0.75) for k in range(10)]
    scores = score(offline(truth, delivered(answers)), details=True)
    assert scores is not None
    found = {band: (of["recall"], of["precision"]) for band, of in scores.by_distance.items()}
    assert found["0 to 20 m"] == (1.0, 1.0)  # what it found is near, though it was reported beyond the edge
    assert found["20 to 35 m"] == (1.0, 0.5)
    assert found["35 to 50 m"][0] == 0.0
    assert {band: of["recall"] for band, of in scores.by_visibility.items()} == {
        "0 to 40 % visible": 0.0, "60 to 80 % visible": 1.0, "80 to 100 % visible": 1.0,
    }  # fmt: skip
    (trust,) = scores.curves["right over score"]["results"]
    assert trust == pytest.approx((0.75, 2 / 3), abs=1e-4)
    recall, precision = scores.curves["precision over recall"]["car"][-1]
    assert recall == pytest.approx(2 / 3, abs=0.02)
    assert precision == pytest.approx(2 / 3, abs=0.05)
    plain = score(offline(truth, delivered(answers)))
    assert plain is not None
    assert (plain.summary, plain.curves) == (scores.summary, {})


def mask(
    place: int, label: np.ndarray[tuple[int, ...], np.dtype[np.uint8]], classes: tuple[str, ...]
) -> SegmentationMask:
    header = Header(frame_id="cam_optical", t_sensor_ns=START_NS + place * TENTH_NS)
    return SegmentationMask(header=header, classes=classes, label=label)


def test_masks_are_compared_by_the_names_of_their_classes() -> None:
    truth = np.array([[0, 0, 1, 1]], np.uint8)
    pairs = offline(
        [mask(0, truth, ("road", "person"))],
        [Delivered(mask(0, np.array([[1, 1, 0, 1]], np.uint8), ("pedestrian", "road")), START_NS)],
    )
    scores = score(pairs)
    assert scores is not None
    assert scores.by_class["road"]["IoU"] == pytest.approx(2 / 3)
    assert scores.by_class["pedestrian"]["IoU"] == pytest.approx(1 / 2)
    assert scores.confusion["pedestrian"] == {"road": 1, "pedestrian": 1}


def test_poses_are_compared_in_one_frame_of_the_rig() -> None:
    from perception.geometry.rig import load_rig
    from perception.runtime.launch_file.files import find_launch_file

    rig = load_rig(find_launch_file(Path("car.yaml")).parent.parent / "calibration" / "simulated_car")
    camera = next(name for name, sensor in rig.sensors.items() if sensor.camera is not None)
    optical = rig.sensors[camera].frame
    joints = ((0.1, 0.2, 1.0), (0.0, 0.4, 1.1), (0.2, 0.1, 0.9))
    moved = Transform.apply(rig.base_link_from(optical), np.array(joints)) + np.array([0.03, 0.0, 0.0])

    def body(frame: str, points: Sequence[Sequence[float]]) -> Pose3D:
        header = Header(frame_id=frame, t_sensor_ns=START_NS)
        skeleton = Skeleton(joints_m=tuple((x, y, z) for x, y, z in points), confidence=(1.0,) * 3)
        return Pose3D(header=header, joint_names=("a", "b", "c"), limbs=(), skeletons=(skeleton,))

    pairs = offline([body(optical, joints)], [Delivered(body("base_link", moved.tolist()), START_NS)])
    scores = score(pairs, rig.frames)
    assert scores is not None
    assert scores.summary["MPJPE_mm"] == pytest.approx(30.0)


def test_recognitions_count_top_one_and_top_five() -> None:
    def said(*names: str) -> Recognition:
        top = tuple(ObjectClass(name, 0.5) for name in names)
        return Recognition(header=Header(frame_id="c", t_sensor_ns=START_NS), t_begin_ns=0, t_end_ns=1, top=top)

    scores = score(offline([said("wave")], [Delivered(said("walk", "wave"), START_NS)]))
    assert scores is not None
    assert (scores.summary["top1"], scores.summary["top5"]) == (0.0, 1.0)


LAUNCH = """
name: perfect
rig: simulated_car
nodes:
  log: {node: log_replay}
  detector: {node: truth_detector, inputs: {objects: truth/objects}}
  tracker: {node: truth_tracker, inputs: {objects: truth/objects}}
outputs:
  detections: {topic: detector/detections}
  objects: {topic: tracker/tracks}
"""


@pytest.fixture
def drive(tmp_path: Path) -> tuple[Path, Path]:
    """A launch file on perfect perception, and a log of true objects over twelve seconds."""
    with McapWriter(tmp_path / "drive.mcap") as writer:
        for k in range(120):
            message = objects(k, (1, 10.0, 0.0), (2, 30.0 - k / 10, 3.0))
            writer.write("truth/objects", encode(message).to_bytes(), message.header.t_sensor_ns)
    (tmp_path / "perfect.yaml").write_text(LAUNCH)
    return tmp_path / "perfect.yaml", tmp_path / "drive.mcap"


def run(*arguments: str | Path) -> int:
    with pytest.raises(SystemExit) as ended:
        main(["evaluate", *map(str, arguments)])
    return int(ended.value.code or 0)


def test_a_graph_on_perfect_perception_scores_one(
    drive: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    launch, log = drive
    assert run(launch, "--replay", log, "--out", tmp_path / "report", "--json") == 0
    report = json.loads(capsys.readouterr().out)
    for topic in ("detections", "objects"):
        assert report["outputs"][topic]["offline"]["summary"]["mAP"] == pytest.approx(1.0), topic
        assert report["outputs"][topic]["offline"]["frames"] == 120
        assert report["outputs"][topic]["scenes"] == pytest.approx([1.0, 1.0, 1.0])
    assert report["outputs"]["objects"]["offline"]["summary"]["HOTA"] == pytest.approx(1.0)
    page = (tmp_path / "report" / "report.html").read_text()
    assert "objects: tracking" in page
    for part in ("0 to 20 m", "<polyline", "precision over recall", "right over score"):
        assert part in page, part
    assert "http" not in page  # nothing is loaded from elsewhere


def test_a_given_latency_lowers_the_streaming_score_alone(
    drive: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    launch, log = drive
    assert run(launch, "--replay", log, "--latency", "2500", "--json", "--out", tmp_path / "slow") == 0
    slow = json.loads(capsys.readouterr().out)["outputs"]["objects"]
    assert slow["offline"]["summary"]["mAP"] == pytest.approx(1.0)
    assert slow["streaming"]["summary"]["mAP"] < 1.0  # car 2 moves 2.5 m meanwhile
    assert slow["latency_ms"]["p50"] == pytest.approx(2500.0)
    assert run("compare", tmp_path / "slow", tmp_path / "slow", "--max-drop", "0.0") == 0
    requirement = ("--require", "objects:latency_ms.p50<=100", "--json")
    capsys.readouterr()
    assert run("compare", tmp_path / "slow", tmp_path / "slow", *requirement) == 1
    assert json.loads(capsys.readouterr().out)["failed"] == ["objects: latency_ms.p50 is 2500.0000, <= 100 is required"]
    assert run("compare", tmp_path / "slow", tmp_path / "none") == 2


def test_wrong_calls_cost_one_clear_line(
    drive: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    launch, log = drive
    assert run(launch, "--replay", log, "--latency", "soon") == 2
    assert "expected measured, from-log, or milliseconds" in capsys.readouterr().err
    assert run(launch, "--replay", tmp_path / "none.mcap") == 2
    assert run("nothing.yaml", "--replay", log) == 2
    assert run(launch, "--replay", log, "--latency", "from-log") == 2
    assert "holds none of the outputs" in capsys.readouterr().err


def test_a_difference_that_holds_in_every_scene_is_shown_and_chance_is_not() -> None:
    def report(scenes: list[float]) -> dict[str, object]:
        summary = {"mAP": float(np.mean(scenes))}
        return {"outputs": {"objects": {"offline": {"summary": summary}, "scenes": scenes}}}

    base = [0.5, 0.6, 0.7, 0.4, 0.5, 0.6]
    better = compare(report(base), report([value + 0.05 for value in base]))["objects"]
    assert better.verdict == "better"
    assert better.low == pytest.approx(0.05)
    noise = compare(report(base), report([value + d for value, d in zip(base, (0.1, -0.1) * 3, strict=True)]))[
        "objects"
    ]
    assert noise.verdict == "no difference shown"
    assert noise.low < 0 < noise.high


def reported(**scenes: list[float]) -> dict[str, Any]:
    """A report of outputs by their scores in each scene."""
    return {
        "outputs": {
            topic: {
                "offline": {"summary": {"mAP": float(np.mean(of)) if of else None}}, "scenes": of,
                "streaming": {"summary": {"mAP": 0.25}}, "latency_ms": {"p50": 40.0, "p99": 90.0},
            }
            for topic, of in scenes.items()
        }
    }  # fmt: skip


def test_what_fell_surely_or_was_lost_fails_and_what_chance_may_be_does_not() -> None:
    def failed(before: dict[str, Any], after: dict[str, Any]) -> list[str]:
        return regressions(before, compare(before, after), 0.02)

    base = [0.5, 0.6, 0.7, 0.4, 0.5, 0.6]
    before = reported(objects=base, boxes=base)
    assert failed(before, reported(objects=[s - 0.01 for s in base], boxes=base)) == []
    (line,) = failed(before, reported(objects=[s - 0.05 for s in base], boxes=base))
    assert line == "objects: mAP is worse by 0.0500, 0.02 is allowed"
    by_chance = [s - d for s, d in zip(base, (0.4, -0.3) * 3, strict=True)]  # 0.05 in the mean, either way in a scene
    assert failed(before, reported(objects=by_chance, boxes=base)) == []
    assert failed(before, reported(objects=base)) == ["boxes: the second report has no such output"]
    (line,) = failed(before, reported(objects=[], boxes=base))
    assert line == "objects: mAP was 0.5500 and is not known any more"
    assert len(failed(reported(objects=[0.5]), reported(objects=[0.4]))) == 1  # a single scene counts as it is


def test_requirements_are_met_or_say_by_what_not() -> None:
    report = reported(objects=[0.5], none=[])
    for met in ("objects:mAP>=0.5", "objects:streaming.mAP<=0.25", "objects:latency_ms.p99<=100"):
        assert unmet(report, met) == ""
    assert unmet(report, "objects:streaming.mAP>=0.4") == "objects: streaming.mAP is 0.2500, >= 0.4 is required"
    assert unmet(report, "none:mAP>=0.1") != ""
    assert unmet(report, "none:mAP<=0.1") != ""  # what is not known meets nothing
    for wrong, said in (
        ("objects:mAP>0.5", "expected TOPIC:FIGURE>=VALUE"),
        ("object:mAP>=0.5", "Did you mean 'objects'"),
        ("objects:mAp>=0.5", "Did you mean 'mAP'"),
    ):
        with pytest.raises(UserError, match=said):
            unmet(report, wrong)
