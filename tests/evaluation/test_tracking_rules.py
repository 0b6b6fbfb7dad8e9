"""The rules of AB3DMOT and of KITTI: hand-worked sequences, and the numbers that their own programs print."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from perception.errors import ShapeError, UserError
from perception.evaluation.calibration import reliability
from perception.evaluation.reliability import fit_reliability
from perception.evaluation.tracking import evaluate_tracking, thresholds

CAR = "1.5 1.8 4.0 0.0 1.5 20.0 0.0"  # h w l x y z rotation_y
BOX = "100 100 200 200"


def row(
    frame: int, track: int, kind: str = "Car", *, box: str = BOX, place: str = CAR, cut: str = "0 0", score: str = ""
) -> str:
    return f"{frame} {track} {kind} {cut} 0 {box} {place} {score}".strip()


def write(folder: Path, *rows: str) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "0000.txt").write_text("\n".join(rows))
    return folder


def car_by_kitti(tmp_path: Path, truth: list[str], results: list[str]) -> dict[str, float]:
    found = evaluate_tracking("kitti", write(tmp_path / "truth", *truth), write(tmp_path / "results", *results))
    return found["2D IoU 0.5"]["Car"]


def test_a_switch_a_miss_and_a_false_alarm_by_hand(tmp_path: Path) -> None:
    """Five boxes of truth: seen as 1, 1, missed, 2, 2, and one false box; after a gap a switch is a fragment only."""
    truth = [row(frame, 7) for frame in range(5)]
    seen = {0: 1, 1: 1, 3: 2, 4: 2}
    results = [row(frame, track, score="1") for frame, track in seen.items()]
    results.append(row(2, 9, box="500 100 600 200", score="1"))
    found = car_by_kitti(tmp_path, truth, results)
    assert (found["TP"], found["FP"], found["FN"], found["IDS"], found["FRAG"]) == (4, 1, 1, 0, 1)
    assert found["MOTA"] == pytest.approx(100 * (1 - 2 / 5))
    assert found["MT"] == 0.0
    assert found["recall"] == pytest.approx(80.0)


def test_a_switch_without_a_gap_counts(tmp_path: Path) -> None:
    truth = [row(frame, 7) for frame in range(4)]
    found = car_by_kitti(tmp_path, truth, [row(frame, frame // 2, score="1") for frame in range(4)])
    assert (found["IDS"], found["FRAG"], found["MOTA"]) == (1, 1, 75.0)


@pytest.mark.parametrize(
    ("extra", "false_alarms"),
    [
        (row(0, 2, box="500 100 600 200", score="1"), 1),
        (row(0, 2, box="500 100 600 125", score="1"), 0),  # 25 pixels high
        (row(0, 2, "Van", box="500 100 600 200", score="1"), 0),  # the neighbouring class
        (row(0, 2, box="820 100 920 200", score="1"), 0),  # more than half in a DontCare region
        (row(0, 2, box="720 100 820 200", score="1"), 1),  # a fifth in it
    ],
    ids=["false", "small", "van", "dontcare", "beside"],
)
def test_what_kitti_does_not_hold_against_a_tracker(tmp_path: Path, extra: str, false_alarms: int) -> None:
    truth = [row(0, 7), row(0, -1, "DontCare", cut="-1 -1", box="800 90 1000 300")]
    found = car_by_kitti(tmp_path, truth, [row(0, 1, score="1"), extra])
    assert (found["TP"], found["FP"], found["FN"]) == (1, false_alarms, 0)


@pytest.mark.parametrize("cut", ["1 0", "0 3"], ids=["truncated", "hidden"])
def test_truth_that_is_cut_or_hidden_need_not_be_found(tmp_path: Path, cut: str) -> None:
    truth = [row(0, 7), row(0, 8, box="500 100 600 200", cut=cut)]
    found = car_by_kitti(tmp_path, truth, [row(0, 1, score="1")])
    assert (found["truth"], found["FN"], found["MOTA"]) == (1, 0, 100.0)


def test_recall_goes_up_in_fortieths() -> None:
    scores = list(np.linspace(1.0, 0.0, 80))
    steps = thresholds(scores, truth=80)
    assert len(steps) == 40
    assert [round(recall * 40) for _, recall in steps] == list(range(1, 41))
    assert steps[0][0] == pytest.approx(scores[1])  # two of eighty are a fortieth


def test_three_dimensions_count_for_ab3dmot(tmp_path: Path) -> None:
    truth = write(tmp_path / "truth", *(row(frame, 7) for frame in range(10)))
    near = CAR.replace("20.0", "21.0")  # a metre ahead: 1.8 m wide across the line of sight, so 0.8 / 2.8 are shared
    results = write(tmp_path / "results", *(row(frame, 1, place=near, score="5") for frame in range(10)))
    found = evaluate_tracking("ab3dmot", truth, results)
    assert found["3D IoU 0.25"]["Car"]["MOTA"] == 100.0
    assert found["3D IoU 0.25"]["Car"]["MOTP"] == pytest.approx(100 * 0.8 / 2.8, abs=0.01)
    assert found["3D IoU 0.5"]["Car"]["TP"] == 0


DEVKIT = {  # what evaluate_tracking.py prints for the pseudo tracks below
    "Car": {"MOTA": -6.6906, "MOTP": 85.3868, "TP": 1422, "FP": 446, "FN": 68, "IDS": 969, "FRAG": 972, "MT": 95.0},
    "Pedestrian": {
        "MOTA": 7.2256, "MOTP": 66.5665, "TP": 1391, "FP": 500, "FN": 782, "IDS": 721, "FRAG": 767, "MT": 27.2727,
    },
}  # fmt: skip
AB3DMOT = {  # what its evaluate.py prints for them at an overlap of 0.25
    "Cyclist": {
        "sAMOTA": 52.73, "AMOTA": 15.06, "AMOTP": 68.65, "MOTA": 28.04, "MOTP": 72.30, "TP": 125, "FP": 14, "FN": 171,
        "IDS": 28, "FRAG": 41,
    },
}  # fmt: skip


@pytest.fixture(scope="module")
def pseudo_tracks(data_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Real detections with made-up ids: the place of each in its frame, renamed every seven frames."""
    out = tmp_path_factory.mktemp("pseudo")
    for sequence in ("0012", "0014", "0016"):
        lines = []
        for number, name in ((1, "Pedestrian"), (2, "Car"), (3, "Cyclist")):
            file = data_folder / "kitti_tracking_3d" / "detection" / f"pointrcnn_{name}" / f"{sequence}.txt"
            found = np.loadtxt(file, delimiter=",", ndmin=2)
            for frame in np.unique(found[:, 0]):
                rows = found[found[:, 0] == frame]
                for place, one in enumerate(rows[np.argsort(rows[:, 10], kind="stable")]):
                    numbers = " ".join(repr(float(value)) for value in (one[14], *one[2:6], *one[7:14], one[6]))
                    lines.append(f"{int(frame)} {int(frame) // 7 * 1000 + number * 100 + place} {name} 0 0 {numbers}")
        (out / f"{sequence}.txt").write_text("\n".join(lines))
    return out


@pytest.mark.parametrize(("rules", "overlap", "expected"), [
    ("kitti", "2D IoU 0.5", DEVKIT), ("ab3dmot", "3D IoU 0.25", AB3DMOT),
], ids=["kitti", "ab3dmot"])  # fmt: skip
def test_the_published_programs_count_the_same(
    data_folder: Path, pseudo_tracks: Path, rules: str, overlap: str, expected: dict[str, dict[str, float]]
) -> None:
    truth = data_folder / "kitti_tracking_3d" / "label"
    sequences = ("0012", "0014", "0016")
    found = evaluate_tracking("kitti" if rules == "kitti" else "ab3dmot", truth, pseudo_tracks, sequences)
    for name, figures in expected.items():
        for figure, value in figures.items():
            assert found[overlap][name][figure] == pytest.approx(value, abs=6e-3), (name, figure)


@pytest.mark.parametrize(
    ("line", "text"),
    [
        ("0 1 Car 0 0", "0000.txt:1: 5 columns; a KITTI tracking row has 17, or 18 with a score"),
        (row(0, 1).replace("20.0", "far"), "could not convert string to float: 'far'; all columns but the type"),
        (row(-1, 1), "a frame that is not 0 to"),
        (f"{row(0, 1)}\n{row(0, 1)}", "track 1 stands twice in frame 0"),
    ],
    ids=["columns", "words", "frame", "twice"],
)
def test_results_that_cannot_be_read_are_told_by_line(tmp_path: Path, line: str, text: str) -> None:
    truth, results = write(tmp_path / "truth", row(0, 7)), write(tmp_path / "results", line)
    with pytest.raises(UserError) as error:
        evaluate_tracking("kitti", truth, results)
    assert text in str(error.value)


def test_missing_results_are_named(tmp_path: Path) -> None:
    truth = write(tmp_path / "truth", row(0, 7))
    (tmp_path / "results").mkdir()
    with pytest.raises(UserError, match="has no file"):
        evaluate_tracking("kitti", truth, tmp_path / "results")
    (tmp_path / "results" / "0001.txt").write_text("")
    with pytest.raises(UserError, match="has no results for 0000"):
        evaluate_tracking("kitti", truth, tmp_path / "results")


def test_a_score_becomes_the_share_of_cases_that_were_true() -> None:
    random = np.random.default_rng(2)
    score = random.normal(0, 2, 20_000)
    true = random.random(20_000) < 1 / (1 + np.exp(-(1.5 * score - 0.7)))
    slope, offset = fit_reliability(score, true)
    assert (slope, offset) == pytest.approx((1.5, -0.7), abs=0.08)
    mended = 1 / (1 + np.exp(-(slope * score + offset)))
    boasting = 1 / (1 + np.exp(-(5 * score)))
    assert reliability(mended, true).expected_error < 0.02
    assert reliability(boasting, true).expected_error > 0.08
    with pytest.raises(ShapeError, match="both outcomes"):
        fit_reliability(score, np.ones(20_000, np.bool_))
