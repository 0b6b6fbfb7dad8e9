import json
from pathlib import Path

import numpy as np
import pytest

from perception.cli.main import main
from perception.errors import ShapeError
from perception.evaluation.calibration import reliability
from perception.evaluation.pose import evaluate as evaluate_pose
from perception.evaluation.recognition import evaluate as evaluate_recognition


def bodies(count: int = 3, joints: int = 6) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
    return np.random.default_rng(0).normal(0, 0.5, (count, joints, 3))


def test_joints_moved_as_one_have_that_error_until_they_are_aligned() -> None:
    truth = bodies()
    scores = evaluate_pose(truth, truth + np.array([0.102, 0.0, 0.0]))
    assert scores.mpjpe_mm == pytest.approx(102.0)
    assert scores.pa_mpjpe_mm == pytest.approx(0.0, abs=1e-9)  # moving takes it away
    assert scores.pck == 1.0
    assert scores.auc == pytest.approx(10 / 31)  # within 105, 110 ... 150 of 31 limits


def test_a_turned_and_scaled_body_has_no_error_after_alignment() -> None:
    truth = bodies()
    turn = np.array([[0.0, -1.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, 1.0]])
    scores = evaluate_pose(truth, 1.3 * truth @ turn.T + 2.0)
    assert scores.mpjpe_mm > 1000
    assert scores.pa_mpjpe_mm == pytest.approx(0.0, abs=1e-9)


def test_joints_that_are_not_valid_do_not_count() -> None:
    truth = bodies()
    results = truth.copy()
    results[:, 2] = np.nan
    valid = np.ones(truth.shape[:2], bool)
    valid[:, 2] = False
    scores = evaluate_pose(truth, results, valid)
    assert scores.mpjpe_mm == 0.0
    assert np.isnan(scores.by_joint_mm[2])
    with pytest.raises(ShapeError, match="not finite"):
        evaluate_pose(truth, results)


def test_a_body_collapsed_to_a_point_is_as_far_as_the_joints_from_their_mean() -> None:
    truth = bodies(1)
    spread = 1000 * np.linalg.norm(truth[0] - truth[0].mean(axis=0), axis=1).mean()
    assert evaluate_pose(truth, np.zeros_like(truth)).pa_mpjpe_mm == pytest.approx(spread)


def test_recognition_counts_clips_without_an_answer_as_wrong() -> None:
    truth = {"a": "walk", "b": "walk", "c": "wave", "d": "jump"}
    scores = evaluate_recognition(truth, {"a": ["walk"], "b": ["wave", "walk"], "c": ["wave"]})
    assert (scores.top1, scores.top5) == (0.5, 0.75)
    assert scores.mean_class_top1 == pytest.approx((1 / 2 + 1 + 0) / 3)
    assert scores.confusion["walk", "wave"] == 1
    assert scores.confusion["jump", ""] == 1


def test_scores_that_come_true_as_often_as_they_say_have_no_calibration_error() -> None:
    score = np.repeat([0.25, 0.75], 4)
    right = np.array([1, 0, 0, 0, 1, 1, 1, 0], bool)
    assert reliability(score, right).expected_error == pytest.approx(0.0)
    overconfident = reliability(np.full(4, 0.95), np.array([1, 1, 0, 0], bool))
    assert overconfident.expected_error == pytest.approx(0.45)
    assert overconfident.brier == pytest.approx((2 * 0.05**2 + 2 * 0.95**2) / 4)
    with pytest.raises(ShapeError, match="no probability"):
        reliability(np.array([1.5]), np.array([True]))


def run(*arguments: str | Path) -> int:
    with pytest.raises(SystemExit) as ended:
        main(["evaluate", *map(str, arguments)])
    return int(ended.value.code or 0)


def test_pose_files_are_scored_by_frame_name(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    truth = {"frames": {"7": [[0, 0, 0], [0, 0, 1], [0, 1, 0]], "9": [[0, 0, 0], None, [0, 1, 0]]}}
    results = {
        "frames": {"9": [[0, 0, 0.02]] * 3, "7": [[0, 0, 0.02], [0, 0, 1.02], [0, 1, 0.02]], "11": [[0, 0, 0]] * 3}
    }
    (tmp_path / "truth.json").write_text(json.dumps(truth))
    (tmp_path / "results.json").write_text(json.dumps(results))
    assert run("pose", "--truth", tmp_path / "truth.json", "--results", tmp_path / "results.json", "--json") == 0
    scores = json.loads(capsys.readouterr().out)
    far = np.hypot(1.0, 0.02) * 1000
    assert scores["MPJPE_mm"] == pytest.approx((4 * 20 + far) / 5)
    del results["frames"]["9"]
    (tmp_path / "results.json").write_text(json.dumps(results))
    assert run("pose", "--truth", tmp_path / "truth.json", "--results", tmp_path / "results.json") == 2
    assert "lacks 1 frames of the truth, the first 9" in capsys.readouterr().err


def test_recognition_files_may_be_csv_or_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "truth.csv").write_text("a,walk\nb,wave\n")
    (tmp_path / "results.json").write_text('{"a": ["walk"], "b": ["walk", "wave"]}')
    assert run("recognition", "--truth", tmp_path / "truth.csv", "--results", tmp_path / "results.json", "--json") == 0
    assert json.loads(capsys.readouterr().out)["top1"] == 0.5
    assert run("recognition", "--truth", tmp_path / "results.json", "--results", tmp_path / "truth.csv") == 2
    assert "expected one in a file of truth" in capsys.readouterr().err
